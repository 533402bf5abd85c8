"""Requests and responses of the Open Inference Protocol as plain values: what the wire module gives to Python and takes
from it. Knows no encoding; a tensor is its raw little-endian bytes.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

#: NumPy's type for each datatype. BF16, which NumPy lacks, is its bits; BYTES has no fixed size and no entry.
DTYPES = {
    "BOOL": np.dtype("?"),
    "UINT8": np.dtype("u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
    "BF16": np.dtype("<u2"),
}


class RefusedError(ValueError):
    """A message that cannot be decoded or encoded; `code` is a gRPC status code."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


def pack_bytes(elements: Iterable[bytes]) -> bytes:
    """The raw form of a BYTES tensor: a 4-byte little-endian length before each element."""
    return b"".join(struct.pack("<I", len(element)) + element for element in elements)


def unpack_bytes(raw: bytes) -> list[bytes]:
    """The elements of a BYTES tensor. ValueError when the lengths do not fill the bytes exactly."""
    elements = []
    at = 0
    while at < len(raw):
        if len(raw) - at < 4:
            raise ValueError(f"{len(raw) - at} bytes where a length of 4 bytes belongs")
        (length,) = struct.unpack_from("<I", raw, at)
        at += 4
        if len(raw) - at < length:
            raise ValueError(f"an element of {length} bytes with only {len(raw) - at} left")
        elements.append(raw[at : at + length])
        at += length
    return elements


@dataclass(frozen=True)
class Tensor:
    """One tensor. `offset` is where its bytes lie in the message it was decoded from, -1 when they had to be converted
    or there are none; it is no part of the value.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    raw: bytes
    offset: int = field(default=-1, compare=False)

    @classmethod
    def from_numpy(cls, name: str, array: NDArray[np.generic] | NDArray[np.object_], datatype: str) -> Tensor:
        """The array as a tensor of this datatype: an array of bytes for BYTES, of 16-bit patterns for BF16."""
        if datatype == "BYTES":
            raw = pack_bytes(array.reshape(-1).tolist())
        else:
            raw = np.ascontiguousarray(array, dtype=DTYPES[datatype]).tobytes()
        return cls(name, datatype, tuple(array.shape), raw)

    def to_numpy(self) -> NDArray[np.generic] | NDArray[np.object_]:
        """The tensor as an array: of objects (bytes) for BYTES, of 16-bit patterns for BF16. ValueError when the bytes
        do not match shape and datatype.
        """
        if self.datatype != "BYTES":
            return np.frombuffer(self.raw, dtype=DTYPES[self.datatype]).reshape(self.shape)
        elements = np.empty(math.prod(self.shape), dtype=np.object_)
        elements[:] = unpack_bytes(self.raw)
        return elements.reshape(self.shape)


@dataclass(frozen=True)
class RequestedOutput:
    """One output that a request lists. `binary` is None where the request does not say."""

    name: str
    classification: int = 0
    binary: bool | None = None


@dataclass(frozen=True)
class Request:
    """One inference request. `raw`: it came with raw_input_contents, or with no contents, and is answered raw."""

    model: str = ""
    version: str = ""
    id: str | None = None
    inputs: tuple[Tensor, ...] = ()
    outputs: tuple[RequestedOutput, ...] = ()
    priority: int = 0
    timeout_us: int = 0
    binary_data_output: bool = False
    raw: bool = False
