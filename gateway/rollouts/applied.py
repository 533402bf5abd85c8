"""What this gateway routes for rollouts, and what it can say of them: routes and aliases into the data plane, counts,
latencies and readiness out of it. It decides nothing."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping

from gateway.activity import quantile
from gateway.lifecycle import State as Life
from gateway.rollouts.actions import Facts
from gateway.rollouts.evidence import Thresholds
from gateway.rollouts.follower import Follower
from gateway.rollouts.ports import Models, Plane, Source
from gateway.rollouts.route import RolloutRoute
from gateway.rollouts.routing import route_of, route_to
from gateway.rollouts.status import State
from gateway.rollouts.tolerances import Disagreement
from gateway.shadows import ShadowCounts
from kernels.meters import HistogramSnapshot, Meters
from kernels.rollout import ArmEvents
from registry.sources.catalog import Proposal

QUANTILES = (0.5, 0.9, 0.99)
NOTICEABLE = 0.001
"""Seconds: what is slower by less is not slow. Below, caches and the scheduler say more than the version."""


class Applied:
    """One data plane, as rollouts have it. Of one event loop."""

    def __init__(self, plane: Plane, source: Source, models: Models) -> None:
        self._plane, self._source, self._models = plane, source, models
        self.pins: dict[str, int] = {}
        """Models whose rollout is over while both versions may be loaded: which one answers. Whoever ends a rollout
        adds; `apply` removes."""
        # What the data plane was told last. Changed by `apply` alone.
        self._routes: dict[str, RolloutRoute] = {}
        self._aliases: dict[str, Mapping[str, int]] = {}
        # Requests counted so far: by model, version and weight, of the canary and of stable.
        self._counted: dict[tuple[str, str, float], tuple[int, int]] = {}
        # Answers of shadows, compared and disagreeing, by model and version.
        self._compared: dict[tuple[str, int], tuple[int, int]] = {}
        # Rollouts that are being counted: what came before them is none of theirs.
        self._counting: frozenset[str] = frozenset()
        models.subscribe(self._unpin)

    def listen(self, on_events: Callable[[list[ArmEvents]], None]) -> None:
        self._plane.on_events(on_events)

    def apply(self, followers: Iterable[Follower]) -> None:
        """Has everything routed as it should be. The same again does nothing."""
        followers = list(followers)
        for follower in followers:
            if follower.row.id not in self._counting:
                self._news(follower)
                self._compared_news(follower)
        self._counting = frozenset(follower.row.id for follower in followers)
        self._unpin()
        routes = {model: route_to(version) for model, version in self.pins.items()}
        for follower in followers:
            model = follower.row.model
            routes[model] = (
                route_to(follower.answering)
                if follower.is_over
                else route_of(follower.row.id, follower.plan, follower.status)
            )
            if routes[model] != self._routes.get(model):
                self.count(follower)  # what was routed so far, under the weight that it was routed by
        for model in self._routes.keys() - routes.keys():
            self._end_route(model)
        for model, route in routes.items():
            if route != self._routes.get(model):
                self._plane.set_rollout(model, route)
        self._routes = routes
        under_way = [follower.row for follower in followers if not follower.is_over]
        self._source.admit({row.model: frozenset({row.stable, row.canary}) for row in under_way})
        self._apply_aliases()

    def count(self, follower: Follower) -> None:
        """Tells the follower of requests that have been answered since."""
        if follower.row.id in self._counting:
            for weight, canary, stable in self._news(follower):
                follower.count(canary, stable, weight)
            follower.compare(*self._compared_news(follower))

    def _news(self, follower: Follower) -> list[tuple[float, int, int]]:
        """Weight, and further requests of the canary and of stable, since the last call."""
        row, news = follower.row, []
        for one in self._plane.arm_counts(row.model):
            key, now = (row.model, one.version, one.weight), (one.canary, one.stable)
            before = self._counted.get(key, (0, 0))
            if one.version == str(row.canary) and now != before:
                news.append((one.weight, now[0] - before[0], now[1] - before[1]))
                self._counted[key] = now
        return news

    def _compared_news(self, follower: Follower) -> tuple[int, int, tuple[Disagreement, ...]]:
        """Further answers of the canary as a shadow that were compared, and that disagreed, since the last call; and
        the latest of these."""
        one = self.shadow(follower)
        if one is None:
            return 0, 0, ()
        key = (follower.row.model, one.version)
        before = self._compared.get(key, (0, 0))
        self._compared[key] = one.compared, one.disagreed
        further = one.disagreed - before[1]
        return one.compared - before[0], further, one.samples[-further:] if further else ()

    def shadow(self, follower: Follower) -> ShadowCounts | None:
        """What came of the copies that the canary got as a shadow here."""
        row = follower.row
        return next((one for one in self._plane.shadow_counts(row.model) if one.version == row.canary), None)

    def facts(self, follower: Follower) -> Facts:
        row = follower.row
        if notes := self._source.notes(row.model):
            return Facts(False, notes[0])
        if row.canary in self._models.ready_versions(row.model):
            return Facts(True)
        for line in self._models.index():
            is_it = (line.name, line.version) == (row.model, str(row.canary))
            if is_it and line.state == Life.UNAVAILABLE.value and line.reason:
                return Facts(False, line.reason)
        return Facts(False)

    def thresholds(self, follower: Follower) -> tuple[float, float, float] | None:
        """What is slow by the stable version so far: seconds in the engine; None while nothing ran there."""
        guard, row = follower.plan.guards.latency, follower.row
        found = self._plane.compute_quantiles(row.model, row.stable, QUANTILES) if guard is not None else None
        if guard is None or found is None or found[0] <= 0:
            return None
        p50, p90, p99 = found
        frozen = Thresholds.frozen(p50, p90, p99, guard.tolerance).seconds
        first, second, third = (max(one, time + NOTICEABLE) for one, time in zip(frozen, found, strict=True))
        return first, second, third

    def latencies(self, follower: Follower) -> dict[str, tuple[float | None, float | None]]:
        """Median and p99 of both arms here, in seconds."""
        row = follower.row
        found = {}
        for arm, version in (("stable", row.stable), ("canary", row.canary)):
            if (meters := self._meters(row.model, version)) is not None:
                both = _together(meters.duration(0), meters.duration(1))
                found[arm] = (quantile(0.5, *both), quantile(0.99, *both))
        return found

    def moved_alias(self, follower: Follower) -> int | None:
        """Where somebody has moved the alias, when that is neither of the rollout's versions. What the source saw may
        be from before the rollout until it has seen that the canary is wanted."""
        row = follower.row
        pointed = self._source.aliases().get(row.model, {}).get(row.alias)
        is_theirs = pointed is not None and pointed not in (row.stable, row.canary)
        return pointed if is_theirs and follower.status.state is not State.WAITING else None

    def proposals(self) -> tuple[Proposal, ...]:
        return self._source.proposals()

    def answering(self, model: str, serving: Collection[int]) -> int | None:
        """The one version that answers now; None while that is open."""
        if model in self.pins:
            return self.pins[model]
        return next(iter(serving)) if len(serving) == 1 else None

    def _unpin(self) -> None:
        """A pin is of use while another version could answer in place of the one that should, and no longer. One that
        is unloading still could, until it is withdrawn."""
        for model, version in list(self.pins.items()):
            ready = self._models.ready_versions(model)
            if ready and (version not in ready or self._loaded(model) == {version}):
                del self.pins[model]
                self._end_route(model)

    def _loaded(self, model: str) -> set[int]:
        states = (Life.READY.value, Life.UNLOADING.value)
        return {int(row.version) for row in self._models.index() if row.name == model and row.state in states}

    def _end_route(self, model: str) -> None:
        """With it its counters go."""
        if self._routes.pop(model, None) is not None:
            self._plane.set_rollout(model, None)
        self._counted = {key: seen for key, seen in self._counted.items() if key[0] != model}
        self._compared = {key: seen for key, seen in self._compared.items() if key[0] != model}

    def _apply_aliases(self) -> None:
        aliases = self._source.aliases()
        for model in self._aliases.keys() | aliases.keys():
            now = aliases.get(model, {})
            if now != self._aliases.get(model, {}):
                self._plane.set_aliases(model, now)
        self._aliases = dict(aliases)

    def _meters(self, model: str, version: int) -> Meters | None:
        wanted = (model, str(version))
        return next((one.meters for one in self._plane.served() if (one.model, one.version) == wanted), None)


def _together(one: HistogramSnapshot, other: HistogramSnapshot) -> tuple[tuple[float, ...], list[int]]:
    return one.bounds, [a + b for a, b in zip(one.cumulative, other.cumulative, strict=True)]
