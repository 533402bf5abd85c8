"""The life cycle of models that follow a directory."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest
from model_house import House, running, turns

from gateway.attempts import CHANGED_IN_PLACE, IndexRow
from gateway.errors import ControlNotAllowed


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
        await turns()
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
        await turns()
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
        await turns()
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
