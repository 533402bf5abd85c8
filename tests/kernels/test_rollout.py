"""Traffic that is divided among versions: who gets which request, what counts as evidence, and who answers in the end.

The lanes' workers are the test's own hand, as in `test_dispatch.py`.
"""

from __future__ import annotations

import math
import select
import time

import numpy as np
import pytest
from dispatch_bench import (
    DEADLINE,
    EXHAUSTED,
    FP32,
    INTERNAL,
    INVALID,
    OK,
    SLOT,
    UNAVAILABLE,
    Answer,
    Bench,
    fail,
    message,
    tensor,
)
from hypothesis import given
from hypothesis import strategies as st

from kernels.deployment import Deployment
from kernels.lanes import Lane, LanePort
from kernels.rollout import ArmTally, Rollout
from kernels.routes import ModelRoute, RouteTable

SALT = bytes(range(16))


class Pair:
    """Version 1 is stable, version 2 is on trial; `work` is a turn of one of their workers."""

    def __init__(self, weight=1.0, *, canary=None, **more):
        self.bench = Bench()
        self.dispatcher = self.bench.dispatcher
        self.stable = self.bench.deployment
        self.canary = self.bench.deploy("2", **(canary or {}))
        self.lanes = {self.stable: self.bench.lanes[0]}
        self.ports = {self.stable: self.bench.ports[self.bench.lanes[0]]}
        self.attach(self.canary)
        self.told = []
        self.dispatcher.on_events = self.told.extend
        self.divide(weight, **more)

    def attach(self, deployment: Deployment):
        lane = Lane(SLOT)
        self.lanes[deployment], self.ports[deployment] = lane, LanePort(*lane.fds)
        deployment.attach(lane)

    def divide(self, weight, **more):
        self.tally = ArmTally("2", weight)
        self.rollout = Rollout("m", self.stable, [(self.canary, weight, self.tally)], **{"first_draw": 1, **more})
        versions = {"1": self.stable, "2": self.canary}
        self.dispatcher.route_table = RouteTable({"m": ModelRoute(self.stable, versions, {"new": "2"}, self.rollout)})

    def send(self, values=((1, 1),), deadline=0.0, **more):
        return Answer(self.bench, message(values, **more), deadline)

    def settle(self):
        self.bench.settle()

    def work(self, deployment, act=None):
        port = self.ports.get(deployment)
        slot = -1 if port is None else port.wait(0)
        if slot < 0:
            return False
        (act or Bench.double)(port, slot)
        deployment.collect(self.lanes[deployment])
        self.settle()
        return True

    def die(self, deployment):
        lane = self.lanes.pop(deployment)
        del self.ports[deployment]
        deployment.detach(lane)
        lane.close()
        self.settle()

    def finish(self):
        """Everything is answered, by the stable version's workers at the latest."""
        while self.work(self.stable) or self.work(self.canary):
            pass
        assert self.dispatcher.in_flight == self.stable.in_flight == self.canary.in_flight == 0

    @property
    def failures(self):
        return [(event.is_canary, event.events, event.code) for event in self.told if event.kind == "failed"]


def plain(weight, **more):
    return Rollout("m", "stable", [("canary", weight, ArmTally("2", weight))], **more)


# Dividing


@given(st.binary(min_size=1, max_size=64), st.floats(0, 1), st.floats(0, 1), st.binary(min_size=16, max_size=16))
def test_raising_a_weight_moves_no_unit_back_to_stable(unit, one, other, salt):
    low, high = sorted((one, other))
    if plain(low, salt=salt).pick_unit(unit) == 0:
        assert plain(high, salt=salt).pick_unit(unit) == 0


@given(st.binary(min_size=1, max_size=64), st.floats(0, 1), st.floats(0, 0.5), st.floats(0, 0.5))
def test_raising_the_last_arm_moves_no_unit_but_from_stable(unit, first, low, more):
    first = min(first, 1 - low - more)
    if first < 0:
        return

    def pick(second):
        arms = [("a", first, ArmTally("2", first)), ("b", second, ArmTally("3", second))]
        return Rollout("m", "s", arms, salt=SALT).pick_unit(unit)

    before, after = pick(low), pick(low + more)
    assert before in (-1, after)


