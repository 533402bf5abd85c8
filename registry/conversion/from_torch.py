"""PyTorch programs from `torch.export.save`, by torch.onnx. Reading one evaluates expressions that are in it, and its
weights are pickles of which torch is told to take tensors only: not a thing to do outside of a confined process."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from registry.conversion.original import Array


def load(path: Path) -> TorchProgram:
    import torch

    return TorchProgram(torch.export.load(path))


class TorchProgram:
    """An exported program. Its free dimensions are those that it was exported with."""

    def __init__(self, program: Any) -> None:
        self._program = program

    def to_onnx(self) -> bytes:
        import torch

        # With the gradients' bookkeeping off, as it will be served.
        with torch.no_grad():
            exported = torch.onnx.export(self._program, dynamo=True, external_data=False, verbose=False)
        assert exported is not None, "this is a bug: only the older exporter returns nothing"
        model = exported.model_proto
        for part in (model, model.graph, *model.graph.node, *model.graph.input, *model.graph.output):
            part.ClearField("metadata_props")  # paths and lines of where it was trained
        for value in model.graph.value_info:
            value.ClearField("metadata_props")
        self._inputs = [value.name for value in model.graph.input]
        self._outputs = [value.name for value in model.graph.output]
        return bytes(model.SerializeToString(deterministic=True))

    def samples(self, model: bytes, random: np.random.Generator) -> Mapping[str, Array]:
        import torch

        examples = [one.detach().numpy() for one in torch.utils._pytree.tree_leaves(self._program.example_inputs)]
        drawn = [random.normal(size=one.shape).astype(one.dtype) if one.dtype.kind == "f" else one for one in examples]
        return dict(zip(self._inputs, drawn, strict=True))

    def predict(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        import torch

        pytree = torch.utils._pytree
        _, form = pytree.tree_flatten(self._program.example_inputs)
        tensors = [torch.from_numpy(inputs[name].copy()) for name in self._inputs]
        arguments, named = pytree.tree_unflatten(tensors, form)
        with torch.no_grad():
            answer = pytree.tree_leaves(self._program.module()(*arguments, **named))
        return {name: one.numpy() for name, one in zip(self._outputs, answer, strict=True)}
