"""The life cycle of model versions: watches the source, brings versions up beside those that serve, and takes them down.

What to do is decided by `gateway.reconcile`; this is the shell that does it, with tasks that `run` owns. It knows workers
and the data plane only by the two protocols below.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from gateway.deployments import Backoff, Deployment, Event, IndexRow, Load, Unload, Verify
from gateway.errors import (
    ConfigError,
    ControlNotAllowed,
    LoadFailed,
    ModelLoadFailed,
    ModelNotInRepository,
    Unsupported,
)
from gateway.lifecycle import State
from gateway.model_config import MODEL_FILENAME, Defaults, WrittenConfig, complete, parse_json
from gateway.model_config_checks import EngineDescription
from gateway.reconcile import Reconciler
from gateway.serving_plan import ServingPlan, draw
from gateway.settings import ModelsSettings
from registry.errors import SourceUnavailable, StagingFailed
from registry.sources import Source, VersionListing
from registry.sources.settling import Settling
from registry.staging import Staged, Staging, digest

SETTLE_SECONDS = 0.25
"""Between the two scans that must agree, where the poll interval does not say otherwise."""

logger = logging.getLogger("sluice.models")


class Group(Protocol):
    """All instances of one version."""

    @property
    def failure(self) -> str:
        """Why none is up; empty while one is, or may soon be."""

    async def stop(self) -> None: ...


G = TypeVar("G", bound=Group)
R = TypeVar("R")


class Launcher(Protocol[G]):
    """What brings versions up."""

    async def describe(self, model: str, version: str, path: Path, parameters: Mapping[str, str]) -> EngineDescription:
        """The engine's description of a model file. Raises LoadFailed."""

    async def launch(
        self, plan: ServingPlan, version: str, path: Path, on_failed: Callable[[str], None], on_recovered: Callable[[], None]
    ) -> G:  # fmt: skip
        """All instances of a version, ready and warm. Raises LoadFailed; leaves nothing behind then, or when cancelled.

        `on_failed` is called when none is up and they keep dying, `on_recovered` when one is up again after that.
        """


class Publisher(Protocol[G]):
    """What answers requests: the data plane."""

    def publish(self, model: str, version: int, plan: ServingPlan, group: G) -> None:
        """Answer for this version with this group from now on: in one step, in place of the group that did so before.
        A call that names no version goes to the highest one that is published and not suspended."""

    def suspend(self, model: str, version: int, group: G) -> None:
        """The group has no instance left that stays up: refuse what is queued for it and what comes, until it is
        published again. Nothing happens when another group answers for the version by now."""

    async def withdraw(self, model: str, version: int, group: G) -> None:
        """Give the group no new request; returns when it has answered every one that it was given. When another group
        answers for the version by now, it goes on doing so."""


class Clock(Protocol):
    def now(self) -> float:
        """Monotonic seconds."""

    async def wait(self, event: asyncio.Event, seconds: float | None) -> None:
        """Until the event is set, or that time has passed; None is for ever."""


class MonotonicClock:
    def now(self) -> float:
        return time.monotonic()

    async def wait(self, event: asyncio.Event, seconds: float | None) -> None:
        try:
            async with asyncio.timeout(seconds):
                await event.wait()
        except TimeoutError:
            pass


def log_event(event: Event) -> None:
    """One log line for a change of state."""
    names = {name: value for name, value in (("model", event.model), ("version", event.version)) if value}
    text = event.action.replace("-", " ")
    logger.log(
        logging.getLevelNamesMapping()[event.level.upper()],
        text,
        extra={"action": event.action, **names, **event.fields},
    )


@dataclass(frozen=True)
class _Live(Generic[G]):
    """What a deployment holds from being brought up to its end."""

    plan: ServingPlan
    group: G
    staged: Staged


