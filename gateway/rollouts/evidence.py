"""What has been seen of a canary and its stable version: counts, and what the absolute guard made of them.

Evidence is a value that adds: that of several replicas together is `a + b`, exactly but for the rounding of the
absolute guard. It stays small whatever the traffic, since events are counted by the weight under which they were
routed, and that is all the tests need. What follows from it is decided in `guards`; nothing here knows a plan.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from gateway.rollouts.units import First, Units, from_rows, joined, to_rows

EventKind = Literal["failed", "slow", "label"]
KINDS: tuple[EventKind, ...] = ("failed", "slow", "label")
LEVELS = 3

Cells = Mapping[float, tuple[int, int]]
"""Events of the canary and of the stable version, by the canary's weight when they were routed."""


@dataclass(frozen=True)
class Event:
    """One request that went wrong. It must have been routed at random by weight: pinned, header-routed, mirrored and
    retried requests, probes, and the client's own mistakes are no events. A failed batch, and the crash of a worker, is
    one event. One request is at most one event of `failed` and `slow` together: a failed request is slow as well.
    """

    kind: EventKind
    """`label`: an answer that was found wrong later."""
    is_canary: bool
    weight: float
    """The canary's share among canary and stable, 0 to 1, when the request was routed."""
    level: int = 0
    """Of a slow one: how many of the three thresholds it was above, 1 to 3."""
    unit: int | None = None
    """What sticky requests of one unit have in common, a hash; only a unit's first event of a kind counts."""


@dataclass(frozen=True)
class Thresholds:
    """Seconds; above them an answer is slow. Frozen from the stable version just before the rollout, ascending."""

    seconds: tuple[float, float, float]

    @classmethod
    def frozen(cls, p50: float, p90: float, p99: float, tolerance: float) -> Thresholds:
        """From the stable version's quantiles."""
        return cls((p50 * (1 + tolerance), p90 * (1 + tolerance), p99 * (1 + tolerance)))

    def level(self, seconds: float) -> int:
        return sum(seconds > threshold for threshold in self.seconds)


@dataclass(frozen=True)
class Evidence:
    """All that is known. Immutable; `a + b` is that of two replicas."""

    canary: int = 0
    """Counted requests that the canary was asked."""
    stable: int = 0
    failed: Cells = field(default_factory=dict)
    slow: tuple[Cells, Cells, Cells] = field(default_factory=lambda: ({}, {}, {}))
    """By threshold: events above the first, the second, the third."""
    labels: Cells = field(default_factory=dict)
    compared: int = 0
    """Answers of the shadow that were compared."""
    disagreed: int = 0
    absolute: tuple[float, ...] = ()
    """Log-likelihood ratios of the absolute guard, by its alternatives; empty: nothing yet."""
    units: Units = field(default_factory=dict)
    """Of sticky requests: whose events are among those above. One that two replicas have counted is one event of their
    sum, but for the absolute guard."""

    def __add__(self, other: Evidence) -> Evidence:
        units, again = joined(self.units, other.units)
        whole = Evidence(
            canary=self.canary + other.canary,
            stable=self.stable + other.stable,
            failed=_add(self.failed, other.failed),
            slow=(
                _add(self.slow[0], other.slow[0]),
                _add(self.slow[1], other.slow[1]),
                _add(self.slow[2], other.slow[2]),
            ),
            labels=_add(self.labels, other.labels),
            compared=self.compared + other.compared,
            disagreed=self.disagreed + other.disagreed,
            absolute=tuple(map(math.fsum, zip(self.absolute, other.absolute, strict=True)))
            if self.absolute and other.absolute
            else self.absolute or other.absolute,
            units=units,
        )
        return whole._without(again) if again else whole

    def _without(self, events: Iterable[tuple[str, First]]) -> Evidence:
        failed, slow = dict(self.failed), [dict(cells) for cells in self.slow]
        for kind, (weight, is_canary, level) in events:
            for cells in slow[: LEVELS if kind == "failed" else level]:
                _take(cells, weight, is_canary)
            if kind == "failed":
                _take(failed, weight, is_canary)
        return replace(self, failed=failed, slow=(slow[0], slow[1], slow[2]))

    @property
    def failures(self) -> tuple[int, int]:
        """Failed requests of the canary and of the stable version."""
        return total(self.failed)

    def to_plain(self) -> dict[str, Any]:
        """JSON values; `from_plain` gives an equal object."""
        return {
            "canary": self.canary,
            "stable": self.stable,
            "failed": _to_rows(self.failed),
            "slow": [_to_rows(cells) for cells in self.slow],
            "labels": _to_rows(self.labels),
            "compared": self.compared,
            "disagreed": self.disagreed,
            "absolute": list(self.absolute),
            "units": to_rows(self.units),
        }

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Evidence:
        """Reads what `to_plain` wrote. Raises KeyError, TypeError or ValueError for anything else."""
        first, second, third = map(_from_rows, plain["slow"])
        return cls(
            canary=int(plain["canary"]),
            stable=int(plain["stable"]),
            failed=_from_rows(plain["failed"]),
            slow=(first, second, third),
            labels=_from_rows(plain["labels"]),
            compared=int(plain["compared"]),
            disagreed=int(plain["disagreed"]),
            absolute=tuple(map(float, plain["absolute"])),
            units=from_rows(plain.get("units", ())),  # an earlier release wrote none
        )


def total(cells: Cells) -> tuple[int, int]:
    """Events of the canary and of the stable version, whatever their weight."""
    return sum(canary for canary, _ in cells.values()), sum(stable for _, stable in cells.values())


def summed(parts: Iterable[Evidence]) -> Evidence:
    """Of all replicas."""
    return sum(parts, Evidence())


def _add(a: Cells, b: Cells) -> Cells:
    if not a or not b:
        return a or b
    both = dict(a)
    for weight, (canary, stable) in b.items():
        before = both.get(weight, (0, 0))
        both[weight] = (before[0] + canary, before[1] + stable)
    return both


def _take(cells: dict[float, tuple[int, int]], weight: float, is_canary: bool) -> None:
    canary, stable = cells[weight]
    left = (canary - 1, stable) if is_canary else (canary, stable - 1)
    if left == (0, 0):
        del cells[weight]
    else:
        cells[weight] = left


def _to_rows(cells: Cells) -> list[list[float]]:
    return [[weight, *counts] for weight, counts in sorted(cells.items())]


def _from_rows(rows: Iterable[tuple[float, int, int]]) -> Cells:
    return {float(weight): (int(canary), int(stable)) for weight, canary, stable in rows}