@given(st.binary(min_size=1), st.binary(min_size=16, max_size=16), st.floats(0, 1))
def test_a_unit_goes_the_same_way_every_time(unit, salt, weight):
    assert len({plain(weight, salt=salt, first_draw=draw).pick_unit(unit) for draw in range(4)}) == 1


@pytest.mark.parametrize("weight", [0.01, 0.05, 0.25, 0.5, 0.9])
@pytest.mark.parametrize("how", ["one by one", "by unit"])
def test_an_arm_gets_its_share(weight, how):
    n = 20_000
    rollout = plain(weight, salt=SALT, first_draw=7)
    got = sum(
        (rollout.pick_next() if how == "one by one" else rollout.pick_unit(f"user-{i}".encode())) == 0 for i in range(n)
    )
    assert abs(got - n * weight) < 4.5 * math.sqrt(n * weight * (1 - weight))


def test_draws_are_independent_of_each_other():
    """Runs of one arm are as long as those of a fair coin: a round robin would spoil what is concluded from labels."""
    rollout = plain(0.5, salt=SALT, first_draw=3)
    picks = [rollout.pick_next() for _ in range(20_000)]
    changes = sum(a != b for a, b in zip(picks, picks[1:], strict=False))
    assert abs(changes - 10_000) < 4.5 * math.sqrt(20_000 / 4)


@pytest.mark.parametrize(("weight", "arm"), [(0.0, -1), (1.0, 0)])
def test_nothing_and_everything_are_exact(weight, arm):
    rollout = plain(weight)
    assert {rollout.pick_next() for _ in range(2000)} == {arm}


def test_another_salt_divides_units_in_another_way():
    units = [str(i).encode() for i in range(200)]
    one, other = plain(0.5, salt=SALT), plain(0.5, salt=bytes(16))
    assert [one.pick_unit(unit) for unit in units] != [other.pick_unit(unit) for unit in units]


def test_the_hash_is_siphash():
    """By its authors' vector: key 00 to 0f, message 00 to 0e gives a129ca6149be45e5."""
    share = (0xA129CA6149BE45E5 >> 11) / 2**53
    unit = bytes(range(15))
    assert plain(np.nextafter(share, 1), salt=SALT).pick_unit(unit) == 0
    assert plain(share, salt=SALT).pick_unit(unit) == -1


# Routing


def test_the_arm_answers_in_its_own_name_and_the_request_is_counted():
    pair = Pair(1.0)
    answer = pair.send()
    pair.settle()
    assert pair.work(pair.canary)
    assert (answer.code, answer.body.model_version) == (OK, "2")
    assert pair.tally.counts() == ("2", 1.0, 1, 0, 0, 0, 0)
    pair.divide(0.0)
    answer = pair.send()
    pair.settle()
    assert pair.work(pair.stable)
    assert answer.body.model_version == "1"
    assert pair.tally.counts() == ("2", 0.0, 0, 1, 0, 0, 0)
    assert pair.told == []


@pytest.mark.parametrize("version", ["1", "2", "new"])
def test_a_version_or_an_alias_in_the_path_is_pinned_and_not_counted(version):
    pair = Pair(0.5)
    answers = [pair.send(version=version) for _ in range(20)]
    pair.settle()
    pair.finish()
    assert {answer.body.model_version for answer in answers} == {"1" if version == "1" else "2"}
    assert pair.tally.counts()[2:4] == (0, 0)


def test_an_alias_of_a_version_that_is_not_ready_is_not_ready():
    pair = Pair()
    pair.dispatcher.route_table = RouteTable(
        {"m": ModelRoute(pair.stable, {"1": pair.stable, "2": None}, {"new": "2"})}
    )
    answer = pair.send(version="new")
    assert (answer.code, answer.text) == (
        UNAVAILABLE,
        "Request for unknown model: 'm' version new is not at ready state",
    )


