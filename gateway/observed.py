"""What can be said about what is served: metadata, statistics, the figures of one line of the index. Plain facts, taken
from the parts that hold them when asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gateway.attempts import IndexRow
from gateway.lifecycle import State
from gateway.served import Served
from kernels.meters import BatchStatistics, CountAndTime, HistogramSnapshot, Meters


@dataclass(frozen=True)
class ServerMetadata:
    name: str
    version: str
    extensions: tuple[str, ...]


@dataclass(frozen=True)
class TensorMetadata:
    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class ModelMetadata:
    name: str
    versions: tuple[str, ...]
    platform: str
    inputs: tuple[TensorMetadata, ...]
    outputs: tuple[TensorMetadata, ...]


@dataclass(frozen=True)
class Duration:
    count: int
    ns: int


@dataclass(frozen=True)
class InferStatistics:
    success: Duration
    fail: Duration
    queue: Duration
    compute_input: Duration
    compute_infer: Duration
    compute_output: Duration


@dataclass(frozen=True)
class BatchSizeStatistics:
    batch_size: int
    compute_input: Duration
    compute_infer: Duration
    compute_output: Duration


@dataclass(frozen=True)
class ModelStatistics:
    name: str
    version: str
    last_inference: int
    inference_count: int
    execution_count: int
    inference_stats: InferStatistics
    batch_stats: tuple[BatchSizeStatistics, ...]


class Observed:
    """One line of the index with the figures of what serves it; satisfies `gateway.metrics.Served`."""

    def __init__(self, row: IndexRow, served: Served | None, meters: Meters) -> None:
        self.model, self.version = row.name, row.version
        self.state, self.reason = row.state or State.UNKNOWN.value, row.reason
        self.load_seconds = row.load_seconds
        self.meters = meters
        self._served = served

    @property
    def role(self) -> str:
        return self._served.role if self._served else "stable"

    @property
    def in_flight(self) -> int:
        return self._served.deployment.in_flight if self._served else 0

    @property
    def queued(self) -> int:
        return self._served.deployment.queue.count if self._served else 0

    @property
    def queue_rows(self) -> int:
        return self._served.deployment.queue.rows if self._served else 0

    @property
    def queue_bytes(self) -> int:
        return self._served.deployment.queue.nbytes if self._served else 0

    @property
    def restarts(self) -> int:
        return self._served.group.restarts if self._served else 0

    @property
    def instances(self) -> int:
        return len(self._served.instances) if self._served else 0


def statistics_of(served: Served) -> ModelStatistics:
    meters = served.meters
    figures = meters.statistics()
    return ModelStatistics(
        served.model,
        served.version,
        meters.last_inference,
        meters.inference_count,
        meters.execution_count,
        InferStatistics(*(_duration(getattr(figures, name)) for name in figures._fields)),
        tuple(_batch(size) for size in meters.batch_statistics()),
    )


def _batch(figures: BatchStatistics) -> BatchSizeStatistics:
    return BatchSizeStatistics(
        figures.batch_size,
        _duration(figures.compute_input),
        _duration(figures.compute_infer),
        _duration(figures.compute_output),
    )


def _duration(figures: CountAndTime) -> Duration:
    return Duration(figures.events, figures.ns)


def quantiles_of(snapshot: HistogramSnapshot, quantiles: Sequence[float]) -> tuple[float, ...]:
    """Interpolated within the bucket that each falls into; what lies beyond the last bound counts as that bound."""
    return tuple(_quantile(snapshot, quantile) for quantile in quantiles)


def _quantile(snapshot: HistogramSnapshot, quantile: float) -> float:
    rank = quantile * snapshot.cumulative[-1]
    lower, below = 0.0, 0
    for bound, cumulative in zip(snapshot.bounds, snapshot.cumulative, strict=False):
        if cumulative >= rank and cumulative > below:
            return lower + (bound - lower) * (rank - below) / (cumulative - below)
        lower, below = bound, cumulative
    return lower
