"""What every part of one event loop's data plane shares: recycled exchanges, answers to flush, clocks and the timer."""

from collections.abc import Callable

from kernels.exchange import Intake

class LoopIntake(Intake):
    """An intake of one event loop.

    Args:
        call_soon: the loop's: `settle` is called through it at the end of every wake-up that asked for it.
        max_pooled: exchanges kept for the next requests.
        max_pooled_bytes: of memory that they may keep together.
    """

    timer: int
    """A file descriptor that becomes readable when time has brought something about."""
    in_flight: int
    """Requests admitted, and neither answered nor cancelled."""
    pooled_bytes: int
    """Of memory kept in exchanges for the next requests."""
    def __init__(
        self,
        *,
        call_soon: Callable[[Callable[[], object]], object],
        max_pooled: int = 4096,
        max_pooled_bytes: int = 33554432,
    ) -> None: ...
    def settle(self) -> None:
        """The end of a wake-up: write what was answered."""