def test_the_share_of_an_arm_that_is_not_ready_goes_to_stable_and_counts_for_nobody():
    pair = Pair()
    rollout = Rollout("m", pair.stable, [(None, 1.0, pair.tally)])
    pair.dispatcher.route_table = RouteTable({"m": ModelRoute(pair.stable, {"1": pair.stable}, {}, rollout)})
    answer = pair.send()
    pair.settle()
    pair.finish()
    assert answer.body.model_version == "1"
    assert pair.tally.counts()[2:4] == (0, 0)


def test_without_a_stable_version_its_share_is_not_ready():
    pair = Pair()
    rollout = Rollout("m", None, [(pair.canary, 0.0, pair.tally)])
    pair.dispatcher.route_table = RouteTable({"m": ModelRoute(None, {"2": pair.canary}, {}, rollout)})
    assert pair.send().code == UNAVAILABLE


def test_requests_stick_by_a_parameter():
    pair = Pair(0.5, sticky=("parameter", "user"), salt=SALT)
    answers = [(user, pair.send(user=user)) for user in range(30) for _ in range(3)]
    pair.settle()
    pair.finish()
    ways = {(user, answer.body.model_version) for user, answer in answers}
    assert len(ways) == 30
    assert {version for _, version in ways} == {"1", "2"}
    assert all((pair.rollout.pick_unit(str(user).encode()) == 0) == (version == "2") for user, version in ways)


# Failures


def test_a_failed_request_of_the_arm_is_answered_by_stable_and_counts_once():
    pair = Pair()
    answer = pair.send()
    pair.settle()
    assert pair.work(pair.canary, fail(INTERNAL))
    assert answer.code is None
    assert pair.failures == [(True, 1, INTERNAL)]
    assert pair.work(pair.stable)
    assert (answer.code, answer.body.model_version, answer.values) == (OK, "1", [[2, 2]])
    assert pair.tally.counts() == ("2", 1.0, 1, 0, 1, 0, 1)
    assert pair.canary.meters.requests(1)[INTERNAL] == 1
    assert pair.stable.meters.requests(1)[OK] == 1
    pair.finish()


def test_without_retry_the_caller_sees_the_failure():
    pair = Pair(retry=False)
    answer = pair.send()
    pair.settle()
    pair.work(pair.canary, fail(INTERNAL, "broken"))
    assert (answer.code, answer.text) == (INTERNAL, "broken")
    assert pair.failures == [(True, 1, INTERNAL)]
    pair.finish()


def test_what_fails_on_stable_too_says_what_stable_said_and_is_counted_for_the_arm_alone():
    pair = Pair()
    answer = pair.send()
    pair.settle()
    pair.work(pair.canary, fail(INTERNAL, "canary"))
    pair.work(pair.stable, fail(INTERNAL, "stable"))
    assert (answer.code, answer.text) == (INTERNAL, "stable")
    assert pair.failures == [(True, 1, INTERNAL)]
    assert pair.tally.counts()[2:] == (1, 0, 1, 0, 1)


def test_stable_failures_are_events_with_the_weight_of_their_time():
    pair = Pair(0.0)
    pair.send()
    pair.settle()
    pair.divide(0.0, retry=False)
    pair.work(pair.stable, fail(UNAVAILABLE))
    while pair.work(pair.stable, fail(UNAVAILABLE)):
        pass
    (event,) = pair.told
    assert (event.model, event.kind, event.is_canary, event.version, event.weight) == ("m", "failed", False, "2", 0.0)


def test_a_failed_batch_counts_what_still_fails_alone():
    pair = Pair()
    answers = [pair.send([[value, 0]]) for value in (1, 13, 3)]

    def picky(port, slot):
        ((_, x),) = port.inputs(slot)
        (fail(INTERNAL) if 13 in x else Bench.double)(port, slot)

    pair.settle()
    while pair.work(pair.canary, picky):
        pass
    pair.finish()
    assert [answer.body.model_version for answer in answers] == ["2", "1", "2"]
    assert pair.failures == [(True, 1, INTERNAL)]
    assert pair.tally.counts()[2:5] == (3, 0, 1)


