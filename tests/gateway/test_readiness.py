"""Whether a server is ready while some of its models are not."""

from __future__ import annotations

import pytest
from reconciler_house import House, listing, snapshot

from gateway.lifecycle import State
from registry.sources import ModelListing, Snapshot


def fail(house: House, version: int = 1) -> None:
    house.decide()
    house.reconciler.failed(house.loading(version), "not a model", house.now)
    house.decide()


def serving(**options: object) -> House:
    """A server that is ready with one model."""
    house = House(**options)
    house.reconciler.observe(snapshot(good=[1]))
    house.load(1)
    assert house.reconciler.is_ready()
    return house


def test_a_first_version_that_loads_or_cannot_be_loaded_takes_no_server_out_of_rotation():
    house = serving()
    house.reconciler.observe(snapshot(good=[1], new=[7]))
    house.decide()
    assert house.reconciler.is_ready(), "while it loads"
    fail(house, 7)
    assert house.reconciler.is_ready()


@pytest.mark.parametrize(
    "new",
    [
        listing("new", [1], "ensemble_scheduling {}"),
        ModelListing("new", listing("new", []).path, problem="version 1 may not be served", is_chosen=True),
    ],
    ids=["a configuration that is refused", "nothing that may be served"],
)
def test_a_model_that_nothing_can_be_loaded_of_takes_no_server_out_also_after_a_restart(new: ModelListing):
    house = serving()
    house.reconciler.observe(snapshot(good=[1], new=new))
    house.decide()
    assert house.reconciler.is_ready()
    again = House()
    again.reconciler.observe(snapshot(good=[1], new=new))
    assert not again.reconciler.is_ready()
    again.load(1)
    assert again.reconciler.is_ready()


def test_a_server_that_starts_beside_a_broken_model_is_ready_when_that_has_failed():
    house = House()
    house.reconciler.observe(snapshot(good=[1], new=[7]))
    house.decide()
    house.reconciler.loaded(house.loading(1), "", house.now)
    assert not house.reconciler.is_ready(), "the other may still come up"
    house.reconciler.failed(house.loading(7), "not a model", house.now)
    assert house.reconciler.is_ready()


def test_a_server_that_starts_waits_for_what_is_on_its_way():
    house = House()
    folder = listing("new", []).path
    pulled = ModelListing("new", folder, problem="version 1 is on its way", is_chosen=True, is_awaited=True)
    house.reconciler.observe(snapshot(good=[1], new=pulled))
    house.load(1)
    assert not house.reconciler.is_ready()
    house.reconciler.observe(snapshot(good=[1], new=[7]))
    house.load(7)
    assert house.reconciler.is_ready()


def test_a_server_of_which_no_model_can_be_loaded_is_not_ready():
    house = House()
    house.reconciler.observe(snapshot(new=[1]))
    fail(house)
    assert not house.reconciler.is_ready()


def test_a_late_model_counts_from_its_first_answer():
    house = serving()
    house.reconciler.observe(snapshot(good=[1], new=[7]))
    house.load(7)
    house.reconciler.died(house.in_state(7, State.READY), "killed by SIGSEGV", house.now)
    assert not house.reconciler.is_ready()


def test_a_model_that_nothing_may_be_served_of_any_more_takes_no_server_out():
    house = House()
    house.reconciler.observe(snapshot(good=[1], bad=[7]))
    house.load(1, 7)
    house.reconciler.observe(snapshot(good=[1], bad=[]))
    assert house.decide() == ["Unload bad 7"]
    assert house.reconciler.is_ready()


def test_strict_readiness_has_every_model_count():
    house = serving(is_strict=True)
    house.reconciler.observe(snapshot(good=[1], new=[7]))
    assert not house.reconciler.is_ready()
    fail(house, 7)
    assert not house.reconciler.is_ready()
    house.reconciler.observe(Snapshot({"good": listing("good", [1])}))
    house.decide()
    assert house.reconciler.is_ready()


def test_a_load_request_that_fails_takes_no_server_out_and_a_required_model_does():
    house = House(is_explicit=True)
    house.reconciler.observe(snapshot(good=[1], new=[7], named=[5]))
    house.reconciler.request("good", is_required=True)
    assert not house.reconciler.is_ready()
    house.load(1)
    house.reconciler.request("new")
    fail(house, 7)
    assert house.reconciler.is_ready()
    house.reconciler.request("named", is_required=True)
    fail(house, 5)
    assert not house.reconciler.is_ready()
