"""Gateways that follow one catalog's rollouts, with time, traffic and loading moved by hand. The catalog is a real one;
the data plane only notes what it is told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from manifests import manifest

from gateway.attempts import IndexRow
from gateway.rollouts.applied import Applied
from gateway.rollouts.controller import RolloutController
from gateway.rollouts.journal import FILENAME, Journal
from gateway.rollouts.prometheus import QueryFailed
from gateway.rollouts.route import RolloutRoute
from gateway.rollouts.service import RolloutService
from gateway.rollouts.tolerances import MAX_SAMPLES, Disagreement
from gateway.settings import RolloutsSettings
from gateway.shadows import ShadowCounts
from kernels.rollout import ArmCounts, ArmEvents
from registry.catalog import Catalog
from registry.errors import CatalogUnavailable
from registry.sources.catalog import Proposal

T = TypeVar("T")
MODEL = "fraud"
PLAN: dict[str, Any] = {
    "steps": [
        {"setWeight": 10},
        {"bake": {"minTime": "10s", "minRequests": 100}},
        {"setWeight": 50},
        {"bake": {"minTime": "10s", "minRequests": 100}},
    ],
    "terminationWait": "5s",
}
LEASE = 5.0


class FakeClock:
    """Time that all gateways have in common; the catalog's too."""

    def __init__(self) -> None:
        self.time = 1000.0

    def now(self) -> float:
        return self.time

    def __call__(self) -> float:
        return self.time

    async def wait(self, event: asyncio.Event, seconds: float | None) -> None:
        self.time += seconds or 0.0


class FakePlane:
    """Routes, and the counts that traffic by them would leave."""

    def __init__(self) -> None:
        self.routes: dict[str, RolloutRoute] = {}
        self.aliases: dict[str, Mapping[str, int]] = {}
        self.counts: dict[tuple[str, str, float], list[int]] = {}
        self.compared = self.disagreed = 0
        self._callback: Callable[[list[ArmEvents]], None] = lambda batch: None

    def set_rollout(self, model: str, route: RolloutRoute | None) -> None:
        if route is None:
            del self.routes[model]
            self.counts = {key: counted for key, counted in self.counts.items() if key[0] != model}
        else:
            self.routes[model] = route

    def set_aliases(self, model: str, aliases: Mapping[str, int]) -> None:
        self.aliases[model] = aliases

    def on_events(self, callback: Callable[[list[ArmEvents]], None]) -> None:
        self._callback = callback

    def compute_quantiles(self, model: str, version: int, quantiles: Sequence[float]) -> tuple[float, ...] | None:
        return None

    def arm_counts(self, model: str) -> list[ArmCounts]:
        return [
            ArmCounts(version, weight, canary, stable, failed, stable_failed, 0)
            for (name, version, weight), (canary, stable, failed, stable_failed) in self.counts.items()
            if name == model
        ]

    def shadow_counts(self, model: str) -> list[ShadowCounts]:
        if not self.compared:
            return []
        samples = [Disagreement(f"r-{number}", "scores", "1 of 2 values differ", "[1]", "[2]")
                   for number in range(1, self.disagreed + 1)]  # fmt: skip
        latest = tuple(samples[-MAX_SAMPLES:])
        return [ShadowCounts(2, self.compared, 0, 0, self.compared, self.disagreed, latest)]

    def served(self) -> list[Any]:
        return []

    @property
    def weight(self) -> float:
        """Of the canary."""
        route = self.routes.get(MODEL)
        return sum(arm.weight for arm in route.arms) if route else 0.0

    def traffic(self, requests: int, failed: int = 0, stable_failed: int = 0) -> None:
        """So many requests by the present route, of which so many of the canary's, and of stable's, fail."""
        route = self.routes.get(MODEL)
        if route is None or not route.arms:
            return
        (arm,) = route.arms
        canary = round(requests * arm.weight)
        counts = self.counts.setdefault((MODEL, str(arm.version), arm.weight), [0, 0, 0, 0])
        for at, more in enumerate((canary, requests - canary, failed, stable_failed)):
            counts[at] += more
        events = [
            ArmEvents(MODEL, "failed", is_canary, str(arm.version), arm.weight, 0, count, 13, None, 0.0)
            for is_canary, count in ((True, failed), (False, stable_failed))
            if count
        ]
        if events:
            self._callback(events)


class FakeModels:
    """Loads at once what the source lists, unless it is told that it cannot."""

    def __init__(self) -> None:
        self.ready: set[int] = set()
        self.unloading: set[int] = set()
        self.slow: set[int] = set()
        self.failing: dict[int, str] = {}
        self._listeners: list[Callable[[], None]] = []

    def index(self, *, is_ready: bool = False) -> list[IndexRow]:
        rows = [IndexRow(MODEL, str(version), "READY") for version in sorted(self.ready)]
        rows += [IndexRow(MODEL, str(version), "UNLOADING") for version in sorted(self.unloading)]
        return rows + [IndexRow(MODEL, str(version), "UNAVAILABLE", why) for version, why in self.failing.items()]

    def ready_versions(self, model: str) -> tuple[int, ...]:
        return tuple(sorted(self.ready))

    def subscribe(self, listener: Callable[[], None]) -> Callable[[], None]:
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def load(self, versions: set[int]) -> None:
        wanted = versions - self.failing.keys() - self.slow
        if wanted != self.ready:
            self.ready, self.unloading = wanted, self.ready - wanted
            self._tell()
            self.unloading = set()
            self._tell()

    def _tell(self) -> None:
        for listener in tuple(self._listeners):
            listener()