@pytest.mark.parametrize("code", [INVALID, EXHAUSTED, 5, 7])
def test_the_clients_own_mistakes_are_no_events(code):
    pair = Pair()
    answer = pair.send()
    pair.settle()
    pair.work(pair.canary, fail(code, "yours"))
    pair.work(pair.stable, fail(code, "yours indeed"))
    assert (answer.code, answer.text, pair.failures) == (code, "yours indeed", [])
    pair.finish()


@pytest.mark.parametrize("rows", [1, 5])
def test_a_crash_counts_once_and_all_that_ran_is_answered_by_stable(rows):
    pair = Pair()
    answers = [pair.send([[value, 0]]) for value in range(rows)]
    pair.settle()
    assert pair.ports[pair.canary].wait(0) >= 0
    pair.die(pair.canary)
    assert pair.failures == [(True, 1, UNAVAILABLE)]
    pair.finish()
    assert [answer.values for answer in answers] == [[[2 * value, 0]] for value in range(rows)]
    assert {answer.body.model_version for answer in answers} == {"1"}
    assert pair.failures == [(True, 1, UNAVAILABLE)]


def test_a_crash_of_stable_counts_once_however_often_its_requests_run_again():
    pair = Pair(0.0)
    answers = [pair.send([[value, 0]]) for value in range(3)]
    pair.settle()
    assert pair.ports[pair.stable].wait(0) >= 0
    pair.die(pair.stable)
    pair.attach(pair.stable)
    pair.settle()
    assert pair.ports[pair.stable].wait(0) >= 0
    pair.die(pair.stable)
    pair.attach(pair.stable)
    pair.finish()
    assert {answer.code for answer in answers} == {OK}
    assert pair.failures == [(False, 1, UNAVAILABLE)]


def test_what_waits_at_an_arm_without_workers_is_answered_by_stable_and_what_is_pinned_there_waits():
    pair = Pair()
    running = pair.send()
    pair.settle()
    waiting, pinned = pair.send([[2, 2]] * 8), pair.send([[3, 3]], version="2")
    pair.die(pair.canary)
    while pair.work(pair.stable):
        pass
    assert (running.body.model_version, waiting.body.model_version, pinned.code) == ("1", "1", None)
    later = pair.send()
    pair.settle()
    pair.work(pair.stable)
    assert later.body.model_version == "1"
    pair.attach(pair.canary)
    pair.settle()
    pair.finish()
    assert pinned.body.model_version == "2"


def test_a_pinned_request_that_fails_is_not_retried():
    pair = Pair()
    answer = pair.send(version="2")
    pair.settle()
    pair.work(pair.canary, fail(INTERNAL, "broken"))
    assert (answer.code, answer.text, pair.told) == (INTERNAL, "broken", [])


def test_a_request_that_may_run_once_only_is_not_retried():
    pair = Pair(canary={"idempotent": False})
    answer = pair.send()
    pair.settle()
    pair.work(pair.canary, fail(INTERNAL, "broken"))
    assert (answer.code, answer.text) == (INTERNAL, "broken")
    assert pair.failures == [(True, 1, INTERNAL)]


def test_outputs_of_another_shape_are_a_failure_of_the_arm():
    pair = Pair()
    answer = pair.send()
    pair.settle()
    pair.work(pair.canary, lambda port, slot: port.complete(slot, [(0, FP32, (3, 2), np.zeros((3, 2), "<f4"))], 0, 0))
    pair.finish()
    assert (answer.body.model_version, pair.failures) == ("1", [(True, 1, INTERNAL)])


def nan(port, slot):
    ((_, x),) = port.inputs(slot)
    port.complete(slot, [(0, FP32, x.shape, x * np.float32("nan"))], 0, 0)


