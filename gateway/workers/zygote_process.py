"""The gateway's side of the zygote: start it, have it fork, learn at once when a process ends. What runs in the forked
processes is not known here."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gateway.settings import WorkersSettings
from gateway.workers.control import Channel, ControlError, Message
from gateway.workers.spec import Exit

REPORT_SECONDS = 0.25
"""How long the zygote's report may lag behind the death that the kernel has already told of."""
OOM_SCORE_ADJ = 500
_PASSED_ENVIRONMENT = ("PATH", "LD_LIBRARY_PATH", "LD_PRELOAD", "TMPDIR", "TZ")
_PASSED_PREFIXES = ("CUDA_", "NVIDIA_", "ASAN_", "UBSAN_", "LSAN_")

logger = logging.getLogger("sluice.workers")


class ZygoteLost(Exception):
    """The zygote ended while something was asked of it."""


class ForkRefused(Exception):
    """The system would not make another process."""


class ForkedProcess:
    """A process that the zygote has made. `exited` resolves once, when it has ended; `on_exit` callbacks run just
    before, in the same turn of the loop that learnt of it."""

    def __init__(self, id: int, pid: int, pidfd: int, loop: asyncio.AbstractEventLoop) -> None:
        self.id = id
        self.pid = pid
        self.on_exit: list[Callable[[Exit], None]] = []
        self.on_output: Callable[[str, int], None] = lambda text, dropped: None
        self.exited: asyncio.Future[Exit] = loop.create_future()
        self._loop = loop
        self._pidfd = pidfd
        self._grace: asyncio.TimerHandle | None = None
        self._is_orphan = False
        loop.add_reader(pidfd, self._on_death)

    def kill(self) -> None:
        """SIGKILL. Harmless when it has ended already."""
        if self._pidfd >= 0:
            try:
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            except ProcessLookupError:
                pass

    def _on_death(self) -> None:
        """The kernel's word. The zygote's, which says how, is on its way, unless the zygote has ended too."""
        self._loop.remove_reader(self._pidfd)
        self._grace = self._loop.call_later(0.0 if self._is_orphan else REPORT_SECONDS, self.finish, Exit())

    def orphan(self) -> None:
        """The zygote has ended: the kernel is ending this process too, and there will be no report."""
        self._is_orphan = True
        if self._grace is not None:
            self.finish(Exit())

    def finish(self, exit: Exit) -> None:
        if self.exited.done():
            return
        if self._grace is not None:
            self._grace.cancel()
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        self._pidfd = -1
        try:
            for callback in list(self.on_exit):
                callback(exit)
        finally:
            self.exited.set_result(exit)

    @property
    def is_dead(self) -> bool:
        """The kernel has said so, or the zygote."""
        return self._pidfd < 0 or self._grace is not None


