"""Sticky units of which an event was counted already. A unit that fails at one replica fails at the next one and after
a restart too, and that is one event: so replicas tell each other which units they have counted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

Key = tuple[str, int]
"""Kind of event, and the unit: the low bits of its hash, which say nothing of its arm."""
First = tuple[float, bool, int]
"""What was counted: weight, whether it was the canary's, and level."""
Units = Mapping[Key, First]

BITS = 32
"""Two units that share them lose an event."""


def key_of(kind: str, unit: int) -> Key:
    return kind, unit & ((1 << BITS) - 1)


def joined(a: Units, b: Units) -> tuple[Units, list[tuple[str, First]]]:
    """All units of two replicas, and, by kind, what both have counted, of which one is to be taken back."""
    if not a or not b:
        return a or b, []
    both, again = {**a, **b}, []
    for key in a.keys() & b.keys():
        both[key], later = sorted((a[key], b[key]))
        again.append((key[0], later))
    return both, again


def to_rows(units: Units) -> list[list[Any]]:
    """JSON values; `from_rows` gives an equal mapping."""
    rows: dict[tuple[str, First], list[int]] = {}
    for (kind, unit), first in units.items():
        rows.setdefault((kind, first), []).append(unit)
    return [[kind, *first, sorted(found)] for (kind, first), found in sorted(rows.items())]


def from_rows(rows: Iterable[list[Any]]) -> Units:
    return {
        (str(kind), int(unit)): (float(weight), bool(is_canary), int(level))
        for kind, weight, is_canary, level, found in rows
        for unit in found
    }
