"""Keeps the wanted number of instances of one version alive. When to start again is decided by `restart`; what to do
with an instance that is up or down is its owner's affair."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol

from gateway.errors import LoadFailed
from gateway.workers.instance import Instance
from gateway.workers.restart import Restart, RestartPolicy
from gateway.workers.spec import Exit, InstanceSpec
from gateway.workers.tasks import report_unexpected_end

logger = logging.getLogger("sluice.workers")


class Launcher(Protocol):
    """The part of a `Supervisor` that a group needs."""

    async def launch(self, spec: InstanceSpec, on_exit: Callable[[Instance, Exit], None]) -> Instance: ...


@dataclass(frozen=True)
class Life:
    """One instance from being up to its end. `died` resolves to when and how that was."""

    instance: Instance
    up_at: float
    died: asyncio.Future[tuple[float, Exit]]


class InstanceGroup:
    """`count` instances of one version.

    Args:
        policy: shared by all instances of the group, so that siblings that die in turn are noticed. on_up: an
            instance is ready for batches. on_down: an instance that was up has ended; what `Instance` asks of its
            `on_exit` holds here. on_failed: called with a reason when none is up and the policy calls it failing.
            Slow retries go on, and the next
            `on_up` says that the version is back.
    """

    def __init__(
        self,
        launcher: Launcher,
        spec: InstanceSpec,
        count: int,
        policy: RestartPolicy,
        *,
        on_up: Callable[[Instance], None],
        on_down: Callable[[Instance, Exit], None],
        on_failed: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.spec = spec
        self.count = count
        self.restarts = 0
        """Launches tried in place of an instance that died."""
        self._launcher = launcher
        self._policy = policy
        self._on_up, self._on_down, self._on_failed = on_up, on_down, on_failed
        self._clock, self._sleep = clock, sleep
        # Up now: entered by `_launch`, left by the instance's end. One task a seat, from `start` to `stop`.
        self._up: list[Instance] = []
        self._seats: list[asyncio.Task[None]] = []

    @property
    def instances(self) -> tuple[Instance, ...]:
        """Those that are up."""
        return tuple(self._up)

    async def start(self) -> None:
        """Launch all of them; the first alone, so that a version that cannot load fails once. Returns when all are up.

        Raises:
            LoadFailed: one did not come up; those that did are stopped again. So they are when this is cancelled.
        """
        assert not self._seats, "this is a bug: a group started twice"
        try:
            lives = [await self._launch()]
            launches = [self._launch() for _ in range(self.count - 1)]
            for result in await asyncio.gather(*launches, return_exceptions=True):
                if isinstance(result, BaseException):
                    raise result
                lives.append(result)
        except BaseException:
            await self._stop_instances(timeout=0.0)
            raise
        for life in lives:
            seat = asyncio.create_task(self._keep(life), name=f"instance of {self.spec.model} {self.spec.version}")
            seat.add_done_callback(report_unexpected_end)
            self._seats.append(seat)

    async def stop(self, timeout: float) -> None:  # noqa: ASYNC109
        """Stop every instance, killing those that take longer than `timeout`, and start none again. Idempotent."""
        seats, self._seats = self._seats, []
        for seat in seats:
            seat.cancel()
        await asyncio.gather(*seats, return_exceptions=True)
        await self._stop_instances(timeout)

    async def _keep(self, life: Life) -> None:
        """One seat: whoever sits there is replaced when it dies, for ever."""
        while True:
            died_at, exit = await asyncio.shield(life.died)
            restart = self._policy.died(died_at, died_at - life.up_at)
            self._note(f"the last worker {exit}", restart)
            life = await self._replace(restart.delay)

    async def _replace(self, delay: float) -> Life:
        """The next to be up. Those that do not even start count as deaths."""
        while True:
            await self._sleep(delay)
            self.restarts += 1
            try:
                return await self._launch()
            except LoadFailed as error:
                restart = self._policy.died(self._clock(), 0.0)
                self._note(error.reason, restart)
                delay = restart.delay

    def _note(self, reason: str, restart: Restart) -> None:
        fields = self._fields("instance-down", reason=reason, restart_seconds=round(restart.delay, 3))
        logger.warning("instance down", extra=fields)
        if restart.is_failing and not self._up:
            self._on_failed(f"workers keep ending: {reason}")

    async def _launch(self) -> Life:
        died: asyncio.Future[tuple[float, Exit]] = asyncio.get_running_loop().create_future()

        def on_exit(instance: Instance, exit: Exit) -> None:
            died.set_result((self._clock(), exit))
            self._up.remove(instance)
            self._on_down(instance, exit)

        instance = await self._launcher.launch(self.spec, on_exit)
        self._up.append(instance)
        logger.info("instance up", extra=self._fields("instance-up", pid=instance.pid))
        self._on_up(instance)
        return Life(instance, self._clock(), died)

    async def _stop_instances(self, timeout: float) -> None:  # noqa: ASYNC109
        await asyncio.gather(*(instance.stop(timeout) for instance in self.instances))

    def _fields(self, action: str, **more: Any) -> dict[str, Any]:
        return {"action": action, "model": self.spec.model, "version": self.spec.version, **more}
