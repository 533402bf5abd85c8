"""The life cycle of model versions: watches the source, brings versions up beside those that serve, takes them down.

What to do is decided by `gateway.reconcile`; this is the shell that does it, with tasks that `run` owns. It knows
workers and the data plane only by the protocols of `gateway.models_ports`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

from gateway.attempts import Attempt, Backoff, Capacity, Event, IndexRow, Load, Unload, Verify
from gateway.errors import (
    ConfigError,
    ControlNotAllowed,
    LoadFailed,
    ModelLoadFailed,
    ModelNotInRepository,
    NotServing,
    UnknownModel,
    Unsupported,
)
from gateway.lifecycle import State
from gateway.model_config import MODEL_FILENAME, Defaults, WrittenConfig, complete, parse_json
from gateway.model_config_checks import sentence
from gateway.models_ports import Clock, Group, Launcher, MonotonicClock, Publisher
from gateway.reconcile import Reconciler
from gateway.serving_plan import ServingPlan, draw
from gateway.settings import ModelsSettings
from gateway.watch import SETTLE_SECONDS, Watch
from registry.errors import SourceUnavailable, StagingFailed
from registry.sources import Source, VersionListing
from registry.staging import Staged, Staging, digest

G = TypeVar("G", bound=Group)
R = TypeVar("R")

MEASURE_SECONDS = 10.0
"""Between two measurements of the memory that loaded versions take, where a limit is set."""

READY = State.READY.value

logger = logging.getLogger("sluice.models")


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
    """What an attempt holds from being brought up to its end."""

    plan: ServingPlan
    group: G
    staged: Staged
    nbytes: int
    """Of memory, when it had been brought up."""


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
        self._launcher, self._publisher, self._staging = launcher, publisher, staging
        self._settings, self._defaults = settings, defaults
        self._clock = clock or MonotonicClock()
        self._is_explicit = settings.control_mode == "explicit"
        self._on_event = on_event
        self._listeners: list[Callable[[], None]] = []
        self._reconciler = Reconciler(
            is_explicit=self._is_explicit, is_strict=settings.strict_readiness, backoff=backoff, emit=self._emit,
            load_parallelism=settings.load_parallelism, memory_bytes=settings.memory_bytes,
            idle_since=publisher.idle_since,
        )  # fmt: skip
        self._watch = Watch(
            source, self._reconciler.observe, self._emit, settings, clock=self._clock, settle_seconds=settle_seconds
        )
        # Tasks that bring up, and what came up. An attempt is in one of them from Load to `unloaded` or `failed`.
        self._loading: dict[Attempt, asyncio.Task[None]] = {}
        self._live: dict[Attempt, _Live[G]] = {}
        self._tasks: asyncio.TaskGroup | None = None
        self._wake = asyncio.Event()
        self._changed = asyncio.Event()
        # What listeners were last told of: changed by `_notify` alone.
        self._told: tuple[bool, list[IndexRow]] = (False, [])
        # When memory is measured again; None without a limit to keep, and while it is being measured.
        self._measure_at = self._clock.now() + MEASURE_SECONDS if settings.memory_bytes else None
        self._has_begun = False
        self._is_stopping = False
        self._ended = asyncio.Event()

    # Life

    async def run(self) -> None:
        """Follows the source until `stop`, then returns when everything is unloaded. Cancelled, it stops all instances
        without a drain. Any other end is a bug, and the caller's to make fatal."""
        await asyncio.to_thread(self._staging.open)
        try:
            async with asyncio.TaskGroup() as self._tasks:
                if self._is_explicit:
                    await self._start_explicit()
                self._has_begun = True
                self._notify()
                await self._loop()
        finally:
            self._tasks = None
            self._reconciler.shut()
            self._changed.set()
            await asyncio.gather(*(live.group.stop() for live in self._live.values()))
            await asyncio.to_thread(self._staging.close)
            self._ended.set()

    async def stop(self) -> None:
        """Withdraws, drains and stops all versions; returns when `run` has. Idempotent. Cancelled, it has begun."""
        self._is_stopping = True
        self._reconciler.shut()
        self._wake.set()
        if self._tasks is not None:
            await self._ended.wait()

    async def load_model(self, name: str, parameters: Mapping[str, Any] | None = None) -> None:
        """Loads a model as the source holds it now, or as `config` in the parameters says; returns when all versions
        that its policy wants are READY. What was loaded serves until then, and goes on serving after a failure.

        Raises:
            ControlNotAllowed: the control mode is not explicit.
            ModelNotInRepository: the source does not hold it.
            NotServing: not running, or stopping.
            ModelLoadFailed: a version did not come up, or the configuration cannot be served.
            Unsupported: files in the request.
        """
        self._require_explicit()
        override = _override(name, parameters or {})
        try:
            await self._watch.look_twice()
            self._require_explicit()  # it may have been stopped meanwhile
            is_known = self._reconciler.request(name, override)
        except SourceUnavailable as error:
            raise ModelLoadFailed(name, f"{error.place}: {error.reason}") from error
        except ConfigError as error:
            raise ModelLoadFailed(name, sentence(error)) from error
        if not is_known:
            raise ModelNotInRepository(name)
        self._advance()
        if reason := await self._until(lambda: self._reconciler.outcome(name)):
            raise ModelLoadFailed(name, reason)

    async def unload_model(self, name: str, unload_dependents: bool = False) -> None:
        """Unloads all versions of a model; returns when the last request is answered and the last instance stopped.

        No model depends on another here, so `unload_dependents` changes nothing. A model that is known and not loaded
        is fine. Raises ControlNotAllowed, UnknownModel and NotServing.
        """
        self._require_explicit()
        if not self._reconciler.release(name):
            raise UnknownModel(name)
        self._advance()
        await self._until(lambda: self._reconciler.is_gone(name) or None)

    def look_soon(self) -> None:
        """The source is looked at now rather than at the next poll. For hints: it changes nothing by itself."""
        self._watch.hurry()
        self._wake.set()

    def demand(self, model: str, version: str) -> str | None:
        """Called when somebody asks for a version that is known and not READY ("" names none). Returns "" when it is on
        its way now, because its model is loaded on demand; why it is not, when it lately failed; None when it is for
        nobody to wait for."""
        answer = self._reconciler.demand(model, int(version) if version else None, self._clock.now())
        if answer == "":
            self._wake.set()
        return answer

    # Questions

    def capacity(self) -> Capacity:
        """The memory of models."""
        return self._reconciler.capacity()

    def has_looked(self) -> bool:
        """Whether it is known which models there are; the source may have been unreadable so far."""
        return self._has_begun and self._reconciler.has_observed

    def is_ready(self) -> bool:
        """Whether the wanted models answer, as far as `models.strict_readiness` asks for it."""
        return self._has_begun and self._reconciler.is_ready()

    def ready_versions(self, model: str) -> tuple[int, ...]:
        """Ascending; the last is the one that answers when a call names none."""
        return self._reconciler.ready_versions(model)

    def index(self, *, is_ready: bool = False) -> list[IndexRow]:
        """Every model that the source holds or that is loaded, by name and version; or only what is READY."""
        rows = self._reconciler.index()
        return [row for row in rows if row.state == READY] if is_ready else rows

    def plan(self, model: str, version: int) -> ServingPlan | None:
        """What a READY version is served by; None when it is not READY."""
        return next(
            (
                live.plan
                for attempt, live in self._live.items()
                if (attempt.model, attempt.version, attempt.state) == (model, version, State.READY)
            ),
            None,
        )

    def subscribe(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Calls the listener after each change of state; returns what undoes this."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener) if listener in self._listeners else None

    # The loop

    async def _loop(self) -> None:
        while True:
            if not self._is_stopping and self._watch.is_due(self._clock.now()):
                await self._watch.follow()
            if self._measure_at is not None and self._measure_at <= self._clock.now() and not self._is_stopping:
                self._measure_at = None
                self._spawn(self._remeasure(), "measure memory")
            self._advance()
            if self._is_stopping and self._reconciler.is_idle():
                return
            self._wake.clear()
            await self._clock.wait(self._wake, self._pause())

    def _pause(self) -> float | None:
        now = self._clock.now()
        times = [
            time for time in (self._watch.look_at, self._reconciler.wake_at(now), self._measure_at) if time is not None
        ]
        return max(0.0, min(times) - now) if times and not self._is_stopping else None

    async def _start_explicit(self) -> None:
        """Loads what the settings name. What they name one by one is required for the server to be ready."""
        try:
            await self._watch.look_twice()
        except SourceUnavailable as error:
            self._watch.lost(error)
        names = self._settings.load_on_start
        for name in sorted(self._watch.believed.models) if "*" in names else names:
            try:
                if not self._reconciler.request(name, is_required=name in names):
                    self._reconciler.miss(name, "not in the model repository")
            except ConfigError as error:
                self._reconciler.miss(name, sentence(error))

    def _advance(self) -> None:
        """Begins whatever is to be done now. Does nothing itself, so it may be called from anywhere."""
        assert self._tasks is not None, "this is a bug: the life cycle is not running"
        for action in self._reconciler.decide(self._clock.now()):
            match action:
                case Load(attempt):
                    task = self._spawn(self._load(attempt), f"load {_name(attempt)}")
                    self._loading[attempt] = task
                    task.add_done_callback(partial(self._never_ran, attempt))
                case Unload(attempt) if attempt in self._loading:
                    self._loading[attempt].cancel()
                case Unload(attempt):
                    self._spawn(self._unload(attempt), f"unload {_name(attempt)}")
                case Verify(attempt, listing):
                    self._spawn(self._verify(attempt, listing), f"verify {_name(attempt)}")
        self._wake.set()
        self._changed.set()
        self._changed = asyncio.Event()
        if self._told != (self.is_ready(), self._reconciler.index()):
            self._notify()  # a change that is no event: a model listed or forgotten, a repository seen to be empty

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        assert self._tasks is not None, "this is a bug: the life cycle is not running"
        return self._tasks.create_task(work, name=name)

    async def _until(self, answer: Callable[[], R | None]) -> R:
        """The answer, asked for after each change. NotServing when there will be no change any more."""
        while (found := answer()) is None:
            if self._tasks is None:
                raise NotServing
            await self._changed.wait()
        return found

    # Work on one attempt

    async def _load(self, attempt: Attempt) -> None:
        try:
            try:
                live = await self._bring_up(attempt)
            finally:
                del self._loading[attempt]
        except asyncio.CancelledError:
            if attempt.state is not State.UNLOADING:
                raise
            self._reconciler.unloaded(attempt, self._clock.now())
        except ConfigError as error:
            self._fail(attempt, sentence(error), is_final=True)
        except LoadFailed as error:
            self._fail(attempt, error.reason)
        except StagingFailed as error:
            self._fail(attempt, f"{error.path}: {error.reason}")
        except Exception as error:
            logger.exception(
                "this is a bug: loading ended unexpectedly", extra={"action": "bug", "model": attempt.model}
            )
            self._fail(attempt, f"internal error: {type(error).__name__}: {error}")
        else:
            self._live[attempt] = live
            self._publish(attempt)
            self._reconciler.loaded(attempt, live.staged.digest, self._clock.now(), live.nbytes)
            if live.plan.ignored_fields:
                fields = {"ignored": ", ".join(live.plan.ignored_fields)}
                self._emit(Event("config-fields-ignored", "warning", attempt.model, str(attempt.version), fields))
            if live.group.failure:
                self._died(attempt, live.group.failure)
        self._advance()

    def _never_ran(self, attempt: Attempt, task: asyncio.Task[None]) -> None:
        """For a load that was called off before its task took its first step; all others have seen to this."""
        if self._loading.pop(attempt, None) is not None and attempt.state is State.UNLOADING:
            self._reconciler.unloaded(attempt, self._clock.now())
            self._advance()

    async def _bring_up(self, attempt: Attempt) -> _Live[G]:
        """Copy the files, ask the engine what they are, complete the configuration, start all instances."""
        if attempt.written.refusal is not None:
            raise attempt.written.refusal
        staged = await self._stage(attempt)
        try:
            version, written = str(attempt.version), attempt.written
            path = _model_file(attempt, staged)
            parameters = {key: value.string_value for key, value in written.config.parameters.items()}
            engine = await self._launcher.describe(attempt.model, version, path, parameters)
            plan = draw(complete(written, attempt.model, engine, self._defaults), engine, staged.folder)
            group = await self._launcher.launch(
                plan, version, path, lambda reason: self._died(attempt, reason), lambda: self._recovered(attempt)
            )
            return _Live(plan, group, staged, await self._measure(group))
        except BaseException:
            self._discard(staged)
            raise

    async def _measure(self, group: G) -> int:
        """The memory of a group that has come up. Cancelled, it leaves nothing of it."""
        try:
            return await asyncio.to_thread(group.memory_bytes)
        except BaseException:
            await group.stop()
            raise

    async def _remeasure(self) -> None:
        """What everything live takes now: engines grow with the batches they have seen."""
        for attempt, live in list(self._live.items()):
            self._reconciler.measured(attempt, await asyncio.to_thread(live.group.memory_bytes))
        self._measure_at = self._clock.now() + MEASURE_SECONDS
        self._advance()

    async def _stage(self, attempt: Attempt) -> Staged:
        copying = asyncio.ensure_future(asyncio.to_thread(
            self._staging.take, attempt.listing, attempt.companions_path, attempt.revision.companions
        ))  # fmt: skip
        try:
            return await asyncio.shield(copying)
        except asyncio.CancelledError:
            # A thread cannot be stopped: what it copies is removed when it is done.
            copying.add_done_callback(lambda done: None if done.exception() else self._discard(done.result()))
            raise

    def _discard(self, staged: Staged) -> None:
        asyncio.get_running_loop().run_in_executor(None, self._staging.drop, staged)

    async def _unload(self, attempt: Attempt) -> None:
        live = self._live[attempt]
        await self._publisher.withdraw(attempt.model, attempt.version, live.group)
        await live.group.stop()
        del self._live[attempt]
        self._discard(live.staged)
        self._reconciler.unloaded(attempt, self._clock.now())
        self._advance()

    async def _verify(self, attempt: Attempt, listing: VersionListing) -> None:
        try:
            found = await asyncio.to_thread(digest, listing)
        except StagingFailed:
            self._reconciler.not_verified(attempt)
            return
        self._reconciler.verified(attempt, listing, found)
        self._advance()

    def _publish(self, attempt: Attempt) -> None:
        live = self._live[attempt]
        self._publisher.publish(attempt.model, attempt.version, live.plan, live.group)

    def _fail(self, attempt: Attempt, reason: str, *, is_final: bool = False) -> None:
        """Unless it is to be unloaded anyway: then its failure is as good."""
        if attempt.state is State.UNLOADING:
            self._reconciler.unloaded(attempt, self._clock.now())
        else:
            self._reconciler.failed(attempt, reason, self._clock.now(), is_final=is_final)

    def _died(self, attempt: Attempt, reason: str) -> None:
        if attempt.state is State.UNLOADING and attempt in self._live:  # what it still has to answer, it cannot
            self._publisher.suspend(attempt.model, attempt.version, self._live[attempt].group)
        if attempt.state is State.READY:
            self._publisher.suspend(attempt.model, attempt.version, self._live[attempt].group)
            self._reconciler.died(attempt, reason, self._clock.now())
            self._advance()

    def _recovered(self, attempt: Attempt) -> None:
        if attempt.state is State.UNAVAILABLE and attempt.is_live:
            self._publish(attempt)
            self._reconciler.recovered(attempt, self._clock.now())
            self._advance()

    # Words

    def _require_explicit(self) -> None:
        if not self._is_explicit:
            raise ControlNotAllowed
        if self._is_stopping or self._tasks is None:
            raise NotServing

    def _emit(self, event: Event) -> None:
        self._on_event(event)
        self._notify()

    def _notify(self) -> None:
        self._told = (self.is_ready(), self._reconciler.index())
        for listener in tuple(self._listeners):
            listener()


def _override(model: str, parameters: Mapping[str, Any]) -> WrittenConfig | None:
    files = sorted(name for name in parameters if name.startswith("file:"))
    if files:
        raise Unsupported(f"loading model files ({files[0]}) from a request instead of from the model repository")
    config = parameters.get("config")
    if config is None:
        return None
    if not isinstance(config, str):
        raise ModelLoadFailed(model, "parameter 'config' is not a string")
    try:
        return parse_json(config, model)
    except ConfigError as error:
        raise ModelLoadFailed(model, sentence(error)) from error


def _model_file(attempt: Attempt, staged: Staged) -> Path:
    """The file to load: in the version's folder, or in a folder of its own name there, beside its external data."""
    name = attempt.written.config.default_model_filename or MODEL_FILENAME
    candidates = (name, f"{name}/{name}")
    for candidate in candidates:
        if candidate in staged.files:
            return staged.version_path / candidate
    held = ", ".join(sorted(staged.files)[:5])
    raise ConfigError(
        attempt.model,
        "default_model_filename",
        f"{name!r} is not in version {attempt.version}, which holds {held}",
    )


def _name(attempt: Attempt) -> str:
    return f"{attempt.model} {attempt.version}"
