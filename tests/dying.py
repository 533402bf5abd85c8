"""Processes that end, like one that is killed, at a step that the test chooses."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

EVENTS = {
    "open", "os.rename", "os.link", "os.remove", "os.mkdir", "os.rmdir", "os.chmod", "os.utime", "os.scandir",
    "shutil.rmtree",
}  # fmt: skip
DONE, CRASHED, FAILED = 0, 9, 1
Step = Callable[[], None]


def in_a_process_that_dies(at: int, root: Path, work: Callable[[], None]) -> int:
    """Does the work in a process that ends just before it touches what is below `root` for the `at`-th time. Returns
    how it ended."""
    return in_a_process_that_dies_at_steps(at, root, lambda step: work())


def in_a_process_that_dies_at_steps(at: int, root: Path, work: Callable[[Step], None]) -> int:
    """The same, where the work may call what it is given at further steps of its own."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads; the child starts its own
        pid = os.fork()
    if pid == 0:
        seen = 0

        def step() -> None:
            nonlocal seen
            seen += 1
            if seen == at:
                os._exit(CRASHED)

        def watch(event: str, arguments: tuple[object, ...]) -> None:
            if event in EVENTS and str(arguments[0] if arguments else "").startswith(str(root)):
                step()

        try:
            sys.addaudithook(watch)
            work(step)
        except BaseException:
            os._exit(FAILED)
        os._exit(DONE)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
