"""The test of a failure rate against a number, one-sided and anytime-valid, in exact arithmetic on counts."""

from __future__ import annotations

import math
from functools import lru_cache

ALTERNATIVES = (0.05, 0.1, 0.25, 0.5, 0.99)
"""Rates that a bad version may have; those at or below the tolerated one bet nothing."""

CONFIDENCE = 0.99
"""Of the bound on what the stable version fails lately."""


def log_ratios(events: int, requests: int, tolerated: float, alternatives: tuple[float, ...]) -> tuple[float, ...]:
    """Of each alternative rate against the tolerated one, for so many events among the requests. An alternative may be
    0 or more, and on either side of the tolerated rate."""
    return tuple(
        _part(events, rate, tolerated) + _part(requests - events, 1 - rate, 1 - tolerated) for rate in alternatives
    )


def _part(count: int, alternative: float, tolerated: float) -> float:
    if count == 0:
        return 0.0
    return count * math.log(alternative / tolerated) if alternative > 0 else -math.inf


@lru_cache(maxsize=4096)
def upper_rate(failures: int, requests: int) -> float:
    """The Clopper-Pearson upper bound on a rate, at `CONFIDENCE`; 0 without requests, since then nothing is known."""
    if requests == 0:
        return 0.0
    if failures >= requests:
        return 1.0
    low, high = failures / requests, 1.0
    for _ in range(40):
        rate = (low + high) / 2
        low, high = (rate, high) if _at_most(failures, requests, rate) > 1 - CONFIDENCE else (low, rate)
    return high


def _at_most(failures: int, requests: int, rate: float) -> float:
    """The chance of so many failures or fewer."""
    log_rate, log_rest = math.log(rate), math.log1p(-rate)
    log_all = math.lgamma(requests + 1)
    return math.fsum(
        math.exp(
            log_all - math.lgamma(k + 1) - math.lgamma(requests - k + 1) + k * log_rate + (requests - k) * log_rest
        )
        for k in range(failures + 1)
    )
