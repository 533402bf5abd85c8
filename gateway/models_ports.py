"""What the life cycle of models needs from the outside: whoever starts instances, whoever answers requests, a clock."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol, TypeVar

from gateway.model_config_checks import EngineDescription
from gateway.serving_plan import ServingPlan


class Group(Protocol):
    """All instances of one version."""

    @property
    def failure(self) -> str:
        """Why none is up; empty while one is, or may soon be."""

    def memory_bytes(self) -> int:
        """What all instances that are up take for themselves. Reads the system's tables: call it in a thread."""

    async def stop(self) -> None: ...


MadeGroup = TypeVar("MadeGroup", bound=Group, covariant=True)
ServingGroup = TypeVar("ServingGroup", bound=Group, contravariant=True)


class Launcher(Protocol[MadeGroup]):
    """What brings versions up."""

    async def describe(self, model: str, version: str, path: Path, parameters: Mapping[str, str]) -> EngineDescription:
        """The engine's description of a model file. Raises LoadFailed."""

    async def launch(
        self,
        plan: ServingPlan,
        version: str,
        path: Path,
        on_failed: Callable[[str], None],
        on_recovered: Callable[[], None],
    ) -> MadeGroup:
        """All instances of a version, ready and warm. Raises LoadFailed; leaves nothing behind then, or when cancelled.

        `on_failed` is called when none is up and they keep dying, `on_recovered` when one is up again after that.
        """


class Publisher(Protocol[ServingGroup]):
    """What answers requests: the data plane."""

    def publish(self, model: str, version: int, plan: ServingPlan, group: ServingGroup) -> None:
        """Answer for this version with this group from now on: in one step, in place of the group that did so before.
        A call that names no version goes to the highest one that is published and not suspended."""

    def suspend(self, model: str, version: int, group: ServingGroup) -> None:
        """The group has no instance left that stays up: refuse what is queued for it and, while it is the one that
        answers for the version, what comes, until it is published again."""

    async def withdraw(self, model: str, version: int, group: ServingGroup) -> None:
        """Give the group no new request; returns when it has answered every one that it was given. When another group
        answers for the version by now, it goes on doing so."""

    def idle_since(self, model: str) -> float | None:
        """When the model was last used, in monotonic seconds; None while it has a request in flight."""


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
