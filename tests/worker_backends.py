"""Backends that misbehave on purpose. Workers of a supervisor that allows any backend load them as
`worker_backends:Scripted`; the model file is not looked at."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Sequence
from typing import NoReturn

import numpy as np

from gateway.backends import BackendError, Batch, Output
from gateway.workers.spec import DATATYPE_NUMBERS, InstanceSpec, TensorSpec

ECHO, SEGFAULT, HANG, BABBLE, LEAK, RAISE, REFUSE, OVERFLOW, EXIT, PRINT = range(10)
SECRET = "the key is hunter2, see /etc/secrets/key"


def crash() -> None:
    ctypes.string_at(0)


def hang() -> NoReturn:
    while True:
        signal.pause()


def babble(bytes: int = 64 * 1024 * 1024) -> None:
    """Garbage, and none of it ends a line."""
    block = os.urandom(64 * 1024).replace(b"\n", b"")
    for _ in range(bytes // len(block)):
        os.write(1, block)
        os.write(2, block)


class Scripted:
    """`command` INT64 [N,1] -> `done` INT64 [N,1], after doing what the first row says. The parameter `on_load` names
    what to do before it is ready."""

    inputs = (TensorSpec("command", "INT64", (-1, 1)),)
    outputs = (TensorSpec("done", "INT64", (-1, 1)),)

    def __init__(self, spec: InstanceSpec) -> None:
        self._leaked: list[np.ndarray] = []
        match spec.parameters.get("on_load", ""):
            case "crash":
                crash()
            case "hang":
                hang()
            case "refuse":
                raise BackendError("it does not feel like it")
            case "raise":
                raise RuntimeError(SECRET)
            case "exit":
                os._exit(3)
            case "leave a child":
                if os.fork() == 0:
                    signal.alarm(20)  # it is nobody's: it has to end by itself
                    hang()
                os._exit(3)
            case "last words":
                sys.stderr.write("something broke deep inside\n")
                crash()
            case "start a thread":
                threading.Thread(target=hang, daemon=True).start()
            case "allocate":
                self._leaked.append(np.ones(1 << 28, np.uint8))

    def repeater(self, batch: Batch) -> None:
        return None

    def execute(self, batch: Batch) -> Sequence[Output]:
        commands = batch.inputs[0][1]
        match int(commands[0, 0]) if commands.size else ECHO:
            case 1:
                crash()
            case 2:
                hang()
            case 3:
                babble()
            case 4:
                self._leaked.append(np.ones(1 << 24, np.uint8))
            case 5:
                raise RuntimeError(SECRET)
            case 6:
                raise BackendError("not these rows", 9)
            case 7:
                return [(0, DATATYPE_NUMBERS["INT64"], (1 << 24, 1), np.zeros(1 << 24, np.int64))]
            case 8:
                os._exit(4)
            case 9:
                sys.stdout.write('{"event":"ready"}\n\x1b[31mred\n')
        return [(0, DATATYPE_NUMBERS["INT64"], commands.shape, np.ascontiguousarray(commands))]
