"""Whether two versions answered one request alike, by what a plan says of each output. Pure; how often they may differ
is decided elsewhere.

It takes a block of values at a time, whatever the size of a tensor: for so long at most it keeps the interpreter from
the event loop, and so much memory it takes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gateway.rollouts.tolerances import Comparison, Distance, Tolerance
from kernels.tensors import Tensor

TOLERANCES: Mapping[str, tuple[float, float]] = MappingProxyType({
    "FP64": (1e-6, 1e-9),
    "FP32": (1e-4, 1e-6),
    "FP16": (1e-2, 1e-3),
    "BF16": (5e-2, 1e-2),
})  # fmt: skip
"""By datatype: relative and absolute. What is not listed must be equal."""
BLOCK = 1 << 18
"""Values that are compared at once, or one row of the last axis where that is longer."""
MAX_SHOWN = 8
"""Values of a tensor that are told."""
MAX_TEXT = 60
MAX_WALK = 4096
"""Texts of a tensor that are passed over one by one to name the first that differs."""

Array = NDArray[Any]


class Difference(NamedTuple):
    """What is not alike, in short texts: the name of the output, a sentence, and some of both values."""

    output: str
    what: str
    live: str = ""
    shadow: str = ""


class Incomparable(ValueError):
    """The live outputs are no tensors: that says nothing of the shadow."""


def difference(
    live: Sequence[Tensor], shadow: Sequence[Tensor], comparison: Comparison = Comparison()
) -> Difference | None:
    """The first of the live outputs that the shadow's is too far from; None when there is none. NaN agrees with NaN.
    Outputs that only the shadow has do not matter.

    Raises:
        Incomparable: the shadow is not to blame.
    """
    others = {tensor.name: tensor for tensor in shadow}
    for tensor in live:
        found = _between(tensor, others.get(tensor.name), comparison.of(tensor.name))
        if found is not None:
            return found._replace(output=tensor.name[:MAX_TEXT])
    return None


def _between(live: Tensor, shadow: Tensor | None, tolerance: Tolerance) -> Difference | None:
    if shadow is None:
        return Difference("", "there is no such output", _kind(live))
    if _kind(live) != _kind(shadow):
        return Difference("", f"it is {_kind(shadow)}, not {_kind(live)}", _kind(live), _kind(shadow))
    at = _first_other_byte(live.raw, shadow.raw)
    if at is None:
        return None
    if live.datatype == "BYTES":
        return _texts_at(live, shadow, at)
    try:
        expected = _rows(live)
    except ValueError as error:
        raise Incomparable(str(error)) from error
    try:
        found = _rows(shadow)
    except ValueError as error:
        return Difference("", f"it cannot be read: {error}"[: 4 * MAX_TEXT])
    return _by_rules(live.datatype, expected, found, tolerance)


def _kind(tensor: Tensor) -> str:
    return f"{tensor.datatype}{list(tensor.shape)}"


def _rows(tensor: Tensor) -> Array:
    """Its values, a row for each place of all axes but the last. ValueError when its bytes do not match its shape."""
    array: Array = tensor.to_numpy()
    if tensor.datatype == "BF16":  # the upper half of a float of 32 bits
        array = (array.astype(np.uint32) << 16).view(np.float32)
    elif tensor.datatype == "BOOL":
        array = array.view(np.uint8)
    return array.reshape(-1, array.shape[-1] if array.ndim and array.size else 1)


# Equality


def _first_other_byte(live: bytes, shadow: bytes) -> int | None:
    """None when all are the same. NumPy compares without the interpreter's lock."""
    size = min(len(live), len(shadow))
    for start in range(0, size, BLOCK):
        count = min(BLOCK, size - start)
        one, other = (np.frombuffer(raw, np.uint8, count, start) for raw in (live, shadow))
        if not np.array_equal(one, other):
            return start + int(np.argmax(one != other))
    return None if len(live) == len(shadow) else size


def _texts_at(live: Tensor, shadow: Tensor, at: int) -> Difference:
    """The texts that hold the first byte that differs; up to there both tensors are the same."""
    place = start = 0
    while place < MAX_WALK and start + 4 <= len(live.raw):
        (length,) = struct.unpack_from("<I", live.raw, start)
        if at < start + 4 + length:
            what = f"the texts differ, first at {place}"
            return Difference("", what, _text(live.raw, start), _text(shadow.raw, start))
        place, start = place + 1, start + 4 + length
    return Difference("", f"the texts differ, first beyond {place}")


def _text(raw: bytes, start: int) -> str:
    if start + 4 > len(raw):
        return ""
    (length,) = struct.unpack_from("<I", raw, start)
    return repr(raw[start + 4 : start + 4 + min(length, MAX_TEXT)])[: 2 * MAX_TEXT]


# What a plan may name


def _by_rules(datatype: str, live: Array, shadow: Array, tolerance: Tolerance) -> Difference | None:
    with np.errstate(all="ignore"):
        if tolerance.is_by_value and (found := _by_value(datatype, live, shadow, tolerance)):
            return found
        if tolerance.top_k is not None and (found := _by_rank(live, shadow, tolerance.top_k)):
            return found
        return _by_distance(live, shadow, *tolerance.distance) if tolerance.distance is not None else None


