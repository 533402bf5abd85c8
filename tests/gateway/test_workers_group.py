"""A group keeps its instances alive: launches stepped by hand, on a clock that only the test moves."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from gateway.errors import LoadFailed
from gateway.workers.group import InstanceGroup
from gateway.workers.instance import Instance
from gateway.workers.restart import RestartPolicy
from gateway.workers.spec import Exit, InstanceSpec

SPEC = InstanceSpec("tabular", "3", Path("model.onnx"))
CRASH = Exit(signal=11)


class FakeInstance:
    """Ends when told to, as a real one would."""

    def __init__(self, pid: int, on_exit: Callable[[Any, Exit], None]) -> None:
        self.pid = pid
        self.is_stopped = False
        self._on_exit = on_exit

    def die(self, exit: Exit = CRASH) -> None:
        self._on_exit(self, exit)

    async def stop(self, timeout: float) -> Exit:  # noqa: ASYNC109
        self.is_stopped = True
        exit = Exit(status=0, is_expected=True)
        self._on_exit(self, exit)
        return exit


class Stage:
    """A group with everything around it faked. `launches` are the futures that the test resolves, oldest first;
    `sleeps` the delays that somebody waits for."""

    def __init__(self, count: int = 1, max_deaths: int = 3) -> None:
        self.now = 0.0
        self.launches: list[tuple[asyncio.Future[None], Callable[[Any, Exit], None]]] = []
        self.sleeps: list[tuple[float, asyncio.Future[None]]] = []
        self.events: list[str] = []
        self.made: list[FakeInstance] = []
        policy = RestartPolicy(initial=1.0, maximum=30.0, window=60.0, max_deaths=max_deaths, jitter=lambda: 1.0)
        self.group = InstanceGroup(
            self,
            SPEC,
            count,
            policy,
            on_up=lambda instance: self.events.append(f"up {instance.pid}"),
            on_down=lambda instance, exit: self.events.append(f"down {instance.pid} {exit}"),
            on_failed=lambda reason: self.events.append(f"failed: {reason}"),
            clock=lambda: self.now,
            sleep=self._sleep,
        )

    async def launch(self, spec: InstanceSpec, on_exit: Callable[[Instance, Exit], None]) -> Any:
        assert spec is SPEC
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.launches.append((turn, on_exit))
        await turn
        self.made.append(FakeInstance(len(self.made) + 1, on_exit))
        return self.made[-1]

    async def _sleep(self, delay: float) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.sleeps.append((delay, turn))
        await turn

    async def settle(self) -> None:
        """Let everything that can run do so."""
        for _ in range(20):
            await asyncio.sleep(0)

    async def let_launch(self, failure: Exception | None = None) -> None:
        turn, _ = self.launches.pop(0)
        if failure is None:
            turn.set_result(None)
        else:
            turn.set_exception(failure)
        await self.settle()

    async def wake(self) -> float:
        delay, turn = self.sleeps.pop(0)
        self.now += delay
        turn.set_result(None)
        await self.settle()
        return delay

    async def begin(self) -> None:
        starting = asyncio.ensure_future(self.group.start())
        await self.settle()
        for _ in range(self.group.count):
            await self.let_launch()
        await starting


def staged(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[[], None]:
    def run() -> None:
        asyncio.run(test())

    run.__name__ = test.__name__
    return run


@staged
async def test_the_first_instance_is_tried_alone_and_the_others_together() -> None:
    stage = Stage(count=3)
    starting = asyncio.ensure_future(stage.group.start())
    await stage.settle()
    assert len(stage.launches) == 1
    await stage.let_launch()
    assert len(stage.launches) == 2
    await stage.let_launch()
    assert not starting.done()
    await stage.let_launch()
    await starting
    assert stage.events == ["up 1", "up 2", "up 3"]
    await stage.group.stop(1.0)


@staged
async def test_a_version_that_cannot_load_fails_with_its_reason_after_one_try() -> None:
    stage = Stage(count=3)
    starting = asyncio.ensure_future(stage.group.start())
    await stage.settle()
    await stage.let_launch(LoadFailed("tabular", "3", "broken"))
    with pytest.raises(LoadFailed) as failure:
        await starting
    assert failure.value.reason == "broken"
    assert not stage.launches
    assert stage.events == []


@staged
async def test_when_a_later_instance_fails_those_that_are_up_are_stopped() -> None:
    stage = Stage(count=2)
    starting = asyncio.ensure_future(stage.group.start())
    await stage.settle()
    await stage.let_launch()
    await stage.let_launch(LoadFailed("tabular", "3", "out of memory"))
    with pytest.raises(LoadFailed):
        await starting
    assert stage.made[0].is_stopped
    assert stage.group.instances == ()


@staged
async def test_a_cancelled_start_leaves_no_instance_behind() -> None:
    stage = Stage(count=2)
    starting = asyncio.ensure_future(stage.group.start())
    await stage.settle()
    await stage.let_launch()
    starting.cancel()
    await asyncio.gather(starting, return_exceptions=True)
    assert starting.cancelled()
    assert stage.made[0].is_stopped


@staged
async def test_a_dead_instance_is_replaced_after_the_delay() -> None:
    stage = Stage()
    await stage.begin()
    stage.made[0].die()
    await stage.settle()
    assert stage.group.instances == ()
    assert await stage.wake() == 1.0
    await stage.let_launch()
    assert stage.events == ["up 1", "down 1 was killed by SIGSEGV", "up 2"]
    assert stage.group.restarts == 1
    await stage.group.stop(1.0)


@staged
async def test_an_instance_that_dies_while_the_others_still_start_is_replaced_too() -> None:
    stage = Stage(count=2)
    starting = asyncio.ensure_future(stage.group.start())
    await stage.settle()
    await stage.let_launch()
    stage.made[0].die()
    await stage.let_launch()
    await starting
    await stage.settle()
    await stage.wake()
    await stage.let_launch()
    assert [instance.pid for instance in stage.group.instances] == [2, 3]
    await stage.group.stop(1.0)


@staged
async def test_a_group_that_keeps_dying_is_reported_and_still_retried_slowly() -> None:
    stage = Stage(max_deaths=2)
    await stage.begin()
    stage.made[0].die()
    await stage.settle()
    await stage.wake()
    await stage.let_launch()
    stage.made[1].die()
    await stage.settle()
    assert stage.events[-1] == "failed: workers keep ending: the last worker was killed by SIGSEGV"
    assert await stage.wake() == 30.0
    await stage.let_launch()
    assert stage.events[-1] == "up 3"
    await stage.group.stop(1.0)


@staged
async def test_launches_that_fail_count_as_deaths() -> None:
    stage = Stage(max_deaths=3)
    await stage.begin()
    stage.made[0].die()
    await stage.settle()
    delays = []
    for _ in range(3):
        delays.append(await stage.wake())
        await stage.let_launch(LoadFailed("tabular", "3", "no memory"))
    assert delays == [1.0, 2.0, 30.0]
    assert stage.events[-1] == "failed: workers keep ending: no memory"
    await stage.group.stop(1.0)


@staged
async def test_a_version_with_an_instance_still_up_has_not_failed() -> None:
    stage = Stage(count=2, max_deaths=1)
    await stage.begin()
    stage.made[0].die()
    await stage.settle()
    assert not any(event.startswith("failed") for event in stage.events)
    stage.made[1].die()
    await stage.settle()
    assert stage.events[-1].startswith("failed")
    await stage.group.stop(1.0)


@staged
async def test_a_stopped_group_starts_nothing_again() -> None:
    stage = Stage(count=2)
    await stage.begin()
    await stage.group.stop(1.0)
    await stage.group.stop(1.0)
    await stage.settle()
    assert all(instance.is_stopped for instance in stage.made)
    assert not stage.launches
    assert not stage.sleeps
    assert stage.events[-2:] == ["down 1 exited with status 0", "down 2 exited with status 0"]


@staged
async def test_stopping_in_the_middle_of_a_restart_gives_the_restart_up() -> None:
    stage = Stage()
    await stage.begin()
    stage.made[0].die()
    await stage.settle()
    await stage.wake()
    (turn, _), *_ = stage.launches
    await stage.group.stop(1.0)
    assert turn.cancelled()


@staged
async def test_an_owner_whose_callback_fails_is_heard_of() -> None:
    heard: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: heard.append(context))
    stage = Stage(max_deaths=1)
    stage.group._on_failed = _fail
    await stage.begin()
    stage.made[0].die()
    await stage.settle()
    assert [type(context["exception"]) for context in heard] == [ZeroDivisionError]
    await stage.group.stop(1.0)


def _fail(reason: str) -> None:
    raise ZeroDivisionError
