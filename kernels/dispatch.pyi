"""Where every request of one event loop comes in: decoded, routed, checked, admitted, and queued at its deployment."""

from collections.abc import Callable

from kernels.deployment import Deployment
from kernels.loop import LoopIntake
from kernels.meters import Meters
from kernels.rollout import ArmEvents
from kernels.routes import RouteTable

class Dispatcher(LoopIntake):
    """Takes every request of one event loop.

    Args:
        call_soon: the loop's; what arrives within one wake-up is handed over together at its end.
        max_in_flight: requests between admission and answer; one more is refused with RESOURCE_EXHAUSTED.
    """

    max_in_flight: int
    unrouted: Meters
    """Meters of the requests that reached no deployment."""
    route_table: RouteTable[Deployment]
    """Assigning swaps every route in one step; requests in flight finish where they began."""
    refusal: str | None
    """While set, every request is answered UNAVAILABLE with this text."""
    on_events: Callable[[list[ArmEvents]], None] | None
    """Told of the events of all rollouts: failures at the end of the wake-up that saw them, slow answers within 10 ms.
    It may assign `route_table`."""
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