def _by_value(datatype: str, live: Array, shadow: Array, tolerance: Tolerance) -> Difference | None:
    usual = TOLERANCES.get(datatype, (0.0, 0.0))
    rtol = usual[0] if tolerance.rtol is None else tolerance.rtol
    atol = usual[1] if tolerance.atol is None else tolerance.atol
    total, first = 0, -1
    live, shadow = live.reshape(-1), shadow.reshape(-1)
    for start in range(0, live.size, BLOCK):
        one, other = live[start : start + BLOCK], shadow[start : start + BLOCK]
        is_same = one == other
        if rtol or atol:
            near = np.isclose(other.astype(np.float64), one.astype(np.float64), rtol, atol, equal_nan=True)
            is_same = is_same | near
        elif one.dtype.kind == "f":
            is_same = is_same | (np.isnan(one) & np.isnan(other))
        wrong = np.flatnonzero(~is_same)
        if wrong.size and first < 0:
            first = start + int(wrong[0])
        total += wrong.size
    if not total:
        return None
    what = f"{total} of {live.size} values differ, first at {first}"
    return Difference("", what, _shown(live[first : first + MAX_SHOWN]), _shown(shadow[first : first + MAX_SHOWN]))


def _by_rank(live: Array, shadow: Array, k: int) -> Difference | None:
    """What the shadow ranks among its greatest must be so in the live answer too. Where several live values are equal,
    either of them will do; of the shadow's, the first counts, as for whoever reads its answer."""
    k = min(k, live.shape[-1])
    total, first = 0, -1
    for start, one, other in _blocks(live, shadow):
        is_other_nan, one, other = _without_nan(one, other, -np.inf)
        least = np.partition(one, -k, axis=-1)[:, -k, None]
        chosen = np.take_along_axis(one, _greatest(other, k), -1)
        wrong = np.flatnonzero(is_other_nan | (chosen < least).any(-1))
        if wrong.size and first < 0:
            first = start + int(wrong[0])
        total += wrong.size
    if not total:
        return None
    name = "argmax" if k == 1 else f"the greatest {k}"
    pair = (_without_nan(live[first, None], shadow[first, None], -np.inf))[1:]
    places = [f"at {_greatest(rows, k)[0, :MAX_SHOWN].tolist()}" for rows in pair]
    return Difference("", f"{name}: {total} of {len(live)} rows differ, first row {first}", *places)


def _by_distance(live: Array, shadow: Array, name: Distance, most: float) -> Difference | None:
    total, first, greatest = 0, -1, 0.0
    for start, one, other in _blocks(live, shadow):
        is_other_nan, one, other = _without_nan(one.astype(np.float64), other.astype(np.float64), 0.0)
        found = _DISTANCES[name](one, other)
        is_none = is_other_nan | ((one < 0) | (other < 0)).any(-1)
        found = np.where(is_none | np.isnan(found), np.inf, found)
        wrong = np.flatnonzero(found > most)
        if wrong.size and first < 0:
            first = start + int(wrong[0])
        total, greatest = total + wrong.size, max(greatest, float(found.max()))
    if not total:
        return None
    what = f"{name} is up to {greatest:.3g} in {total} of {len(live)} rows, first row {first}"
    return Difference("", what, _shown(live[first, :MAX_SHOWN]), _shown(shadow[first, :MAX_SHOWN]))


def _blocks(live: Array, shadow: Array) -> Iterator[tuple[int, Array, Array]]:
    """The index of the first row, and some rows of both."""
    count = max(1, BLOCK // live.shape[-1])
    for start in range(0, len(live), count):
        yield start, live[start : start + count], shadow[start : start + count]


def _without_nan(live: Array, shadow: Array, instead: float) -> tuple[Array, Array, Array]:
    """Rows in which not the same values are NaN; and both with another value in the place of NaN."""
    if live.dtype.kind != "f":
        return np.zeros(len(live), bool), live, shadow
    is_nan, is_other = np.isnan(live), np.isnan(shadow)
    return (is_nan != is_other).any(-1), np.where(is_nan, instead, live), np.where(is_other, instead, shadow)


def _greatest(rows: Array, k: int) -> Array:
    """The places of the greatest values of each row, from the greatest down; of equal ones, the first."""
    places: Array
    if k == 1:
        places = rows.argmax(-1)[:, None]
    else:
        places = rows.shape[-1] - 1 - np.argsort(rows[:, ::-1], axis=-1, kind="stable")[:, : -k - 1 : -1]
    return places


def _total_variation(live: Array, shadow: Array) -> Array:
    distance: Array = np.abs(live - shadow).sum(-1) / 2
    return distance


def _jensen_shannon(live: Array, shadow: Array) -> Array:
    """The distance: the root of the divergence to base 2, from 0 to 1."""
    middle = (live + shadow) / 2
    both = sum(np.where(one == 0, 0.0, one * np.log2(one / middle)).sum(-1) for one in (live, shadow))
    distance: Array = np.sqrt(np.maximum(both / 2, 0.0))
    return distance


_DISTANCES = {"totalVariation": _total_variation, "jensenShannon": _jensen_shannon}


def _shown(values: Array) -> str:
    texts = [f"{float(value):.6g}" if values.dtype.kind == "f" else str(value) for value in values]
    return f"[{', '.join(texts)}]"
