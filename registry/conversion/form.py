"""The form in which converted models are served: one name for the free first dimension of every input and output, so
that requests are batched along it."""

from __future__ import annotations

from typing import Any

BATCH = "N"
INPUT = "input"


def with_batch_dimension(model: Any) -> bytes:
    """The bytes of a `ModelProto` whose inputs and outputs all have the free first dimension `N`, whatever the
    converter wrote there."""
    for value in (*model.graph.input, *model.graph.output):
        if value.type.WhichOneof("value") == "tensor_type" and value.type.tensor_type.shape.dim:
            first = value.type.tensor_type.shape.dim[0]
            first.Clear()
            first.dim_param = BATCH
    return bytes(model.SerializeToString(deterministic=True))
