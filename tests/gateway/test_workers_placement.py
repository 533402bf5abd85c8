"""A worker shares the loop's core while that is the faster way, and no longer."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.workers import placement
from gateway.workers.placement import Placement

ALL = frozenset({0, 1, 2, 3})
LOOP = frozenset({2})

TICK = 0.1


class Ticks:
    """Feeds a placement one tick after another and keeps what it answers."""

    def __init__(self, cpus: frozenset[int] = ALL) -> None:
        self.placement = Placement(loop_cpu=2, cpus=cpus)
        self.now = 100.0
        self.moves: list[frozenset[int]] = []
        self.placement.update(self.now, 0, 0.0, 0)

    def run(self, seconds: float, *, rate: float, batch_seconds: float, batch_rows: float = 1.0) -> Ticks:
        batches = round(rate * TICK)
        for _ in range(round(seconds / TICK)):
            self.now += TICK
            move = self.placement.update(self.now, batches, batches * batch_seconds, round(batches * batch_rows))
            if move is not None:
                self.moves.append(move)
        return self


def test_a_worker_starts_with_every_core() -> None:
    assert Placement(loop_cpu=0, cpus=ALL).cpus == ALL


def test_short_batches_at_low_load_bring_it_to_the_core_of_the_loop() -> None:
    ticks = Ticks().run(2.0, rate=500, batch_seconds=20e-6)
    assert ticks.moves == [LOOP]
    assert ticks.placement.is_narrow


def test_it_does_not_come_before_low_load_has_lasted() -> None:
    assert Ticks().run(0.8, rate=500, batch_seconds=20e-6).moves == []


def test_long_batches_keep_every_core() -> None:
    assert Ticks().run(5.0, rate=10, batch_seconds=5e-3).moves == []


def test_one_tick_of_long_batches_is_enough_to_leave() -> None:
    ticks = Ticks().run(2.0, rate=500, batch_seconds=20e-6).run(TICK, rate=100, batch_seconds=1e-3)
    assert ticks.moves == [LOOP, ALL]


def test_rows_that_pile_up_are_load_although_batches_are_short() -> None:
    ticks = Ticks().run(2.0, rate=500, batch_seconds=20e-6).run(TICK, rate=3000, batch_seconds=25e-6, batch_rows=16)
    assert ticks.moves == [LOOP, ALL]


def test_between_the_limits_it_stays_where_it_is() -> None:
    wide = Ticks().run(5.0, rate=500, batch_seconds=90e-6)
    narrow = Ticks().run(2.0, rate=500, batch_seconds=20e-6).run(5.0, rate=500, batch_seconds=90e-6)
    assert wide.moves == []
    assert narrow.moves == [LOOP]


def test_idle_time_is_no_evidence_either_way() -> None:
    ticks = Ticks().run(10.0, rate=0, batch_seconds=0)
    assert ticks.moves == []
    ticks.run(2.0, rate=500, batch_seconds=20e-6).run(60.0, rate=0, batch_seconds=0)
    assert ticks.moves == [LOOP]


def test_with_a_single_core_there_is_nothing_to_decide() -> None:
    ticks = Ticks(cpus=frozenset({2})).run(5.0, rate=500, batch_seconds=20e-6).run(5.0, rate=50, batch_seconds=5e-3)
    assert ticks.moves == []
    assert not ticks.placement.is_narrow


def test_a_loop_on_a_core_that_workers_may_not_use_is_never_joined() -> None:
    assert Ticks(cpus=frozenset({0, 1})).run(5.0, rate=500, batch_seconds=20e-6).moves == []


@given(
    st.lists(st.tuples(st.floats(0, 2), st.integers(0, 10_000), st.floats(0, 1e-2), st.integers(1, 128)), max_size=60)
)
def test_it_reports_changes_only_and_never_moves_twice_within_the_calm_time(
    steps: list[tuple[float, int, float, int]],
) -> None:
    subject, now = Placement(loop_cpu=2, cpus=ALL), 0.0
    subject.update(now, 0, 0.0, 0)
    before, widened_at = subject.cpus, -10.0
    for elapsed, batches, batch_seconds, rows in steps:
        now += elapsed
        move = subject.update(now, batches, batches * batch_seconds, batches * rows)
        assert subject.cpus in (ALL, LOOP)
        assert (move is None) == (subject.cpus == before)
        if move == LOOP:
            # Widening is at once, coming back takes the calm time, so it cannot swing faster than that.
            assert now - widened_at >= 1.0 - 1e-9
        if move == ALL:
            widened_at = now
        before = subject.cpus


def test_placing_a_process_moves_all_of_its_threads() -> None:
    cpus = sorted(placement.usable_cpus())
    code = (
        "import threading, sys; t = threading.Thread(target=sys.stdin.read); t.start();"
        "print('up', flush=True); t.join()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        placement.place(child.pid, {cpus[-1]})
        threads = [int(thread) for thread in os.listdir(f"/proc/{child.pid}/task")]
        assert len(threads) == 2
        assert {tuple(os.sched_getaffinity(thread)) for thread in threads} == {(cpus[-1],)}
        child.communicate()


def test_placing_a_process_that_is_gone_or_on_cores_that_are_not_there_changes_nothing() -> None:
    placement.place(2**22 - 1, {0})
    placement.place(os.getpid(), {10_000})
    assert placement.current_cpu() in placement.usable_cpus()


@pytest.fixture(autouse=True)
def _same_cores() -> object:
    before = placement.usable_cpus()
    yield
    placement.pin_thread(before)
    assert placement.usable_cpus() == before


def test_devices_are_counted_as_the_engine_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.metadata.version", lambda name: "1.20")
    for name in ("nvidia3", "nvidia5", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    assert placement.usable_gpus(tmp_path) == (0, 1)
