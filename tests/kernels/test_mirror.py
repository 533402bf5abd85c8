"""Copies of requests for a shadow: whoever is answered never notices, and each copy comes to one end.

The lanes' workers are the test's own hand, as in `test_dispatch.py`.
"""

from __future__ import annotations

import numpy as np
import pytest
from dispatch_bench import FP32, INTERNAL, OK, SLOT, UNAVAILABLE, Answer, Bench, fail, message, tensor
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.lanes import Lane, LanePort
from kernels.mirror import Mirror
from kernels.rollout import ArmTally, Rollout
from kernels.routes import ModelRoute, RouteTable


class Theatre:
    """Version 1 is stable, version 2 its shadow; `work` is a turn of one of their workers."""

    def __init__(self, *, fraction=1.0, max_requests=100, max_bytes=1 << 20, arms=0.0, shadow=None, **more):
        self.bench = Bench(**more)
        self.dispatcher, self.stable = self.bench.dispatcher, self.bench.deployment
        self.shadow = self.bench.deploy("2", **(shadow or {}))
        self.lanes = {self.stable: self.bench.lanes[0]}
        self.ports = {self.stable: self.bench.ports[self.bench.lanes[0]]}
        self.attach(self.shadow)
        self.pairs = []
        self.mirror = Mirror(self.bench.soon.append, self.pairs.extend)
        self.limits = (fraction, max_requests, max_bytes)
        self.mirror.aim(self.shadow, *self.limits)
        self.tally = ArmTally("2", arms)
        self.rollout = Rollout("m", self.stable, [(self.shadow, arms, self.tally)], mirror=self.mirror, first_draw=1)
        versions = {"1": self.stable, "2": self.shadow}
        self.dispatcher.route_table = RouteTable({"m": ModelRoute(self.stable, versions, {}, self.rollout)})

    def attach(self, deployment):
        lane = Lane(SLOT)
        self.lanes[deployment], self.ports[deployment] = lane, LanePort(*lane.fds)
        deployment.attach(lane)

    def send(self, values=((1, 1),), **more):
        return Answer(self.bench, message(values, **more))

    def settle(self, times=3):
        for _ in range(times):
            self.bench.settle()

    def work(self, deployment, act=None):
        slot = self.ports[deployment].wait(0)
        if slot < 0:
            return False
        (act or Bench.double)(self.ports[deployment], slot)
        deployment.collect(self.lanes[deployment])
        self.settle()
        return True

    def die(self, deployment):
        lane = self.lanes.pop(deployment)
        del self.ports[deployment]
        deployment.detach(lane)
        lane.close()
        self.settle()

    def end(self):
        """Everything has come to its end and nothing is held."""
        for pair in self.pairs:
            self.mirror.release(pair)
        assert self.dispatcher.in_flight == self.stable.in_flight == self.shadow.in_flight == 0
        assert (self.mirror.requests, self.mirror.nbytes) == (0, 0)
        assert self.mirror.mirrored == self.mirror.dropped + self.mirror.unpaired + len(self.pairs)
        return self.mirror.mirrored, self.mirror.dropped, self.mirror.unpaired


@pytest.fixture
def theatre():
    return Theatre()


def values(tensors):
    return [tensor.to_numpy().tolist() for tensor in tensors]


def triple(port, slot):
    ((_, x),) = port.inputs(slot)
    port.complete(slot, [(0, FP32, x.shape, x * 3)], 0, 0)


def test_both_answers_of_a_request_come_as_a_pair_and_the_caller_has_the_stable_one(theatre):
    answer = theatre.send([[1, 2], [3, 4]])
    theatre.settle()
    assert theatre.work(theatre.stable)
    assert (answer.values, answer.body.model_version) == ([[2, 4], [6, 8]], "1")
    assert theatre.pairs == []
    assert theatre.work(theatre.shadow, triple)
    (pair,) = theatre.pairs
    assert (values(pair.live), values(pair.shadow)) == ([[[2, 4], [6, 8]]], [[[3, 6], [9, 12]]])
    assert theatre.end() == (1, 0, 0)


def test_what_is_classified_for_the_caller_is_compared_as_values(theatre):
    answer = theatre.send([[1, 2], [3, 4]], outputs=[("y", 1)])
    theatre.settle()
    theatre.work(theatre.stable)
    theatre.work(theatre.shadow, triple)
    (pair,) = theatre.pairs
    assert answer.body.outputs[0].datatype == "BYTES"
    assert (values(pair.live), values(pair.shadow)) == ([[[2, 4], [6, 8]]], [[[3, 6], [9, 12]]])
    assert theatre.end() == (1, 0, 0)


def test_the_shadow_may_be_the_faster_one(theatre):
    theatre.send()
    theatre.settle()
    assert theatre.work(theatre.shadow)
    assert theatre.pairs == []
    assert theatre.work(theatre.stable)
    assert len(theatre.pairs) == 1
    theatre.end()


