"""Models over a real directory for tests: workers, data plane and clock are moved by hand, and what would run in
threads runs at once, so that everything happens in turns of the loop."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gateway.attempts import Event
from gateway.errors import LoadFailed
from gateway.model_config import Defaults
from gateway.models import Models
from gateway.serving_plan import ServingPlan
from gateway.settings import ModelsSettings
from gateway.workers.spec import Description, TensorSpec
from registry.sources.directory import DirectorySource
from registry.staging import Staging

X, Y = TensorSpec("x", "FP32", (-1, 4)), TensorSpec("y", "FP32", (-1, 2))


def text_of(path: Path) -> str:
    return path.read_text()


class AtOnce(ThreadPoolExecutor):
    """Runs what it is given before it returns."""

    def submit(self, fn: Callable[..., Any], /, *arguments: Any, **named: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*arguments, **named))
        except BaseException as error:
            future.set_exception(error)
        return future


async def turns(count: int = 50) -> None:
    """Lets everything run that can, without the passing of any clock."""
    for _ in range(count):
        await asyncio.sleep(0)


class FakeClock:
    """Time passes when a test says so, and whoever waits for it then goes on."""

    def __init__(self) -> None:
        self.time = 100.0
        self._sleepers: list[tuple[float, asyncio.Event]] = []

    def now(self) -> float:
        return self.time

    async def wait(self, event: asyncio.Event, seconds: float | None) -> None:
        if seconds is not None:
            self._sleepers.append((self.time + seconds, event))
        await event.wait()

    def pass_time(self, seconds: float) -> None:
        self.time += seconds
        for when, event in self._sleepers:
            if when <= self.time:
                event.set()
        self._sleepers = [each for each in self._sleepers if each[0] > self.time]


class FakeGroup:
    def __init__(self, name: str, text: str, log: list[str]) -> None:
        self.name, self.text, self.log = name, text, log
        self.failure = ""
        self.is_stopped = False
        self.nbytes = 0
        self.on_failed: Callable[[str], None]
        self.on_recovered: Callable[[], None]

    def memory_bytes(self) -> int:
        return self.nbytes

    async def stop(self) -> None:
        self.is_stopped = True
        self.log.append(f"stop {self.name}")


@dataclass
class FakeLauncher:
    """Loads what is in the files: "bad" fails, "slow" waits for `release`, "config" fails when described."""

    log: list[str]
    release: asyncio.Event = field(default_factory=asyncio.Event)
    groups: list[FakeGroup] = field(default_factory=list)
    loading: int = 0
    most_loading: int = 0

    async def describe(self, model: str, version: str, path: Path, parameters: Mapping[str, str]) -> Description:
        if text_of(path) == "odd":
            raise RuntimeError("nobody expected this")
        return Description((X,), (Y,), 0)

    async def launch(
        self,
        plan: ServingPlan,
        version: str,
        path: Path,
        on_failed: Callable[[str], None],
        on_recovered: Callable[[], None],
    ) -> FakeGroup:
        text = text_of(path)
        self.loading += 1
        self.most_loading = max(self.most_loading, self.loading)
        try:
            if text.startswith("slow"):
                await self.release.wait()
            if text.startswith("bad"):
                raise LoadFailed(plan.model, version, "not a model")
        finally:
            self.loading -= 1
        group = FakeGroup(f"{plan.model} {version}", text, self.log)
        group.on_failed, group.on_recovered = on_failed, on_recovered
        self.groups.append(group)
        return group


class FakePublisher:
    """Keeps a route table, and holds withdrawals up while `is_busy`."""

    def __init__(self, log: list[str]) -> None:
        self.log = log
        self.routes: dict[tuple[str, int], FakeGroup] = {}
        self.is_idle = asyncio.Event()
        self.is_idle.set()
        self.used: dict[str, float | None] = {}

    def idle_since(self, model: str) -> float | None:
        return self.used.get(model, 0.0)

    def publish(self, model: str, version: int, plan: ServingPlan, group: FakeGroup) -> None:
        assert not group.is_stopped
        self.routes[model, version] = group
        self.log.append(f"publish {model} {version}")

    def suspend(self, model: str, version: int, group: FakeGroup) -> None:
        if self.routes.get((model, version)) is group:
            del self.routes[model, version]
        self.log.append(f"suspend {model} {version}")

    async def withdraw(self, model: str, version: int, group: FakeGroup) -> None:
        if self.routes.get((model, version)) is group:
            del self.routes[model, version]
        self.log.append(f"withdraw {model} {version}")
        await self.is_idle.wait()
        assert not group.is_stopped


class House:
    """`Models` over a real directory, with fakes around; for the loop that runs."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        asyncio.get_running_loop().set_default_executor(AtOnce())
        self.root = folder / "repository"
        self.root.mkdir(exist_ok=True)
        self.log: list[str] = []
        self.events: list[Event] = []
        self.clock = FakeClock()
        self.launcher = FakeLauncher(self.log)
        self.publisher = FakePublisher(self.log)
        self.staging = Staging(folder / "cache")
        self.models: Models[FakeGroup] = Models(
            DirectorySource(self.root),
            self.launcher,
            self.publisher,
            self.staging,
            settings=ModelsSettings(**settings),
            defaults=Defaults(),
            on_event=self.events.append,
            clock=self.clock,
        )

    def put(self, model: str, version: int, text: str = "good", config: str | None = None) -> Path:
        path = self.root / model / str(version) / "model.onnx"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        if config is not None:
            (self.root / model / "config.pbtxt").write_text(config)
        return path

    def actions(self, model: str = "") -> list[str]:
        return [event.action for event in self.events if not model or event.model == model]

    def serving(self) -> dict[tuple[str, int], str]:
        return {route: group.text for route, group in self.publisher.routes.items()}

    async def until(self, is_true: Callable[[], object]) -> None:
        """Lets everything run that can, without the passing of the fake clock."""
        for _ in range(2000):
            if is_true():
                return
            await turns(1)
        raise AssertionError(f"never true: {self.models.index()} {self.log} {self.actions()}")

    async def look(self, times: int = 2) -> None:
        """The source is looked at so often, with all that follows at once."""
        for _ in range(times):
            looks = self.models._watch._looks
            lost = self.actions().count("repository-unavailable")
            self.clock.pass_time(1.0)
            await self.until(
                lambda looks=looks, lost=lost: (
                    self.models._watch._looks > looks
                    or self.actions().count("repository-unavailable") > lost
                    or self.models._watch._is_lost
                )
            )
            await turns()

    async def settled(self) -> None:
        await self.until(lambda: not self.models._loading)


def running(scenario: Callable[[House], Awaitable[None]], folder: Path, prepare: Any = None, **settings: Any) -> House:
    """Runs a scenario against a running house, then stops it."""

    async def main() -> House:
        house = House(folder, **settings)
        if prepare:
            prepare(house)
        async with asyncio.TaskGroup() as tasks:
            runner = tasks.create_task(house.models.run())
            await house.until(lambda: house.models._tasks is not None or runner.done())
            while settings.get("control_mode") == "explicit" and house.models._watch._looks < 2:
                house.clock.pass_time(0.25)
                await turns()
            await scenario(house)
            house.publisher.is_idle.set()
            await asyncio.wait_for(house.models.stop(), 5)
            await runner
        return house

    return asyncio.run(main())


def explicitly(
    scenario: Callable[[House], Awaitable[None]], folder: Path, prepare: Any = None, load_on_start: tuple[str, ...] = ()
) -> House:
    return running(scenario, folder, prepare, control_mode="explicit", load_on_start=load_on_start)


async def call(house: House, work: Awaitable[None]) -> None:
    """Awaits a request while the fake clock runs."""
    task = asyncio.ensure_future(work)
    while not task.done():
        house.clock.pass_time(0.25)
        await turns()
    await task
