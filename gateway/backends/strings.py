"""BYTES tensors between their raw form (each element a 4-byte little-endian length and that many bytes) and Python's
strings. This is the slow path of a slow datatype: once per batch, in Python."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

_LENGTH = struct.Struct("<I")


def from_raw(raw: NDArray[np.uint8] | bytes, shape: tuple[int, ...]) -> NDArray[Any]:
    """An object array of `bytes`. ValueError when the raw form does not hold exactly as many elements as `shape`
    has."""
    data = bytes(raw)
    count = int(np.prod(shape, dtype=np.int64))
    elements, at = np.empty(count, object), 0
    for index in range(count):
        start = at + _LENGTH.size
        if start > len(data):
            raise ValueError(f"{count} elements were announced, {index} are there")
        at = start + int(_LENGTH.unpack_from(data, at)[0])
        if at > len(data):
            raise ValueError(f"element {index} reaches beyond the end of the data")
        elements[index] = data[start:at]
    if at != len(data):
        raise ValueError(f"{len(data) - at} bytes lie behind the last of {count} elements")
    return elements.reshape(shape)


def to_text(elements: NDArray[Any]) -> NDArray[np.object_]:
    """Each element decoded as UTF-8. UnicodeDecodeError when one is not."""
    text = np.empty(elements.size, object)
    for index, element in enumerate(elements.flat):
        text[index] = element.decode()
    return text.reshape(elements.shape)


def to_raw(elements: Iterable[Any]) -> bytes:
    """The raw form of a flat run of `bytes` and `str`, the latter as UTF-8."""
    out = bytearray()
    for element in elements:
        data = element.encode() if isinstance(element, str) else bytes(element)
        out += _LENGTH.pack(len(data))
        out += data
    return bytes(out)
