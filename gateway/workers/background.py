"""Work that yields to everybody else's: how a worker loads and warms up its model beside others that serve.

Priority belongs to a thread and cannot be raised again without privileges, so the work gets a thread of its own, which
ends with it. Its time slices are as short as there are: a request that wakes another thread up need not wait for the
end of a long one. What the work leaves behind must not be threads: they would keep its priority.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import threading
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

LOWEST = 19
SLICE_NS = 100_000
"""The shortest that Linux takes; kernels before 6.12 take no notice of it."""
_SCHED_SETATTR = {"x86_64": 314, "aarch64": 274}


def run_in_background(work: Callable[[], T]) -> T:
    """What `work` returns, or raises, after it ran in a thread of the lowest priority, which is gone by then."""
    outcome: list[T] = []
    failure: list[BaseException] = []

    def run() -> None:
        try:
            yield_to_all()
            outcome.append(work())
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=run, name="load")
    thread.start()
    thread.join()
    while os.path.exists(f"/proc/self/task/{thread.native_id}"):  # Python has done with it before the system has
        time.sleep(0.0005)
    if failure:
        raise failure[0]
    return outcome[0]


def yield_to_all() -> None:
    """Gives the calling thread, and those that it starts from here on, the lowest priority there is, for good."""
    number = _SCHED_SETATTR.get(platform.machine())
    # size, policy, flags, nice, priority, runtime, deadline, period: see sched_setattr(2).
    attributes = struct.pack("=IIQiIQQQ", 48, os.SCHED_OTHER, 0, LOWEST, 0, SLICE_NS, 0, 0)
    if number is None or ctypes.CDLL(None).syscall(number, 0, attributes, 0) != 0:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), LOWEST)
