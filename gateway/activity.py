"""What one served version did lately, from its counters: rates, quantiles, and the demand that autoscalers follow.

A pure window over samples: whoever owns it calls `record` about once a second. Nothing here reads a clock or a meter.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

WINDOW_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Sample:
    """Cumulative counts at one moment, and how many requests were in flight then."""

    now: float
    """Monotonic seconds."""
    requests: int
    """Answered, whatever the outcome."""
    failures: int
    """Answered with another code than OK."""
    succeeded: int
    succeeded_seconds: float
    """Arrival to answer, summed over the requests that succeeded."""
    shed: int
    executions: int
    rows: int
    """Rows of all executions."""
    in_flight: int
    """Accepted and not yet answered, queued ones included."""
    bounds: tuple[float, ...]
    cumulative: tuple[int, ...]
    """Histogram of request durations in seconds: one entry more than `bounds`, each counts those below too."""


@dataclass(frozen=True, slots=True)
class Activity:
    """The last half minute in figures. Quantiles are None while nothing was answered in it."""

    request_rate: float = 0.0
    failure_rate: float = 0.0
    shed_rate: float = 0.0
    p50_seconds: float | None = None
    p99_seconds: float | None = None
    mean_batch_size: float | None = None
    demand: float = 0.0


class Recent:
    """The samples of the last `WINDOW_SECONDS`, and what they say."""

    def __init__(self, window: float = WINDOW_SECONDS) -> None:
        self._window = window
        # Oldest first; the oldest is the youngest that is at least `window` old, once there is one.
        self._samples: deque[Sample] = deque()

    def record(self, sample: Sample) -> None:
        """Samples come in the order of time; a later one at the same moment replaces the earlier."""
        samples = self._samples
        if samples and sample.requests < samples[-1].requests:
            samples.clear()  # the counters began anew
        while samples and samples[-1].now >= sample.now:
            samples.pop()
        samples.append(sample)
        while len(samples) > 2 and samples[1].now <= sample.now - self._window:
            samples.popleft()

    def activity(self) -> Activity:
        if not self._samples:
            return Activity()
        first, last = self._samples[0], self._samples[-1]
        span = last.now - first.now
        if span <= 0:
            return Activity(demand=float(last.in_flight))
        executions = last.executions - first.executions
        counts = [new - old for new, old in zip(last.cumulative, first.cumulative, strict=True)]
        return Activity(
            request_rate=(last.requests - first.requests) / span,
            failure_rate=(last.failures - first.failures) / span,
            shed_rate=(last.shed - first.shed) / span,
            p50_seconds=quantile(0.5, last.bounds, counts),
            p99_seconds=quantile(0.99, last.bounds, counts),
            mean_batch_size=(last.rows - first.rows) / executions if executions else None,
            demand=self._demand(first, last, span),
        )

    def _demand(self, first: Sample, last: Sample, span: float) -> float:
        """Requests that would have been in flight had none been shed.

        By Little's law a stream of x requests a second, each in the gateway for w seconds, keeps x*w in flight. So
        demand is the mean number in flight plus what was shed a second times the mean time of one that succeeded: it is
        linear in the offered load, on both sides of saturation.
        """
        in_flight = sum(sample.in_flight for sample in self._samples) / len(self._samples)
        return in_flight + (last.shed - first.shed) / span * self._mean_seconds(first, last)

    def _mean_seconds(self, first: Sample, last: Sample) -> float:
        """Of the window; before anything succeeded in it, of all time; before anything succeeded at all, one second."""
        succeeded = last.succeeded - first.succeeded
        if succeeded > 0:
            return (last.succeeded_seconds - first.succeeded_seconds) / succeeded
        return last.succeeded_seconds / last.succeeded if last.succeeded else 1.0


def quantile(q: float, bounds: Sequence[float], cumulative: Sequence[float]) -> float | None:
    """As Prometheus' histogram_quantile: linear within a bucket, the highest bound for what lies beyond it; None
    without observations."""
    total = cumulative[-1] if cumulative else 0
    if total <= 0:
        return None
    rank = q * total
    lower, below = 0.0, 0.0
    for bound, count in zip(bounds, cumulative, strict=False):
        if count >= rank and count > below:
            return lower + (bound - lower) * (rank - below) / (count - below)
        lower, below = bound, count
    return bounds[-1] if bounds else None
