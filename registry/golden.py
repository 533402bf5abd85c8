"""Golden sets: inputs, and the outputs that a version must answer with, as tensors of the Open Inference Protocol in
JSON. Read as a stranger's, and compared; nothing here runs a model.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from registry.errors import InvalidGoldenSet

MAX_GOLDEN_BYTES = 16 << 20
MAX_RANK = 16
DTYPES: Mapping[str, Any] = {
    "BOOL": np.bool_,
    "UINT8": np.uint8,
    "UINT16": np.uint16,
    "UINT32": np.uint32,
    "UINT64": np.uint64,
    "INT8": np.int8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
    "FP16": np.float16,
    "FP32": np.float32,
    "FP64": np.float64,
    "BYTES": np.object_,
}

Array = NDArray[Any]


@dataclass(frozen=True)
class Tensor:
    """One tensor; of BYTES, an array of `str`."""

    name: str
    datatype: str
    array: Array

    def to_dict(self) -> dict[str, Any]:
        """As the protocol writes it, data flat."""
        data = self.array.reshape(-1).tolist()
        return {"name": self.name, "datatype": self.datatype, "shape": list(self.array.shape), "data": data}


@dataclass(frozen=True)
class GoldenCases:
    """One request, and what is answered to it."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


def read_golden_set(text: bytes) -> GoldenCases:
    """Reads `{"inputs": [...], "outputs": [...]}`; other members, such as those of an answer, are passed over.

    Raises:
        InvalidGoldenSet: it is too large, no JSON, or a tensor makes no sense.
    """
    if len(text) > MAX_GOLDEN_BYTES:
        raise InvalidGoldenSet("", f"{len(text)} bytes, {MAX_GOLDEN_BYTES} are allowed")
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        raise InvalidGoldenSet("", "not JSON") from None
    if not isinstance(document, dict):
        raise InvalidGoldenSet("", "not an object with inputs and outputs")
    return GoldenCases(*(read_tensors(side, document.get(side)) for side in ("inputs", "outputs")))


def read_tensors(side: str, value: object) -> tuple[Tensor, ...]:
    """The tensors of one side. Raises InvalidGoldenSet."""
    if not isinstance(value, list) or not value:
        raise InvalidGoldenSet(side, "must be a list of tensors")
    tensors = tuple(_tensor(f"{side}[{at}]", one) for at, one in enumerate(value))
    if len({tensor.name for tensor in tensors}) != len(tensors):
        raise InvalidGoldenSet(side, "two tensors of one name")
    return tensors


def differences(
    expected: Iterable[Tensor], found: Iterable[Tensor], relative_tolerance: float, absolute_tolerance: float
) -> str:
    """Where `found` is not what is expected, in a sentence; empty when every output is within tolerance. Numbers count
    as equal within the absolute tolerance plus the relative one of the expected value, and NaN equals NaN."""
    answers = {tensor.name: tensor for tensor in found}
    for tensor in expected:
        answer = answers.get(tensor.name)
        if answer is None:
            return f"there is no output {tensor.name}"
        if answer.datatype != tensor.datatype:
            return f"{tensor.name} is {answer.datatype}, not {tensor.datatype}"
        if answer.array.shape != tensor.array.shape:
            return f"{tensor.name} has the shape {list(answer.array.shape)}, not {list(tensor.array.shape)}"
        wrong = _wrong(tensor, answer.array, relative_tolerance, absolute_tolerance)
        if len(wrong):
            at = int(wrong[0])
            values = f"{_shown(answer.array.flat[at])} in place of {_shown(tensor.array.flat[at])}"
            return f"{tensor.name}: {len(wrong)} of {tensor.array.size} values differ, such as {values} at {at}"
    return ""


def _wrong(tensor: Tensor, found: Array, relative_tolerance: float, absolute_tolerance: float) -> Array:
    """The flat places of values that differ."""
    if tensor.datatype.startswith("FP"):
        expected = tensor.array.astype(np.float64)
        is_same = np.isclose(found.astype(np.float64), expected, relative_tolerance, absolute_tolerance, equal_nan=True)
    else:
        is_same = np.asarray(found == tensor.array)
    return np.flatnonzero(~is_same.reshape(-1))


def _tensor(place: str, value: object) -> Tensor:
    if not isinstance(value, dict):
        raise InvalidGoldenSet(place, "must be an object")
    name, datatype, shape, data = (value.get(key) for key in ("name", "datatype", "shape", "data"))
    if not isinstance(name, str) or not name:
        raise InvalidGoldenSet(f"{place}.name", "must be text")
    if not isinstance(datatype, str) or datatype not in DTYPES:
        raise InvalidGoldenSet(f"{place}.datatype", f"must be one of {', '.join(DTYPES)}")
    is_shape = isinstance(shape, list) and len(shape) <= MAX_RANK
    if not is_shape or not all(isinstance(size, int) and 0 <= size < 1 << 31 for size in shape or []):
        raise InvalidGoldenSet(f"{place}.shape", f"must be a list of at most {MAX_RANK} whole numbers")
    assert isinstance(shape, list)
    flat: list[Any] = list(_flat(place, data, MAX_RANK + 1))
    if len(flat) != math.prod(shape):
        raise InvalidGoldenSet(f"{place}.data", f"{len(flat)} values, and the shape has {math.prod(shape)}")
    kinds: tuple[type, ...] = (
        (str,) if datatype == "BYTES" else (bool,) if datatype == "BOOL" else (int,) if "INT" in datatype
        else (int, float)
    )  # fmt: skip
    if not all(isinstance(one, kinds) and (datatype == "BOOL" or not isinstance(one, bool)) for one in flat):
        raise InvalidGoldenSet(f"{place}.data", f"has values that are no {datatype}")
    try:
        with np.errstate(over="ignore"):
            array: Array = np.array(flat, dtype=DTYPES[datatype]).reshape(shape)
    except (OverflowError, ValueError):
        raise InvalidGoldenSet(f"{place}.data", f"has values beyond {datatype}") from None
    return Tensor(name, datatype, array)


def _flat(place: str, value: object, depth: int) -> Iterable[object]:
    if not isinstance(value, list) or depth == 0:
        raise InvalidGoldenSet(f"{place}.data", "must be a list, of lists or of values")
    for one in value:
        if isinstance(one, list):
            yield from _flat(place, one, depth - 1)
        else:
            yield one


def _shown(value: object) -> str:
    return f"{float(value):.6g}" if isinstance(value, float | np.floating) else repr(value)[:60]
