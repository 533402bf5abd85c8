"""Made-up traffic of a stable version and its canary, request by request, as arrays: who was asked, what failed, how
long it took. Equal versions differ in nothing but their name, whatever happens around them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gateway.rollouts.evidence import Thresholds

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]

MEDIAN_SECONDS = 0.02
SIGMA = 0.5
"""Of the logarithm of the time that an answer takes."""
BATCH = 16


def thresholds(tolerance: float) -> tuple[float, float, float]:
    """Frozen from what the stable version takes before anything happens to it."""
    p50, p90, p99 = (MEDIAN_SECONDS * math.exp(SIGMA * normal) for normal in (0.0, 1.2816, 2.3263))
    return Thresholds.frozen(p50, p90, p99, tolerance).seconds


@dataclass(frozen=True)
class Traffic:
    """Requests in their order. `failed`: those that count; `raw`: the failed answers as a rule would see them that
    counts every answer of a failed batch."""

    is_canary: Bools
    failed: Bools
    raw: Bools
    seconds: Floats

    def __len__(self) -> int:
        return len(self.is_canary)


Shape = Callable[[np.random.Generator, int], Floats]
"""A factor for each request, common to both versions."""


def steady(source: np.random.Generator, count: int) -> Floats:
    return np.ones(count)


def outage(source: np.random.Generator, count: int) -> Floats:
    """For a tenth of the time half of all requests fail, when one in a hundred does otherwise."""
    factor = np.ones(count)
    begin = source.integers(0, count * 9 // 10)
    factor[begin : begin + count // 10] = 50.0
    return factor


def drift(source: np.random.Generator, count: int) -> Floats:
    """From a fifth of the usual rate to five times that."""
    return np.asarray(np.geomspace(0.2, 5.0, count))


def bursts(source: np.random.Generator, count: int) -> Floats:
    """Quiet, and one time in twenty, for fifty requests, twenty times the rate."""
    blocks = source.random(count // 50 + 1) < 0.05
    return np.where(np.repeat(blocks, 50)[:count], 20.0, 1.0)


def make(
    source: np.random.Generator,
    count: int,
    weight: float,
    *,
    stable_rate: float = 0.01,
    canary_rate: float | None = None,
    slower: float = 1.0,
    shape: Shape = steady,
    slows: bool = False,
    batches: bool = False,
) -> Traffic:
    """Equal versions unless `canary_rate` or `slower` says otherwise.

    Args:
        shape: what the rates are multiplied with.
        slows: the times as well, by the square root.
        batches: a request that fails takes the batch that it is in with it; run again one by one, it fails alone.
    """
    is_canary = source.random(count) < weight
    factor = shape(source, count)
    rate = np.where(is_canary, stable_rate if canary_rate is None else canary_rate, stable_rate)
    failed = source.random(count) < np.minimum(rate * factor, 1.0)
    seconds = MEDIAN_SECONDS * np.exp(SIGMA * source.standard_normal(count))
    if slows:
        seconds *= np.sqrt(factor)
    seconds[is_canary] *= slower
    return Traffic(is_canary, failed, _spread(is_canary, failed) if batches else failed, seconds)


def _spread(is_canary: Bools, failed: Bools) -> Bools:
    """Of each version, every request of a batch with a failed one."""
    raw = failed.copy()
    for arm in (True, False):
        places = np.flatnonzero(is_canary == arm)
        bad = np.unique(np.arange(len(places))[failed[places]] // BATCH)
        for batch in bad:
            raw[places[batch * BATCH : (batch + 1) * BATCH]] = True
    return raw
