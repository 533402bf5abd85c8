"""Requests that wait for their version to be loaded: exactly one answer each, whatever happens meanwhile."""

from __future__ import annotations

import select
import time

import pytest
from dispatch_bench import CANCELLED, DEADLINE, EXHAUSTED, NOT_FOUND, OK, UNAVAILABLE, Bench, message
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from kernels.dispatch import Dispatcher
from kernels.local import LocalCall
from kernels.rollout import ArmTally, Rollout
from kernels.routes import ModelRoute, RouteTable

FAR, PAST = 1e12, 1e-9


class ParkingBench(Bench):
    """Version 1 of `m` is known and not loaded; `word` is what `demand` says."""

    def __init__(self, **limits):
        super().__init__()
        if limits:
            self.dispatcher = Dispatcher(call_soon=self.soon.append, **limits)
            self.deployment = self.deploy("1")
            self.lanes = [self.attach()]
        self.asked = []
        self.word = ""
        self.dispatcher.demand = self.demand
        self.unload()

    def demand(self, model, version):
        self.asked.append((model, version))
        return self.word

    def unload(self):
        self.route({"1": None}, None)

    def load(self):
        self.route({"1": self.deployment}, self.deployment)
        self.settle()

    def work_all(self):
        while self.work():
            self.settle()


@pytest.fixture
def bench():
    return ParkingBench()


def test_a_request_for_a_version_on_demand_waits_and_is_answered_once_it_is_there(bench):
    answers = [bench.send(message([[i, i]], version=version)) for i, version in enumerate(("", "1"))]
    bench.settle()
    assert bench.asked == [("m", ""), ("m", "1")]
    assert [answer.code for answer in answers] == [None, None]
    assert bench.dispatcher.parked.count == 2
    assert bench.dispatcher.parked.nbytes > 0
    bench.load()
    bench.work_all()
    assert [answer.values for answer in answers] == [[[0, 0]], [[2, 2]]]
    assert (bench.dispatcher.parked.count, bench.dispatcher.parked.nbytes) == (0, 0)
    assert bench.deployment.meters.requests(1)[OK] == 2
    assert sum(bench.dispatcher.unrouted.requests(1)) == 0


def test_a_rollout_that_is_over_when_the_version_comes_counts_nothing_of_who_waited(bench):
    canary, tally = bench.deploy("2"), ArmTally("2", 0.0)
    rollout = Rollout("m", None, [(canary, 0.0, tally)], first_draw=1)
    bench.dispatcher.route_table = RouteTable({"m": ModelRoute(None, {"1": None, "2": canary}, {}, rollout)})
    answer = bench.send(message([[1, 1]]))
    bench.load()
    bench.work_all()
    assert answer.values == [[2, 2]]
    assert (tally.counts().stable, tally.counts().canary) == (0, 0)


def test_a_version_that_nobody_loads_on_demand_is_refused_as_before(bench):
    bench.word = None
    answer = bench.send(message([[1, 1]]))
    assert (answer.code, answer.text) == (UNAVAILABLE, "Request for unknown model: 'm' is not at ready state")


def test_without_anybody_to_ask_nothing_is_parked(bench):
    bench.dispatcher.demand = None
    assert bench.send(message([[1, 1]])).code == UNAVAILABLE


def test_an_unknown_model_is_not_asked_about(bench):
    assert bench.send(message([[1, 1]], model="other")).code == NOT_FOUND
    assert bench.send(message([[1, 1]], version="7")).code == NOT_FOUND
    assert bench.asked == []


def test_while_the_load_goes_on_a_new_table_leaves_them_waiting_and_a_failure_refuses_them_with_its_reason(bench):
    answer = bench.send(message([[1, 1]]))
    bench.unload()
    assert (answer.code, bench.dispatcher.parked.count) == (None, 1)
    bench.word = "no such operator"
    bench.unload()
    assert (answer.code, answer.text) == (UNAVAILABLE, "no such operator")
    assert bench.dispatcher.parked.count == 0
    assert bench.dispatcher.unrouted.requests(1)[UNAVAILABLE] == 1


def test_a_model_that_goes_away_ends_the_wait(bench):
    answer = bench.send(message([[1, 1]]))
    bench.dispatcher.route_table = RouteTable({})
    assert answer.code == NOT_FOUND


def test_a_deadline_ends_the_wait(bench):
    passed = bench.send(message([[1, 1]]), PAST)
    assert passed.code == DEADLINE
    waiting = bench.send(message([[1, 1]]), FAR)
    bench.dispatcher.on_timer()
    assert waiting.code is None


