"""Samples every served version once a second, for the figures of the console, the JSON API and the demand gauge."""

from __future__ import annotations

from typing import Any

from gateway.activity import Activity, Recent, Sample
from gateway.metrics import MeterSource, Served, has_figures
from kernels.meters import HistogramSnapshot

_IDLE = Activity()


class Observer:
    """Holds the recent past of what `source` serves; `observe` is called by whoever owns a timer."""

    def __init__(self, source: MeterSource) -> None:
        self._source = source
        # By model and version. `observe` adds what is served for the first time and drops what no longer is.
        self._recent: dict[tuple[str, str], Recent] = {}

    def observe(self, now: float) -> None:
        served = [one for one in self._source.served() if has_figures(one)]
        known = {(one.model, one.version): self._recent.get((one.model, one.version)) or Recent() for one in served}
        for one in served:
            known[one.model, one.version].record(sample(one, now))
        self._recent = known

    def activity(self, model: str, version: str) -> Activity:
        recent = self._recent.get((model, version))
        return recent.activity() if recent else _IDLE

    def demand(self) -> dict[str, float]:
        """By model, summed over its versions."""
        total: dict[str, float] = {}
        for (model, _), recent in self._recent.items():
            total[model] = total.get(model, 0.0) + recent.activity().demand
        return total

    def models(self) -> list[dict[str, Any]]:
        """What `/api/v1/models` answers, by model and version."""
        demand = self.demand()
        models: dict[str, dict[str, Any]] = {}
        for one in sorted(self._source.served(), key=lambda one: (one.model, _version_order(one.version))):
            model = models.setdefault(
                one.model, {"name": one.model, "demand": round(demand.get(one.model, 0.0), 3), "versions": []}
            )
            model["versions"].append(_version(one, self.activity(one.model, one.version)))
        return list(models.values())


def sample(one: Served, now: float) -> Sample:
    meters = one.meters
    succeeded, succeeded_ns = meters.statistics().success
    codes = [http + grpc for http, grpc in zip(meters.requests(0), meters.requests(1), strict=True)]
    batches = meters.batch_size.snapshot()
    bounds, cumulative = _together(meters.duration(0), meters.duration(1))
    return Sample(
        now=now,
        requests=sum(codes),
        failures=sum(codes[1:]),
        succeeded=succeeded,
        succeeded_seconds=succeeded_ns / 1e9,
        shed=sum(meters.shed_counts()[1:]),
        executions=batches.cumulative[-1],
        rows=round(batches.sum),
        in_flight=one.in_flight,
        bounds=bounds,
        cumulative=cumulative,
    )


def _together(one: HistogramSnapshot, other: HistogramSnapshot) -> tuple[tuple[float, ...], tuple[int, ...]]:
    return one.bounds, tuple(a + b for a, b in zip(one.cumulative, other.cumulative, strict=True))


def _version(one: Served, recent: Activity) -> dict[str, Any]:
    latest = sample(one, 0.0)
    return {
        "version": one.version,
        "role": one.role,
        "state": one.state,
        "reason": one.reason,
        "instances": one.instances,
        "restarts": one.restarts,
        "load_seconds": one.load_seconds,
        "requests": {"total": latest.requests, "failed": latest.failures, "shed": latest.shed},
        "in_flight": one.in_flight,
        "queue": {"requests": one.queued, "rows": one.queue_rows, "bytes": one.queue_bytes},
        "recent": {
            "requests_per_second": round(recent.request_rate, 3),
            "failures_per_second": round(recent.failure_rate, 3),
            "shed_per_second": round(recent.shed_rate, 3),
            "p50_seconds": recent.p50_seconds,
            "p99_seconds": recent.p99_seconds,
            "batch_size": recent.mean_batch_size,
        },
    }


def _version_order(version: str) -> tuple[int, str]:
    return (int(version), "") if version.isdigit() else (-1, version)