def test_a_copy_is_sent_after_the_live_request_was_handed_over(theatre):
    theatre.send()
    theatre.bench.settle()
    assert theatre.ports[theatre.stable].wait(0) >= 0
    assert theatre.ports[theatre.shadow].wait(0) < 0
    theatre.bench.settle()
    assert theatre.ports[theatre.shadow].wait(0) >= 0


@pytest.mark.parametrize("fraction", [0.0, 0.25])
def test_a_fraction_of_the_requests_is_copied(fraction):
    theatre = Theatre(fraction=fraction, max_requests=1000)
    for _ in range(400):
        theatre.send()
        theatre.settle()
        theatre.work(theatre.stable)
        theatre.work(theatre.shadow)
    mirrored, dropped, _ = theatre.end()
    assert dropped == 0
    assert abs(mirrored - 400 * fraction) <= 5 * (400 * fraction * (1 - fraction)) ** 0.5


def test_requests_that_name_a_version_or_go_to_an_arm_are_not_copied():
    theatre = Theatre(arms=1.0)
    theatre.send()
    theatre.send(version="1")
    theatre.settle()
    assert theatre.work(theatre.stable)
    assert theatre.work(theatre.shadow)
    assert theatre.end() == (0, 0, 0)


def test_copies_are_no_evidence_and_count_in_the_meters_of_the_shadow_alone(theatre):
    events = []
    theatre.dispatcher.on_events = events.extend
    theatre.send()
    theatre.settle()
    theatre.work(theatre.stable)
    theatre.work(theatre.shadow, fail(INTERNAL))
    assert theatre.tally.counts()[2:] == (0, 1, 0, 0, 0)
    assert events == []
    assert sum(theatre.stable.meters.requests(1)) == sum(theatre.shadow.meters.requests(1)) == 1
    theatre.end()


def test_a_copy_takes_no_place_of_a_live_request():
    theatre = Theatre(max_in_flight=1)
    theatre.send()
    theatre.settle()
    theatre.work(theatre.stable)
    assert theatre.shadow.in_flight == 1
    answer = theatre.send()
    theatre.settle()
    theatre.work(theatre.stable)
    assert answer.code == OK
    while theatre.work(theatre.shadow):
        pass
    theatre.end()


def test_a_shadow_that_fails_is_a_pair_without_its_answer(theatre):
    answer = theatre.send()
    theatre.settle()
    theatre.work(theatre.shadow, fail(INTERNAL, "broken"))
    theatre.work(theatre.stable)
    (pair,) = theatre.pairs
    assert (answer.code, pair.shadow, pair.failure) == (OK, None, b"broken")
    assert theatre.end() == (1, 0, 0)


def test_a_shadow_that_does_not_take_what_stable_takes_is_a_pair_without_its_answer():
    theatre = Theatre(shadow={"inputs": [tensor("other")]})
    answer = theatre.send()
    theatre.settle()
    theatre.work(theatre.stable)
    (pair,) = theatre.pairs
    assert answer.code == OK
    assert pair.shadow is None
    assert b"other" in pair.failure or b"x" in pair.failure
    theatre.end()


def test_nothing_is_compared_with_a_live_request_that_failed(theatre):
    answer = theatre.send()
    theatre.settle()
    theatre.work(theatre.stable, fail(INTERNAL))
    theatre.work(theatre.shadow)
    assert answer.code == INTERNAL
    assert theatre.end() == (1, 0, 1)


@pytest.mark.parametrize("when", ["queued", "handed over", "answered by the shadow"])
def test_a_caller_that_goes_leaves_nothing_behind(theatre, when):
    answer = theatre.send()
    if when != "queued":
        theatre.settle()
    if when == "answered by the shadow":
        theatre.work(theatre.shadow)
    answer.call.cancel()
    theatre.settle()
    theatre.work(theatre.stable)
    theatre.work(theatre.shadow)
    assert answer.code is None
    assert theatre.end() == (1, 0, 1)


@pytest.mark.parametrize("limits", [{"max_requests": 2}, {"max_bytes": 120}])
def test_what_does_not_fit_is_dropped_until_room_is_given_back(limits):
    theatre = Theatre(**limits)
    answers = [theatre.send() for _ in range(10)]
    theatre.settle()
    while theatre.work(theatre.stable) or theatre.work(theatre.shadow):
        pass
    assert {answer.code for answer in answers} == {OK}
    assert theatre.mirror.dropped >= 8
    assert theatre.mirror.nbytes <= limits.get("max_bytes", 1 << 20)
    theatre.end()
    theatre.pairs.clear()
    before = theatre.mirror.mirrored - theatre.mirror.dropped
    theatre.send()
    assert theatre.mirror.mirrored - theatre.mirror.dropped == before + 1


def test_a_pair_whose_answers_do_not_fit_is_dropped():
    theatre = Theatre(max_bytes=200)
    answer = theatre.send(np.ones((8, 2)).tolist())
    theatre.settle()
    theatre.work(theatre.stable)
    theatre.work(theatre.shadow)
    assert answer.code == OK
    assert theatre.end() == (1, 1, 0)


