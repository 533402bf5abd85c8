"""The data plane as the rest of the gateway sees it: what is published is served, and everything about it can be asked.

Requests do not pass through here but through the native `Dispatcher` it owns. It does not decide which versions there
are: `gateway.models` publishes and withdraws, and is asked for what only it knows (states, loads, readiness).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from gateway import __version__
from gateway.attempts import Capacity, IndexRow
from gateway.errors import NoStatistics, NoVersionAvailable, UnknownModel, UnknownVersion, VersionNotReady
from gateway.frontends import Done, ParameterValue
from gateway.observed import (
    ModelMetadata,
    ModelStatistics,
    Observed,
    ServerMetadata,
    TensorMetadata,
    quantiles_of,
    statistics_of,
)
from gateway.pb import model_config_pb2
from gateway.rollouts.route import RolloutRoute
from gateway.routing import Routing, Targets
from gateway.served import Served
from gateway.serving_plan import ServingPlan
from gateway.settings import Settings
from gateway.shadows import ShadowCounts, Shadows
from gateway.version_group import VersionGroup
from gateway.workers.placement import Placement, current_cpu, pin_thread, usable_cpus
from kernels.dispatch import Dispatcher
from kernels.local import LocalCall
from kernels.meters import Meters
from kernels.rollout import ArmCounts, ArmEvents

_log = logging.getLogger("sluice.dataplane")

SWEEP_SECONDS = 0.1
NOT_READY = "the server is not ready"
EXTENSIONS = (
    "classification",
    "model_repository",
    "model_repository(unload_dependents)",
    "schedule_policy",
    "model_configuration",
    "binary_tensor_data",
    "parameters",
    "statistics",
)
"""Those of Triton's extensions that are there, by its names."""


class Control(Protocol):
    """`gateway.models.Models`: what is wanted, and in which state it is."""

    def has_looked(self) -> bool: ...
    def is_ready(self) -> bool: ...
    def index(self, *, is_ready: bool = False) -> list[IndexRow]: ...
    def demand(self, model: str, version: str) -> str | None: ...
    def capacity(self) -> Capacity: ...
    def ready_versions(self, model: str) -> tuple[int, ...]: ...
    async def load_model(self, name: str, parameters: Mapping[str, ParameterValue] | None = None) -> None: ...
    async def unload_model(self, name: str, unload_dependents: bool = False) -> None: ...
    def subscribe(self, listener: Callable[[], None]) -> Callable[[], None]: ...