def test_the_timer_answers_what_waited_past_its_deadline(bench):
    short, long = bench.send(message([[1, 1]]), time.monotonic() + 0.02), bench.send(message([[2, 2]]), FAR)
    assert select.select([bench.dispatcher.timer], [], [], 10)[0], "the timer never fired"
    bench.dispatcher.on_timer()
    assert (short.code, long.code) == (DEADLINE, None)
    bench.load()
    bench.work_all()
    assert long.values == [[4, 4]]


def test_who_leaves_while_waiting_is_counted_and_gone(bench):
    first, gone, last = (bench.send(message([[i, i]])) for i in range(3))
    gone.call.cancel()
    gone.call.cancel()
    assert bench.dispatcher.parked.count == 2
    assert bench.dispatcher.unrouted.requests(1)[CANCELLED] == 1
    bench.load()
    bench.work_all()
    assert (first.code, gone.code, last.code) == (OK, None, OK)


def test_no_more_wait_than_are_allowed():
    bench = ParkingBench(max_parked=2)
    answers = [bench.send(message([[i, i]])) for i in range(3)]
    assert [answer.code for answer in answers] == [None, None, EXHAUSTED]
    assert answers[2].retry_after == 1.0
    assert "2 requests" in answers[2].text
    answers[0].call.cancel()
    assert bench.send(message([[9, 9]])).code is None


def test_no_more_bytes_wait_than_are_allowed():
    bench = ParkingBench(max_parked_bytes=4096)
    assert bench.send(message([[1, 1]] * 200)).code is None
    assert bench.send(message([[1, 1]] * 200)).code == EXHAUSTED
    assert bench.send(message([[1, 1]])).code is None


def test_a_request_that_does_not_fit_the_version_once_it_is_there_is_refused_then(bench):
    answer = bench.send(message([[1, 1]], name="nonsense"))
    assert answer.code is None
    bench.load()
    assert "nonsense" in answer.text


def test_an_answer_that_makes_somebody_cancel_another_one_that_waits_ends_both_once(bench):
    first, second = bench.send(message([[1, 1]])), bench.send(message([[2, 2]]))
    finish = first._done

    def done(*outcome):
        finish(*outcome)
        second.call.cancel()

    # The call holds its callback, so a fresh first one is sent with the other.
    first.call.cancel()
    LocalCall(bench.dispatcher, message([[1, 1]]), 0.0, done)
    third = bench.send(message([[3, 3]]))
    bench.word = "failed"
    bench.unload()
    assert (second.code, third.code) == (UNAVAILABLE, UNAVAILABLE)
    assert bench.dispatcher.parked.count == 0


class Waiting(RuleBasedStateMachine):
    """Requests come, leave, and see their version come and go, in any order: each has one answer, or none if it
    left."""

    def __init__(self):
        super().__init__()
        self.bench = ParkingBench(max_parked=5)
        self.calls = []
        self.left = set()
        self.is_loaded = False

    @rule(version=st.sampled_from(["", "1"]), has_deadline=st.booleans())
    def send(self, version, has_deadline):
        self.bench.word = ""
        self.calls.append(self.bench.send(message([[1, 1]], version=version), FAR if has_deadline else 0.0))

    @precondition(lambda self: self.calls)
    @rule(data=st.data())
    def leave(self, data):
        index = data.draw(st.integers(0, len(self.calls) - 1))
        if self.calls[index].code is None:
            self.left.add(index)
        self.calls[index].call.cancel()

    @rule()
    def load(self):
        self.is_loaded = True
        self.bench.load()

    @rule()
    def unload(self):
        self.is_loaded = False
        self.bench.word = ""
        self.bench.unload()

    @precondition(lambda self: not self.is_loaded)
    @rule()
    def fail(self):
        self.bench.word = "failed"
        self.bench.unload()

    @rule()
    def tick(self):
        self.bench.dispatcher.on_timer()

    @rule()
    def work(self):
        self.bench.settle()
        self.bench.work_all()

    @invariant()
    def those_that_wait_are_within_the_bounds(self):
        parked = self.bench.dispatcher.parked
        assert 0 <= parked.count <= 5
        assert (parked.count == 0) == (parked.nbytes == 0)
        assert not (self.is_loaded and parked.count)

    def teardown(self):
        self.bench.load()
        self.bench.settle()
        self.bench.work_all()
        for index, call in enumerate(self.calls):
            assert (call.code is None) == (index in self.left)
        assert self.bench.dispatcher.in_flight == self.bench.dispatcher.parked.count == 0


TestWaiting = Waiting.TestCase
TestWaiting.settings = settings(deadline=None)
