"""Several gateways on one catalog: one leads, all follow, any may take traffic back; and whatever is lost, when and in
which order, no canary gets more traffic than was written down."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from rollout_house import LEASE, MODEL, Gateway, House

from gateway.rollouts.status import State


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    house = House(tmp_path, gateways=3)
    yield house
    house.close()


def weights(house: House) -> list[float]:
    return [gateway.plane.weight for gateway in house.gateways]


def leaders(house: House) -> list[Gateway]:
    return [
        gateway
        for gateway in house.gateways
        if any(sample.is_leading for sample in gateway.controller.samples())
    ]


def test_one_leads_and_all_route_alike(house: House) -> None:
    id = house.begin()
    assert len(leaders(house)) == 1
    house.serve(2)
    assert weights(house) == [0.1] * 3
    house.serve(60)
    assert house.state(id) in ("terminating", "promoted")
    assert house.champion == 2


def test_requests_of_all_count_together(house: House) -> None:
    id = house.begin()
    house.serve(1)
    house.turn()
    assert house.service.get(id)["canary"]["requests"] == 30
    assert house.service.get(id)["stable"]["requests"] == 270


def test_one_failure_at_each_is_enough_together(house: House) -> None:
    id = house.begin()
    house.turn(2)
    for gateway in house.gateways:
        gateway.plane.traffic(10, failed=1)
        assert gateway.plane.weight == 0.1, "one failure alone says too little"
    house.turn(2)
    assert house.state(id) == "rolled_back"
    assert weights(house) == [0.0] * 3


def test_one_gateway_takes_traffic_back_and_the_others_follow_within_two_looks(house: House) -> None:
    id = house.begin()
    house.turn(2)
    (leader,) = leaders(house)
    other = next(gateway for gateway in house.gateways if gateway is not leader)
    other.plane.traffic(10, failed=5)
    assert other.plane.weight == 0.0
    house.turn(2)
    assert weights(house) == [0.0] * 3
    assert house.state(id) == "rolled_back"


def test_when_the_leader_is_gone_another_leads_after_its_lease(house: House) -> None:
    id = house.begin()
    house.turn(2)
    (leader,) = leaders(house)
    house.gateways.remove(leader)
    house.turn(4, seconds=0.5)
    assert leaders(house) == [], "the lease is still another's"
    house.clock.time += LEASE
    house.turn(2)
    assert len(leaders(house)) == 1
    house.serve(60)
    assert house.state(id) in ("terminating", "promoted")


def test_a_leader_that_says_farewell_is_followed_at_once(house: House) -> None:
    house.begin()
    house.turn(2)
    (leader,) = leaders(house)
    house.gateways.remove(leader)
    asyncio.run(leader.controller.close())
    house.turn()
    assert len(leaders(house)) == 1


def test_one_that_is_cut_off_stays_where_it_is_and_the_others_go_on(house: House) -> None:
    id = house.begin()
    house.turn(2)
    cut = house.gateways[0]
    cut.is_partitioned = True
    house.clock.time += LEASE + 1
    house.serve(40)
    assert cut.plane.weight == 0.1
    assert house.state(id) in ("terminating", "promoted")
    cut.is_partitioned = False
    house.turn(2)
    assert weights(house) == [1.0] * 3 or house.state(id) == "promoted"


def test_one_that_is_cut_off_still_takes_traffic_back_for_all_in_the_end(house: House) -> None:
    id = house.begin()
    house.turn(2)
    cut = house.gateways[1]
    cut.is_partitioned = True
    cut.plane.traffic(10, failed=5)
    assert cut.plane.weight == 0.0
    house.turn(2)
    assert house.state(id) == "progressing"
    cut.is_partitioned = False
    house.turn(3)
    assert house.state(id) == "rolled_back"
    assert weights(house) == [0.0] * 3


def test_one_that_comes_late_joins_where_the_rollout_is(house: House) -> None:
    house.begin()
    house.turn(2)
    late = Gateway(house, "late")
    late.start()
    late.models.load({1})
    house.gateways.append(late)
    assert late.plane.weight == 0.0
    house.turn(3)
    assert late.plane.weight == 0.1
    assert late.models.ready == {1, 2}


class TestReadiness:
    def test_no_step_is_taken_before_the_canary_is_ready_at_every_gateway(self, house: House) -> None:
        slow = house.gateways[2]
        slow.models.slow = {2}
        id = house.begin()
        house.turn(20)
        assert (house.state(id), weights(house)) == ("waiting", [0.0] * 3)
        slow.models.slow = set()
        house.turn(3)
        assert weights(house) == [0.1] * 3

    def test_one_that_loses_it_holds_the_next_step(self, house: House) -> None:
        house.begin()
        house.turn(2)
        slow = house.gateways[1]
        slow.models.slow = {2}
        slow.models.load({1})
        house.serve(60)
        assert weights(house) == [0.1] * 3
        slow.models.slow = set()
        house.serve(60)
        assert house.champion == 2

    def test_one_that_is_gone_is_not_waited_for(self, house: House) -> None:
        gone = house.gateways[2]
        gone.models.slow = {2}
        house.begin()
        house.gateways.remove(gone)
        house.turn(4)
        assert weights(house) == [0.0] * 2
        house.clock.time += LEASE
        house.turn(4)
        assert weights(house) == [0.1] * 2

    def test_a_canary_that_one_cannot_load_ends_the_rollout_for_all(self, house: House) -> None:
        house.gateways[1].models.failing = {2: "no memory"}
        id = house.begin()
        house.turn(2)
        assert house.state(id) == "failed"
        assert house.service.get(id)["reason"] == "at another gateway: no memory"
        assert weights(house) == [0.0] * 3

    def test_after_the_promotion_one_that_cannot_load_it_takes_nothing_back(self, house: House) -> None:
        id = house.begin()
        house.service.command(id, "promote", None, "")
        house.turn(2)
        house.gateways[1].models.failing = {2: "no memory"}
        house.gateways[1].crash()
        house.turn(3)
        assert (house.state(id), house.champion) == ("terminating", 2)


class Chaos(RuleBasedStateMachine):
    """Everything that may happen to three gateways and their catalog, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.house = House(Path(self.folder.name), gateways=3)
        self.id = self.house.begin()
        self.highest = 0.0  # of the weights that the catalog has ever allowed
        self.is_aborted = False

    def teardown(self) -> None:
        self.house.close()
        self.folder.cleanup()

    @rule(number=st.integers(0, 2), requests=st.integers(1, 400), failed=st.integers(0, 1))
    def serve(self, number: int, requests: int, failed: int) -> None:
        self.house.gateways[number].plane.traffic(requests, failed)

    @rule(times=st.integers(1, 6), seconds=st.sampled_from([0.1, 0.5, 1.0, 30.0]))
    def time_passes(self, times: int, seconds: float) -> None:
        self.house.turn(times, seconds)

    @rule(number=st.integers(0, 2))
    def one_looks(self, number: int) -> None:
        self.house.gateways[number].turn()

    @rule(number=st.integers(0, 2))
    def crash(self, number: int) -> None:
        gateway = self.house.gateways[number]
        loaded = set(gateway.models.ready)
        gateway.crash()
        gateway.models.load(loaded)

    @rule(number=st.integers(0, 2))
    def partition(self, number: int) -> None:
        self.house.gateways[number].is_partitioned ^= True

    @rule()
    def the_database_goes_or_comes(self) -> None:
        self.house.is_down ^= True

    @rule(number=st.integers(0, 2))
    @precondition(lambda self: not self.is_aborted)
    def abort(self, number: int) -> None:
        gateway = self.house.gateways[number]
        if self.id in gateway.controller._followers:
            gateway.abort(self.id)
            self.is_aborted = True
            assert gateway.plane.weight == 0.0 or gateway.plane.routes[MODEL].stable == 2

    @invariant()
    def no_canary_has_more_than_was_written(self) -> None:
        row = self.house.catalog.rollouts.get(self.id)
        allowed = 1.0 if row.state in (State.TERMINATING.value, State.PROMOTED.value) else row.status["weight"]
        self.highest = max(self.highest, allowed)
        for gateway in self.house.gateways:
            assert gateway.plane.weight <= self.highest

    @invariant()
    def weights_are_shares_and_a_route_has_a_stable_version(self) -> None:
        for gateway in self.house.gateways:
            for route in gateway.plane.routes.values():
                assert 0.0 <= sum(arm.weight for arm in route.arms) <= 1.0
                assert route.stable in (1, 2)

    @invariant()
    def what_may_be_both_loaded_is_routed_on_purpose(self) -> None:
        for gateway in self.house.gateways:
            assert len(gateway.models.ready) < 2 or MODEL in gateway.plane.routes

    def settle(self) -> None:
        self.house.is_down = False
        for gateway in self.house.gateways:
            gateway.is_partitioned = False
        self.house.clock.time += LEASE + 1
        self.house.turn(6)

    @rule()
    def everything_heals_and_all_agree(self) -> None:
        self.settle()
        row = self.house.catalog.rollouts.get(self.id)
        assert self.house.catalog.verify_audit() is None
        weights_now = {gateway.plane.weight for gateway in self.house.gateways}
        assert len(weights_now) == 1
        if self.is_aborted:
            assert not row.is_active
            assert self.house.champion == (2 if row.state == "promoted" else 1)
        if row.state in ("rolled_back", "failed"):
            assert weights_now == {0.0}
            assert all(gateway.models.ready == {1} for gateway in self.house.gateways)


TestChaos = Chaos.TestCase
TestChaos.settings = settings(
    max_examples=8, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)
)


@given(st.lists(st.sampled_from(["turn", "crash", "serve", "down", "up"]), max_size=25))
@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
def test_wherever_a_gateway_is_killed_a_good_rollout_ends_well(
    tmp_path_factory: pytest.TempPathFactory, steps: list[str]
) -> None:
    house = House(tmp_path_factory.mktemp("house"))
    id = house.begin()
    for step in steps:
        match step:
            case "turn":
                house.turn()
            case "crash":
                house.gateway.crash()
            case "serve":
                house.serve(2)
            case _:
                house.is_down = step == "down"
    house.is_down = False
    house.clock.time += LEASE + 1
    for _ in range(30):
        house.serve(5)
        if house.state(id) == "promoted":
            break
    house.turn(4)
    assert (house.state(id), house.champion) == ("promoted", 2)
    assert house.gateway.models.ready == {2}
    assert house.gateway.plane.routes == {}
    house.close()
