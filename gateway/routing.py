"""Which version answers which call: the routes of every model, from what is published and what rollouts and aliases
say.

It builds tables and knows what they count; the dispatcher follows them. It does not decide what is published.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

from gateway.attempts import UNLOADED, IndexRow
from gateway.lifecycle import State
from gateway.rollouts.patterns import compile_pattern
from gateway.rollouts.route import HeaderRule, RolloutRoute, Shadow, Stickiness
from gateway.shadows import Shadows
from kernels.deployment import Deployment
from kernels.mirror import Mirror
from kernels.rollout import ArmCounts, ArmTally, Rollout
from kernels.routes import ModelRoute, RouteTable

Targets = dict[int, Deployment | None]
"""By version; None: it exists and is not ready."""


class Routing:
    """The routes of one data plane, by model."""

    def __init__(self, shadows: Shadows) -> None:
        self._shadows = shadows
        # Changed by set_rollout and set_aliases only.
        self._rollouts: dict[str, RolloutRoute] = {}
        self._aliases: dict[str, dict[str, int]] = {}
        # By version and share, from a rollout's first division to its end.
        self._tallies: dict[str, dict[tuple[int, float], ArmTally]] = {}
        # What was divided last, kept while nothing about it changes: its draws go on and its events are its own.
        self._divisions: dict[str, tuple[RolloutRoute, Targets, Rollout[Deployment]]] = {}

    def set_rollout(self, model: str, route: RolloutRoute | None) -> None:
        if route is None:
            self._rollouts.pop(model, None)
            self._tallies.pop(model, None)
            self._divisions.pop(model, None)
            self._shadows.end(model)
        else:
            self._rollouts[model] = route

    def set_aliases(self, model: str, aliases: Mapping[str, int]) -> None:
        if aliases:
            self._aliases[model] = dict(aliases)
        else:
            self._aliases.pop(model, None)

    def rollout(self, model: str) -> RolloutRoute | None:
        return self._rollouts.get(model)

    def arm_counts(self, model: str) -> tuple[ArmCounts, ...]:
        return tuple(tally.counts() for tally in self._tallies.get(model, {}).values())

    def role(self, model: str, version: str) -> str:
        """`stable`, `canary` or `shadow`."""
        route = self._rollouts.get(model)
        if route is not None:
            if any(str(arm.version) == version for arm in route.arms):
                return "canary"
            if route.shadow is not None and str(route.shadow.version) == version:
                return "shadow"
        return "stable"

    def table(
        self,
        published: Mapping[str, Targets],
        index: Iterable[IndexRow],
        kept: Mapping[str, ModelRoute[Deployment]] = MappingProxyType({}),
    ) -> RouteTable[Deployment]:
        """The routes of the models in `published` and `index`, beside those that are `kept` as they are. A call without
        a version goes where the model's rollout says, else to the highest one that is ready. What is loading, failed,
        or is loaded on demand, is a version that is not ready; what was unloaded is none."""
        by_model = {model: dict(versions) for model, versions in published.items()}
        for row in index:
            versions = by_model.setdefault(row.name, {})
            is_coming = row.state != State.UNLOADING.value and row.reason != UNLOADED
            if row.version and (is_coming or row.is_awaited):
                versions.setdefault(int(row.version), None)
        made = {model: self._route(model, versions) for model, versions in by_model.items()}
        return RouteTable({**kept, **made})

    def _route(self, model: str, versions: Targets) -> ModelRoute[Deployment]:
        route = self._rollouts.get(model)
        ready = [version for version, deployment in versions.items() if deployment is not None]
        by_name = {str(version): target for version, target in versions.items()}
        aliases = {alias: str(version) for alias, version in self._aliases.get(model, {}).items()}
        if route is None:
            return ModelRoute(versions[max(ready)] if ready else None, by_name, aliases)
        return ModelRoute(versions.get(route.stable), by_name, aliases, self._divide(model, route, versions))

    def _divide(self, model: str, route: RolloutRoute, versions: Targets) -> Rollout[Deployment]:
        before = self._divisions.get(model)
        if before is not None and before[0] == route and before[1] == versions:
            return before[2]
        rest = 1.0 - sum(arm.weight for arm in route.arms)
        division: Rollout[Deployment] = Rollout(
            model,
            versions.get(route.stable),
            [
                (versions.get(arm.version), arm.weight, self._tally(model, arm.version, _share(arm.weight, rest)))
                for arm in route.arms
            ],
            rules=[(rule.header.lower(), *_test(rule), versions.get(rule.version)) for rule in route.rules],
            sticky=_sticky(route.stickiness),
            retry=route.retry,
            salt=route.salt,
            thresholds=route.thresholds or (),
            mirror=self._mirror(model, route.shadow, versions),
        )
        self._divisions[model] = (route, dict(versions), division)
        return division

    def _mirror(self, model: str, shadow: Shadow | None, versions: Targets) -> Mirror[Deployment] | None:
        if shadow is None:
            self._shadows.stop(model)
            return None
        return self._shadows.aim(model, shadow, versions.get(shadow.version))

    def _tally(self, model: str, version: int, share: float) -> ArmTally:
        tallies = self._tallies.setdefault(model, {})
        return tallies.setdefault((version, share), ArmTally(str(version), share))


def _share(weight: float, rest: float) -> float:
    """Of an arm, among it and the stable version."""
    return 0.0 if weight == 0 else min(weight / (weight + max(rest, 0.0)), 1.0)


def _test(rule: HeaderRule) -> tuple[str, Any]:
    """How a value is tested, and by what. A `regex` of the division would be Python's, which takes exponential time for
    some; a pattern that is compiled already is only asked whether it matches."""
    return ("pattern", compile_pattern(rule.value)) if rule.kind == "regex" else (rule.kind, rule.value)


def _sticky(stickiness: Stickiness | None) -> tuple[str, str] | None:
    """Header names know no case; those of cookies and parameters do."""
    if stickiness is None:
        return None
    if stickiness.kind in ("header", "metadata"):
        return "header", stickiness.name.lower()
    return stickiness.kind, stickiness.name
