"""Manifests for tests that need no files behind them."""

from __future__ import annotations

import hashlib
from typing import Any

from registry.manifest import FileEntry, Manifest, TensorSpec


def manifest(contents: str = "weights", model: str = "fraud", **fields: Any) -> Manifest:
    """A version whose one file holds `contents`."""
    data = contents.encode()
    entry = FileEntry("model.onnx", hashlib.sha256(data).hexdigest(), len(data))
    inputs = (TensorSpec("features", "FP32", (-1, 30)),)
    outputs = (TensorSpec("scores", "FP32", (-1, 2)),)
    return Manifest(model, (entry,), **{"inputs": inputs, "outputs": outputs, **fields})
