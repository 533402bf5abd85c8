"""One model version as one event loop serves it: its signature, its queue, the lanes of its workers, its meters.

It does not know how the model is loaded or its workers are kept alive: it is told of lanes that come and go.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

from kernels.batching import BatchQueue
from kernels.lanes import Lane
from kernels.meters import Meters

class Tensor(Protocol):
    """An input or output as the wire sees it: `gateway.serving_plan.Tensor` is one."""

    @property
    def name(self) -> str: ...
    @property
    def datatype(self) -> str: ...
    @property
    def shape(self) -> Sequence[int]: ...
    @property
    def index(self) -> int:
        """Position among the engine's inputs or outputs."""

    @property
    def optional(self) -> bool: ...
    @property
    def labels(self) -> Sequence[str]: ...
    @property
    def engine_shape(self) -> Sequence[int] | None:
        """What the engine sees instead of `shape`, with as many free dimensions in the same order."""

class Deployment:
    """One model version: its signature, its queue, the lanes of its workers, its meters.

    Args:
        inputs, outputs: at most 64 of each; shapes as on the wire, -1 where free, a leading -1 when the model batches.
        max_batch_size: rows a batch may have; 0 for a model without a batch dimension.
        slot_bytes: size of a lane's input area, the limit of one request's inputs.
        idempotent: whether a request may run again after its batch failed or its worker died.
    """

    model: str
    version: str
    queue: BatchQueue
    meters: Meters
    in_flight: int
    in_flight_peak: int
    compute_seconds: float
    def __init__(
        self,
        model: str,
        version: str,
        inputs: Sequence[Tensor],
        outputs: Sequence[Tensor],
        *,
        max_batch_size: int,
        queue: BatchQueue,
        slot_bytes: int,
        meters: Meters | None = None,
        idempotent: bool = True,
    ) -> None: ...
    @property
    def lane_count(self) -> int: ...
    def take_peak(self) -> int:
        """The most that was in flight at once since the last call."""

    def attach(self, lane: Lane) -> None:
        """Serve from this lane too. Its completion doorbell must call `collect`."""

    def detach(self, lane: Lane) -> None:
        """The lane's worker is gone or leaving: what ran there runs elsewhere, within its attempts. Idempotent."""

    def collect(self, lane: Lane) -> None:
        """The lane's doorbell back rang: answer what has come back and hand over what waits."""

    def retire(self, on_idle: Callable[[], object]) -> None:
        """Nothing new will come: call `on_idle` once, as soon as everything is answered."""

    def abort(self, code: int, message: str) -> None:
        """Answer everything that is queued with this gRPC status."""

    def oldest_started(self) -> list[tuple[Lane, float]]:
        """The lanes at work, each with the monotonic seconds since when its running batch has had the worker to itself
        (see `Lane.oldest_started`)."""
