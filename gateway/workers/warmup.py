"""Batches that are run before a model takes traffic, so that the first caller does not pay for what engines do lazily.

Configured ones must succeed, or the model is not ready. Without any, one row of zeros and a large batch of them are
tried: their failing says nothing, since zeros may be outside what the model accepts.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gateway.backends import Backend, BackendError, Batch, strings
from gateway.workers.spec import DATATYPES, ELEMENT_SIZES, InstanceSpec, TensorSpec, WarmupBatch, WarmupInput

_FORMS = ("?", "u1", "<u2", "<u4", "<u8", "i1", "<i2", "<i4", "<i8", "<f2", "<f4", "<f8", "u1", "<u2")
DTYPES = dict(zip(DATATYPES[1:], _FORMS, strict=True))
"""How each datatype's raw form looks to numpy: BF16 is its 16 bits, BYTES its flat bytes."""

MAX_LARGE_SECONDS = 1.0
"""What the large batch of the default warm-up may take, judged by how long one row took."""

Timings = tuple[tuple[int, float], ...]
Tensor = tuple[int, NDArray[Any], tuple[int, ...]]
"""Position in the signature, array, true shape."""


def warm_up(backend: Backend, spec: InstanceSpec, clock: Callable[[], float]) -> Timings:
    """Run what the spec asks for, or the default; returns (rows, seconds) of the last run of each size.

    Raises:
        BackendError: a configured batch cannot be made or fails.
    """
    timings: dict[int, float] = {}
    for configured in spec.warmup:
        tensors = [_configured(configured, each, backend, spec.path) for each in configured.inputs]
        for _ in range(configured.count):
            try:
                timings[max(configured.batch_size, 1)] = _timed(backend, tensors, clock)
            except Exception as error:
                reason = error.message if isinstance(error, BackendError) else type(error).__name__
                raise BackendError(f"warm-up '{configured.name}' failed: {reason}") from error
    if not spec.warmup:
        timings = _default(backend, spec, clock)
    return tuple(sorted(timings.items()))


def _default(backend: Backend, spec: InstanceSpec, clock: Callable[[], float]) -> dict[int, float]:
    timings = {}
    try:
        one = [_zeros(at, each, 1, is_batched=spec.max_batch_size > 0) for at, each in enumerate(backend.inputs)]
        _timed(backend, one, clock)
        timings[1] = _timed(backend, one, clock)
        row_bytes = max(sum(array.nbytes for _, array, _ in one), 1)
        rows = min(spec.max_batch_size, int(MAX_LARGE_SECONDS / max(timings[1], 1e-6)), spec.slot_bytes // row_bytes)
        if rows > 1:
            large = [_zeros(at, each, rows, is_batched=True) for at, each in enumerate(backend.inputs)]
            _timed(backend, large, clock)
            timings[rows] = _timed(backend, large, clock)
    except Exception:
        return timings
    return timings


def _timed(backend: Backend, tensors: list[Tensor], clock: Callable[[], float]) -> float:
    started = clock()
    shapes = [shape for _, _, shape in tensors]
    backend.execute(Batch(0, [(index, array) for index, array, _ in tensors], 0, shapes.__getitem__))
    return clock() - started


def _zeros(index: int, spec: TensorSpec, rows: int, *, is_batched: bool) -> Tensor:
    """Free dimensions are 1."""
    shape = [max(size, 1) if size < 0 else size for size in spec.shape]
    if is_batched and shape:
        shape[0] = rows
    return _tensor(index, spec.datatype, tuple(shape), bytes(_elements(shape) * (ELEMENT_SIZES[spec.datatype] or 4)))


def _configured(batch: WarmupBatch, given: WarmupInput, backend: Backend, path: Path) -> Tensor:
    index = next((at for at, each in enumerate(backend.inputs) if each.name == given.name), -1)
    if index < 0 or backend.inputs[index].datatype != given.datatype:
        wanted = f"input '{given.name}' ({given.datatype})"
        raise BackendError(f"warm-up '{batch.name}' names {wanted}, which the model lacks")
    shape = (batch.batch_size, *given.shape) if batch.batch_size > 0 else tuple(given.shape)
    if any(size < 0 for size in shape):
        raise BackendError(f"warm-up '{batch.name}' leaves a dimension of input '{given.name}' open")
    if given.data == "file":
        return _tensor(index, given.datatype, shape, _file(batch, given, path, shape))
    if given.data == "random":
        return _tensor(index, given.datatype, shape, _random(given, shape))
    return _tensor(index, given.datatype, shape, bytes(_elements(shape) * (ELEMENT_SIZES[given.datatype] or 4)))


def _file(batch: WarmupBatch, given: WarmupInput, path: Path, shape: tuple[int, ...]) -> bytes:
    """The bytes of one row repeated, or those of the whole batch. Triton's place: `<model>/warmup/<file>`."""
    folder = (path.parent.parent / "warmup").resolve()
    source = (folder / given.file).resolve()
    if not source.is_relative_to(folder):
        raise BackendError(f"warm-up '{batch.name}' names a file outside the model's warmup folder")
    try:
        data = source.read_bytes()
    except OSError as error:
        raise BackendError(f"warm-up '{batch.name}' cannot read '{given.file}': {error.strerror}") from error
    if given.datatype == "BYTES":
        try:
            strings.from_raw(data, shape)
        except ValueError:
            data *= max(batch.batch_size, 1)
        return data
    size = _elements(shape) * ELEMENT_SIZES[given.datatype]
    if len(data) * max(batch.batch_size, 1) == size:
        data *= max(batch.batch_size, 1)
    if len(data) != size:
        raise BackendError(f"warm-up '{batch.name}': '{given.file}' has {len(data)} bytes, {size} are needed")
    return data


def _random(given: WarmupInput, shape: tuple[int, ...]) -> bytes:
    """Seeded by the input's name, so that every start warms up with the same values."""
    random = np.random.default_rng(zlib.crc32(given.name.encode()))
    count = _elements(shape)
    match given.datatype:
        case "BYTES":
            return strings.to_raw(str(value) for value in random.integers(0, 1000, count))
        case "BOOL":
            values = random.integers(0, 2, count).astype("?")
        case "BF16":
            # The upper half of a float in [0, 1) is that number in BF16, rounded down.
            values = (random.random(count, np.float32).view("<u4") >> 16).astype("<u2")
        case "FP16" | "FP32" | "FP64":
            values = random.random(count).astype(DTYPES[given.datatype])
        case _:
            values = random.integers(0, 127, count).astype(DTYPES[given.datatype])
    return values.tobytes()


def _tensor(index: int, datatype: str, shape: tuple[int, ...], raw: bytes) -> Tensor:
    array = np.frombuffer(raw, DTYPES[datatype])
    return index, (array if datatype == "BYTES" else array.reshape(shape)), shape


def _elements(shape: tuple[int, ...] | list[int]) -> int:
    return int(np.prod(shape, dtype=np.int64))
