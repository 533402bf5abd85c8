"""What shadows answer, counted: with the pool and the event loop moved by hand."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any

import pytest
from dispatch_bench import Answer, Bench, message

from gateway.comparison import Incomparable
from gateway.rollouts.route import RolloutRoute, Shadow
from gateway.rollouts.tolerances import MAX_SAMPLES, Comparison, Disagreement, Tolerance
from gateway.routing import Routing
from gateway.shadows import Shadows
from kernels.lanes import Lane, LanePort


class HandPool(Executor):
    """Runs what it was given when it is told to."""

    def __init__(self) -> None:
        self.waiting: list[tuple[Future[Any], Callable[[], Any]]] = []

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self.waiting.append((future, lambda: fn(*args, **kwargs)))
        return future

    def run(self) -> None:
        waiting, self.waiting = self.waiting, []
        for future, work in waiting:
            if future.set_running_or_notify_cancel():
                future.set_result(work())

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        for future, _ in self.waiting:
            future.cancel()


class Stage:
    def __init__(self) -> None:
        self.bench, self.pool = Bench(), HandPool()
        self.shadow = self.bench.deploy("2")
        self.lane = Lane(self.bench.lanes[0].slot_bytes)
        self.port = LanePort(*self.lane.fds)
        self.shadow.attach(self.lane)
        self.shadows = Shadows(self.bench.soon.append, self.bench.soon.append, self.pool)
        self.routing = Routing(self.shadows)
        self.versions = {1: self.bench.deployment, 2: self.shadow}

    def route(self, route: RolloutRoute | None) -> None:
        self.routing.set_rollout("m", route)
        self.bench.dispatcher.route_table = self.routing.table({"m": self.versions}, [])

    @property
    def room(self) -> tuple[int, int]:
        """Requests and bytes that the shadow holds."""
        mirror = self.shadows.aim("m", Shadow(2, 1.0), self.shadow)
        return mirror.requests, mirror.nbytes

    def ask(self, factor: float = 2.0, meanwhile: Callable[[], object] = lambda: None, **more: Any) -> None:
        """One request, which the stable version doubles; `meanwhile`: while both run it."""
        answer = Answer(self.bench, message([[1, 1]], **more))
        for _ in range(3):
            self.bench.settle()
        meanwhile()
        self.bench.work()
        if (slot := self.port.wait(0)) >= 0:
            ((_, x),) = self.port.inputs(slot)
            self.port.complete(slot, [(0, 11, x.shape, x * factor)], 0, 0)
            self.shadow.collect(self.lane)
        self.bench.settle()
        assert answer.code == 0

    def compare(self) -> None:
        self.pool.run()
        self.bench.settle()


@pytest.fixture
def stage() -> Stage:
    stage = Stage()
    stage.route(RolloutRoute(1, shadow=Shadow(2, 1.0, max_requests=20)))
    return stage


def test_answers_are_compared_and_the_latest_differences_kept(stage):
    stage.ask()
    for number in range(3, 13):
        stage.ask(number)
    stage.compare()
    (counts,) = stage.shadows.counts("m")
    assert counts[:6] == (2, 11, 0, 0, 11, 10)
    assert len(counts.samples) == MAX_SAMPLES
    assert counts.samples[-1] == Disagreement("", "y", "2 of 2 values differ, first at 0", "[2, 2]", "[12, 12]")


def test_a_plan_says_what_a_difference_is(stage):
    stage.route(RolloutRoute(1, shadow=Shadow(2, 1.0, comparison=Comparison(Tolerance(rtol=0.6)))))
    stage.ask(3.0)
    stage.ask(4.0)
    stage.compare()
    (counts,) = stage.shadows.counts("m")
    assert (counts.compared, counts.disagreed) == (2, 1)


def test_a_difference_is_kept_with_the_name_that_the_caller_gave_its_request(stage):
    stage.ask(5.0, identity="a-7")
    stage.ask(5.0, identity="x" * 1000)
    stage.compare()
    (counts,) = stage.shadows.counts("m")
    assert [one.request_id for one in counts.samples] == ["a-7", "x" * 256]


@pytest.mark.parametrize("error", [MemoryError(), TypeError("odd")])
def test_what_goes_wrong_in_a_comparison_loses_no_room_and_is_no_evidence(stage, monkeypatch, error):
    def fail(*_):
        raise error

    stage.ask(5.0)
    monkeypatch.setattr("gateway.shadows.difference", fail)
    stage.compare()
    (counts,) = stage.shadows.counts("m")
    assert counts[:6] == (2, 1, 1, 0, 0, 0)
    assert stage.room == (0, 0)


def test_a_live_answer_that_cannot_be_read_is_no_evidence(stage, monkeypatch):
    def fail(*_):
        raise Incomparable("odd")

    stage.ask(5.0)
    monkeypatch.setattr("gateway.shadows.difference", fail)
    stage.compare()
    assert stage.shadows.counts("m")[0][:6] == (2, 1, 0, 1, 0, 0)


def test_answers_are_dropped_when_no_thread_is_to_be_had(stage, monkeypatch):
    def refuse(*_):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(stage.pool, "submit", refuse)
    stage.ask(5.0)
    assert stage.shadows.counts("m")[0][:6] == (2, 1, 1, 0, 0, 0)
    assert stage.room == (0, 0)


def test_answers_that_wait_for_their_comparison_take_the_room_of_further_copies(stage):
    for _ in range(25):
        stage.ask()
    (counts,) = stage.shadows.counts("m")
    assert (counts.dropped, counts.compared) == (5, 0)
    stage.compare()
    stage.ask()
    stage.compare()
    (counts,) = stage.shadows.counts("m")
    assert (counts.dropped, counts.compared) == (5, 21)


def test_counts_go_on_over_the_steps_of_a_rollout_and_end_with_it(stage):
    stage.ask()
    stage.compare()
    stage.route(RolloutRoute(1))
    stage.ask()
    assert stage.pool.waiting == []
    stage.route(RolloutRoute(1, shadow=Shadow(2, 1.0)))
    stage.ask()
    stage.compare()
    assert [counts.compared for counts in stage.shadows.counts("m")] == [2]
    stage.route(None)
    assert stage.shadows.counts("m") == ()


def test_what_is_under_way_when_the_shadow_ends_is_still_counted(stage):
    stage.ask()
    stage.ask(meanwhile=lambda: stage.route(RolloutRoute(1)))
    stage.compare()
    assert [counts.compared for counts in stage.shadows.counts("m")] == [2]


def test_a_shadow_that_is_not_ready_is_counted_as_dropping(stage):
    stage.versions[2] = None
    stage.route(RolloutRoute(1, shadow=Shadow(2, 1.0)))
    stage.ask()
    assert stage.shadows.counts("m")[0][:6] == (2, 1, 1, 0, 0, 0)


def test_closing_compares_no_more(stage):
    stage.ask()
    (waiting,) = stage.pool.waiting
    stage.shadows.close()
    assert waiting[0].cancelled()
    stage.bench.settle()
    stage.ask()
    assert len(stage.pool.waiting) == 1


def test_closing_waits_for_one_pair_alone(stage, monkeypatch):
    judged = []

    def close(*pair):
        judged.append(pair)
        stage.shadows._is_closed = True

    stage.ask(5.0)
    stage.ask(5.0)
    monkeypatch.setattr("gateway.shadows.difference", close)
    stage.compare()
    assert len(judged) == 1


def test_what_ends_after_closing_is_left_alone(stage):
    stage.ask(meanwhile=stage.shadows.close)
    assert stage.pool.waiting == []
