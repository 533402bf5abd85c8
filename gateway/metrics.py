"""What Prometheus reads: one collector that turns counters of served versions into metric families.

It knows names, labels and formats. It counts nothing itself: the loop bumps `kernels.meters`, and every scrape reads
them. A version is listed by its `MeterSource` from the moment its load begins, so each of its series exists, at 0,
before the first request.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from gateway import __version__
from gateway.attempts import ON_DEMAND, Capacity
from gateway.frontends.status import Code
from kernels.meters import HistogramSnapshot, Meters

PROTOCOLS = ("http", "grpc")
"""By `exchange.Protocol`."""
CODES = tuple(code.name for code in Code)
"""Names of gRPC status codes, by number."""
SHED_REASONS = ("queue_rows", "queue_bytes", "predicted_wait", "expired")
"""By `batching.Shed`, from 1: its 0 says that nothing was shed."""
FAILURE_REASONS = ("REJECTED", "CANCELED", "BACKEND", "OTHER")
STATES = ("READY", "LOADING", "UNLOADING", "UNAVAILABLE")

_VERSION = ("model", "version", "role")
_NV_COUNTERS = {
    "nv_inference_request_success": "Number of successful inference requests, all batch sizes",
    "nv_inference_request_failure": "Number of failed inference requests, all batch sizes",
    "nv_inference_count": "Number of inferences performed (does not include cached requests)",
    "nv_inference_exec_count": "Number of model executions performed (does not include cached requests)",
    "nv_inference_request_duration_us": "Cumulative inference request duration in microseconds",
    "nv_inference_queue_duration_us": "Cumulative inference queuing duration in microseconds",
    "nv_inference_compute_input_duration_us": "Cumulative compute input duration in microseconds",
    "nv_inference_compute_infer_duration_us": "Cumulative compute inference duration in microseconds",
    "nv_inference_compute_output_duration_us": "Cumulative compute inference output duration in microseconds",
}


class Served(Protocol):
    """One version of one model, as the collector and the admin API see it. Properties are read at every scrape."""

    @property
    def model(self) -> str: ...
    @property
    def version(self) -> str: ...
    @property
    def role(self) -> str:
        """`stable`, `canary` or `shadow`."""

    @property
    def state(self) -> str:
        """One of `STATES`."""

    @property
    def reason(self) -> str:
        """Why the state is not READY; empty when there is nothing to say."""

    @property
    def meters(self) -> Meters: ...
    @property
    def in_flight(self) -> int:
        """Requests accepted and not yet answered, queued ones included."""

    @property
    def queued(self) -> int:
        """Requests in the queue."""

    @property
    def queue_rows(self) -> int: ...
    @property
    def queue_bytes(self) -> int: ...
    @property
    def load_seconds(self) -> float:
        """From the start of the load to READY; 0 until then."""

    @property
    def restarts(self) -> int:
        """Workers started again after a death."""

    @property
    def instances(self) -> int:
        """Workers that can run a batch now."""


class MeterSource(Protocol):
    """Whoever knows all served versions."""

    def served(self) -> Sequence[Served]: ...

    @property
    def unrouted(self) -> Meters:
        """Of the requests that reached no version."""

    @property
    def waiting(self) -> int:
        """Requests that wait for their model to be loaded."""

    def capacity(self) -> Capacity: ...


def has_figures(one: Served) -> bool:
    """False for what was never asked for: there may be a thousand models that are loaded on demand, and each has
    hundreds of series."""
    return one.reason != ON_DEMAND or any(one.meters.requests(0)) or any(one.meters.requests(1))


class ServedCollector(Collector):
    """All families about models. `demand` maps model names to their demand (see `gateway.activity`)."""

    def __init__(self, source: MeterSource, demand: Callable[[], dict[str, float]]) -> None:
        self._source = source
        self._demand = demand

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterator[Metric]:
        served = [one for one in self._source.served() if has_figures(one)]
        yield from _traffic(served)
        yield _unrouted(self._source.unrouted)
        yield from _capacity(self._source)
        yield from _state(served)
        demand = GaugeMetricFamily(
            "sluice_demand",
            "Requests that would be in flight had none been shed, mean of half a minute",
            labels=["model"],
        )
        current = self._demand()
        for model in sorted({one.model for one in served}):
            demand.add_metric([model], current.get(model, 0.0))
        yield demand
        yield from _triton(served)


class BuildInfo(Collector):
    def collect(self) -> Iterator[Metric]:
        labels = ["version", "python_version"]
        family = GaugeMetricFamily("sluice_build_info", "What is running; always 1", labels=labels)
        family.add_metric([__version__, platform.python_version()], 1)
        yield family


def make_registry(source: MeterSource, demand: Callable[[], dict[str, float]]) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(BuildInfo())
    registry.register(ServedCollector(source, demand))
    ProcessCollector(registry=registry)
    return registry


def exposition(registry: CollectorRegistry, accept: str) -> tuple[bytes, str]:
    """The body and content type that fit an `Accept` header: OpenMetrics when it is asked for, else the text format."""
    encoder, content_type = choose_encoder(accept)
    body = encoder(registry)
    if not content_type.startswith("application/openmetrics-text"):
        # The library knows counters only with a `_total` suffix, which Triton's names lack: they pass through it as
        # untyped, and get their type here. OpenMetrics forbids such counters, there they stay unknown.
        for name in _NV_COUNTERS:
            body = body.replace(f"# TYPE {name} untyped\n".encode(), f"# TYPE {name} counter\n".encode(), 1)
    return body, content_type


def _traffic(served: Sequence[Served]) -> Iterator[Metric]:
    requests = CounterMetricFamily(
        "sluice_requests",
        "Requests answered, by gRPC status name over both protocols",
        labels=[*_VERSION, "protocol", "code"],
    )
    durations = HistogramMetricFamily(
        "sluice_request_duration_seconds",
        "From the end of a request's headers to its answer, whatever the outcome",
        labels=[*_VERSION, "protocol"],
    )
    queue = HistogramMetricFamily(
        "sluice_queue_duration_seconds", "Time in the queue of requests that succeeded", labels=_VERSION
    )
    compute = HistogramMetricFamily(
        "sluice_compute_duration_seconds", "Time in the inference engine, by batch", labels=_VERSION
    )
    batch_size = HistogramMetricFamily("sluice_batch_size", "Rows of executed batches", labels=_VERSION)
    shed = CounterMetricFamily(
        "sluice_shed", "Requests turned away before they ran, by reason", labels=[*_VERSION, "reason"]
    )
    for one in served:
        labels = _labels(one)
        meters = one.meters
        for index, protocol in enumerate(PROTOCOLS):
            for code, total in zip(CODES, meters.requests(index), strict=True):
                requests.add_metric([*labels, protocol, code], total)
            _add(durations, [*labels, protocol], meters.duration(index))
        _add(queue, labels, meters.queue.snapshot())
        _add(compute, labels, meters.compute.snapshot())
        _add(batch_size, labels, meters.batch_size.snapshot())
        for reason, total in zip(SHED_REASONS, meters.shed_counts()[1:], strict=True):
            shed.add_metric([*labels, reason], total)
    yield from (requests, durations, queue, compute, batch_size, shed)


def _unrouted(meters: Meters) -> Metric:
    requests = CounterMetricFamily(
        "sluice_unrouted_requests",
        "Requests that reached no version: malformed, or for a model or version that is not there or not ready",
        labels=["protocol", "code"],
    )
    for index, protocol in enumerate(PROTOCOLS):
        for code, total in zip(CODES, meters.requests(index), strict=True):
            requests.add_metric([protocol, code], total)
    return requests


def _capacity(source: MeterSource) -> Iterator[Metric]:
    capacity = source.capacity()
    waiting = GaugeMetricFamily("sluice_waiting_requests", "Requests that wait for their model to be loaded")
    waiting.add_metric([], source.waiting)
    limit = GaugeMetricFamily("sluice_memory_limit_bytes", "What all models together may take; 0: no limit")
    limit.add_metric([], capacity.limit)
    loaded = GaugeMetricFamily(
        "sluice_memory_bytes", "Private memory of a version's workers, as measured last", labels=["model", "version"]
    )
    for (model, version), nbytes in sorted(capacity.loaded.items()):
        loaded.add_metric([model, str(version)], nbytes)
    evictions = CounterMetricFamily(
        "sluice_evictions", "Unloads that made room in memory for other models", labels=["model"]
    )
    for model, count in sorted(capacity.evictions.items()):
        evictions.add_metric([model], count)
    yield from (waiting, limit, loaded, evictions)


def _state(served: Sequence[Served]) -> Iterator[Metric]:
    in_flight = GaugeMetricFamily(
        "sluice_in_flight_requests", "Requests accepted and not yet answered, queued ones included", labels=_VERSION
    )
    rows = GaugeMetricFamily("sluice_queue_rows", "Rows that wait for a batch", labels=_VERSION)
    nbytes = GaugeMetricFamily("sluice_queue_bytes", "Input bytes that wait for a batch", labels=_VERSION)
    instances = GaugeMetricFamily("sluice_instances", "Workers that can run a batch now", labels=_VERSION)
    restarts = CounterMetricFamily("sluice_worker_restarts", "Workers started again after a death", labels=_VERSION)
    state = GaugeMetricFamily(
        "sluice_model_state", "1 for the state that the version is in, 0 for the others", labels=[*_VERSION, "state"]
    )
    load = GaugeMetricFamily(
        "sluice_model_load_seconds", "From the start of the load to ready, warm-up included", labels=_VERSION
    )
    for one in served:
        labels = _labels(one)
        in_flight.add_metric(labels, one.in_flight)
        rows.add_metric(labels, one.queue_rows)
        nbytes.add_metric(labels, one.queue_bytes)
        instances.add_metric(labels, one.instances)
        restarts.add_metric(labels, one.restarts)
        load.add_metric(labels, one.load_seconds)
        for name in STATES:
            state.add_metric([*labels, name], float(one.state == name))
    yield from (in_flight, rows, nbytes, instances, restarts, state, load)


def _triton(served: Sequence[Served]) -> Iterator[Metric]:
    """Triton's names and labels, so that its dashboards work. Durations are those of requests that succeeded."""
    families = {name: Metric(name, help, "unknown") for name, help in _NV_COUNTERS.items()}
    pending = Metric("nv_inference_pending_request_count", "Instantaneous number of pending requests", "gauge")
    load = Metric("nv_model_load_duration_secs", "Model load time in seconds", "gauge")
    for one in served:
        labels = {"model": one.model, "version": one.version}
        meters, statistics = one.meters, one.meters.statistics()
        succeeded, request_ns = statistics.success
        values = {
            "nv_inference_request_success": succeeded,
            "nv_inference_count": meters.inference_count,
            "nv_inference_exec_count": meters.execution_count,
            "nv_inference_request_duration_us": request_ns // 1000,
            "nv_inference_queue_duration_us": statistics.queue.ns // 1000,
            "nv_inference_compute_input_duration_us": statistics.compute_input.ns // 1000,
            "nv_inference_compute_infer_duration_us": statistics.compute_infer.ns // 1000,
            "nv_inference_compute_output_duration_us": statistics.compute_output.ns // 1000,
        }
        for name, value in values.items():
            families[name].add_sample(name, labels, value)
        for reason, total in zip(FAILURE_REASONS, meters.failure_counts(), strict=True):
            families["nv_inference_request_failure"].add_sample(
                "nv_inference_request_failure", {**labels, "reason": reason}, total
            )
        pending.add_sample(pending.name, labels, one.queued)
        load.add_sample(load.name, labels, one.load_seconds)
    yield from (*families.values(), pending, load)


def _labels(one: Served) -> list[str]:
    return [one.model, one.version, one.role]


def _add(family: HistogramMetricFamily, labels: Sequence[str], snapshot: HistogramSnapshot) -> None:
    bounds = [*(repr(bound) for bound in snapshot.bounds), "+Inf"]
    family.add_metric(labels, list(zip(bounds, snapshot.cumulative, strict=True)), snapshot.sum)