def test_a_busy_shadow_gets_no_more_than_a_batch_behind_the_one_that_runs(theatre):
    for _ in range(40):
        theatre.send()
        theatre.settle()
        theatre.work(theatre.stable)
    assert theatre.shadow.queue.rows <= 9
    assert theatre.mirror.dropped > 0
    while theatre.work(theatre.shadow):
        pass
    theatre.end()


def test_a_shadow_without_workers_or_that_is_not_ready_gets_nothing(theatre):
    theatre.die(theatre.shadow)
    theatre.send()
    theatre.settle()
    theatre.work(theatre.stable)
    assert theatre.end() == (1, 1, 0)
    theatre.mirror.aim(None, *theatre.limits)
    theatre.send()
    theatre.settle()
    theatre.work(theatre.stable)
    assert theatre.end() == (2, 2, 0)


def test_a_shadow_that_goes_between_copying_and_sending_gets_nothing(theatre):
    theatre.send()
    theatre.mirror.aim(None, *theatre.limits)
    theatre.shadow.retire(lambda: None)
    theatre.dispatcher.remove(theatre.shadow)
    theatre.settle()
    theatre.work(theatre.stable)
    assert theatre.end() == (1, 1, 0)


def test_a_shadow_is_retired_when_its_copies_have_ended(theatre):
    idle = []
    theatre.send()
    theatre.settle()
    theatre.work(theatre.stable)
    theatre.mirror.aim(None, *theatre.limits)
    theatre.shadow.retire(lambda: idle.append(True))
    assert idle == []
    theatre.work(theatre.shadow)
    assert idle == [True]
    assert len(theatre.pairs) == 1
    theatre.dispatcher.remove(theatre.shadow)
    theatre.end()


def test_a_worker_that_dies_with_copies_costs_no_caller_anything(theatre):
    answers = [theatre.send() for _ in range(3)]
    theatre.settle()
    theatre.die(theatre.shadow)
    theatre.work(theatre.stable)
    assert [answer.code for answer in answers] == [OK] * 3
    theatre.attach(theatre.shadow)
    theatre.settle()
    while theatre.work(theatre.shadow):
        pass
    assert len(theatre.pairs) == 3
    assert theatre.end() == (3, 0, 0)


def test_copies_that_are_queued_when_the_shadow_is_unloaded_are_not_compared(theatre):
    theatre.send()
    theatre.settle()
    theatre.die(theatre.shadow)
    theatre.shadow.abort(UNAVAILABLE, "unloaded")
    theatre.settle()
    theatre.work(theatre.stable)
    (pair,) = theatre.pairs  # it had run, and its worker died under it
    assert pair.failure == b"unloaded"
    theatre.end()


def test_exchanges_are_recycled_without_their_pairs(theatre):
    for _ in range(3):
        theatre.send()
        theatre.settle()
        theatre.work(theatre.stable)
        theatre.work(theatre.shadow)
    theatre.mirror.aim(theatre.shadow, 0.0, 100, 1 << 20)
    for _ in range(3):
        answer = theatre.send()
        theatre.settle()
        assert theatre.work(theatre.stable)
        assert not theatre.work(theatre.shadow)
        assert answer.code == OK
    assert theatre.end() == (3, 0, 0)


MOVES = ("send", "settle", "stable", "stable fails", "shadow", "shadow fails", "cancel", "die", "aim away", "aim back")


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from(MOVES), max_size=40), st.integers(1, 6))
def test_whatever_happens_every_caller_has_one_answer_and_every_copy_one_end(moves, max_requests):
    theatre = Theatre(max_requests=max_requests, max_bytes=2000)
    waiting, cancelled = [], []
    for move in moves:
        if move == "send":
            waiting.append(theatre.send())
        elif move == "settle":
            theatre.settle(1)
        elif move.startswith("stable"):
            theatre.work(theatre.stable, fail(INTERNAL) if "fails" in move else None)
        elif move.startswith("shadow") and theatre.shadow in theatre.ports:
            theatre.work(theatre.shadow, fail(INTERNAL) if "fails" in move else None)
        elif move == "cancel" and waiting:
            cancelled.append(waiting.pop())
            cancelled[-1].before = cancelled[-1].code
            cancelled[-1].call.cancel()
        elif move == "die" and theatre.shadow in theatre.ports:
            theatre.die(theatre.shadow)
        elif move == "aim away":
            theatre.mirror.aim(None, *theatre.limits)
        elif move == "aim back":
            theatre.mirror.aim(theatre.shadow, *theatre.limits)
    theatre.settle()
    if theatre.shadow not in theatre.ports:
        theatre.attach(theatre.shadow)
    while theatre.work(theatre.stable) or theatre.work(theatre.shadow):
        pass
    assert {answer.code for answer in waiting} <= {OK, INTERNAL}
    assert all(answer.code == answer.before for answer in cancelled)
    theatre.end()
