"""Counters and histograms of one model version, kept in C arrays.

The loop bumps them with plain calls; a collector reads snapshots now and then. Nothing here knows a metric's name or a
label beyond an index: protocols are `exchange.Protocol`, codes are gRPC status codes, shed reasons are `batching.Shed`
and failure reasons are REJECTED, CANCELED, BACKEND, OTHER, as in Triton.
"""

from collections.abc import Sequence
from typing import NamedTuple

DURATION_BOUNDS: tuple[float, ...]
"""Default bounds in seconds, from 25 microseconds to 10 seconds."""
BATCH_SIZE_BOUNDS: tuple[float, ...]
"""Default bounds in rows: the powers of two up to 1024."""

class CountAndTime(NamedTuple):
    """So many `events`, and the nanoseconds they took together."""

    events: int
    ns: int

class BatchStatistics(NamedTuple):
    """What the batches of one size (in rows) cost; `events` are such batches."""

    batch_size: int
    compute_input: CountAndTime
    compute_infer: CountAndTime
    compute_output: CountAndTime

class Statistics(NamedTuple):
    """Triton's `inference_stats`: counts are requests, times are cumulative over requests."""

    success: CountAndTime
    fail: CountAndTime
    queue: CountAndTime
    compute_input: CountAndTime
    compute_infer: CountAndTime
    compute_output: CountAndTime

class HistogramSnapshot(NamedTuple):
    """`cumulative` has one entry more than `bounds`: its last is the number of all observations."""

    bounds: tuple[float, ...]
    cumulative: tuple[int, ...]
    sum: float

class Histogram:
    """Counts of values by upper bound, inclusive as in Prometheus. From Cython: `observe`, `observe_many`."""

    size: int

    def __init__(self, bounds: Sequence[float] = ...) -> None:
        """`bounds` are finite and strictly ascending, else ValueError; the default is DURATION_BOUNDS."""

    def add(self, value: float, n: int = 1) -> None:
        """Counts `value` `n` times. NaN is ignored."""

    def snapshot(self) -> HistogramSnapshot: ...

class Meters:
    """Everything that is counted for one version of one model.

    Every exchange is `answered` once, whatever its end. One that got its outputs has also `succeeded`, one that did not
    has also `failed`, and one that was turned away was also `shed`. Every batch that ran to its end was `executed`
    once. The `record_` methods are the same calls for Python.
    """

    inference_count: int
    """Rows of requests that succeeded."""
    execution_count: int
    """Batches that ran to their end."""
    last_inference: int
    """When the latest batch ended, in milliseconds since the epoch; 0 for never."""
    http_duration: Histogram
    grpc_duration: Histogram
    """Seconds from arrival to answer, of every exchange."""
    queue: Histogram
    """Seconds in the queue, of every request that succeeded."""
    compute: Histogram
    """Seconds in the engine, of every batch."""
    batch_size: Histogram
    """Rows of every batch."""

    def __init__(self, *, batch_size_bounds: Sequence[float] = ...) -> None: ...
    def requests(self, protocol: int) -> tuple[int, ...]:
        """Exchanges answered, by gRPC status code (17 of them)."""

    def duration(self, protocol: int) -> HistogramSnapshot: ...
    def shed_counts(self) -> tuple[int, ...]:
        """Requests turned away, by `batching.Shed`."""

    def failure_counts(self) -> tuple[int, ...]:
        """Requests failed, as (REJECTED, CANCELED, BACKEND, OTHER)."""

    def statistics(self) -> Statistics: ...
    def batch_statistics(self) -> list[BatchStatistics]:
        """One entry for each batch size seen, smallest first."""

    def record_answered(self, protocol: int, code: int, seconds: float) -> None:
        """A code outside the gRPC range counts as UNKNOWN."""

    def record_shed(self, reason: int) -> None: ...
    def record_succeeded(
        self, rows: int, request: float, queue: float, compute_input: float, compute_infer: float, compute_output: float
    ) -> None:
        """Times in seconds; a negative one (clocks of two processes) counts as 0."""

    def record_failed(self, reason: int, request: float) -> None:
        """A reason outside the range counts as OTHER."""

    def record_executed(
        self, rows: int, compute_input: float, compute_infer: float, compute_output: float, epoch_ms: int
    ) -> None: ...
