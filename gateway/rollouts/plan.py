"""How a version is to take over: the steps, what guards them, and what happens when there is no answer.

Plans are values. `plan_reader` makes one of what a person wrote, and `plan_writer` is the same the other way;
nothing here knows a version, a clock or how much traffic there is. Durations are seconds, weights and rates are ratios
from 0 to 1 (a person writes percent).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from gateway.rollouts.analysis import Analysis
from gateway.rollouts.tolerances import Comparison

OnInconclusive = Literal["hold", "extend", "promote", "rollback"]
OnNewTarget = Literal["supersede", "queue"]
Strategy = Literal["canary", "blueGreen", "allAtOnce"]
MatchKind = Literal["exact", "prefix", "regex"]
StickyKind = Literal["header", "cookie", "metadata", "parameter"]

DAY = 86_400.0


@dataclass(frozen=True)
class SetWeight:
    """The canary's share of the traffic from here on."""

    weight: float


@dataclass(frozen=True)
class Bake:
    """Goes on when all hold: the time has passed, the canary has answered so many counted requests, and it is shown to
    be no worse than `Promotion` allows. Without that by `max_time` the step is inconclusive; None: by the rollout's
    `max_duration`."""

    min_time: float = 0.0
    min_requests: int = 1
    max_time: float | None = None


@dataclass(frozen=True)
class Pause:
    """Waits so long; None: until an operator resumes."""

    duration: float | None = None


@dataclass(frozen=True)
class ShadowStep:
    """Copies a part of the stable version's requests to the canary, until the time has passed and so many answers were
    compared."""

    fraction: float
    min_time: float = 0.0
    min_requests: int = 1
    max_time: float | None = None


@dataclass(frozen=True)
class HeaderMatch:
    header: str
    kind: MatchKind
    value: str


@dataclass(frozen=True)
class HeaderRoute:
    """Requests with any of these headers go to the canary from here on and are no evidence. The same name again
    replaces the route, and without a match removes it."""

    name: str
    match: tuple[HeaderMatch, ...] = ()


@dataclass(frozen=True)
class AnalysisStep:
    """Asks the metrics provider, and goes on when the analysis succeeds."""

    analysis: Analysis


Step = SetWeight | Bake | Pause | ShadowStep | HeaderRoute | AnalysisStep


@dataclass(frozen=True)
class LabelGuard:
    """Fires when the canary has more than `max_ratio` times the stable version's rate of events. `share`: how much of
    alpha it gets, relative to the other guards."""

    max_ratio: float = 1.0
    share: float = 1.0


@dataclass(frozen=True)
class LatencyGuard:
    """As LabelGuard, for answers slower than the stable version's p50, p90 and p99 before the rollout, each times
    1 + `tolerance`."""

    max_ratio: float = 1.0
    tolerance: float = 0.05
    share: float = 1.0


@dataclass(frozen=True)
class AbsoluteGuard:
    """Fires when the canary fails more than `max_rate` of its requests (or more than the stable version did lately), at
    weights from `from_weight` up, where too few stable requests are left to compare with."""

    max_rate: float = 0.01
    from_weight: float = 1.0
    share: float = 1.0


@dataclass(frozen=True)
class DisagreementGuard:
    """Fires when more than `max_rate` of the shadow's answers differ from the stable version's."""

    max_rate: float = 0.01
    share: float = 1.0


@dataclass(frozen=True)
class Guards:
    """None: off. `metrics` are analyses that run beside all steps; one that fails rolls back, outside of alpha."""

    failures: LabelGuard | None = LabelGuard(share=10.0)
    latency: LatencyGuard | None = LatencyGuard(share=9.0)
    absolute: AbsoluteGuard | None = AbsoluteGuard(share=1.0)
    disagreement: DisagreementGuard | None = None
    labels: LabelGuard | None = None
    metrics: tuple[Analysis, ...] = ()


@dataclass(frozen=True)
class Promotion:
    """What must be shown before a bake ends: that the canary fails fewer than `max_rate` of its requests, or fewer than
    `max_ratio` times as many as the stable version. `beta` is the chance to believe so wrongly."""

    max_rate: float = 0.05
    max_ratio: float = 2.0
    beta: float = 0.05


@dataclass(frozen=True)
class Stickiness:
    """What the requests of one unit (a person, a device) have in common: the value of this header, cookie, gRPC
    metadata key or request parameter."""

    kind: StickyKind
    name: str


@dataclass(frozen=True)
class Plan:
    """One rollout's plan. Its last step done, the canary is promoted: all traffic, and the alias."""

    steps: tuple[Step, ...]
    strategy: Strategy = "canary"
    guards: Guards = Guards()
    promotion: Promotion = Promotion()
    comparison: Comparison = Comparison()
    """When an answer of the shadow counts as a disagreement."""
    alpha: float = 0.02
    """The chance, over the whole rollout, that a canary that is no worse is rolled back by the guards. By default half
    of it is the failures guard's."""
    on_inconclusive: OnInconclusive = "hold"
    max_duration: float = DAY
    termination_wait: float = 600.0
    """How long the old version stays loaded after the promotion."""
    rollback_window: int = 1
    """Going back to one of so many versions promoted last skips the steps."""
    on_new_target: OnNewTarget = "supersede"
    stickiness: Stickiness | None = None
    retry: bool = True
    """A request that the canary failed is answered by the stable version."""


BAKES = ((0.02, 60.0, 100), (0.10, 60.0, 200), (0.50, 120.0, 500), (1.0, 120.0, 500))
"""Of the default plan: weight, least time, least requests."""


def default_plan(*, is_idempotent: bool = True) -> Plan:
    """Shadow (where running a request twice does no harm), then 2, 10, 50 and 100 percent, with a bake each."""
    shadow = (ShadowStep(0.1, min_time=30.0, min_requests=50, max_time=600.0),) if is_idempotent else ()
    bakes = tuple(
        step for weight, time, count in BAKES for step in (SetWeight(weight), Bake(time, count, max_time=3600.0))
    )
    return Plan(steps=(*shadow, *bakes), retry=is_idempotent)


def steps_of(strategy: Strategy) -> tuple[Step, ...]:
    """The steps of a plan that names none."""
    if strategy == "blueGreen":
        return (SetWeight(1.0), Bake(120.0, 100, max_time=3600.0))
    return default_plan().steps if strategy == "canary" else (SetWeight(1.0),)
