"""Whether two versions answered one request alike. Pure; how often they may differ is decided elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np

from kernels.tensors import Tensor
from registry import golden

TOLERANCES: Mapping[str, tuple[float, float]] = MappingProxyType({
    "FP64": (1e-6, 1e-9),
    "FP32": (1e-4, 1e-6),
    "FP16": (1e-2, 1e-3),
    "BF16": (5e-2, 1e-2),
})  # fmt: skip
"""By datatype: relative and absolute. What is not listed must be equal."""


def difference(live: Sequence[Tensor], shadow: Sequence[Tensor]) -> str:
    """Where the shadow's outputs are not the live ones, in a sentence; empty when they agree within tolerance, NaN with
    NaN. Outputs that only the shadow has do not matter."""
    others = {tensor.name: tensor for tensor in shadow}
    for tensor in live:
        other = others.get(tensor.name)
        if tensor == other:
            continue
        if other is not None and other.datatype != tensor.datatype:
            return f"{tensor.name} is {other.datatype}, not {tensor.datatype}"
        found = [] if other is None else [_read(other)]
        if text := golden.differences([_read(tensor)], found, *TOLERANCES.get(tensor.datatype, (0.0, 0.0))):
            return text
    return ""


def _read(tensor: Tensor) -> golden.Tensor:
    """ValueError when its bytes do not match its shape."""
    array = tensor.to_numpy()
    if tensor.datatype != "BF16":
        return golden.Tensor(tensor.name, tensor.datatype, array)
    # The upper half of a float of 32 bits.
    return golden.Tensor(tensor.name, "FP32", (array.astype(np.uint32) << 16).view(np.float32))
