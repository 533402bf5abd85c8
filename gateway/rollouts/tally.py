"""One replica's running account of a rollout, fed by its data plane. It counts; `guards` judges."""

from __future__ import annotations

import math
from collections import Counter, deque
from types import MappingProxyType

from gateway.rollouts.absolute import ALTERNATIVES, upper_rate
from gateway.rollouts.evidence import LEVELS, Cells, Event, Evidence
from gateway.rollouts.plan import AbsoluteGuard
from gateway.rollouts.units import First, Key, key_of

STABLE_WINDOW = 200
"""Requests of the stable version that say what it fails lately."""
MAX_UNITS = 2048
"""Sticky units that are remembered, of each kind of event: slow answers are common, and must not keep a failure from
being counted. Events of further ones are not counted, which only loses evidence."""


class Tally:
    """Mutable, of one event loop. Whoever feeds it counts requests first, then adds the events among them, and does so
    before it changes the weight."""

    def __init__(self, absolute: AbsoluteGuard | None = None, evidence: Evidence | None = None) -> None:
        """`evidence` is what this replica had before it was started again."""
        before = evidence or Evidence()
        self._guard = absolute
        self._canary, self._stable = before.canary, before.stable
        self._compared, self._disagreed = before.compared, before.disagreed
        # By kind and level: [weight] -> [canary, stable].
        self._failed = _mutable(before.failed)
        self._slow = tuple(map(_mutable, before.slow))
        self._labels = _mutable(before.labels)
        self._absolute = list(before.absolute) or [0.0] * len(ALTERNATIVES)
        # Blocks of stable requests, oldest first: [requests, failures].
        self._recent: deque[list[int]] = deque()
        self._units: dict[Key, First] = dict(before.units)
        self._units_of = Counter(kind for kind, _ in self._units)

    def count(self, weight: float, *, canary: int = 0, stable: int = 0) -> None:
        """Further counted requests that were routed under this weight, the failed ones among them."""
        self._canary += canary
        self._stable += stable
        if stable:
            self._recent.append([stable, 0])
            while sum(block[0] for block in self._recent) - self._recent[0][0] >= STABLE_WINDOW:
                self._recent.popleft()
        if canary and self._is_absolute(weight):
            self._bet(canary, 0)

    def compare(self, compared: int, disagreed: int) -> None:
        """Further answers of the shadow that were compared, and how many of these differed."""
        self._compared += compared
        self._disagreed += disagreed

    def add(self, event: Event) -> None:
        if event.unit is not None and not self._is_first(event, event.unit):
            return
        arm = 0 if event.is_canary else 1
        if event.kind == "label":
            _bump(self._labels, event.weight, arm)
            return
        for cells in self._slow[: LEVELS if event.kind == "failed" else event.level]:
            _bump(cells, event.weight, arm)
        if event.kind != "failed":
            return
        _bump(self._failed, event.weight, arm)
        if not event.is_canary:
            if self._recent:
                self._recent[-1][1] += 1
        elif self._is_absolute(event.weight):
            self._bet(0, 1)

    @property
    def evidence(self) -> Evidence:
        """As it is now."""
        first, second, third = (_frozen(cells) for cells in self._slow)
        return Evidence(
            canary=self._canary,
            stable=self._stable,
            failed=_frozen(self._failed),
            slow=(first, second, third),
            labels=_frozen(self._labels),
            compared=self._compared,
            disagreed=self._disagreed,
            absolute=tuple(self._absolute),
            units=dict(self._units),
        )

    def _is_first(self, event: Event, unit: int) -> bool:
        key = key_of(event.kind, unit)
        if key in self._units or self._units_of[event.kind] >= MAX_UNITS:
            return False
        self._units[key] = event.weight, event.is_canary, event.level
        self._units_of[event.kind] += 1
        return True

    def _is_absolute(self, weight: float) -> bool:
        return self._guard is not None and weight >= self._guard.from_weight

    def _bet(self, requests: int, failures: int) -> None:
        """Requests are taken for good, and a failure among them takes that back."""
        assert self._guard is not None
        requests_lately, failed_lately = (sum(block[part] for block in self._recent) for part in (0, 1))
        # Without failures there is no sign that stable is above what the plan tolerates, however few its requests.
        lately = upper_rate(failed_lately, requests_lately) if failed_lately else 0.0
        tolerated = max(self._guard.max_rate, lately)
        for index, rate in enumerate(ALTERNATIVES):
            if rate > tolerated:
                good = math.log((1 - rate) / (1 - tolerated))
                self._absolute[index] += requests * good + failures * (math.log(rate / tolerated) - good)


def _mutable(cells: Cells) -> dict[float, list[int]]:
    return {weight: list(counts) for weight, counts in cells.items()}


def _frozen(cells: dict[float, list[int]]) -> Cells:
    return MappingProxyType({weight: (canary, stable) for weight, (canary, stable) in cells.items()})


def _bump(cells: dict[float, list[int]], weight: float, arm: int) -> None:
    cells.setdefault(weight, [0, 0])[arm] += 1
