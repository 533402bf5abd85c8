"""What a file is, from its first bytes and its name, and whether loading such a file runs code that is in it. The
contents are never interpreted."""

from __future__ import annotations

import os
import re
import zipfile
from pathlib import Path

from registry.errors import UnsafeFormat

ONNX, PICKLE, SKOPS, PT2, LIGHTGBM, XGBOOST, TORCH = "onnx", "pickle", "skops", "pt2", "lightgbm", "xgboost", "torch"
OTHER = "unknown"

WHY_NO_PICKLE = (
    "reading a pickle runs whatever code is in it. Save the model with skops (`skops.io.dump`) and push that, or "
    "export it to ONNX where it was trained (skl2onnx, torch.onnx.export)"
)
_WHY_NO_TORCH = (
    "a PyTorch file is a pickle inside. Export the model where it was trained: "
    "torch.onnx.export(model, ..., dynamo=True)"
)
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 64))
        return file.read().rstrip(b"\0\r\n\t ").endswith(b".")
