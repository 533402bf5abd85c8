"""Which cores a worker may run on.

Handing a batch to a sleeping worker on another core and getting it back costs about 100 us, most of it in waking
halted cores; on the loop's own core it costs about 25 us, but there the loop waits while the worker computes. So a
worker stays with the loop while batches are short and requests come singly, and gets every core as soon as they do
not.

`Placement` decides from counts and reads no clock; the functions below it act.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.metadata
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class PlacementLimits:
    """A worker on the loop's core leaves it at once above any `widen` limit, and comes back after `narrow_seconds`
    below every `narrow` limit. Between the two nothing changes."""

    widen_batch_seconds: float = 120e-6
    """Mean time to compute a batch: longer than the wake-up that sharing a core saves."""
    narrow_batch_seconds: float = 60e-6
    widen_busy: float = 0.5
    """Share of time that the worker computes."""
    narrow_busy: float = 0.3
    widen_batch_rows: float = 4.0
    """Mean batch size: that rows pile up while a batch runs says that the core is full."""
    narrow_batch_rows: float = 2.0
    narrow_seconds: float = 1.0


class Placement:
    """Where one worker belongs.

    Args:
        loop_cpu: the core that the loop is pinned to.
        cpus: every core that the process may use. With a single one there is nothing to decide.
    """

    def __init__(self, loop_cpu: int, cpus: Iterable[int], limits: PlacementLimits | None = None) -> None:
        self._all = frozenset(cpus)
        self._own = frozenset((loop_cpu,)) & self._all
        self._limits = limits or PlacementLimits()
        # Wide until it is known to be cheap: an unknown model may compute for seconds. Changed by `update` alone.
        self.cpus = self._all
        self._now: float | None = None
        self._quiet_since: float | None = None

    @property
    def is_narrow(self) -> bool:
        return self.cpus == self._own and self._own != self._all

    def update(self, now: float, batches: int, busy_seconds: float, rows: int) -> frozenset[int] | None:
        """Take in what the worker did since the last update: batches finished, seconds that they computed, rows in
        them.

        Returns:
            The cores that it may use from now on when they change, else None.
        """
        elapsed = 0.0 if self._now is None else now - self._now
        self._now = now
        if not self._own or self._own == self._all or elapsed <= 0.0:
            return None
        if batches == 0:
            # Nothing learnt: an idle worker stays where it is, and idle time is no proof of short batches.
            return None
        load = (busy_seconds / batches, busy_seconds / elapsed, rows / batches)
        limits = self._limits
        if _any_above(load, (limits.widen_batch_seconds, limits.widen_busy, limits.widen_batch_rows)):
            self._quiet_since = None
            return self._move(self._all)
        if _any_above(load, (limits.narrow_batch_seconds, limits.narrow_busy, limits.narrow_batch_rows)):
            self._quiet_since = None
            return None
        if self._quiet_since is None:
            self._quiet_since = now - elapsed
        return self._move(self._own) if now - self._quiet_since >= limits.narrow_seconds else None

    def _move(self, cpus: frozenset[int]) -> frozenset[int] | None:
        if cpus == self.cpus:
            return None
        self.cpus = cpus
        return cpus


def _any_above(values: tuple[float, float, float], limits: tuple[float, float, float]) -> bool:
    return any(value > limit for value, limit in zip(values, limits, strict=True))


def usable_cpus() -> frozenset[int]:
    """The cores that this process may use."""
    return frozenset(os.sched_getaffinity(0))


def current_cpu() -> int:
    """The core that the calling thread runs on at this moment."""
    return int(ctypes.CDLL(None).sched_getcpu())


def pin_thread(cpus: Iterable[int]) -> None:
    """Keep the calling thread on these cores. OSError when none of them may be used."""
    os.sched_setaffinity(0, cpus)


def place(pid: int, cpus: Iterable[int]) -> None:
    """Move a process with every thread that it has. One that is gone, or may not use these cores, stays as it is."""
    wanted = frozenset(cpus)
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(ProcessLookupError):
                os.sched_setaffinity(int(thread), wanted)


def usable_gpus(devices: Path = Path("/dev")) -> tuple[int, ...]:
    """Ordinals of the devices that the engine could use: empty without the GPU build of ONNX Runtime, or a device.

    The engine counts from 0 whatever the numbers of the device files: a container may be given only the fourth."""
    try:
        importlib.metadata.version("onnxruntime-gpu")
    except importlib.metadata.PackageNotFoundError:
        return ()
    return tuple(range(len(list(devices.glob("nvidia[0-9]*")))))
