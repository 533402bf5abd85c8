"""The process that workers are forked from. It has imported the engine, opened no session and started no thread, so
that a worker starts in milliseconds and shares its pages. It forks, reaps, and reads what workers print; it knows no
model.

A worker's standard streams end here, not in the gateway: one that prints without end is read without end, and costs the
gateway no more than a bounded trickle.
"""

from __future__ import annotations

import argparse
import os
import selectors
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import NoReturn

from gateway.workers import confine
from gateway.workers.control import Channel, Message

WORKER_FILES = 256
READ_BYTES = 64 * 1024
TAIL_BYTES = 2048
CRASHED = 70
"""The exit status of a worker that a bug of ours ended: EX_SOFTWARE."""


class OutputBudget:
    """How much of a worker's output is passed on: `burst` bytes at once, `rate` bytes a second after that."""

    def __init__(self, now: float, *, burst: int = 16 * 1024, rate: int = 4 * 1024) -> None:
        self._burst, self._rate = burst, rate
        self._left, self._at = float(burst), now
        self.dropped = 0
        """Bytes held back since this was last set to 0."""

    def take(self, now: float, data: bytes) -> bytes:
        """The part of `data` that may pass."""
        self._left = min(self._burst, self._left + (now - self._at) * self._rate)
        self._at = now
        passed = data[: int(self._left)]
        self._left -= len(passed)
        self.dropped += len(data) - len(passed)
        return passed


@dataclass
class Child:
    id: int
    pid: int
    pidfd: int
    output: int
    """The reading end of its standard streams; -1 once it is closed."""
    budget: OutputBudget
    tail: bytearray = field(default_factory=bytearray)


class Zygote:
    """Serves one control socket until it closes; then everything ends, and the kernel ends the children."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._control = Channel(socket.socket(fileno=options.fds[0]))
        self._selector = selectors.DefaultSelector()
        self._children: dict[int, Child] = {}

    def run(self, *, is_confined: bool) -> None:
        threads = len(os.listdir("/proc/self/task"))
        if threads > 1:
            # Forking now would copy locks that other threads hold. A fresh interpreter costs time and is safe.
            self._options.start_method = "spawn"
        self._control.send({"event": "hello", "threads": threads, "is_confined": is_confined})
        self._selector.register(self._control.socket, selectors.EVENT_READ, self._on_control)
        try:
            while True:
                for key, _ in self._selector.select():
                    handler: Callable[[], None] = key.data
                    handler()
        except (EOFError, BrokenPipeError, ConnectionResetError):
            return

    def _on_control(self) -> None:
        messages = self._control.receive()
        if messages is None:
            raise EOFError
        for message in messages:
            self._fork(message)

    def _fork(self, message: Message) -> None:
        fds = self._control.take_fds(4)
        output, theirs = os.pipe2(os.O_CLOEXEC)
        parent = os.getpid()
        try:
            pid = os.fork()
            if pid == 0:
                self._become_child(parent, theirs, fds)
            pidfd = os.pidfd_open(pid)
        except OSError as error:
            os.close(output)
            self._control.send({"event": "refused", "id": message["id"], "reason": error.strerror or "cannot fork"})
            return
        finally:
            for fd in (theirs, *fds):
                os.close(fd)
        os.set_blocking(output, False)
        child = Child(message["id"], pid, pidfd, output, OutputBudget(time.monotonic()))
        self._children[pidfd] = child
        self._selector.register(pidfd, selectors.EVENT_READ, lambda: self._on_exit(child))
        self._selector.register(output, selectors.EVENT_READ, lambda: self._on_output(child))
        self._control.send({"event": "forked", "id": child.id, "pid": pid}, [pidfd])

    def _become_child(self, parent: int, output: int, fds: list[int]) -> NoReturn:
        """In the child, which never returns into the zygote's loop, whatever happens."""
        try:
            confine.die_with_parent(parent)
            os.dup2(output, 1)
            os.dup2(output, 2)
            _close_all_but({0, 1, 2, *fds})
            if self._options.start_method == "fork":
                become_worker(self._options, *fds)
            for fd in fds:
                os.set_inheritable(fd, True)
            os.execv(sys.executable, _worker_command(self._options, parent, fds))
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
        finally:
            os._exit(CRASHED)

    def _on_output(self, child: Child) -> None:
        if child.output < 0:
            return  # closed by its exit, which the same look at the descriptors had found
        try:
            data = os.read(child.output, READ_BYTES)
        except BlockingIOError:
            return
        if not data:
            self._close_output(child)
            return
        child.tail += data
        del child.tail[:-TAIL_BYTES]
        passed = child.budget.take(time.monotonic(), data)
        if passed:
            text = passed.decode("utf-8", "replace")
            self._control.send({"event": "output", "id": child.id, "text": text, "dropped": child.budget.dropped})
            child.budget.dropped = 0

    def _on_exit(self, child: Child) -> None:
        self._on_output(child)
        if child.output >= 0:
            self._close_output(child)
        self._selector.unregister(child.pidfd)
        result = os.waitid(os.P_PIDFD, child.pidfd, os.WEXITED)
        assert result is not None, "this is a bug: a process that has ended is still running"
        os.close(child.pidfd)
        del self._children[child.pidfd]
        is_exit = result.si_code == os.CLD_EXITED
        self._control.send(
            {
                "event": "exit",
                "id": child.id,
                "status": result.si_status if is_exit else None,
                "signal": None if is_exit else result.si_status,
                "last_words": child.tail.decode("utf-8", "replace"),
            }
        )

    def _close_output(self, child: Child) -> None:
        self._selector.unregister(child.output)
        os.close(child.output)
        child.output = -1


def become_worker(options: argparse.Namespace, control: int, memfd: int, doorbell: int, completion: int) -> NoReturn:
    """Turn this process into a worker on these descriptors; its end is the end of the process."""
    from gateway.workers.worker import Worker
    from kernels.lanes import LanePort

    # The lane is mapped memory too, and not the model's doing.
    space = options.address_space_bytes
    confine.limit_resources(
        open_files=WORKER_FILES, address_space_bytes=space + os.fstat(memfd).st_size if space else 0
    )
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    channel = Channel(socket.socket(fileno=control))
    status = Worker(channel, LanePort(memfd, doorbell, completion), allow_any_backend=options.allow_any_backend).run()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _worker_command(options: argparse.Namespace, parent: int, fds: Iterable[int]) -> list[str]:
    command = [sys.executable, "-P", "-u", "-m", "gateway.workers.main", "worker"]
    command += ["--fds", ",".join(map(str, fds)), "--parent", str(parent)]
    command += ["--address-space-bytes", str(options.address_space_bytes)]
    return command + (["--allow-any-backend"] if options.allow_any_backend else [])


def _close_all_but(kept: set[int]) -> None:
    start = 0
    for fd in sorted(kept):
        if fd > start:  # an empty range that begins at 0 would close everything
            os.closerange(start, fd)
        start = fd + 1
    os.closerange(start, 2**31 - 1)