def test_an_answer_without_numbers_is_a_failure_of_the_arm_that_stable_makes_good():
    pair = Pair()
    answers = [pair.send([[value, 1]]) for value in (1, 2)]
    pair.settle()
    pair.work(pair.canary, nan)
    pair.finish()
    assert [answer.values for answer in answers] == [[[2, 2]], [[4, 2]]]
    assert pair.failures == [(True, 2, 15)]
    assert pair.tally.counts() == ("2", 1.0, 2, 0, 2, 0, 2)


def test_an_answer_without_numbers_that_nobody_can_better_reaches_the_caller():
    pair = Pair(0.0)
    answer = pair.send()
    pair.settle()
    pair.work(pair.stable, nan)
    assert answer.code == OK
    assert np.isnan(answer.values).all()
    assert pair.failures == [(False, 1, 15)]


def test_an_arm_that_does_not_take_what_stable_takes_has_failed_and_stable_answers():
    pair = Pair(canary={"inputs": [tensor("x", shape=(-1, 3))]})
    answer = pair.send()
    pair.settle()
    pair.finish()
    assert answer.body.model_version == "1"
    assert pair.failures == [(True, 1, 9)]
    refused = pair.send([[1, 1, 1, 1]])
    assert (refused.code, len(pair.failures)) == (INVALID, 1)


def test_what_stable_does_not_take_waits_for_the_arm_as_the_arm_takes_it():
    pair = Pair(canary={"outputs": [tensor("y"), tensor("z", index=1)]})
    pair.stable = pair.bench.deploy("1", [tensor("x", shape=(-1, 2), engine_shape=(-1, 2, 1))])
    pair.attach(pair.stable)
    pair.divide(1.0)
    queued = pair.send([[5, 6]], outputs=[("y", 0), ("z", 0)])
    pair.die(pair.canary)
    later = pair.send([[7, 8]], outputs=[("y", 0), ("z", 0)])
    assert (queued.code, later.code) == (None, None)
    pair.attach(pair.canary)
    pair.settle()
    seen = []

    def both(port, slot):
        ((_, x),) = port.inputs(slot)
        seen.append(x.shape)
        port.complete(slot, [(0, FP32, x.shape, x * 2), (1, FP32, x.shape, x)], 0, 0)

    while pair.work(pair.canary, both):
        pass
    assert {shape[1:] for shape in seen} == {(2,)}
    assert (queued.values, later.values) == ([[10, 12]], [[14, 16]])
    assert (queued.body.model_version, later.body.model_version) == ("2", "2")


def test_inputs_are_bound_afresh_to_stable_whatever_the_arm_made_of_their_order_and_shape():
    pair = Pair()
    pair.canary = pair.bench.deploy("2", [tensor("x", shape=(-1, 2), engine_shape=(-1, 2, 1))])
    pair.attach(pair.canary)
    pair.divide(1.0)
    answer = pair.send([[5, 6]])
    pair.settle()
    seen = []

    def look(port, slot):
        seen.append(port.inputs(slot)[0][1].shape)
        port.fail(slot, INTERNAL, "no")

    pair.work(pair.canary, look)
    pair.work(pair.stable, lambda port, slot: (seen.append(port.inputs(slot)[0][1].shape), Bench.double(port, slot)))
    assert seen == [(1, 2, 1), (1, 2)]
    assert answer.values == [[10, 12]]


def pass_time(moment):
    while time.monotonic() <= moment:
        pass


def test_past_its_deadline_nothing_is_retried():
    pair = Pair()
    deadline = time.monotonic() + 0.02
    answer = pair.send(deadline=deadline)
    pair.settle()
    pass_time(deadline)
    pair.dispatcher.on_timer()
    pair.settle()
    assert answer.code == DEADLINE
    assert pair.failures == [(True, 1, DEADLINE)]
    pair.work(pair.canary, fail(INTERNAL))
    pair.finish()


def test_a_request_that_expired_before_the_arm_ran_it_is_no_event():
    pair = Pair()
    first = pair.send([[1, 1]] * 8)
    pair.settle()
    second = pair.send([[2, 2]] * 8)
    pair.settle()
    deadline = time.monotonic() + 0.02
    late = pair.send([[3, 3]] * 8, deadline=deadline)
    pair.settle()
    pass_time(deadline)
    pair.dispatcher.on_timer()
    pair.settle()
    assert (late.code, pair.failures) == (DEADLINE, [])
    pair.finish()
    assert (first.code, second.code) == (OK, OK)


