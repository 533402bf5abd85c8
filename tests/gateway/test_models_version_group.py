"""All instances of a version seen as one, over launches that succeed, fail and die as told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from gateway.errors import LoadFailed
from gateway.version_group import VersionGroup
from gateway.workers.group import InstanceGroup
from gateway.workers.restart import RestartPolicy
from gateway.workers.spec import Exit, InstanceSpec


@dataclass(eq=False)
class FakeInstance:
    pid: int
    on_exit: Callable[[Any, Exit], None]
    is_stopped: bool = False

    async def stop(self, timeout: float) -> None:  # noqa: ASYNC109
        if not self.is_stopped:
            self.is_stopped = True
            self.on_exit(self, Exit(status=0, is_expected=True))

    def die(self) -> None:
        self.is_stopped = True
        self.on_exit(self, Exit(signal=11))


@dataclass
class FakeSupervisor:
    """Launches at once; `failing` names the devices that cannot load."""

    failing: set[int] = field(default_factory=set)
    launched: list[FakeInstance] = field(default_factory=list)

    async def launch(self, spec: InstanceSpec, on_exit: Callable[[Any, Exit], None]) -> Any:
        if spec.device in self.failing:
            raise LoadFailed(spec.model, spec.version, "no memory")
        instance = FakeInstance(len(self.launched), on_exit)
        self.launched.append(instance)
        return instance


class House:
    def __init__(self, *counts: int) -> None:
        self.supervisor = FakeSupervisor()
        self.told: list[str] = []
        self.group = VersionGroup(1.0, lambda reason: self.told.append(reason), lambda: self.told.append("recovered"))
        self.restart = asyncio.Event()
        self.groups = [
            InstanceGroup(
                self.supervisor,
                InstanceSpec("m", "1", Path("model.onnx"), device=device),
                count,
                RestartPolicy(initial=0.1, maximum=1.0, window=60.0, max_deaths=1, jitter=lambda: 0.0),
                on_up=self.group.up,
                on_down=self.group.down,
                on_failed=self.group.failed,
                sleep=self.sleep,
            )
            for device, count in enumerate(counts)
        ]

    async def sleep(self, seconds: float) -> None:
        await self.restart.wait()

    async def start(self) -> None:
        await self.group.start(self.groups)


async def turns() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def test_all_placements_are_up_when_it_has_started():
    async def main() -> None:
        house = House(2, 1)
        await house.start()
        assert len(house.group.instances) == 3
        await house.group.stop()
        assert house.group.instances == ()
        await house.group.stop()

    asyncio.run(main())


def test_a_placement_that_does_not_come_up_stops_the_others():
    async def main() -> None:
        house = House(2, 1)
        house.supervisor.failing = {1}
        with pytest.raises(LoadFailed):
            await house.start()
        assert all(instance.is_stopped for instance in house.supervisor.launched)
        assert house.group.instances == ()

    asyncio.run(main())


def test_a_listener_hears_of_those_that_are_up_and_of_each_change():
    async def main() -> None:
        house = House(2)
        await house.start()
        heard: list[str] = []
        house.group.listen(
            lambda instance: heard.append(f"up {instance.pid}"),
            lambda instance, exit: heard.append(f"down {instance.pid}"),
        )
        assert heard == ["up 0", "up 1"]
        house.supervisor.launched[0].die()
        house.restart.set()
        await turns()
        assert heard == ["up 0", "up 1", "down 0", "up 2"]
        assert house.group.restarts == 1
        await house.group.stop()

    asyncio.run(main())


def test_it_has_failed_only_when_no_placement_has_an_instance():
    async def main() -> None:
        house = House(1, 1)
        await house.start()
        house.supervisor.launched[0].die()
        await turns()
        assert house.told == []
        assert house.group.failure == ""
        house.supervisor.launched[1].die()
        await turns()
        assert house.told == ["workers keep ending: the last worker was killed by SIGSEGV"]
        assert house.group.failure == house.told[0]
        house.restart.set()
        await turns()
        assert house.told[1:] == ["recovered"]
        assert house.group.failure == ""
        await house.group.stop()

    asyncio.run(main())
