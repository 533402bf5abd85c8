"""The life cycle of models that are loaded and unloaded on request."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from model_house import House, call, explicitly

from gateway.attempts import IndexRow
from gateway.errors import (
    ModelLoadFailed,
    ModelNotInRepository,
    NotServing,
    UnknownModel,
    Unsupported,
)


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
        ({"config": "{}", "file:1/model.onnx": b"x"}, Unsupported, "instead of from the model repository"),
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
