"""How many failures the failures guard takes, without chance: by counts of failed requests, which are all it looks at."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from gateway.rollouts.evidence import Evidence
from gateway.rollouts.guards import judge
from loadtests.rollout_rules import FAILURES

MAX_EVENTS = 400
"""Failed requests of both versions until a failing canary counts as not found."""


@dataclass(frozen=True)
class Distribution:
    """`chances[n]`: that the rollback comes with the canary's n-th failed request."""

    chances: npt.NDArray[np.float64]

    @property
    def share(self) -> float:
        """That it comes at all."""
        return float(self.chances.sum())

    def quantile(self, part: float) -> int:
        """Of those that come."""
        return int(np.argmax(self.chances.cumsum() >= part * self.share))

    def __str__(self) -> str:
        rest = "" if self.share > 0.995 else f" ({self.share:.0%})"
        return f"{self.quantile(0.5)}/{self.quantile(0.95)}{rest}"


@lru_cache
def boundary(weight: float) -> tuple[int, ...]:
    """For each number of failed requests of the canary, the most of stable with which the guard fires; -1: with none.
    More of stable's only lower the evidence, and more of the canary's raise it."""
    found, stable = [-1], -1
    for canary in range(1, MAX_EVENTS + 1):
        while stable + 1 <= MAX_EVENTS and _fires(weight, canary, stable + 1):
            stable += 1
        found.append(stable)
    return tuple(found)


def _fires(weight: float, canary: int, stable: int) -> bool:
    return bool(judge(FAILURES, Evidence(failed={weight: (canary, stable)})).fired)


def failures_alone(weight: float, stable: float, canary: float) -> Distribution:
    """At rates of failures of both versions."""
    share = weight * canary / (weight * canary + (1 - weight) * stable)
    chances = np.zeros(MAX_EVENTS + 1)
    # Where rollouts are that go on: by stable's failed requests so far.
    places = np.zeros(MAX_EVENTS + 1)
    places[0] = 1.0
    for number, most in enumerate(boundary(weight)[1:], 1):
        places = _until_next(places, share)
        places[MAX_EVENTS - number + 1 :] = 0.0  # not found in time
        chances[number] = places[: most + 1].sum()
        places[: most + 1] = 0.0
    return Distribution(chances)


def _until_next(places: npt.NDArray[np.float64], share: float) -> npt.NDArray[np.float64]:
    """Where they are when the canary fails next: each failed request is the canary's with this chance."""
    after, carried = np.empty_like(places), 0.0
    for index, here in enumerate(places):
        carried = carried * (1 - share) + here
        after[index] = share * carried
    return after
