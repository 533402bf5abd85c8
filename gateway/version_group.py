"""All instances of one version: an instance group for each placement of its plan, seen as one.

It says when none is up and they keep dying, and when one is up again; which requests they answer is not its business.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from pathlib import Path

from gateway.errors import LoadFailed
from gateway.serving_plan import ServingPlan
from gateway.settings import WorkersSettings
from gateway.workers.group import InstanceGroup
from gateway.workers.instance import Instance
from gateway.workers.restart import RestartPolicy
from gateway.workers.spec import Description, Exit
from gateway.workers.supervisor import Supervisor


class VersionGroup:
    """Made by `WorkerLauncher.launch`, with all instances up.

    Args:
        on_failed: called with a reason when no instance is up and they keep dying.
        on_recovered: called when one is up again after that.
    """

    def __init__(self, stop_timeout: float, on_failed: Callable[[str], None], on_recovered: Callable[[], None]) -> None:
        self.failure = ""
        """Why no instance is up; empty while one is, or may soon be."""
        self._stop_timeout = stop_timeout
        self._on_failed, self._on_recovered = on_failed, on_recovered
        self._groups: list[InstanceGroup] = []
        self._on_up: Callable[[Instance], None] = lambda instance: None
        self._on_down: Callable[[Instance, Exit], None] = lambda instance, exit: None

    @property
    def instances(self) -> tuple[Instance, ...]:
        """Those that are up."""
        return tuple(instance for group in self._groups for instance in group.instances)

    @property
    def restarts(self) -> int:
        return sum(group.restarts for group in self._groups)

    def memory_bytes(self) -> int:
        """What the instances that are up take for themselves. Reads the system's tables: call it in a thread."""
        return sum(instance.memory_bytes for instance in self.instances)

    def listen(self, on_up: Callable[[Instance], None], on_down: Callable[[Instance, Exit], None]) -> None:
        """Tells one listener of instances that come up and end, beginning with those that are up: at once.

        What `Instance` asks of its `on_exit` is asked of `on_down`.
        """
        self._on_up, self._on_down = on_up, on_down
        for instance in self.instances:
            on_up(instance)

    async def start(self, groups: list[InstanceGroup]) -> None:
        """Starts the groups, built with this object's callbacks, one after the other.

        Raises:
            LoadFailed: one did not come up; the others are stopped again. So they are when this is cancelled.
        """
        try:
            for group in groups:
                self._groups.append(group)
                await group.start()
            if self.failure:
                raise LoadFailed(groups[0].spec.model, groups[0].spec.version, self.failure)
        except BaseException:
            self._stop_timeout = 0.0
            await self.stop()
            raise

    async def stop(self) -> None:
        """Has every instance finish what is in its lane and end. Idempotent."""
        for group in self._groups:
            await group.stop(self._stop_timeout)

    def up(self, instance: Instance) -> None:
        was_failing, self.failure = bool(self.failure), ""
        self._on_up(instance)
        if was_failing:
            self._on_recovered()

    def down(self, instance: Instance, exit: Exit) -> None:
        self._on_down(instance, exit)

    def failed(self, reason: str) -> None:
        if not self.instances and not self.failure:
            self.failure = reason
            self._on_failed(reason)


class WorkerLauncher:
    """Brings versions up in worker processes."""

    def __init__(self, supervisor: Supervisor, settings: WorkersSettings) -> None:
        self._supervisor = supervisor
        self._settings = settings

    async def describe(self, model: str, version: str, path: Path, parameters: Mapping[str, str]) -> Description:
        """The engine's description of a model file. Raises LoadFailed."""
        return await self._supervisor.describe(path, parameters=parameters, model=model, version=version)

    async def launch(
        self,
        plan: ServingPlan,
        version: str,
        path: Path,
        on_failed: Callable[[str], None],
        on_recovered: Callable[[], None],
    ) -> VersionGroup:
        """All instances of a version, up and warm. Raises LoadFailed; leaves nothing behind then, or when cancelled."""
        group = VersionGroup(self._settings.stop_timeout_seconds, on_failed, on_recovered)
        await group.start([
            InstanceGroup(
                self._supervisor, spec, count, RestartPolicy.from_settings(self._settings, random.random),
                on_up=group.up, on_down=group.down, on_failed=group.failed,
            )
            for spec, count in plan.instance_specs(version, path, self._settings.slot_bytes)
        ])  # fmt: skip
        return group