class Models(Generic[G]):
    """All models of one source.

    Args:
        staging: where the files of loaded versions are copied to.
        defaults: what completes configurations.
        on_event: told of every change of state.
        settle_seconds: between two scans at the start and for a load request.
    """

    def __init__(
        self, source: Source, launcher: Launcher[G], publisher: Publisher[G], staging: Staging, *,
        settings: ModelsSettings, defaults: Defaults, on_event: Callable[[Event], None] = log_event,
        backoff: Backoff = Backoff(), clock: Clock | None = None, settle_seconds: float = SETTLE_SECONDS,
    ) -> None:  # fmt: skip
        self._source, self._launcher, self._publisher, self._staging = source, launcher, publisher, staging
        self._settings, self._defaults = settings, defaults
        self._clock = clock or MonotonicClock()
        self._settle_seconds = settle_seconds
        self._is_explicit = settings.control_mode == "explicit"
        self._on_event = on_event
        self._listeners: list[Callable[[], None]] = []
        self._reconciler = Reconciler(
            is_explicit=self._is_explicit, load_parallelism=settings.load_parallelism, backoff=backoff, emit=self._emit
        )
        # One scan at a time; `_is_lost` is whether the last one found no source.
        self._scanning = asyncio.Lock()
        self._settling = Settling()
        self._scans = 0
        self._is_lost = False
        self._look_at: float | None = None if self._is_explicit else self._clock.now()
        # Tasks that bring up, and what came up. A deployment is in one of them from Load to `unloaded` or `failed`.
        self._loading: dict[Deployment, asyncio.Task[None]] = {}
        self._live: dict[Deployment, _Live[G]] = {}
        self._tasks: asyncio.TaskGroup | None = None
        self._wake = asyncio.Event()
        self._changed = asyncio.Event()
        self._is_stopping = False

    # Life

    async def run(self) -> None:
        """Follows the source until `stop`, then returns when everything is unloaded. Cancelled, it stops all instances
        at once. Any other end is a bug."""
        await asyncio.to_thread(self._staging.prepare)
        try:
            async with asyncio.TaskGroup() as self._tasks:
                if self._is_explicit:
                    await self._start_explicit()
                await self._watch()
        finally:
            self._tasks = None
            await asyncio.gather(*(live.group.stop() for live in self._live.values()))

    def stop(self) -> None:
        """Nothing is wanted any more: `run` withdraws, drains and stops all versions and returns."""
        self._is_stopping = True
        self._reconciler.shut()
        self._wake.set()

    async def load_model(self, name: str, parameters: Mapping[str, Any] | None = None) -> None:
        """Loads a model as the source holds it now, or as `config` in the parameters says; returns when all versions
        that its policy wants are READY. What was loaded serves until then, and goes on serving after a failure.

        Raises:
            ControlNotAllowed: the control mode is not explicit.
            ModelNotInRepository: the source does not hold it.
            ModelLoadFailed: a version did not come up, or the configuration cannot be served.
            Unsupported: files in the request.
        """
        self._require_explicit()
        override = _override(name, parameters or {})
        try:
            await self._look_twice()
            is_known = self._reconciler.request(name, override)
        except SourceUnavailable as error:
            raise ModelLoadFailed(name, f"{error.place}: {error.reason}") from error
        except ConfigError as error:
            raise ModelLoadFailed(name, _text(error)) from error
        if not is_known:
            raise ModelNotInRepository(name)
        self._advance()
        if reason := await self._until(lambda: self._reconciler.outcome(name)):
            raise ModelLoadFailed(name, reason)

    async def unload_model(self, name: str, unload_dependents: bool = False) -> None:
        """Unloads all versions of a model; returns when the last request is answered and the last instance stopped.

        No model depends on another here, so `unload_dependents` changes nothing. A model that is known and not loaded
        is fine. Raises ControlNotAllowed and ModelNotInRepository.
        """
        self._require_explicit()
        if not self._reconciler.release(name):
            raise ModelNotInRepository(name)
        self._advance()
        await self._until(lambda: self._reconciler.is_gone(name) or None)

    # Questions

    def is_ready(self) -> bool:
        """Whether every wanted model has a version that answers."""
        return self._reconciler.is_ready()

    def ready_versions(self, model: str) -> tuple[int, ...]:
        """Ascending; the last is the one that answers when a call names none."""
        return self._reconciler.ready_versions(model)

    def index(self, *, is_ready: bool = False) -> list[IndexRow]:
        """Every model that the source holds or that is loaded, by name and version; or only what is READY."""
        return [row for row in self._reconciler.index() if row.state == State.READY.value or not is_ready]

    def plan(self, model: str, version: int) -> ServingPlan | None:
        """What a READY version is served by; None when it is not READY."""
        return next(
            (
                live.plan
                for deployment, live in self._live.items()
                if (deployment.model, deployment.version, deployment.state) == (model, version, State.READY)
            ),
            None,
        )

    def subscribe(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Calls the listener after each change of state; returns what undoes this."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener) if listener in self._listeners else None

    # The loop

    async def _watch(self) -> None:
        while True:
            self._wake.clear()
            if not self._is_stopping and self._look_at is not None and self._look_at <= self._clock.now():
                await self._follow()
            self._advance()
            if self._is_stopping and self._reconciler.is_idle():
                return
            await self._clock.wait(self._wake, self._pause())

    def _pause(self) -> float | None:
        now = self._clock.now()
        times = [time for time in (self._look_at, self._reconciler.wake_at(now)) if time is not None]
        return max(0.0, min(times) - now) if times and not self._is_stopping else None

    async def _follow(self) -> None:
        """One look at the source, and when to look again: mode none has seen enough once two looks agree."""
        try:
            await self._look()
        except SourceUnavailable as error:
            if not self._is_lost:
                self._emit(
                    Event("repository-unavailable", "error", fields={"place": error.place, "reason": error.reason})
                )
            self._is_lost = True
        else:
            if self._is_lost:
                self._emit(Event("repository-recovered"))
            self._is_lost = False
        is_settled = self._scans > 1 and self._settling.is_settled
        pause = self._settings.poll_seconds if self._is_lost or self._scans > 1 else self._settle_seconds
        is_done = self._settings.control_mode == "none" and is_settled and not self._is_lost
        self._look_at = None if is_done else self._clock.now() + pause

    async def _look(self) -> None:
        """Raises SourceUnavailable."""
        async with self._scanning:
            scan = await asyncio.to_thread(self._source.scan)
            self._scans += 1
            believed = self._settling.believed
            if self._settling.observe(scan) is not believed or self._scans == 1:
                self._reconciler.observe(self._settling.believed)

    async def _look_twice(self) -> None:
        await self._look()
        await self._clock.wait(asyncio.Event(), self._settle_seconds)
        await self._look()

    async def _start_explicit(self) -> None:
        """Loads what the settings name. What cannot be loaded keeps the server from being ready."""
        try:
            await self._look_twice()
        except SourceUnavailable as error:
            self._emit(Event("repository-unavailable", "error", fields={"place": error.place, "reason": error.reason}))
        names = self._settings.load_on_start
        for name in sorted(self._settling.believed.models) if "*" in names else names:
            try:
                if not self._reconciler.request(name):
                    self._reconciler.miss(name, "not in the model repository")
            except ConfigError as error:
                self._reconciler.miss(name, _text(error))

    def _advance(self) -> None:
        """Begins whatever is to be done now. Does nothing itself, so it may be called from anywhere."""
        assert self._tasks is not None, "this is a bug: the life cycle is not running"
        for action in self._reconciler.decide(self._clock.now()):
            match action:
                case Load(deployment):
                    self._loading[deployment] = self._spawn(self._load(deployment), f"load {_name(deployment)}")
                case Unload(deployment) if deployment in self._loading:
                    self._loading[deployment].cancel()
                case Unload(deployment):
                    self._spawn(self._unload(deployment), f"unload {_name(deployment)}")
                case Verify(deployment, listing):
                    self._spawn(self._verify(deployment, listing), f"verify {_name(deployment)}")
        self._wake.set()
        self._changed.set()
        self._changed = asyncio.Event()

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        assert self._tasks is not None, "this is a bug: the life cycle is not running"
        return self._tasks.create_task(work, name=name)

    async def _until(self, answer: Callable[[], R | None]) -> R:
        while (found := answer()) is None:
            await self._changed.wait()
        return found

    # Work on one deployment

    async def _load(self, deployment: Deployment) -> None:
        try:
            live = await self._bring_up(deployment)
        except asyncio.CancelledError:
            if deployment.state is not State.UNLOADING:
                raise
            self._reconciler.unloaded(deployment, self._clock.now())
        except ConfigError as error:
            self._fail(deployment, _text(error), is_final=True)
        except LoadFailed as error:
            self._fail(deployment, error.reason)
        except StagingFailed as error:
            self._fail(deployment, f"{error.path}: {error.reason}")
        except Exception as error:
            logger.exception(
                "this is a bug: loading ended unexpectedly", extra={"action": "bug", "model": deployment.model}
            )
            self._fail(deployment, f"internal error: {type(error).__name__}: {error}")
        else:
            self._live[deployment] = live
            self._publish(deployment)
            self._reconciler.loaded(deployment, live.staged.digest, self._clock.now())
            if live.plan.ignored_fields:
                fields = {"ignored": ", ".join(live.plan.ignored_fields)}
                self._emit(Event("config-fields-ignored", "warning", deployment.model, str(deployment.version), fields))
            if live.group.failure:
                self._died(deployment, live.group.failure)
        finally:
            del self._loading[deployment]
        self._advance()

    async def _bring_up(self, deployment: Deployment) -> _Live[G]:
        """Copy the files, ask the engine what they are, complete the configuration, start all instances."""
        staged = await self._stage(deployment)
        try:
            version, written = str(deployment.version), deployment.written
            path = _model_file(deployment, staged)
            parameters = {key: value.string_value for key, value in written.config.parameters.items()}
            engine = await self._launcher.describe(deployment.model, version, path, parameters)
            plan = draw(complete(written, deployment.model, engine, self._defaults), engine, staged.folder)
            group = await self._launcher.launch(
                plan, version, path, lambda reason: self._died(deployment, reason), lambda: self._recovered(deployment)
            )
            return _Live(plan, group, staged)
        except BaseException:
            self._discard(staged)
            raise

    async def _stage(self, deployment: Deployment) -> Staged:
        copying = asyncio.ensure_future(asyncio.to_thread(
            self._staging.take, deployment.listing, deployment.model_listing.path, deployment.revision.companions
        ))  # fmt: skip
        try:
            return await asyncio.shield(copying)
        except asyncio.CancelledError:
            # A thread cannot be stopped: what it copies is removed when it is done.
            copying.add_done_callback(lambda done: None if done.exception() else self._discard(done.result()))
            raise

    def _discard(self, staged: Staged) -> None:
        asyncio.get_running_loop().run_in_executor(None, self._staging.drop, staged)

    async def _unload(self, deployment: Deployment) -> None:
        live = self._live[deployment]
        await self._publisher.withdraw(deployment.model, deployment.version, live.group)
        await live.group.stop()
        del self._live[deployment]
        self._discard(live.staged)
        self._reconciler.unloaded(deployment, self._clock.now())
        self._advance()

    async def _verify(self, deployment: Deployment, listing: VersionListing) -> None:
        try:
            found = await asyncio.to_thread(digest, listing)
        except StagingFailed:
            self._reconciler.not_verified(deployment)
            return
        self._reconciler.verified(deployment, listing, found)
        self._advance()

    def _publish(self, deployment: Deployment) -> None:
        live = self._live[deployment]
        self._publisher.publish(deployment.model, deployment.version, live.plan, live.group)

    def _fail(self, deployment: Deployment, reason: str, *, is_final: bool = False) -> None:
        """Unless it is to be unloaded anyway: then its failure is as good."""
        if deployment.state is State.UNLOADING:
            self._reconciler.unloaded(deployment, self._clock.now())
        else:
            self._reconciler.failed(deployment, reason, self._clock.now(), is_final=is_final)

    def _died(self, deployment: Deployment, reason: str) -> None:
        if deployment.state is State.READY:
            self._publisher.suspend(deployment.model, deployment.version, self._live[deployment].group)
            self._reconciler.died(deployment, reason, self._clock.now())
            self._advance()

    def _recovered(self, deployment: Deployment) -> None:
        if deployment.state is State.UNAVAILABLE and deployment.is_live:
            self._publish(deployment)
            self._reconciler.recovered(deployment, self._clock.now())
            self._advance()

    # Words

    def _require_explicit(self) -> None:
        if not self._is_explicit:
            raise ControlNotAllowed

    def _emit(self, event: Event) -> None:
        self._on_event(event)
        for listener in tuple(self._listeners):
            listener()


def _override(model: str, parameters: Mapping[str, Any]) -> WrittenConfig | None:
    files = sorted(name for name in parameters if name.startswith("file:"))
    if files:
        raise Unsupported(f"model files in a load request ({files[0]}); put them into the model repository")
    config = parameters.get("config")
    if config is None:
        return None
    if not isinstance(config, str):
        raise ModelLoadFailed(model, "parameter 'config' is not a string")
    try:
        return parse_json(config, model)
    except ConfigError as error:
        raise ModelLoadFailed(model, _text(error)) from error


def _model_file(deployment: Deployment, staged: Staged) -> Path:
    """The file to load: in the version's folder, or in a folder of its own name there, beside its external data."""
    name = deployment.written.config.default_model_filename or MODEL_FILENAME
    candidates = (name, f"{name}/{name}")
    for candidate in candidates:
        if candidate in staged.files:
            return staged.version_path / candidate
    held = ", ".join(sorted(staged.files)[:5])
    raise ConfigError(
        deployment.model,
        "default_model_filename",
        f"{name!r} is not in version {deployment.version}, which holds {held}",
    )


def _name(deployment: Deployment) -> str:
    return f"{deployment.model} {deployment.version}"


def _text(error: ConfigError) -> str:
    return f"{error.field}: {error.reason}" if error.field else error.reason
