"""A request's one way through the loop: decoded, routed, admitted, queued, gathered into a lane, scattered, encoded.

`Dispatcher` is what connections hand requests to; a `Deployment` is one model version as this loop serves it. Neither
knows how models are loaded or workers are kept alive: both are told.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

from kernels.batching import BatchQueue
from kernels.exchange import Intake
from kernels.lanes import Lane
from kernels.meters import Meters
from kernels.routes import RouteTable

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
        """The lanes at work, each with the monotonic seconds when its running batch was handed over."""

class Dispatcher(Intake):
    """Takes every request of one event loop.

    Args:
        call_soon: the loop's; what arrives within one wake-up is handed over together at its end.
        max_in_flight: requests between admission and answer; one more is refused with RESOURCE_EXHAUSTED.
    """

    timer: int
    """A file descriptor: `on_timer` is due when it is readable."""
    in_flight: int
    max_in_flight: int
    unrouted: Meters
    """Meters of the requests that reached no deployment."""
    route_table: RouteTable[Deployment]
    """Assigning swaps every route in one step; requests in flight finish where they began."""
    refusal: str | None
    """While set, every request is answered UNAVAILABLE with this text."""
    def __init__(
        self,
        *,
        call_soon: Callable[[Callable[[], object]], object],
        max_in_flight: int = 65536,
        max_tensors: int = 64,
        max_json_depth: int = 32,
        max_tensor_bytes: int = ...,
        max_pooled: int = 4096,
    ) -> None: ...
    def add(self, deployment: Deployment) -> None: ...
    def remove(self, deployment: Deployment) -> None:
        """Forget a deployment that has nothing in flight."""

    def settle(self) -> None: ...
    def on_timer(self) -> None: ...
