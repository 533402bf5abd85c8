"""Whether one more version fits into the memory that models may take, and which others have to leave for it.

A pure decision over sizes and idle times. It knows no version, no state and no clock: what may leave is told.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Resident:
    """One model that takes memory now."""

    model: str
    nbytes: int
    """Of what stays until it is unloaded."""
    leaving_bytes: int = 0
    """Of what is being unloaded already."""
    idle_since: float | None = None
    """When it was last used; None while it may not be unloaded: in use, loading, or loaded for good."""


@dataclass(frozen=True)
class Room:
    """What to do about one load."""

    is_there: bool = False
    """It may begin now."""
    evicted: tuple[str, ...] = ()
    """Models to unload; it may begin when they are gone."""
    refusal: str = ""
    """Why it cannot be made to fit; then nothing is to be unloaded. With none of the three: wait for what is
    leaving."""


def make_room(need: int, limit: int, residents: Sequence[Resident], reserved: int = 0) -> Room:
    """Room for `need` bytes, least recently used models leaving first, and no more of them than it takes.

    Args:
        limit: bytes for all models together; 0 for as much as there is.
        reserved: bytes promised to loads that wait.
    """
    if not limit:
        return Room(is_there=True)
    staying = sum(each.nbytes for each in residents) + reserved
    leaving = sum(each.leaving_bytes for each in residents)
    if staying + leaving + need <= limit:
        return Room(is_there=True)
    evicted: list[str] = []
    left = staying
    candidates = [(each.idle_since, each) for each in residents if each.idle_since is not None and each.nbytes]
    for _, each in sorted(candidates, key=lambda pair: (pair[0], pair[1].model)):
        if left + need <= limit:
            break
        evicted.append(each.model)
        left -= each.nbytes
    if left + need <= limit:
        return Room(evicted=tuple(evicted))
    return Room(
        refusal=f"it needs {need} bytes of memory; models may take {limit}, "
        f"and {left} are taken by those that are in use or loaded for good"
    )


def within(limit: int, residents: Sequence[Resident]) -> tuple[str, ...]:
    """The models to unload so that what has grown keeps within the limit again, as far as that can be."""
    if not limit:
        return ()
    over = sum(each.nbytes for each in residents) - limit
    evicted: list[str] = []
    candidates = [(each.idle_since, each.model, each) for each in residents if each.idle_since is not None]
    for _, model, each in sorted(candidates, key=lambda entry: entry[:2]):
        if over <= 0:
            break
        evicted.append(model)
        over -= each.nbytes
    return tuple(evicted)