# A deadline half of which is over

AHEAD = 0.4


def send_in_a_hurry(pair, values=((1, 1),)):
    """The answer, and the moment when half of its time is over."""
    answer = pair.send(values, deadline=time.monotonic() + AHEAD)
    pair.settle()
    return answer, time.monotonic() + AHEAD / 2


def wait_until_half_is_over(pair, half):
    while (left := half - time.monotonic()) >= 0:
        if select.select([pair.dispatcher.timer], [], [], left)[0]:
            pair.dispatcher.on_timer()
    pair.settle()


def test_what_an_arm_has_not_answered_when_half_of_the_time_is_over_is_answered_by_stable():
    pair = Pair()
    answer, half = send_in_a_hurry(pair)
    pair.dispatcher.on_timer()
    assert not pair.work(pair.stable)
    wait_until_half_is_over(pair, half)
    assert pair.failures == [(True, 1, DEADLINE)]
    assert pair.work(pair.stable)
    assert (answer.code, answer.body.model_version, answer.values) == (OK, "1", [[2, 2]])
    assert pair.work(pair.canary)  # its late answer, which nobody sees
    assert pair.tally.counts() == ("2", 1.0, 1, 0, 1, 0, 1)
    pair.finish()


def test_its_neighbours_in_the_batch_and_the_batch_itself_go_on():
    pair = Pair()
    calm = pair.send([[3, 3]])
    hurried, half = send_in_a_hurry(pair, [[1, 1], [2, 2]])
    calm_too = pair.send([[4, 4]])
    wait_until_half_is_over(pair, half)
    pair.finish()
    assert [(a.body.model_version, a.values) for a in (calm, hurried, calm_too)] == [
        ("2", [[6, 6]]), ("1", [[2, 2], [4, 4]]), ("2", [[8, 8]])
    ]  # fmt: skip
    assert pair.failures == [(True, 1, DEADLINE)]


def test_the_worker_that_dies_afterwards_is_no_second_event():
    pair = Pair()
    answer, half = send_in_a_hurry(pair)
    wait_until_half_is_over(pair, half)
    pair.die(pair.canary)
    pair.finish()
    assert (answer.body.model_version, pair.failures) == ("1", [(True, 1, DEADLINE)])


def test_what_waits_in_the_queue_of_an_arm_goes_to_stable_then_and_is_no_event():
    pair = Pair()
    ahead = [pair.send([[1, 1]] * 8) for _ in range(2)]
    pair.settle()
    answer, half = send_in_a_hurry(pair, [[5, 5]] * 8)
    wait_until_half_is_over(pair, half)
    assert pair.work(pair.stable)
    assert (answer.body.model_version, pair.failures) == ("1", [])
    pair.finish()
    assert {each.body.model_version for each in ahead} == {"2"}


@pytest.mark.parametrize("is_queued", [True, False])
def test_what_stable_does_not_take_stays_at_the_arm(is_queued):
    pair = Pair()
    pair.stable = pair.bench.deploy("1", [tensor("other")])
    pair.attach(pair.stable)
    pair.divide(1.0)
    if is_queued:
        for _ in range(2):
            pair.send([[1, 1]] * 8)
            pair.settle()
    answer, half = send_in_a_hurry(pair, [[5, 5]] * 8)
    wait_until_half_is_over(pair, half)
    pair.finish()
    assert (answer.code, answer.body.model_version, answer.values[0]) == (OK, "2", [10, 10])


@pytest.mark.parametrize("more", [{"retry": False}, {"canary": {"idempotent": False}}])
def test_what_may_not_run_twice_stays_at_the_arm(more):
    pair = Pair(**more)
    answer, half = send_in_a_hurry(pair)
    wait_until_half_is_over(pair, half)
    pair.finish()
    assert (answer.code, answer.body.model_version) == (OK, "2")


