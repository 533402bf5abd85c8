"""What evidence says: exact tests that may be looked at after every event, under one alpha for the whole rollout.

Take only the requests that failed. If the canary is no worse than stable, each of them is the canary's with the
probability under which it was routed, whatever the common rate of failures is and however it moves. A bet against that
which starts with 1 and grows to 1/alpha happens with a chance of at most alpha, ever (Ville's inequality). A weighted
mean of such bets is one again: that is how guards are combined.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Any

from gateway.rollouts.absolute import ALTERNATIVES, log_ratios
from gateway.rollouts.evidence import Cells, Evidence, total
from gateway.rollouts.plan import Guards, Plan, Promotion

Alternatives = Mapping[float, float]
"""How many times worse than tolerated the canary may be, and which share of the bet says so; the shares sum to 1."""
RATIOS: Alternatives = MappingProxyType({
    1.8: 0.22, 3.0: 0.15, 5.5: 0.13, 14.0: 0.21, 30.0: 0.06, 300.0: 0.10, 1000.0: 0.13,
})  # fmt: skip
"""Of failed requests. A larger part for what is much worse finds it one failure earlier, a larger one for what is twice
as bad finds that some failures earlier: with a hundredth these shares find both as soon as can be, at 1 to 50 %."""
SLOW_RATIOS: Alternatives = MappingProxyType(dict.fromkeys((2.0, 3.0, 5.0, 10.0, 30.0), 1 / 5))
"""Of slow requests, which are common on both sides."""
LEVEL_SHARES = (1 / 6, 4 / 6, 1 / 6)
"""Of the three thresholds in the latency guard: what is slower than stable's p90 tells most."""
BETTER: Alternatives = MappingProxyType(dict.fromkeys((0.75, 0.5, 0.25, 0.1), 1 / 4))
"""Of the most that promotion allows: the alternatives by which it is shown that the canary is not that bad."""

MAX_LOG = 700.0
"""Above it an exponential is as good as infinite; evidence is reported no higher."""


@dataclass(frozen=True)
class GuardVerdict:
    """One guard. `e_value`: its evidence against the canary, 1 for none; `share` of alpha; counts of events, or of
    what the guard counts, per arm; for label tests the ratio of the canary's rate to stable's lies in `interval`, at
    confidence 1 - alpha, however often one looks."""

    name: str
    e_value: float
    share: float
    canary_events: int
    stable_events: int
    interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class Verdict:
    """All guards together: when `e_value` reaches `threshold`, `fired` names the guard that weighs most."""

    e_value: float
    threshold: float
    guards: tuple[GuardVerdict, ...]
    fired: str = ""

    @property
    def p_value(self) -> float:
        """Of this moment, at most 1."""
        return min(1.0, 1.0 / self.e_value) if self.e_value > 0 else 1.0

    def to_plain(self) -> dict[str, Any]:
        """JSON values, for logs, the API and reports; an interval without an upper bound ends with None."""
        return {
            "e_value": self.e_value,
            "threshold": self.threshold,
            "p_value": self.p_value,
            "fired": self.fired,
            "guards": [
                {
                    "name": guard.name,
                    "e_value": guard.e_value,
                    "share": guard.share,
                    "canary_events": guard.canary_events,
                    "stable_events": guard.stable_events,
                    "interval": None if guard.interval is None else [_finite(bound) for bound in guard.interval],
                }
                for guard in self.guards
            ],
        }


def _finite(bound: float) -> float | None:
    return bound if math.isfinite(bound) else None


def judge(plan: Plan, evidence: Evidence, *, intervals: bool = False) -> Verdict:
    """Cheap enough for each event; `intervals` costs more, and is for reports."""
    found = _guards(plan.guards, evidence)
    shares = sum(share for _, _, share, _, _ in found) or 1.0
    verdicts = tuple(
        GuardVerdict(
            name,
            math.exp(min(log_e, MAX_LOG)),
            share / shares,
            *total(cells),
            interval=ratio_interval(cells, plan.alpha) if intervals and is_label else None,
        )
        for name, log_e, share, cells, is_label in found
    )
    e_value = math.fsum(guard.share * guard.e_value for guard in verdicts) if verdicts else 1.0
    threshold = 1 / plan.alpha
    fired = max(verdicts, key=lambda guard: guard.share * guard.e_value).name if e_value >= threshold else ""
    return Verdict(e_value, threshold, verdicts, fired)


