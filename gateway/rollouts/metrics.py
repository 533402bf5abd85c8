"""What Prometheus reads about rollouts: where each stands, and how near its evidence is to a rollback."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from gateway.shadows import ShadowCounts


@dataclass(frozen=True)
class RolloutSample:
    """One rollout under way, as this gateway routes it."""

    model: str
    version: str
    """Of the canary."""
    state: str
    weight: float
    evidence: Mapping[str, float]
    """E-value by guard: 1 is none, and the threshold is 1/α of the guard."""
    is_leading: bool
    shadow: ShadowCounts | None
    """What came of the copies that the canary got here; None when it was no shadow."""


class RolloutSource(Protocol):
    """Whoever follows the rollouts."""

    def samples(self) -> Sequence[RolloutSample]: ...

    @property
    def states(self) -> Sequence[str]:
        """Every state that a rollout may be in."""

    @property
    def rollbacks(self) -> Mapping[tuple[str, str], int]:
        """Seen by this gateway since its start, by model and reason: a guard, or what else ended it."""


class RolloutCollector(Collector):
    def __init__(self, source: RolloutSource) -> None:
        self._source = source

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterator[Metric]:
        weight = GaugeMetricFamily(
            "sluice_canary_weight_ratio", "Share of the traffic that goes to the canary", labels=["model", "version"]
        )
        evidence = GaugeMetricFamily(
            "sluice_canary_evidence",
            "How much speaks against the canary: 1 is nothing, at 1/alpha it is rolled back",
            labels=["model", "version", "guard"],
        )
        state = GaugeMetricFamily(
            "sluice_rollout_state", "1 for the state that it is in, 0 for the others", labels=["model", "state"]
        )
        leading = GaugeMetricFamily(
            "sluice_rollout_leader", "1 where this gateway decides about the next step", labels=["model"]
        )
        copies = CounterMetricFamily(
            "sluice_shadow_copies",
            "Requests that were to be copied to the canary as a shadow, by what came of them",
            labels=["model", "version", "outcome"],
        )
        for one in self._source.samples():
            if one.shadow is not None:
                for outcome, total in _outcomes(one.shadow):
                    copies.add_metric([one.model, one.version, outcome], total)
            weight.add_metric([one.model, one.version], one.weight)
            leading.add_metric([one.model], float(one.is_leading))
            for guard, value in sorted(one.evidence.items()):
                evidence.add_metric([one.model, one.version, guard], value)
            for name in self._source.states:
                state.add_metric([one.model, name], float(one.state == name))
        rollbacks = CounterMetricFamily(
            "sluice_rollbacks", "Rollouts that ended at the stable version, by reason", labels=["model", "reason"]
        )
        for (model, reason), total in sorted(self._source.rollbacks.items()):
            rollbacks.add_metric([model, reason], total)
        yield from (weight, evidence, state, leading, copies, rollbacks)


def _outcomes(shadow: ShadowCounts) -> tuple[tuple[str, int], ...]:
    return (
        ("agreed", shadow.compared - shadow.disagreed),
        ("disagreed", shadow.disagreed),
        ("dropped", shadow.dropped),
        ("unpaired", shadow.unpaired),
    )