def test_stable_is_measured_alike_and_answers_all_the_same():
    pair = Pair(0.0)
    answer, half = send_in_a_hurry(pair)
    wait_until_half_is_over(pair, half)
    assert pair.failures == [(False, 1, DEADLINE)]
    pair.finish()
    assert (answer.code, answer.body.model_version) == (OK, "1")
    assert pair.tally.counts() == ("2", 0.0, 0, 1, 0, 1, 0)


def test_a_caller_who_leaves_after_the_request_has_moved_is_forgotten_by_both():
    pair = Pair()
    answer, half = send_in_a_hurry(pair)
    wait_until_half_is_over(pair, half)
    answer.call.cancel()
    pair.finish()
    assert (answer.code, pair.failures) == (None, [(True, 1, DEADLINE)])


def test_a_retiring_arm_is_idle_when_the_late_batch_is_back():
    pair = Pair()
    answer, half = send_in_a_hurry(pair)
    idle = []
    pair.canary.retire(lambda: idle.append(True))
    wait_until_half_is_over(pair, half)
    assert idle == []
    pair.finish()
    pair.settle()
    assert idle == [True]
    assert answer.body.model_version == "1"


# Cancellation and the end of versions


def test_a_request_cancelled_at_the_arm_is_no_event():
    pair = Pair()
    gone, stays = pair.send(), pair.send([[2, 2]])
    pair.settle()
    gone.call.cancel()
    pair.work(pair.canary, fail(INTERNAL))
    pair.work(pair.canary, fail(INTERNAL))
    pair.finish()
    assert (gone.code, stays.body.model_version) == (None, "1")
    assert pair.failures == [(True, 1, INTERNAL)]


@pytest.mark.parametrize("when", ["queued", "running"])
def test_a_request_cancelled_after_it_moved_to_stable_ends_there(when):
    pair = Pair()
    answer = pair.send()
    pair.settle()
    slot = pair.ports[pair.canary].wait(0)
    pair.ports[pair.canary].fail(slot, INTERNAL, "no")
    pair.canary.collect(pair.lanes[pair.canary])
    assert (pair.canary.in_flight, pair.stable.in_flight, pair.dispatcher.in_flight) == (0, 1, 1)
    if when == "running":
        pair.settle()
    answer.call.cancel()
    assert pair.stable.in_flight == (1 if when == "running" else 0)
    pair.settle()
    pair.finish()
    assert answer.code is None
    assert pair.failures == [(True, 1, INTERNAL)]


def test_a_retiring_arm_is_idle_as_soon_as_its_failed_requests_have_moved():
    pair = Pair()
    answer = pair.send()
    pair.settle()
    idle = []
    pair.dispatcher.route_table = RouteTable({"m": ModelRoute(pair.stable, {"1": pair.stable})})
    pair.canary.retire(lambda: idle.append(True))
    pair.work(pair.canary, fail(INTERNAL))
    assert idle == [True]
    pair.dispatcher.remove(pair.canary)
    pair.finish()
    assert answer.body.model_version == "1"


def test_an_arm_that_is_taken_from_service_hands_on_what_waits():
    pair = Pair()
    answer = pair.send()
    pair.canary.abort(UNAVAILABLE, "suspended")
    pair.settle()
    pair.finish()
    assert (answer.body.model_version, pair.failures) == ("1", [])


def test_when_the_arm_has_become_the_default_nothing_is_retried_on_what_was_stable():
    pair = Pair()
    answer = pair.send()
    pair.settle()
    pair.dispatcher.route_table = RouteTable({"m": ModelRoute(pair.canary, {"2": pair.canary})})
    pair.work(pair.canary, fail(INTERNAL, "broken"))
    assert (answer.code, answer.text) == (INTERNAL, "broken")
    pair.finish()


def test_requests_finish_where_they_began_when_the_weights_change():
    pair = Pair(1.0)
    answer = pair.send()
    first = pair.tally
    pair.settle()
    pair.divide(0.0)
    pair.work(pair.canary, fail(INTERNAL))
    pair.finish()
    assert answer.body.model_version == "1"
    assert (first.counts().canary_failed, pair.tally.counts().canary_failed) == (1, 0)
    assert pair.told[0].weight == 1.0