def _guards(guards: Guards, evidence: Evidence) -> list[tuple[str, float, float, Cells, bool]]:
    """Of each that is on: name, log of its e-value, share, what it counts, whether it is a label test."""
    found: list[tuple[str, float, float, Cells, bool]] = []
    if guards.failures is not None:
        log_e = label_test(evidence.failed, guards.failures.max_ratio)
        found.append(("failures", log_e, guards.failures.share, evidence.failed, True))
    if guards.latency is not None:
        logs = [label_test(cells, guards.latency.max_ratio, SLOW_RATIOS) for cells in evidence.slow]
        log_e = log_mean(logs, LEVEL_SHARES)
        found.append(("latency", log_e, guards.latency.share, evidence.slow[0], True))
    if guards.absolute is not None:
        log_e = log_mean(evidence.absolute) if evidence.absolute else 0.0
        found.append(("absolute", log_e, guards.absolute.share, evidence.failed, False))
    if guards.disagreement is not None:
        ratios = _above(evidence.disagreed, evidence.compared, guards.disagreement.max_rate)
        disagreed: Cells = {0.0: (evidence.disagreed, 0)}
        found.append(("disagreement", log_mean(ratios), guards.disagreement.share, disagreed, False))
    if guards.labels is not None:
        log_e = label_test(evidence.labels, guards.labels.max_ratio)
        found.append(("labels", log_e, guards.labels.share, evidence.labels, True))
    return found


def label_test(cells: Cells, max_ratio: float, alternatives: Alternatives = RATIOS) -> float:
    """The log of the evidence that the canary's rate of events is more than `max_ratio` times stable's; 0 for none."""
    ratios = tuple(alternatives)
    sums = [0.0] * len(ratios)
    for weight, (canary, stable) in cells.items():
        for index, (of_canary, of_stable) in enumerate(_factors(weight, max_ratio, ratios)):
            sums[index] += canary * of_canary + stable * of_stable
    return log_mean(sums, tuple(alternatives.values()))


@lru_cache(maxsize=4096)
def _factors(weight: float, max_ratio: float, ratios: tuple[float, ...]) -> tuple[tuple[float, float], ...]:
    """What one event of the canary, and of stable, adds to the log-likelihood ratio of each alternative. Where all the
    traffic goes one way, whose event it was says nothing."""
    if not 0.0 < weight < 1.0:
        return tuple((0.0, 0.0) for _ in ratios)
    tolerated = _share(weight, max_ratio)
    shares = [_share(weight, max_ratio * ratio) for ratio in ratios]
    return tuple((math.log(share / tolerated), math.log((1 - share) / (1 - tolerated))) for share in shares)


def _share(weight: float, ratio: float) -> float:
    """Of the events, how many are the canary's when it has `ratio` times stable's rate."""
    return weight * ratio / (weight * ratio + 1 - weight)


def log_mean(logs: Sequence[float], shares: Sequence[float] | None = None) -> float:
    """The log of the mean of exponentials, equal shares unless told."""
    most = max(logs)
    if most == -math.inf:
        return most
    parts = [math.exp(one - most) for one in logs]
    if shares is None:
        return most + math.log(math.fsum(parts) / len(parts))
    return most + math.log(math.fsum(share * part for share, part in zip(shares, parts, strict=True)))


def _above(events: int, requests: int, tolerated: float) -> tuple[float, ...]:
    rates = tuple(rate for rate in ALTERNATIVES if rate > tolerated)
    return log_ratios(events, requests, tolerated, rates) if rates else (0.0,)


def is_shown(promotion: Promotion, evidence: Evidence) -> bool:
    """Whether the canary is shown to be no worse than promotion allows. Never without requests of it."""
    if evidence.canary == 0:
        return False
    threshold = -math.log(promotion.beta)
    failed, _ = evidence.failures
    rates = (0.0, *(promotion.max_rate * part for part in BETTER))
    by_rate = log_mean(log_ratios(failed, max(evidence.canary, failed), promotion.max_rate, rates))
    by_ratio = label_test(evidence.failed, promotion.max_ratio, BETTER)
    return log_mean([by_rate, by_ratio]) >= threshold  # Either may show it, and both share beta.


# From a thousandth to a thousand times, eight steps to a factor of ten.
_SCALE = tuple(10 ** (power / 8) for power in range(-24, 25))


def ratio_interval(cells: Cells, alpha: float) -> tuple[float, float]:
    """The ratios of rates that the events do not exclude, at confidence 1 - alpha, whenever one looks: (0, inf) when
    nothing is excluded. Rounded outwards to the scale."""
    threshold = math.log(2 / alpha)
    low = [ratio for ratio in _SCALE if label_test(cells, ratio) < threshold]
    high = [ratio for ratio in _SCALE if label_test(cells, ratio, BETTER) < threshold]
    first = _SCALE.index(min(low)) if low else len(_SCALE)
    last = _SCALE.index(max(high)) if high else -1
    return (_SCALE[first - 1] if first > 0 else 0.0, _SCALE[last + 1] if last + 1 < len(_SCALE) else math.inf)