class DataPlane:
    """One event loop's worth of serving. `connect` it to the life cycle before `start`."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._loop = asyncio.get_running_loop()
        self.intake = Dispatcher(
            call_soon=self._loop.call_soon,
            max_in_flight=settings.requests.max_in_flight,
            max_tensors=settings.requests.max_tensors,
            max_json_depth=settings.requests.max_json_depth,
            max_tensor_bytes=settings.requests.max_tensor_bytes,
            max_parked=settings.models.max_waiting_requests,
            max_parked_bytes=settings.models.max_waiting_bytes,
        )
        self._control: Control | None = None
        # What answers, by model and version. Changed by publish and withdraw only; the route table follows it.
        self._served: dict[tuple[str, int], Served] = {}
        # Replaced by another group of the same version, or withdrawn; until the last answer. Changed by publish and
        # withdraw only.
        self._leaving: list[Served] = []
        # Counters outlive a version's reload, as Prometheus wants it; dropped when the version has left the index.
        self._meters: dict[tuple[str, str], Meters] = {}
        # The index as the route table has it: changed by `_route` alone.
        self._routed: list[IndexRow] = []
        pool = ThreadPoolExecutor(1, "shadows")
        self._shadows = Shadows(self._loop.call_soon, self._loop.call_soon_threadsafe, pool)
        self._routing = Routing(self._shadows)
        self._is_withdrawn = False
        self._listeners: list[Callable[[], None]] = []
        self._sweeper: asyncio.TimerHandle | None = None
        # The loop stays on one core only while a worker shares it.
        self._cpus = usable_cpus()
        self._loop_cpu = current_cpu()
        self._is_pinned = False

    def connect(self, control: Control) -> None:
        self._control = control
        control.subscribe(self._notify)
        self.intake.demand = control.demand
        self._notify()

    def start(self) -> None:
        """Begins to watch the clock: deadlines, hung workers, where workers run."""
        self._loop.add_reader(self.intake.timer, self.intake.on_timer)
        self._sweep()

    def stop(self) -> None:
        """Idempotent."""
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
            self._loop.remove_reader(self.intake.timer)
        self._shadows.close()

    # What is served: called by the life cycle

    def publish(self, model: str, version: int, plan: ServingPlan, group: VersionGroup) -> None:
        key = (model, version)
        before = self._served.get(key)
        if before is not None and before.group is group:
            before.is_suspended = False
        else:
            self._served[key] = Served(
                version, plan, group, self.intake, self._meters_of(model, str(version)), self._make_placement,
                self._settings.batching,
            )  # fmt: skip
            if before is not None:
                self._leaving.append(before)
        self._route(model)

    def suspend(self, model: str, version: int, group: VersionGroup) -> None:
        served = self._serving(group)
        if served is None:
            return
        served.is_suspended = True
        self._route(model)
        served.suspend(f"Request for unknown model: '{model}' version {version} is not at ready state")

    async def withdraw(self, model: str, version: int, group: VersionGroup) -> None:
        served = self._serving(group)
        if served is None:
            return
        if self._served.get((model, version)) is served:
            del self._served[model, version]
            self._leaving.append(served)
            self._route(model)
        try:
            await served.drain()
        finally:
            self._leaving.remove(served)

    def idle_since(self, model: str) -> float | None:
        """When the model was last used, in monotonic seconds; None while it has a request in flight."""
        times = [served.idle_since for (name, _), served in self._served.items() if name == model]
        return None if None in times else max((time for time in times if time is not None), default=0.0)

    def _serving(self, group: VersionGroup) -> Served | None:
        return next((one for one in (*self._served.values(), *self._leaving) if one.group is group), None)

    def _route(self, changed: str = "") -> None:
        """One swap of every route, made anew for the model that was `changed` here and those of which the index says
        something else."""
        rows, before = self._index(), self._routed
        names = {changed} if changed else set()
        if len(rows) == len(before):
            names.update(*((old.name, new.name) for old, new in zip(before, rows, strict=True) if old is not new))
        else:
            names.update(row.name for row in {*before} ^ {*rows})
        if not names:
            return
        self._routed = rows
        published: dict[str, Targets] = {}
        for (model, version), served in self._served.items():
            if model in names:
                published.setdefault(model, {})[version] = None if served.is_suspended else served.deployment
                served.role = self._routing.role(model, served.version)
        changes = [row for row in rows if row.name in names]
        kept = {name: route for name, route in self.intake.route_table.models.items() if name not in names}
        self.intake.route_table = self._routing.table(published, changes, kept)

    # Rollouts: called by whoever steers them

    def set_rollout(self, model: str, route: RolloutRoute | None) -> None:
        """Divides the model's traffic from the next request on; requests in flight finish where they began. None ends
        it: its counters are gone, and calls go to the highest version again.
        """
        self._routing.set_rollout(model, route)
        self._route(model)

    def set_aliases(self, model: str, aliases: Mapping[str, int]) -> None:
        """Names that stand for a version where a call names one. Replaces those there were."""
        self._routing.set_aliases(model, aliases)
        self._route(model)

    def rollout(self, model: str) -> RolloutRoute | None:
        return self._routing.rollout(model)

    def arm_counts(self, model: str) -> tuple[ArmCounts, ...]:
        """One for each arm and weight that the model's rollout has had."""
        return self._routing.arm_counts(model)

    def shadow_counts(self, model: str) -> tuple[ShadowCounts, ...]:
        """One for each shadow that the model's rollout has had."""
        return self._shadows.counts(model)

    def on_events(self, callback: Callable[[list[ArmEvents]], None]) -> None:
        """Has one callback told of what went wrong: of failures within the wake-up that saw them, of slow answers
        within 10 ms. It may change routes. `arm_counts` has counted the requests by then."""
        self.intake.on_events = callback

    def compute_quantiles(self, model: str, version: int, quantiles: Sequence[float]) -> tuple[float, ...] | None:
        """Quantiles of the time that the version's batches took in the engine so far, which `RolloutRoute.thresholds`
        may be multiples of; interpolated between the bounds of its histogram. None while there was no batch."""
        snapshot = self._meters_of(model, str(version)).compute.snapshot()
        return quantiles_of(snapshot, quantiles) if snapshot.cumulative[-1] else None

    # Questions: called by the front ends and the admin plane

    def capacity(self) -> Capacity:
        """The memory of models, and how often some were unloaded for others."""
        assert self._control is not None, "this is a bug: asked before it was connected"
        return self._control.capacity()

    @property
    def waiting(self) -> int:
        """Requests that wait for their model to be loaded."""
        return self.intake.parked.count

    @property
    def in_flight(self) -> int:
        return self.intake.in_flight

    @property
    def unrouted(self) -> Meters:
        return self.intake.unrouted

    def is_live(self) -> bool:
        return True

    def is_ready(self) -> bool:
        return not self._is_withdrawn and self._control is not None and self._control.is_ready()

    def withdraw_readiness(self) -> None:
        """The server is going away: it says "not ready" from here on, and serves what still comes."""
        self._is_withdrawn = True
        self._notify()

    def is_model_ready(self, name: str, version: str = "") -> bool:
        if self._is_withdrawn:
            return False
        target, _ = self.intake.route_table.lookup(name, version)
        return target is not None

    def server_metadata(self) -> ServerMetadata:
        return ServerMetadata("sluice", __version__, EXTENSIONS)

    def model_metadata(self, name: str, version: str = "") -> ModelMetadata:
        plan = self._find(name, version).plan
        versions = tuple(str(number) for number in sorted(v for m, v in self._served if m == name))
        return ModelMetadata(
            name,
            (version,) if version else versions,
            plan.config.platform or plan.config.backend,
            tuple(TensorMetadata(tensor.name, tensor.datatype, tensor.shape) for tensor in plan.inputs),
            tuple(TensorMetadata(tensor.name, tensor.datatype, tensor.shape) for tensor in plan.outputs),
        )

    def model_config(self, name: str, version: str = "") -> model_config_pb2.ModelConfig:
        return self._find(name, version).plan.config

    def statistics(self, name: str = "", version: str = "") -> list[ModelStatistics]:
        found = [
            statistics_of(served)
            for _, served in sorted(self._served.items())
            if name in ("", served.model) and version in ("", served.version)
        ]
        if name and not found:
            raise NoStatistics(name, version)
        return found

    def repository_index(self, ready: bool) -> Sequence[IndexRow]:
        assert self._control is not None, "this is a bug: asked before it was connected"
        return self._control.index(is_ready=ready)

    async def load_model(self, name: str, parameters: Mapping[str, ParameterValue]) -> None:
        assert self._control is not None, "this is a bug: asked before it was connected"
        await self._control.load_model(name, parameters)

    async def unload_model(self, name: str, parameters: Mapping[str, ParameterValue]) -> None:
        assert self._control is not None, "this is a bug: asked before it was connected"
        await self._control.unload_model(name, bool(parameters.get("unload_dependents", False)))

    def subscribe(self, listener: Callable[[], None]) -> Callable[[], None]:
        self._listeners.append(listener)

        def unsubscribe() -> None:
            if listener in self._listeners:
                self._listeners.remove(listener)

        return unsubscribe

    def infer_bytes(self, message: bytes, deadline: float, done: Done) -> LocalCall:
        return LocalCall(self.intake, message, deadline, done)

    def served(self) -> list[Observed]:
        """Every version that the index knows, served or not, for metrics and the admin plane; and, without a version,
        every model that cannot be followed, such as one whose config.pbtxt is refused."""
        rows = [row for row in self._index() if row.version or row.reason]
        self._meters = {(row.name, row.version): self._meters_of(row.name, row.version) for row in rows}
        return [
            Observed(row, self._served.get((row.name, int(row.version or 0))), self._meters[row.name, row.version])
            for row in rows
        ]

    # Inside

    def _index(self) -> list[IndexRow]:
        return self._control.index() if self._control is not None else []

    def _find(self, name: str, version: str) -> Served:
        """The published version that a call would reach. Raises the same errors as a call."""
        target, miss = self.intake.route_table.lookup(name, version)
        if target is not None:
            return self._served[name, int(target.version)]
        if miss == "unknown_model":
            raise UnknownModel(name)
        if miss == "no_versions":
            raise NoVersionAvailable(name)
        if miss == "unknown_version":
            raise UnknownVersion(name, version)
        raise VersionNotReady(name, version)

    def _meters_of(self, model: str, version: str) -> Meters:
        return self._meters.setdefault((model, version), Meters())

    def _make_placement(self) -> Placement:
        return Placement(self._loop_cpu, self._cpus)

    def _notify(self) -> None:
        self._route()
        is_known = self._control is not None and self._control.has_looked()
        self.intake.refusal = None if is_known else NOT_READY  # an unknown model may be one that is yet to be seen
        for listener in tuple(self._listeners):
            listener()

    def _sweep(self) -> None:
        self._sweeper = self._loop.call_later(SWEEP_SECONDS, self._sweep)
        now = time.monotonic()
        shared = [served.update_placement(now) for served in self._served.values()]
        if any(shared) != self._is_pinned:
            self._is_pinned = not self._is_pinned
            pin_thread((self._loop_cpu,) if self._is_pinned else self._cpus)
        for served in (*self._served.values(), *self._leaving):
            for instance in served.kill_hung(now, self._settings.workers.batch_timeout_seconds):
                _log.error(
                    "worker hung",
                    extra={
                        "action": "worker-hung",
                        "model": served.model,
                        "version": served.version,
                        "pid": instance.pid,
                    },
                )
