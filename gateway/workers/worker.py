"""The inside of a worker: load one model, warm it up, serve its lane until told to stop.

The loop knows slots and batches, the backend knows the engine, the gateway's control socket knows when to end. A
batch that fails is answered as failed; only the engine crashing the process ends a worker before its time.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from gateway.backends import INTERNAL, Backend, BackendError, Batch, find
from gateway.workers.background import run_in_background
from gateway.workers.control import Channel
from gateway.workers.memory import private_bytes
from gateway.workers.spec import Description, InstanceSpec
from gateway.workers.warmup import warm_up
from kernels.lanes import LanePort

MAX_REPEATS = 1024
"""Kinds of batches remembered. When full all are dropped: the steady ones come back at once."""


class Worker:
    """Hosts the model that the first control message names."""

    def __init__(self, control: Channel, port: LanePort, *, allow_any_backend: bool = False) -> None:
        self._control = control
        self._port = port
        self._allow_any_backend = allow_any_backend
        # By what a batch is but for its values: what runs one like it again, and where its outputs then lie.
        self._repeats: dict[bytes, tuple[Callable[[], object], bytes]] = {}

    def run(self) -> int:
        """Everything from loading to the end; returns the exit status."""
        request = self._next_request()
        if request is None:
            return 0
        spec = InstanceSpec.from_json(request["spec"])
        try:
            load = partial(self._load, spec, warm=request["op"] == "load")
            backend, description = load() if spec.has_engine_threads else run_in_background(load)
        except Exception as error:
            self._control.send({"event": "failed", "reason": _reason(error)})
            return 1
        self._control.send({"event": "ready", "description": description.to_json()})
        if request["op"] == "describe":
            return 0
        # What is here now stays: the collector need not look at it again.
        gc.collect()
        gc.freeze()
        self._serve(backend)
        return 0

    def _next_request(self) -> dict[str, Any] | None:
        messages = self._control.receive()
        while messages == []:
            messages = self._control.receive()
        return messages[0] if messages else None

    def _load(self, spec: InstanceSpec, *, warm: bool) -> tuple[Backend, Description]:
        backend = find(spec.backend, allow_any=self._allow_any_backend)(spec)
        timings = warm_up(backend, spec, time.monotonic) if warm else ()
        return backend, Description(backend.inputs, backend.outputs, private_bytes(), timings)

    def _serve(self, backend: Backend) -> None:
        port = self._port
        areas = [port.output_area(slot) for slot in range(2)]
        while True:
            slot = port.wait()
            if slot >= 0:
                self._execute(backend, slot, areas[slot])
            elif self._is_told_to_stop():
                break
        while (slot := port.wait(0)) >= 0:
            self._execute(backend, slot, areas[slot])

    def _execute(self, backend: Backend, slot: int, area: memoryview) -> None:
        port = self._port
        key = port.describe(slot)
        if self._execute_again(slot, key):
            return

        def shape_of(position: int) -> tuple[int, ...]:
            return port.input_shape(slot, position)

        try:
            batch = Batch(slot, port.inputs(slot), port.wanted(slot), shape_of, area)
            started = time.monotonic_ns()
            outputs = backend.execute(batch)
            finished = time.monotonic_ns()
            repeat = backend.repeater(batch)
            try:
                table = port.complete(slot, outputs, started, finished)
            except ValueError as error:  # they do not fit the slot, and it says by how much
                raise BackendError(str(error)) from error
        except Exception as error:
            port.fail(slot, error.code if isinstance(error, BackendError) else INTERNAL, _reason(error))
            return
        if repeat is not None:
            if len(self._repeats) >= MAX_REPEATS:
                self._repeats.clear()
            self._repeats[key] = (repeat, table)

    def _execute_again(self, slot: int, key: bytes) -> bool:
        """The short way for a batch like one before; False when there is none, or it fails: then take the long one."""
        known = self._repeats.get(key)
        if known is None:
            return False
        repeat, table = known
        started = time.monotonic_ns()
        try:
            repeat()
        except Exception:
            self._repeats.clear()
            return False
        self._port.repeat(slot, table, started, time.monotonic_ns())
        return True

    def _is_told_to_stop(self) -> bool:
        messages = self._control.receive()
        return messages is None or any(message.get("op") == "stop" for message in messages)


def _reason(error: Exception) -> str:
    """What a caller may read: a backend's own words, or the kind of failure and nothing that it says."""
    if isinstance(error, BackendError):
        return error.message
    if isinstance(error, MemoryError):
        return "the model ran out of memory"
    return f"the backend failed: {type(error).__name__}"
