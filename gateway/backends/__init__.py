"""Backends: one file for each engine, run inside workers. A backend turns a model file into something that executes
batches; it does not know who asks, how batches are formed, or where the tensors come from.

Engines are imported only when their backend is asked for, so that one need not be installed for another to work.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from gateway.workers.spec import InstanceSpec, TensorSpec

# Read by ONNX Runtime when it is imported. Without it the engine for Linux reports usage to its makers, by way of a
# thread and a database in the user's cache.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

INVALID_ARGUMENT = 3
UNIMPLEMENTED = 12
INTERNAL = 13

KNOWN = {
    "onnxruntime": "gateway.backends.onnxruntime:OnnxRuntimeBackend",
}

Output = tuple[int, int, Sequence[int], "NDArray[Any] | bytes | memoryview"]
"""Position in the signature, number of the datatype, shape, and a C-contiguous buffer in the protocol's raw form."""


class BackendError(Exception):
    """The engine refused. `code` is a gRPC status code, `message` goes to the caller: no paths, no secrets."""

    def __init__(self, message: str, code: int = INTERNAL) -> None:
        super().__init__(message)
        self.message = message
        self.code = code


@dataclass(slots=True)
class Batch:
    """One batch to execute.

    `inputs` are (position in the signature, array): BYTES as the flat bytes of their raw form, BF16 as its 16 bits.
    Arrays that are the same object from batch to batch lie at the same address, and both ends of that last as long as
    the process: this is what a backend may build on. `area` is where outputs may be put to save a copy; None when
    there is none.
    """

    slot: int
    inputs: list[tuple[int, NDArray[Any]]]
    wanted: int
    """Bit i set: output i is wanted. 0: all are."""
    shape_of: Callable[[int], tuple[int, ...]]
    """The shape of the input at a position of `inputs`: for BYTES the array does not tell."""
    area: memoryview | None = None


class Backend(Protocol):
    """One loaded model. Making it loads the file; it raises `BackendError` with the reason when that is impossible."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def __init__(self, spec: InstanceSpec) -> None: ...

    def repeater(self, batch: Batch) -> Callable[[], object] | None:
        """After `execute`: what runs a batch like this one again, with other values in the same memory, and puts its
        outputs where those of this one are. None when there is no such thing. It raises as `execute` does, and then
        nothing is known of any repeater."""

    def execute(self, batch: Batch) -> Sequence[Output]:
        """The wanted outputs. A `BackendError` fails this batch alone; any other exception does too, as INTERNAL."""


def find(name: str, *, allow_any: bool = False) -> type[Backend]:
    """The backend of that name. `allow_any` also accepts `module:Class`, which runs whatever code it names.

    Raises:
        BackendError: there is none, or its engine is not installed.
    """
    target = KNOWN.get(name)
    if target is None and allow_any and ":" in name:
        target = name
    if target is None:
        raise BackendError(f"backend '{name}' is unknown; there are: {', '.join(KNOWN)}")
    module, _, attribute = target.partition(":")
    try:
        found: type[Backend] = getattr(importlib.import_module(module), attribute)
    except ImportError as error:
        raise BackendError(f"backend '{name}' cannot be used: {error}") from error
    return found


def as_buffer(array: NDArray[Any]) -> NDArray[Any]:
    """The array as one C-contiguous, little-endian piece of memory, copied only when it is not one."""
    return np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
