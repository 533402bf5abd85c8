"""The gateway's handle on one worker: its lane, what it hosts, how to end it. Batches are not its business: whoever
fills the lane also harvests it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import replace

from gateway.workers.control import Channel, ControlError
from gateway.workers.memory import private_bytes
from gateway.workers.spec import Description, Exit, InstanceSpec, TensorSpec
from gateway.workers.zygote_process import ForkedProcess
from kernels.lanes import Lane


class Instance:
    """A model instance that is loaded and warm, from `Supervisor.launch` to its `Exit`.

    When the worker ends, `on_exit` is called once, in the turn of the loop that learnt of it. It must harvest what
    the lane still holds, take back what was running, and stop watching `lane.completion`; an idle lane is closed when
    it returns, another one is the callback's to close.
    """

    def __init__(
        self,
        spec: InstanceSpec,
        description: Description,
        lane: Lane,
        control: Channel,
        process: ForkedProcess,
        on_exit: Callable[[Instance, Exit], None],
    ) -> None:
        self.spec = spec
        self.description = description
        self.lane = lane
        self.pid = process.pid
        self.exit: Exit | None = None
        """How it ended; None while it lives."""
        self._control = control
        self._process = process
        self._callback = on_exit
        self._is_stopping = False
        process.on_exit.append(self._on_exit)

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return self.description.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return self.description.outputs

    @property
    def memory_bytes(self) -> int:
        """Private resident memory when it became ready; `measure_memory` has the present."""
        return self.description.memory_bytes

    @property
    def is_alive(self) -> bool:
        return not self._process.is_dead

    def measure_memory(self) -> int:
        """Private resident bytes now; 0 when the process is gone. Takes the kernel some tenths of a millisecond."""
        return private_bytes(self.pid) if self.is_alive else 0

    def kill(self) -> None:
        """End it at once, for one that hangs. Its exit is reported like any other death."""
        self._process.kill()

    async def stop(self, timeout: float) -> Exit:  # noqa: ASYNC109
        """Have it finish the batches in its lane and leave; kill it after `timeout` seconds. Idempotent. Cancelled,
        it kills."""
        if not self._process.exited.done() and not self._is_stopping:
            self._is_stopping = True
            # A worker that cannot be told is one that is ending, or one to be killed below.
            with contextlib.suppress(OSError, ControlError):
                self._control.send({"op": "stop"})
                self.lane.nudge()
        try:
            async with asyncio.timeout(timeout):
                await asyncio.shield(self._process.exited)
        except TimeoutError:
            self.kill()
            await asyncio.shield(self._process.exited)
        except asyncio.CancelledError:
            self.kill()
            raise
        assert self.exit is not None, "this is a bug: an end that was reported to others only"
        return self.exit

    def _on_exit(self, exit: Exit) -> None:
        self._control.close()
        self.exit = replace(exit, is_expected=self._is_stopping)
        try:
            self._callback(self, self.exit)
        finally:
            if self.lane.is_idle:
                self.lane.close()
