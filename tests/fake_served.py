"""A served version whose every figure a test sets by hand, with real meters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from gateway.attempts import Capacity
from kernels.meters import Meters


@dataclass
class FakeServed:
    model: str = "tabular"
    version: str = "1"
    role: str = "stable"
    state: str = "READY"
    reason: str = ""
    meters: Meters = field(default_factory=Meters)
    in_flight: int = 0
    queued: int = 0
    queue_rows: int = 0
    queue_bytes: int = 0
    load_seconds: float = 0.0
    restarts: int = 0
    instances: int = 1

    def succeed(self, seconds: float = 0.001, *, protocol: int = 0, rows: int = 1, times: int = 1) -> None:
        for _ in range(times):
            self.meters.record_answered(protocol, 0, seconds)
            self.meters.record_succeeded(rows, seconds, seconds / 4, 0.0, seconds / 2, 0.0)
            self.meters.record_executed(rows, 0.0, seconds / 2, 0.0, 1)

    def shed(self, reason: int = 1, *, protocol: int = 0, code: int = 8, times: int = 1) -> None:
        for _ in range(times):
            self.meters.record_answered(protocol, code, 0.0001)
            self.meters.record_shed(reason)
            self.meters.record_failed(0, 0.0001)


class FakeSource:
    """A `MeterSource` and a `Health`."""

    def __init__(self, *served: FakeServed, live: bool = True, ready: bool = True) -> None:
        self.versions = list(served)
        self.live, self.ready = live, ready
        self.unrouted = Meters()
        self.waiting = 0
        self.limit, self.loaded, self.evictions = 0, dict[tuple[str, int], int](), dict[str, int]()

    def capacity(self) -> Capacity:
        return Capacity(self.limit, self.loaded, self.evictions)

    def served(self) -> Sequence[FakeServed]:
        return self.versions

    def is_live(self) -> bool:
        return self.live

    def is_ready(self) -> bool:
        return self.ready
