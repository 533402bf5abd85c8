"""Between what a person types, NumPy arrays and the wire's raw form. Pure; knows no transport."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gateway.cli.failure import CommandFailed, ExitCode

Array = npt.NDArray[Any]

NUMPY_TYPES: dict[str, Any] = {
    "BOOL": np.bool_,
    "UINT8": np.uint8, "UINT16": np.uint16, "UINT32": np.uint32, "UINT64": np.uint64,
    "INT8": np.int8, "INT16": np.int16, "INT32": np.int32, "INT64": np.int64,
    "FP16": np.float16, "FP32": np.float32, "FP64": np.float64,
    "BF16": np.float32,  # NumPy has none: held as FP32, cut on the way out
    "BYTES": np.object_,
}  # yapf: disable


def read_value(text: str) -> Any:
    """A `.npy` or `.json` file when there is one of that name, else inline JSON, else the text itself."""
    path = Path(text)
    if path.suffix in (".npy", ".json"):
        if not path.is_file():
            raise _refused(f"there is no file {text}")
        try:
            return np.load(path, allow_pickle=False) if path.suffix == ".npy" else json.loads(path.read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise _refused(f"{text} cannot be read: {error}") from None
    try:
        return json.loads(text)
    except ValueError:
        if text.lstrip()[:1] in ("[", "{", '"'):
            raise _refused(f"this is not JSON: {text[:80]}") from None
        return text


def to_array(name: str, value: Any, datatype: str, shape: Sequence[int]) -> Array:
    """`value` as an array of the model's datatype and a shape that fits `shape` (-1 fits any size).

    One row may be given without its leading dimension, and a flat list is folded where only one shape is possible.
    """
    if datatype not in NUMPY_TYPES:
        raise _refused(f"input {name}: the datatype {datatype} is not known here")
    if datatype == "BYTES":
        array = np.array(_to_bytes(value), dtype=np.object_)
    else:
        try:
            array = np.asarray(value)
            converted = array.astype(NUMPY_TYPES[datatype], casting="unsafe")
        except (ValueError, TypeError, OverflowError):
            raise _refused(f"input {name}: {_shown(value)} does not fit {datatype}") from None
        if datatype.startswith(("INT", "UINT")) and not np.array_equal(array, converted):
            raise _refused(f"input {name}: {_shown(value)} does not fit {datatype} without loss")
        array = converted
    return fold(name, array, shape)


def fold(name: str, array: Array, shape: Sequence[int]) -> Array:
    if _fits(array.shape, shape):
        return array
    if _fits((1, *array.shape), shape):
        return array[np.newaxis]
    free = [i for i, size in enumerate(shape) if size < 0]
    if len(free) <= 1 or array.size == 1:
        fixed = [1 if size < 0 and i != (free[0] if free else -1) else size for i, size in enumerate(shape)]
        try:
            return array.reshape(fixed)
        except ValueError:
            pass
    wanted = ", ".join("any" if size < 0 else str(size) for size in shape)
    raise _refused(f"input {name}: the model takes the shape [{wanted}], not {list(array.shape)}")


def to_raw(array: Array, datatype: str) -> bytes:
    """Row-major little-endian bytes; BYTES elements have a 4-byte length before each."""
    if datatype == "BYTES":
        return b"".join(len(item).to_bytes(4, "little") + item for item in array.ravel())
    if datatype == "BF16":
        return (np.ascontiguousarray(array, np.float32).view(np.uint32) >> 16).astype("<u2").tobytes()
    return np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<")).tobytes()


def from_raw(raw: bytes, datatype: str, shape: Sequence[int]) -> Array:
    if datatype == "BYTES":
        items, at = [], 0
        while at + 4 <= len(raw):
            size = int.from_bytes(raw[at : at + 4], "little")
            items.append(raw[at + 4 : at + 4 + size])
            at += 4 + size
        flat = np.empty(len(items), np.object_)
        flat[:] = items
        return flat.reshape(list(shape))
    if datatype == "BF16":
        return (np.frombuffer(raw, "<u2").astype(np.uint32) << 16).view(np.float32).reshape(list(shape))
    return np.frombuffer(raw, np.dtype(NUMPY_TYPES[datatype]).newbyteorder("<")).reshape(list(shape))


def to_json(array: Array) -> Any:
    """Nested lists; bytes as text where they are UTF-8."""
    if array.dtype == np.object_:
        flat = np.array([item.decode("utf-8", "backslashreplace") for item in array.ravel()], dtype=np.object_)
        return flat.reshape(array.shape).tolist()
    return array.tolist()


def _refused(problem: str) -> CommandFailed:
    return CommandFailed(problem, exit_code=ExitCode.USAGE)


def _to_bytes(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, list):
        return [_to_bytes(item) for item in value]
    return value if isinstance(value, bytes) else str(value).encode()


def _fits(shape: Sequence[int], wanted: Sequence[int]) -> bool:
    return len(shape) == len(wanted) and all(w < 0 or s == w for s, w in zip(shape, wanted, strict=True))


def _shown(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."