class FakeSource:
    """What the catalog source would list: what the alias or the rollout wants, and what was admitted."""

    def __init__(self, catalog: Callable[[], Catalog]) -> None:
        self._catalog = catalog
        self.admitted: Mapping[str, frozenset[int]] = {}
        self.seen_aliases: dict[str, dict[str, int]] = {}
        self.left_out: tuple[str, ...] = ()
        self.moves: tuple[Proposal, ...] = ()

    def admit(self, versions: Mapping[str, frozenset[int]]) -> None:
        self.admitted = versions

    def proposals(self) -> tuple[Proposal, ...]:
        return self.moves

    def aliases(self) -> Mapping[str, Mapping[str, int]]:
        return self.seen_aliases

    def notes(self, model: str) -> tuple[str, ...]:
        return self.left_out

    def listed(self) -> set[int]:
        overview = self._catalog().overview()
        pointers = overview.aliases[MODEL]
        self.seen_aliases = {MODEL: {name: int(row.version or 0) for name, row in pointers.items()}}
        rollout = overview.rollouts.get(MODEL)
        base = {rollout.stable} if rollout else set(self.seen_aliases[MODEL].values())
        return base | self.admitted.get(MODEL, frozenset())


class FakePrometheus:
    def __init__(self, value: float | None = 1.0) -> None:
        self.value = value
        self.asked: list[str] = []

    async def ask(self, query: str, names: Mapping[str, str]) -> float | None:
        self.asked.append(query)
        if self.value is None:
            raise QueryFailed("connection refused")
        return self.value


@dataclass
class Gateway:
    """One of them. `crash` and `start` keep the data folder."""

    house: House
    name: str
    is_partitioned: bool = False
    plane: FakePlane = field(default_factory=FakePlane)
    prometheus: FakePrometheus = field(default_factory=FakePrometheus)

    def start(self) -> None:
        self.plane, self.models = FakePlane(), FakeModels()
        self.source = FakeSource(self.house.open)
        self.applied = Applied(self.plane, self.source, self.models)
        self.controller = RolloutController(
            self.open_catalog, self.applied, Journal(self.house.folder / self.name / FILENAME), at_once,
            RolloutsSettings(lease_seconds=LEASE), self.house.clock, self.prometheus, self.house.clock,  # type: ignore[arg-type]
        )  # fmt: skip
        asyncio.run(self.controller.open())

    crash = start

    def open_catalog(self) -> Catalog:
        if self.house.is_down or self.is_partitioned:
            raise CatalogUnavailable("the catalog", "connection refused")
        return self.house.catalog

    def turn(self) -> None:
        """One look at everything, and what was wanted is loaded."""
        asyncio.run(self._turn())
        if not self.house.is_down and not self.is_partitioned:
            self.models.load(self.source.listed())

    async def _turn(self) -> None:
        """With the measurements that it asks for."""
        async with asyncio.TaskGroup() as self.controller._measuring.tasks:
            await self.controller.turn()

    def abort(self, id: str) -> dict[str, Any]:
        return asyncio.run(self.controller.abort(id, "ann", "enough"))


async def at_once(work: Callable[[], T]) -> T:
    return work()


class House:
    """A catalog with two versions, the first of which is the champion, and gateways."""

    def __init__(self, folder: Path, gateways: int = 1) -> None:
        self.folder, self.clock = folder, FakeClock()
        self.catalog = Catalog(f"sqlite:///{folder}/catalog.db", clock=self.clock)
        for words in ("one", "two", "three"):
            self.catalog.add_version(manifest(words), "ann")
        self.catalog.move_alias(MODEL, "champion", 1, actor="ann")
        self.is_down = False
        self.gateways = [Gateway(self, f"gateway-{number}") for number in range(gateways)]
        for gateway in self.gateways:
            gateway.start()
        self.turn()

    def open(self) -> Catalog:
        return self.catalog

    def close(self) -> None:
        self.catalog.close()

    @property
    def gateway(self) -> Gateway:
        return self.gateways[0]

    @property
    def service(self) -> RolloutService:
        return RolloutService(self.catalog, "ann", clock=self.clock)

    def begin(self, to: int = 2, plan: Mapping[str, Any] = PLAN) -> str:
        """A rollout that every gateway follows, with the canary loaded."""
        id: str = self.service.start(MODEL, to, alias=None, plan=plan, reason="better", key="")["id"]
        self.turn(3)
        return id

    def turn(self, times: int = 1, seconds: float = 0.5) -> None:
        for _ in range(times):
            self.clock.time += seconds
            for gateway in self.gateways:
                gateway.turn()

    def serve(self, seconds: int, requests: int = 100, **failures: int) -> None:
        """Traffic at every gateway, for so many seconds."""
        for _ in range(seconds):
            for gateway in self.gateways:
                gateway.plane.traffic(requests, **failures)
            self.turn()

    def state(self, id: str) -> str:
        return self.catalog.rollouts.get(id).state

    @property
    def champion(self) -> int | None:
        (row,) = self.catalog.aliases(MODEL)
        return row.version