def test_events_may_change_the_routes_while_they_are_told():
    pair = Pair()
    pair.dispatcher.on_events = lambda events: pair.divide(0.0)
    first = pair.send()
    pair.settle()
    pair.work(pair.canary, fail(INTERNAL))
    second = pair.send()
    pair.settle()
    pair.finish()
    assert (first.body.model_version, second.body.model_version) == ("1", "1")
    assert pair.canary.meters.requests(1)[OK] == 0


def test_events_of_one_wake_up_that_are_alike_are_told_together():
    pair = Pair(retry=False)
    answers = [pair.send([[value, 0]]) for value in range(4)]
    pair.settle()
    port, lane = pair.ports[pair.canary], pair.lanes[pair.canary]
    while (slot := port.wait(0)) >= 0:
        port.fail(slot, INTERNAL, "no")
        pair.canary.collect(lane)
    pair.settle()
    assert [answer.code for answer in answers] == [INTERNAL] * 4
    assert pair.failures == [(True, 4, INTERNAL)]


def test_events_of_sticky_requests_name_their_unit():
    pair = Pair(sticky=("parameter", "user"), retry=False)
    for user in (1, 1, 2):
        pair.send(user=user)
    pair.settle()
    while pair.work(pair.canary, fail(INTERNAL)):
        pass
    units = [event.unit for event in pair.told]
    assert [event.events for event in pair.told] == [1, 1, 1]
    assert len(set(units)) == 2
    assert None not in units


# Slow answers


def slowly(seconds):
    """Completes a batch that was `seconds` in the engine, as far as the worker says."""

    def act(port, slot):
        end = time.monotonic_ns()
        while time.monotonic_ns() - end < seconds * 1e9:
            pass
        ((_, x),) = port.inputs(slot)
        port.complete(slot, [(0, FP32, x.shape, x * 2)], end, end + int(seconds * 1e9))

    return act


@pytest.mark.parametrize(("seconds", "level"), [(0.0005, None), (0.0015, 1), (0.0025, 2), (0.004, 3)])
def test_a_slow_answer_is_as_slow_as_the_thresholds_that_its_time_in_the_engine_exceeds(seconds, level):
    pair = Pair(thresholds=(0.001, 0.002, 0.003))
    pair.send()
    pair.settle()
    pair.work(pair.canary, slowly(seconds))
    assert pair.told == []  # gathered a little
    if level is None:
        assert not select.select([pair.dispatcher.timer], [], [], 0)[0]
        return
    wait_for_timer(pair)
    assert [(event.kind, event.is_canary, event.level, event.events) for event in pair.told] == [
        ("slow", True, level, 1)
    ]


def wait_for_timer(pair):
    while not pair.told:
        assert select.select([pair.dispatcher.timer], [], [], 10)[0]
        pair.dispatcher.on_timer()


def test_of_a_batch_at_most_one_answer_is_slow():
    pair = Pair(thresholds=(1e-9, 1e-9, 1e-9))
    for _ in range(20):
        for value in range(4):
            pair.send([[value, 0]])
        pair.settle()
        pair.work(pair.canary, slowly(1e-5))
        pair.told.clear()
        wait_for_timer(pair)
        assert [event.events for event in pair.told] == [1]


def test_members_of_small_batches_are_looked_at_as_often_as_those_of_large_ones():
    pair = Pair(0.0, thresholds=(1e-9, 1e-6, 1))
    for _ in range(400):
        for size, seconds in ((8, 5e-7), (1, 2e-6)):
            for value in range(size):
                pair.send([[value, 0]])
            pair.settle()
            pair.work(pair.stable, slowly(seconds))
    wait_for_timer(pair)
    seen = {level: sum(event.events for event in pair.told if event.level == level) for level in (1, 2)}
    assert seen[1] == 400
    assert abs(seen[2] - 50) < 4.5 * math.sqrt(50)
