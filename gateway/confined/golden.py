"""Asking a version one question, inside the process that is there for it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from gateway.backends.onnxruntime import DATATYPE_OF_TYPE, without_paths
from gateway.backends.onnxruntime_options import session_options
from registry.golden import Tensor, read_tensors
from registry.inspect_onnx import check_external_data, inspect_onnx
from registry.manifest import MODEL_FILENAME


def perform(folder: Path, request: Mapping[str, Any]) -> dict[str, Any]:
    """Runs the model in the folder `request["version"]` on `request["inputs"]`, tensors of the protocol, on one thread
    of the CPU.

    Returns:
        `outputs`, all of them; or `problem`, what the engine says against the model or the inputs.

    Raises:
        ArtifactRefused: one of its kinds: the files are no model.
    """
    path = folder / str(request["version"]) / MODEL_FILENAME
    check_external_data(path, inspect_onnx(path))
    inputs = {one.name: _fed(one) for one in read_tensors("inputs", request["inputs"])}
    try:
        session = onnxruntime.InferenceSession(str(path), session_options({}, None), providers=["CPUExecutionProvider"])
        specs = session.get_outputs()
        arrays = session.run([spec.name for spec in specs], inputs)
    except Exception as error:  # the engine's own classes share no other root
        return {"problem": without_paths(str(error))[:500]}
    answers = zip(specs, arrays, strict=True)
    return {"outputs": [Tensor(spec.name, DATATYPE_OF_TYPE[spec.type], array).to_dict() for spec, array in answers]}


def _fed(tensor: Tensor) -> Any:
    return tensor.array.astype(np.str_) if tensor.datatype == "BYTES" else tensor.array