class ZygoteProcess:
    """One zygote and everything forked from it. Not restarted: a dead one is replaced by another object."""

    def __init__(
        self,
        settings: WorkersSettings,
        *,
        start_method: str,
        environment: Mapping[str, str],
        python_path: Sequence[Path],
        allow_any_backend: bool,
        on_lost: Callable[[], None],
    ) -> None:
        self._settings = settings
        self._start_method = start_method
        self._environment = environment
        self._python_path = python_path
        self._allow_any_backend = allow_any_backend
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        # Forked and not yet finished, and those still waiting to be forked; both by the id that we gave them.
        self._processes: dict[int, ForkedProcess] = {}
        self._pending: dict[int, asyncio.Future[ForkedProcess]] = {}
        self._next_id = 0
        self._hello: asyncio.Future[Message] = self._loop.create_future()
        self.lost: asyncio.Future[None] = self._loop.create_future()
        self._start()

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        try:
            self._process = subprocess.Popen(
                self._command(theirs.fileno()),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env=self._child_environment(),
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        self._channel = Channel(ours)
        self._loop.add_reader(ours.fileno(), self._on_readable)
        # The socket alone would not do: a loop may stop watching one that its peer has reset.
        self._pidfd = os.pidfd_open(self._process.pid)
        self._loop.add_reader(self._pidfd, self._on_death)

    def _command(self, fd: int) -> list[str]:
        settings = self._settings
        command = [sys.executable, "-P", "-u", "-m", "gateway.workers.main", "zygote"]
        command += ["--fds", str(fd), "--parent", str(os.getpid()), "--start-method", self._start_method]
        command += ["--nice", str(settings.nice), "--oom-score-adj", str(OOM_SCORE_ADJ)]
        command += ["--address-space-bytes", str(settings.address_space_bytes)]
        return command + (["--allow-any-backend"] if self._allow_any_backend else [])

    def _child_environment(self) -> dict[str, str]:
        """Nothing that could hold a secret: what loaders of libraries need, and what we decide."""
        root = Path(__file__).resolve().parents[2]
        passed = {
            name: value
            for name, value in self._environment.items()
            if name in _PASSED_ENVIRONMENT or name.startswith(_PASSED_PREFIXES)
        }
        return passed | {
            "LC_ALL": "C.UTF-8",
            "PYTHONPATH": os.pathsep.join(map(str, [root, *self._python_path])),
            # One thread a worker, and none at all at import: forking a process with threads is not safe.
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
            # See `gateway.backends`.
            "ORT_DISABLE_TELEMETRY": "1",
        }

    @property
    def pid(self) -> int:
        return self._process.pid

    async def ready(self) -> Message:
        """Its first words, when it can fork. ZygoteLost when it ends before."""
        return await asyncio.shield(self._hello)

    async def fork(self, fds: Sequence[int]) -> ForkedProcess:
        """A new process with these four descriptors: control socket and lane.

        Raises:
            ZygoteLost: the zygote has ended, or does before it answers.
            ForkRefused: it cannot fork.
        """
        self._next_id += 1
        pending = self._pending[self._next_id] = self._loop.create_future()
        try:
            self._channel.send({"op": "fork", "id": self._next_id}, fds)
        except (OSError, ControlError) as error:
            del self._pending[self._next_id]
            raise ZygoteLost from error
        try:
            return await asyncio.shield(pending)
        except asyncio.CancelledError:
            # It may exist already or come yet: either way nobody wants it.
            pending.add_done_callback(_kill_unwanted)
            raise

    async def stop(self) -> None:
        """End it, and with it everything that it has forked; returns when all are gone."""
        self._lose()
        await asyncio.gather(*(process.exited for process in list(self._processes.values())))

    def _on_readable(self) -> None:
        if self._receive() is None:
            self._lose()

    def _on_death(self) -> None:
        while self._receive():
            pass  # what it had still to say, which comes to an end now
        self._lose()

    def _receive(self) -> list[Message] | None:
        """Handle what has arrived; an empty list when nothing has, None when nothing will any more."""
        try:
            messages = self._channel.receive()
            for message in messages or ():
                self._handle(message)
        except (ControlError, OSError, KeyError, TypeError):
            logger.exception("the zygote's messages make no sense", extra={"action": "zygote-lost"})
            return None
        return messages

    def _lose(self) -> None:
        """The zygote is gone: the kernel is ending what it forked, and their pidfds will say so. `on_lost` hears it
        before anybody who waits."""
        if self.lost.done():
            return
        self.lost.set_result(None)
        self._on_lost()
        self._loop.remove_reader(self._channel.fileno())
        self._channel.close()
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        # Killed, or ended already: this waits for the kernel, not for the process.
        self._process.kill()
        self._process.wait()
        waiting: list[asyncio.Future[Any]] = [self._hello, *self._pending.values()]
        for pending in waiting:
            if not pending.done():
                pending.set_exception(ZygoteLost())
                pending.exception()  # it is no fault of anybody who has stopped waiting
        self._pending.clear()
        for process in list(self._processes.values()):
            process.orphan()

    def _handle(self, message: Message) -> None:
        match message["event"]:
            case "hello":
                self._hello.set_result(message)
            case "forked":
                (pidfd,) = self._channel.take_fds(1)
                process = ForkedProcess(message["id"], message["pid"], pidfd, self._loop)
                self._processes[process.id] = process
                process.exited.add_done_callback(lambda _: self._processes.pop(process.id, None))
                self._resolve(message["id"], process)
            case "refused":
                pending = self._pending.pop(message["id"])
                if not pending.done():
                    pending.set_exception(ForkRefused(message["reason"]))
            case "output":
                self._output(self._processes.get(message["id"]), message)
            case "exit":
                process_or_none = self._processes.get(message["id"])
                if process_or_none is not None:
                    process_or_none.finish(Exit(message["status"], message["signal"], False, message["last_words"]))

    def _resolve(self, id: int, process: ForkedProcess) -> None:
        pending = self._pending.pop(id)
        if pending.done():
            process.kill()
        else:
            pending.set_result(process)

    def _output(self, process: ForkedProcess | None, message: Message) -> None:
        if process is not None:
            process.on_output(message["text"], message["dropped"])


def _kill_unwanted(pending: asyncio.Future[Any]) -> None:
    if not pending.cancelled() and pending.exception() is None:
        pending.result().kill()
