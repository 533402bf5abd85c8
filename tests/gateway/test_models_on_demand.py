"""Models that are loaded by their first request, and leave when others need the memory: decided from what is told."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import pytest

from gateway.attempts import NO_ROOM, ON_DEMAND, Attempt, Backoff, Event, IndexRow
from gateway.lifecycle import State
from gateway.reconcile import Reconciler
from registry.sources import FileStamp, ModelListing, Snapshot, VersionListing

CONFIG = b'parameters { key: "load_on_demand" value { string_value: "true" } }'


def listing(name: str, sizes: Mapping[int, int], *, config: bytes | None = CONFIG, on_demand: bool = False):
    """Versions with the sizes of their files."""
    path = Path("/repository") / name
    versions = {
        version: VersionListing(version, path / str(version), (FileStamp("model.onnx", size, 0, version),))
        for version, size in sizes.items()
    }
    return ModelListing(name, path, MappingProxyType(versions), config, load_on_demand=on_demand)


class House:
    def __init__(self, *models: ModelListing, **options: object) -> None:
        self.events: list[Event] = []
        self.idle: dict[str, float | None] = {}
        self.now = 100.0
        self.reconciler = Reconciler(
            emit=self.events.append, backoff=Backoff(1.0, 8.0), idle_since=lambda name: self.idle.get(name, 0.0),
            **options,  # type: ignore[arg-type]
        )  # fmt: skip
        self.observe(*models)

    def observe(self, *models: ModelListing) -> None:
        self.reconciler.observe(Snapshot({model.name: model for model in models}))

    def decide(self) -> list[str]:
        return [
            f"{type(each).__name__} {each.attempt.model} {each.attempt.version}"
            for each in self.reconciler.decide(self.now)
        ]

    def attempt(self, model: str, state: State) -> Attempt:
        (found,) = self.reconciler._models[model].in_state(state)
        return found

    def ask(self, model: str, version: int | None = None) -> str | None:
        return self.reconciler.demand(model, version, self.now)

    def load(self, model: str, nbytes: int = 0) -> None:
        assert self.ask(model) == ""
        assert f"Load {model} 1" in self.decide()
        self.reconciler.loaded(self.attempt(model, State.LOADING), "digest", self.now, nbytes)

    def gone(self, model: str) -> None:
        self.reconciler.unloaded(self.attempt(model, State.UNLOADING), self.now)

    def row(self, model: str) -> IndexRow:
        (found,) = [row for row in self.reconciler.index() if row.name == model]
        return found

    def actions(self, model: str) -> list[str]:
        return [event.action for event in self.events if event.model == model]


def test_a_model_on_demand_is_listed_and_not_loaded_until_somebody_asks():
    house = House(listing("m", {1: 10, 2: 10}))
    assert house.decide() == []
    assert house.row("m") == IndexRow("m", "2", "UNAVAILABLE", ON_DEMAND, is_awaited=True)
    assert house.reconciler.is_ready()
    assert house.ask("m") == ""
    assert house.decide() == ["Load m 2"]
    assert house.row("m") == IndexRow("m", "2", "LOADING", "", is_awaited=True)
    assert house.reconciler.is_ready(), "a server is as ready while it loads what somebody asked for"
    house.reconciler.loaded(house.attempt("m", State.LOADING), "digest", house.now)
    assert house.row("m") == IndexRow("m", "2", "READY")


def test_a_source_may_say_so_too():
    house = House(listing("m", {1: 10}, config=None, on_demand=True))
    assert (house.decide(), house.ask("m"), house.decide()) == ([], "", ["Load m 1"])


def test_nobody_waits_for_what_is_not_chosen_not_known_or_not_on_demand():
    house = House(listing("m", {1: 10, 2: 10}), listing("always", {1: 10}, config=None))
    assert (house.ask("m", 1), house.ask("other"), house.ask("always")) == (None, None, None)
    house.reconciler.shut()
    assert house.ask("m") is None


def test_in_explicit_mode_load_requests_alone_count():
    house = House(listing("m", {1: 10}), is_explicit=True)
    house.reconciler.request("m")
    assert house.decide() == ["Load m 1"]
    assert house.ask("m") is None


def test_the_parameter_takes_true_or_false_only():
    house = House(listing("m", {1: 10}, config=CONFIG.replace(b"true", b"sometimes")))
    assert house.decide() == []
    assert "parameters.load_on_demand takes true or false, not 'sometimes'" in house.row("m").reason.replace(":", "")


def test_a_load_that_failed_is_not_waited_for_until_it_is_tried_again():
    house = House(listing("m", {1: 10}))
    house.ask("m")
    house.decide()
    house.reconciler.failed(house.attempt("m", State.LOADING), "no such operator", house.now)
    assert house.ask("m") == "version 1 of model 'm' is not at ready state: no such operator"
    house.now += 1.0
    assert house.ask("m") == ""
    assert house.decide() == ["Load m 1"]


def test_a_new_version_takes_over_from_one_that_was_asked_for():
    house = House(listing("m", {1: 10}))
    house.load("m")
    house.observe(listing("m", {1: 10, 2: 10}))
    assert house.decide() == ["Load m 2"]
    house.reconciler.loaded(house.attempt("m", State.LOADING), "digest", house.now)
    assert house.decide() == ["Unload m 1"]


def test_a_model_that_becomes_on_demand_stays_until_its_memory_is_needed():
    house = House(listing("m", {1: 10}, config=None))
    house.decide()
    house.reconciler.loaded(house.attempt("m", State.LOADING), "digest", house.now, 60)
    house.observe(listing("m", {1: 10}, config=None, on_demand=True))
    assert house.decide() == []
    assert house.row("m").state == "READY"


@pytest.fixture
def full() -> House:
    """100 bytes for three models; `a` and `b` are loaded and take 40 each as measured."""
    house = House(*(listing(name, {1: 30}) for name in "abc"), memory_bytes=100)
    for name in "ab":
        house.load(name, 40)
    return house


def test_the_least_recently_used_leaves_for_the_next_which_waits_for_it(full: House):
    full.idle.update(a=20.0, b=10.0)
    assert full.ask("c") == ""
    assert full.decide() == ["Unload b 1"]
    assert full.row("b") == IndexRow("b", "1", "UNLOADING", "", is_awaited=True)
    assert full.decide() == []
    full.gone("b")
    assert full.row("b") == IndexRow("b", "1", "UNAVAILABLE", ON_DEMAND, is_awaited=True)
    assert full.decide() == ["Load c 1"]
    assert full.reconciler.capacity().evictions == {"b": 1}
    assert full.actions("b")[-3:] == ["model-evicted", "version-unloading", "version-unloaded"]


def test_what_is_in_flight_never_leaves(full: House):
    full.idle.update(a=20.0, b=None)
    full.ask("c")
    assert full.decide() == ["Unload a 1"]


def test_what_does_not_fit_is_refused_says_why_and_is_asked_for_again(full: House):
    full.idle.update(a=None, b=None)
    assert full.ask("c") == ""
    assert full.decide() == []
    row = full.row("c")
    assert row.state == "UNAVAILABLE"
    assert row.reason.startswith(f"{NO_ROOM}: it needs 30 bytes of memory; models may take 100, and 80 are taken")
    assert full.ask("c") == f"version 1 of model 'c' is not at ready state: {row.reason}"
    full.idle.update(a=5.0)
    full.now += 1.0
    assert full.ask("c") == ""
    assert full.decide() == ["Unload a 1"]
    assert full.actions("c").count("version-refused") == 1


def test_a_model_loaded_for_good_never_leaves_and_is_refused_like_any_other():
    house = House(
        listing("a", {1: 60}, config=None), listing("b", {1: 60}, config=None), memory_bytes=100, load_parallelism=1
    )
    assert house.decide() == ["Load a 1"]
    house.reconciler.loaded(house.attempt("a", State.LOADING), "digest", house.now, 60)
    assert house.decide() == []
    assert house.row("b").reason.startswith(NO_ROOM)
    house.now += 1.0
    assert house.decide() == []
    assert house.actions("b") == ["version-refused"], "told once, tried for ever"


def test_the_measured_size_counts_when_a_model_comes_back(full: House):
    full.idle.update(a=10.0, b=20.0)
    full.ask("c")
    assert full.decide() == ["Unload a 1"]
    full.gone("a")
    full.decide()
    full.reconciler.loaded(full.attempt("c", State.LOADING), "digest", full.now, 50)
    full.idle.update(c=30.0)
    assert full.ask("a") == ""
    assert full.decide() == ["Unload b 1"], "40 bytes are needed, 10 are free"
    assert full.reconciler.capacity().loaded == {("b", 1): 40, ("c", 1): 50}


def test_what_grows_beyond_the_limit_makes_an_idle_one_leave(full: House):
    full.idle.update(a=20.0, b=10.0)
    full.reconciler.measured(full.attempt("a", State.READY), 70)
    assert full.decide() == ["Unload b 1"]


def test_two_that_are_asked_for_at_once_share_the_room_they_are_given():
    house = House(*(listing(name, {1: 40}) for name in "abcd"), memory_bytes=100)
    for name in "ab":
        house.load(name, 50)
    house.ask("c")
    house.ask("d")
    assert sorted(house.decide()) == ["Unload a 1", "Unload b 1"]
    house.gone("a")
    assert house.decide() == ["Load c 1"]
    house.gone("b")
    assert house.decide() == ["Load d 1"]


def test_a_request_for_one_that_leaves_has_it_loaded_again(full: House):
    full.idle.update(a=20.0, b=10.0)
    full.ask("c")
    full.decide()
    full.idle.update(a=None)
    assert full.ask("b") == ""
    full.gone("b")
    assert full.decide() == ["Load b 1"], "the names' order decides between two that wait"
