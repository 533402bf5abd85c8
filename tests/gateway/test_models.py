"""The life cycle of models over a real directory, with workers, data plane and clock moved by hand."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from gateway.attempts import CHANGED_IN_PLACE, Event, IndexRow
from gateway.errors import (
    ControlNotAllowed,
    LoadFailed,
    ModelLoadFailed,
    ModelNotInRepository,
    NotServing,
    UnknownModel,
    Unsupported,
)
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
        return Description((X,), (Y,), 0, 0.0)

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
    """`Models` over a real directory, with fakes around."""

    def __init__(self, folder: Path, **settings: Any) -> None:
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
            await asyncio.sleep(0.001)
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
            await asyncio.sleep(0.005)

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
                await asyncio.sleep(0.001)
            await scenario(house)
            house.publisher.is_idle.set()
            await asyncio.wait_for(house.models.stop(), 5)
            await runner
        return house

    return asyncio.run(main())


def test_the_latest_version_is_served(tmp_path: Path):
    async def scenario(house: House) -> None:
        await house.look()
        await house.until(house.models.is_ready)
        assert house.serving() == {("m", 2): "good"}
        assert house.models.ready_versions("m") == (2,)
        assert house.models.index(is_ready=True) == [IndexRow("m", "2", "READY")]
        plan = house.models.plan("m", 2)
        assert plan is not None
        assert plan.max_batch_size == 128
        assert house.models.plan("m", 1) is None

    def prepare(house: House) -> None:
        house.put("m", 1)
        house.put("m", 2)

    house = running(scenario, tmp_path, prepare)
    assert house.log == ["publish m 2", "withdraw m 2", "stop m 2"]
    assert house.actions("m") == ["version-loading", "version-ready", "version-unloading", "version-unloaded"]
    assert list((tmp_path / "cache").iterdir()) == []


def test_nothing_is_ready_before_the_first_two_looks(tmp_path: Path):
    async def scenario(house: House) -> None:
        await house.until(lambda: house.models._watch._looks == 1)
        assert not house.models.is_ready()

    running(scenario, tmp_path, lambda house: house.put("m", 1))


def test_a_new_version_is_published_before_the_old_one_drains(tmp_path: Path):
    async def scenario(house: House) -> None:
        await house.look()
        await house.until(house.models.is_ready)
        house.publisher.is_idle.clear()
        house.put("m", 2, "better")
        await house.look(3)
        await house.until(lambda: "withdraw m 1" in house.log)
        assert house.log == ["publish m 1", "publish m 2", "withdraw m 1"]
        assert house.serving() == {("m", 2): "better"}
        assert IndexRow("m", "1", "UNLOADING", "") in house.models.index()
        house.publisher.is_idle.set()
        await house.until(lambda: "stop m 1" in house.log)
        await house.until(lambda: IndexRow("m", "1", "UNAVAILABLE", "unloaded") in house.models.index())

    running(scenario, tmp_path, lambda house: house.put("m", 1))


def test_a_half_written_version_is_not_looked_at(tmp_path: Path):
    async def scenario(house: House) -> None:
        await house.look()
        await house.until(house.models.is_ready)
        for text in ("b", "be", "bet", "bett"):
            house.put("m", 2, text)
            await house.look(1)
        assert house.serving() == {("m", 1): "good"}
        assert house.actions("m") == ["version-loading", "version-ready"]
        await house.look(1)
        await house.until(lambda: ("m", 2) in house.serving())
        assert house.serving()["m", 2] == "bett"

    running(scenario, tmp_path, lambda house: house.put("m", 1))


def test_a_broken_version_leaves_the_good_one_alone_and_is_tried_again(tmp_path: Path):
    async def scenario(house: House) -> None:
        await house.look()
        await house.until(house.models.is_ready)
        house.put("m", 2, "bad")
        await house.look(3)
        await house.until(lambda: "version-load-failed" in house.actions())
        assert house.serving() == {("m", 1): "good"}
        assert house.models.is_ready()
        assert IndexRow("m", "2", "UNAVAILABLE", "not a model") in house.models.index()
        house.clock.pass_time(1.0)
        await house.until(lambda: house.actions().count("version-load-failed") == 2)
        house.put("m", 2, "repaired")
        await house.look(3)
        await house.until(lambda: ("m", 2) in house.serving())

    running(scenario, tmp_path, lambda house: house.put("m", 1))


def test_the_wrong_file_name_fails_once_with_what_is_there(tmp_path: Path):
    async def scenario(house: House) -> None:
        await house.look()
        await house.until(lambda: "version-load-failed" in house.actions())
        (row,) = house.models.index()
        assert "'net.onnx' is not in version 1, which holds model.onnx" in row.reason
        house.clock.pass_time(1000.0)
        await house.look(1)
        assert house.actions("m").count("version-loading") == 1
        assert not house.models.is_ready()

    running(scenario, tmp_path, lambda house: house.put("m", 1, config="default_model_filename: 'net.onnx'"))


def test_a_model_file_may_lie_in_a_folder_of_its_name(tmp_path: Path):
    async def scenario(house: House) -> None:
        await house.look()
        await house.until(house.models.is_ready)
        assert house.serving() == {("m", 1): "in a folder"}

    def prepare(house: House) -> None:
        folder = house.root / "m" / "1" / "model.onnx"
        folder.mkdir(parents=True)
        (folder / "model.onnx").write_text("in a folder")

    running(scenario, tmp_path, prepare)


def test_an_unexpected_error_fails_one_load_and_nothing_else(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    async def scenario(house: House) -> None:
        await house.look()
        await house.until(lambda: ("n", 1) in house.serving())
        await house.until(lambda: "version-load-failed" in house.actions("m"))
        assert "internal error: RuntimeError: nobody expected this" in house.models.index()[0].reason

    def prepare(house: House) -> None:
        house.put("m", 1, "odd")
        house.put("n", 1)

    running(scenario, tmp_path, prepare)
    assert "this is a bug" in caplog.text


def test_no_more_load_at_once_than_allowed(tmp_path: Path):
    async def scenario(house: House) -> None:
        await house.look()
        await house.until(lambda: house.launcher.loading == 2)
        await asyncio.sleep(0.01)
        assert house.launcher.loading == 2
        house.launcher.release.set()
        await house.until(house.models.is_ready)
        assert house.launcher.most_loading == 2

    def prepare(house: House) -> None:
        for name in "abcd":
            house.put(name, 1, "slow")

    running(scenario, tmp_path, prepare, load_parallelism=2)


def test_files_that_change_in_place_are_refused_and_what_was_loaded_goes_on(tmp_path: Path):
    async def scenario(house: House) -> None:
        await house.look()
        await house.until(house.models.is_ready)
        house.put("m", 1, "overwritten")
        await house.look(3)
        await house.until(lambda: "version-changed-in-place" in house.actions())
        assert house.serving() == {("m", 1): "good"}
        assert house.models.index() == [IndexRow("m", "1", "READY", CHANGED_IN_PLACE)]
        assert house.actions("m").count("version-loading") == 1

    running(scenario, tmp_path, lambda house: house.put("m", 1))


def test_files_that_are_only_written_again_are_no_change(tmp_path: Path):
    async def scenario(house: House) -> None:
        await house.look()
        await house.until(house.models.is_ready)
        path = house.put("m", 1)
        path.unlink()
        house.put("m", 1)
        await house.look(3)
        await house.until(lambda: house.models._reconciler._models["m"].attempts[0].seen)
        await asyncio.sleep(0.02)
        assert house.models.index() == [IndexRow("m", "1", "READY")]

    running(scenario, tmp_path, lambda house: house.put("m", 1))


def test_a_configuration_change_swaps_the_same_version(tmp_path: Path):
    async def scenario(house: House) -> None:
        await house.look()
        await house.until(house.models.is_ready)
        (first,) = house.launcher.groups
        (house.root / "m" / "config.pbtxt").write_text("instance_group { count: 3 }")
        await house.look(3)
        await house.until(lambda: first.is_stopped)
        assert house.log == ["publish m 1", "publish m 1", "withdraw m 1", "stop m 1"]
        assert house.publisher.routes["m", 1] is house.launcher.groups[1]
        plan = house.models.plan("m", 1)
        assert plan is not None
        assert [placement.count for placement in plan.placements] == [3]

    running(scenario, tmp_path, lambda house: house.put("m", 1))


def test_fields_that_are_ignored_are_told(tmp_path: Path):
    async def scenario(house: House) -> None:
        await house.look()
        await house.until(house.models.is_ready)
        await house.until(lambda: "config-fields-ignored" in house.actions("m"))

    running(scenario, tmp_path, lambda house: house.put("m", 1, config="response_cache { enable: true }"))


def test_a_repository_that_vanishes_keeps_everything_serving_and_recovers(tmp_path: Path):
    async def scenario(house: House) -> None:
        await house.look()
        await house.until(house.models.is_ready)
        house.root.rename(tmp_path / "away")
        await house.look(3)
        assert house.serving() == {("m", 1): "good"}
        assert house.models.is_ready()
        assert house.actions().count("repository-unavailable") == 1
        (tmp_path / "away").rename(house.root)
        house.put("m", 2, "newer")
        await house.look(3)
        await house.until(lambda: ("m", 2) in house.serving())
        assert "repository-recovered" in house.actions()

    running(scenario, tmp_path, lambda house: house.put("m", 1))


def test_a_repository_that_is_not_there_yet_is_waited_for(tmp_path: Path):
    async def scenario(house: House) -> None:
        await house.until(lambda: "repository-unavailable" in house.actions())
        assert not house.models.is_ready()
        house.put("m", 1)
        await house.look(3)
        await house.until(house.models.is_ready)

    running(scenario, tmp_path, lambda house: house.root.rmdir())


def test_a_model_that_is_removed_drains_and_leaves(tmp_path: Path):
    async def scenario(house: House) -> None:
        await house.look()
        await house.until(house.models.is_ready)
        (house.root / "m" / "1" / "model.onnx").unlink()
        await house.look(3)
        await house.until(lambda: house.models.index() == [])
        assert house.log == ["publish m 1", "withdraw m 1", "stop m 1"]

    running(scenario, tmp_path, lambda house: house.put("m", 1))


def test_a_load_that_is_no_longer_wanted_is_called_off(tmp_path: Path):
    async def scenario(house: House) -> None:
        await house.look()
        await house.until(lambda: house.launcher.loading == 1)
        (house.root / "m" / "1" / "model.onnx").unlink()
        await house.look(3)
        await house.until(lambda: house.models.index() == [])
        assert house.log == []

    running(scenario, tmp_path, lambda house: house.put("m", 1, "slow"))


def test_instances_that_keep_dying_suspend_the_version_until_one_is_up(tmp_path: Path):
    async def scenario(house: House) -> None:
        await house.look()
        await house.until(house.models.is_ready)
        (group,) = house.launcher.groups
        group.on_failed("killed by SIGSEGV")
        assert house.serving() == {}
        assert not house.models.is_ready()
        assert house.models.index() == [IndexRow("m", "1", "UNAVAILABLE", "killed by SIGSEGV")]
        group.on_recovered()
        assert house.serving() == {("m", 1): "good"}
        assert house.models.is_ready()

    running(scenario, tmp_path, lambda house: house.put("m", 1))


def test_stopping_calls_loads_off_and_drains_the_rest(tmp_path: Path):
    async def scenario(house: House) -> None:
        await house.look()
        await house.until(lambda: ("m", 1) in house.serving() and house.launcher.loading == 1)

    def prepare(house: House) -> None:
        house.put("m", 1)
        house.put("n", 1, "slow")

    house = running(scenario, tmp_path, prepare)
    assert house.log == ["publish m 1", "withdraw m 1", "stop m 1"]
    assert house.models.index(is_ready=True) == []


def test_being_cancelled_stops_instances_without_a_drain(tmp_path: Path):
    async def main() -> list[str]:
        house = House(tmp_path)
        house.put("m", 1)
        runner = asyncio.create_task(house.models.run())
        await house.look()
        await house.until(house.models.is_ready)
        runner.cancel()
        await house.until(runner.done)
        return house.log

    assert asyncio.run(main()) == ["publish m 1", "stop m 1"]


def test_stopping_what_never_ran_returns(tmp_path: Path):
    async def main() -> None:
        house = House(tmp_path)
        await house.models.stop()

    asyncio.run(main())


def test_mode_none_loads_once(tmp_path: Path):
    async def scenario(house: House) -> None:
        await house.until(lambda: house.models._watch._looks == 1)
        await house.look(1)
        await house.until(house.models.is_ready)
        house.put("m", 2)
        house.clock.pass_time(100.0)
        await asyncio.sleep(0.02)
        assert house.models._watch._looks == 2
        assert house.serving() == {("m", 1): "good"}
        with pytest.raises(ControlNotAllowed):
            await house.models.load_model("m")
        with pytest.raises(ControlNotAllowed):
            await house.models.unload_model("m")

    running(scenario, tmp_path, lambda house: house.put("m", 1), control_mode="none")


def test_listeners_hear_of_every_change_until_they_leave(tmp_path: Path):
    async def scenario(house: House) -> None:
        heard: list[bool] = []
        leave = house.models.subscribe(lambda: heard.append(house.models.is_ready()))
        await house.look()
        await house.until(house.models.is_ready)
        assert heard
        assert heard[-1]
        leave()
        leave()
        count = len(heard)
        house.launcher.groups[0].on_failed("killed")
        assert len(heard) == count

    running(scenario, tmp_path, lambda house: house.put("m", 1))


def test_listeners_hear_that_an_empty_repository_is_ready(tmp_path: Path):
    heard: list[bool] = []

    async def scenario(house: House) -> None:
        await house.until(lambda: heard and heard[-1])

    running(scenario, tmp_path, lambda house: house.models.subscribe(lambda: heard.append(house.models.is_ready())))


def test_listeners_hear_that_a_model_is_forgotten(tmp_path: Path):
    async def scenario(house: House) -> None:
        heard: list[list[IndexRow]] = []
        await house.look()
        await house.until(house.models.is_ready)
        house.models.subscribe(lambda: heard.append(house.models.index()))
        shutil.rmtree(house.root / "m")
        await house.look()
        await house.until(lambda: heard and heard[-1] == [])

    running(scenario, tmp_path, lambda house: house.put("m", 1))


def test_a_version_that_dies_while_it_leaves_refuses_what_it_has_not_answered(tmp_path: Path):
    async def scenario(house: House) -> None:
        await house.look()
        await house.until(house.models.is_ready)
        house.publisher.is_idle.clear()
        house.put("m", 2)
        await house.look()
        await house.until(lambda: "withdraw m 1" in house.log)
        house.launcher.groups[0].on_failed("killed")
        assert house.log[-1] == "suspend m 1"
        assert house.models.ready_versions("m") == (2,)
        house.publisher.is_idle.set()
        await house.until(lambda: "stop m 1" in house.log)

    running(scenario, tmp_path, lambda house: house.put("m", 1))


# Explicit mode


def explicitly(
    scenario: Callable[[House], Awaitable[None]], folder: Path, prepare: Any = None, load_on_start: tuple[str, ...] = ()
) -> House:
    return running(scenario, folder, prepare, control_mode="explicit", load_on_start=load_on_start)


async def call(house: House, work: Awaitable[None]) -> None:
    """Awaits a request while the fake clock runs."""
    task = asyncio.ensure_future(work)
    while not task.done():
        house.clock.pass_time(0.25)
        await asyncio.sleep(0.001)
    await task


def test_a_load_returns_when_the_model_is_ready_and_an_unload_when_it_is_gone(tmp_path: Path):
    async def scenario(house: House) -> None:
        await call(house, house.models.load_model("m"))
        assert house.serving() == {("m", 1): "good"}
        await call(house, house.models.load_model("m"))
        assert house.log == ["publish m 1"]
        await call(house, house.models.unload_model("m", unload_dependents=True))
        assert house.log == ["publish m 1", "withdraw m 1", "stop m 1"]
        assert house.models.index() == [IndexRow("m", "1", "UNAVAILABLE", "unloaded")]
        await call(house, house.models.unload_model("m"))
        await call(house, house.models.load_model("m"))
        assert house.serving() == {("m", 1): "good"}

    explicitly(scenario, tmp_path, lambda house: house.put("m", 1))


@pytest.mark.parametrize("verb", ["load", "unload"])
def test_a_request_that_the_end_interrupts_is_told_so(tmp_path: Path, verb: str):
    async def main() -> None:
        house = House(tmp_path, control_mode="explicit")
        house.put("m", 1, "slow" if verb == "load" else "good")
        runner = asyncio.create_task(house.models.run())
        await house.until(lambda: house.models._has_begun or house.clock.pass_time(0.25))
        if verb == "unload":
            await call(house, house.models.load_model("m"))
            house.publisher.is_idle.clear()
        request = asyncio.ensure_future(
            house.models.load_model("m") if verb == "load" else house.models.unload_model("m")
        )
        await house.until(lambda: house.launcher.loading or "withdraw m 1" in house.log or house.clock.pass_time(0.25))
        runner.cancel()
        with pytest.raises((NotServing, ModelLoadFailed)):
            await request
        await asyncio.gather(runner, return_exceptions=True)

    asyncio.run(main())


def test_a_load_sees_what_is_in_the_source_then(tmp_path: Path):
    async def scenario(house: House) -> None:
        with pytest.raises(ModelNotInRepository):
            await call(house, house.models.load_model("m"))
        house.put("m", 1)
        await call(house, house.models.load_model("m"))
        house.put("m", 2, "newer")
        await call(house, house.models.load_model("m"))
        assert house.models.ready_versions("m") == (2,)

    explicitly(scenario, tmp_path)


def test_a_load_that_fails_says_why_and_keeps_what_serves(tmp_path: Path):
    async def scenario(house: House) -> None:
        await call(house, house.models.load_model("m"))
        house.put("m", 2, "bad")
        with pytest.raises(ModelLoadFailed) as error:
            await call(house, house.models.load_model("m"))
        assert error.value.reason == "version 2: not a model"
        assert house.serving() == {("m", 1): "good"}

    explicitly(scenario, tmp_path, lambda house: house.put("m", 1))


def test_a_load_may_bring_its_configuration(tmp_path: Path):
    async def scenario(house: House) -> None:
        config = '{"max_batch_size": 2, "version_policy": {"all": {}}}'
        await call(house, house.models.load_model("m", {"config": config}))
        assert house.models.ready_versions("m") == (1, 2)
        plan = house.models.plan("m", 1)
        assert plan is not None
        assert plan.max_batch_size == 2
        await call(house, house.models.load_model("m"))
        await house.until(lambda: house.models.ready_versions("m") == (2,))

    def prepare(house: House) -> None:
        house.put("m", 1)
        house.put("m", 2)

    explicitly(scenario, tmp_path, prepare)


@pytest.mark.parametrize(
    ("parameters", "error", "words"),
    [
        ({"config": "{"}, ModelLoadFailed, "config: "),
        ({"config": 3}, ModelLoadFailed, "not a string"),
        ({"config": '{"platform": "tensorrt_plan"}'}, ModelLoadFailed, "platform: "),
        ({"config": "{}", "file:1/model.onnx": b"x"}, Unsupported, "put them into the model repository"),
    ],
)
def test_a_load_with_parameters_that_do_not_do_is_refused(
    tmp_path: Path, parameters: dict[str, Any], error: type[Exception], words: str
):
    async def scenario(house: House) -> None:
        with pytest.raises(error, match=words):
            await call(house, house.models.load_model("m", parameters))
        assert house.models.is_ready()

    explicitly(scenario, tmp_path, lambda house: house.put("m", 1))


def test_an_unload_of_what_nobody_knows_is_refused(tmp_path: Path):
    async def scenario(house: House) -> None:
        with pytest.raises(UnknownModel):
            await house.models.unload_model("x")

    explicitly(scenario, tmp_path)


def test_an_unload_right_after_a_load_calls_it_off(tmp_path: Path):
    async def scenario(house: House) -> None:
        house.models._reconciler.request("m")
        house.models._advance()
        await house.models.unload_model("m")
        assert house.models._reconciler.is_gone("m")
        assert house.log == []

    explicitly(scenario, tmp_path, lambda house: house.put("m", 1), ("nothing",))


def test_a_load_of_a_source_that_is_away_says_so(tmp_path: Path):
    async def scenario(house: House) -> None:
        house.root.rename(tmp_path / "away")
        with pytest.raises(ModelLoadFailed, match="No such file"):
            await call(house, house.models.load_model("m"))

    explicitly(scenario, tmp_path, lambda house: house.put("m", 1))


def test_what_the_settings_name_is_loaded_at_the_start(tmp_path: Path):
    async def scenario(house: House) -> None:
        await house.until(lambda: ("m", 1) in house.serving())
        assert not house.models.is_ready()
        rows = house.models.index()
        assert IndexRow("gone", "", "UNAVAILABLE", "not in the model repository") in rows
        assert any(row.name == "odd" and "platform" in row.reason for row in rows)

    def prepare(house: House) -> None:
        house.put("m", 1)
        house.put("odd", 1, config="platform: 'ensemble'")

    explicitly(scenario, tmp_path, prepare, ("m", "gone", "odd"))


def test_a_star_loads_all_at_the_start(tmp_path: Path):
    async def scenario(house: House) -> None:
        await house.until(lambda: house.serving().keys() == {("m", 1), ("n", 1)})
        assert house.models.is_ready()

    def prepare(house: House) -> None:
        house.put("m", 1)
        house.put("n", 1)

    explicitly(scenario, tmp_path, prepare, ("*",))


def test_a_stopped_life_cycle_takes_no_requests(tmp_path: Path):
    async def main() -> None:
        house = House(tmp_path, control_mode="explicit")
        with pytest.raises(NotServing):
            await house.models.load_model("m")

    asyncio.run(main())
