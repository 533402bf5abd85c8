"""Rules that roll back, on the same traffic: Sluice's guards, through the classes that serve, and the rules of others.

Each takes traffic and says at which request it rolls back, or None.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from gateway.rollouts.evidence import Event
from gateway.rollouts.guards import judge
from gateway.rollouts.plan import Guards, Plan, SetWeight
from gateway.rollouts.tally import Tally
from loadtests.rollout_traffic import Traffic, thresholds

Rule = Callable[[Traffic, float], int | None]

ALL = Plan((SetWeight(0.05),))
"""The guards of the default plan, under one alpha."""
FAILURES = Plan((SetWeight(0.05),), guards=Guards(latency=None, absolute=None), alpha=0.01)
LATENCY = Plan((SetWeight(0.05),), guards=Guards(failures=None, absolute=None), alpha=0.01)
"""One guard with an alpha of its own, as published figures have it."""

FAILED = 4


def sluice(plan: Plan, traffic: Traffic, weight: float, *, counts_raw: bool = False) -> int | None:
    """Every event is tallied. Evidence is judged after each of the canary's that could tip it: an event of stable's only
    lowers it, and one of the canary's raises it at most by 1/weight."""
    assert all(guard is None or guard.max_ratio == 1 for guard in (plan.guards.failures, plan.guards.latency))
    tally = Tally(plan.guards.absolute)
    events = [
        Event("failed" if level == FAILED else "slow", bool(arm), weight, min(level, 3))
        for arm in (0, 1)
        for level in range(FAILED + 1)
    ]
    places, codes = _coded(plan, traffic, counts_raw)
    to_wait = least_events(1.0, 1 / plan.alpha, weight)
    for place, code in zip(places, codes, strict=True):
        tally.add(events[code])
        if code > FAILED:
            to_wait -= 1
            if to_wait <= 0:
                verdict = judge(plan, tally.evidence)
                if verdict.fired:
                    return place
                to_wait = least_events(verdict.e_value, verdict.threshold, weight)
    return None


def least_events(e_value: float, threshold: float, weight: float) -> int:
    """How many events of the canary it takes at least. Where all traffic is the canary's, slow ones say nothing."""
    if weight == 1.0:
        return 1 << 30
    return max(1, math.ceil(math.log(threshold / max(e_value, 1e-300)) / -math.log(weight) - 1e-9))


def _coded(plan: Plan, traffic: Traffic, counts_raw: bool) -> tuple[list[int], list[int]]:
    """Where the events are, and which: the level, and 5 more for the canary's."""
    failed = traffic.raw if counts_raw else traffic.failed
    levels = np.zeros(len(traffic), np.int64)
    if plan.guards.latency is not None:
        for threshold in thresholds(plan.guards.latency.tolerance):
            levels += traffic.seconds > threshold
    levels[failed] = FAILED
    places = np.flatnonzero(levels)
    codes = levels[places] + (FAILED + 1) * traffic.is_canary[places]
    return places.tolist(), codes.tolist()


def all_guards(traffic: Traffic, weight: float) -> int | None:
    return sluice(ALL, traffic, weight)


def argo(traffic: Traffic, weight: float) -> int | None:
    """`successCondition: result >= 0.95` over each 20 requests of the canary, `failureLimit: 0`."""
    return _windows(traffic, np.flatnonzero(traffic.is_canary), size=20, least=0.95, limit=0)


def flagger(traffic: Traffic, weight: float) -> int | None:
    """`request-success-rate` of at least 99 % in each interval (of 300 requests to both), `threshold: 5`."""
    found = 0
    for begin in range(0, len(traffic) - 299, 300):
        part = slice(begin, begin + 300)
        asked = int(np.count_nonzero(traffic.is_canary[part]))
        failed = int(np.count_nonzero(traffic.raw[part] & traffic.is_canary[part]))
        found += asked == 0 or 1 - failed / asked < 0.99
        if found >= 5:
            return begin + 299
    return None


def _windows(traffic: Traffic, places: np.ndarray, *, size: int, least: float, limit: int) -> int | None:
    whole = len(places) // size * size
    good = 1 - traffic.raw[places[:whole]].reshape(-1, size).mean(axis=1)
    bad = np.flatnonzero(good < least - 1e-12)
    return int(places[bad[limit] * size + size - 1]) if len(bad) > limit else None


def z_test(traffic: Traffic, weight: float) -> int | None:
    """A one-sided test of two proportions at 1 %, looked at after every request from the hundredth on."""
    asked_canary = np.cumsum(traffic.is_canary)
    asked_stable = np.arange(1, len(traffic) + 1) - asked_canary
    failed_canary = np.cumsum(traffic.raw & traffic.is_canary)
    failed_stable = np.cumsum(traffic.raw & ~traffic.is_canary)
    with np.errstate(divide="ignore", invalid="ignore"):
        pooled = (failed_canary + failed_stable) / (asked_canary + asked_stable)
        spread = np.sqrt(pooled * (1 - pooled) * (1 / asked_canary + 1 / asked_stable))
        z = (failed_canary / asked_canary - failed_stable / asked_stable) / spread
    found = np.flatnonzero(np.nan_to_num(z[99:], nan=0.0, posinf=0.0, neginf=0.0) > 2.326)
    return int(found[0]) + 99 if len(found) else None


RULES: dict[str, Rule] = {
    "Sluice": all_guards,
    "Argo, 95 % of 20": argo,
    "Flagger, 99 %, 5 checks": flagger,
    "z-test, watched": z_test,
}
