"""Loading yields to serving, and serving does not inherit that."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from gateway.workers.background import LOWEST, run_in_background
from gateway.workers.spec import InstanceSpec


def niceness() -> int:
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


def test_the_work_runs_at_the_lowest_priority_and_its_caller_keeps_its_own():
    before = niceness()
    assert run_in_background(niceness) == LOWEST
    assert niceness() == before


def test_the_thread_is_gone_when_the_work_is_done():
    before = threading.active_count()
    inside = run_in_background(threading.active_count)
    assert (inside, threading.active_count()) == (before + 1, before)


def test_what_the_work_raises_is_raised():
    with pytest.raises(ZeroDivisionError):
        run_in_background(lambda: 1 // 0)


@pytest.mark.parametrize(
    ("parameters", "kind", "has_threads"),
    [
        ({}, "CPU", False),
        ({"intra_op_thread_count": " 1 "}, "CPU", False),
        ({"intra_op_thread_count": "4"}, "CPU", True),
        ({"inter_op_thread_count": "0"}, "CPU", True),
        ({}, "GPU", True),
    ],
)
def test_threads_of_the_engine_that_would_inherit_the_priority_are_known_before(parameters, kind, has_threads):
    spec = InstanceSpec("m", "1", Path("m"), kind=kind, parameters=parameters)
    assert spec.has_engine_threads is has_threads
