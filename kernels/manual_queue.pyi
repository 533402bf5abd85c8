"""A `BatchQueue` driven by hand, from Python: for tests, simulations and measurements.

It is the queue that serves, with the same calls; only the requests are made here instead of by a connection.
"""

from kernels.batching import BatchQueue

class Request:
    """What the queue needs to know of a request, and what it says about it. See `exchange.Exchange` for the fields."""

    rows: int
    deadline: float
    priority: int
    group: int
    nbytes: int
    queued: float
    solo: bool
    shed: int
    """`batching.Shed`: 0 when it was not turned away."""
    code: int
    message: str
    retry_after: float
    is_linked: bool
    """Whether it stands beside another one in a queue or a chain."""

    def __init__(
        self,
        rows: int = 1,
        *,
        deadline: float = 0.0,
        priority: int = 0,
        group: int = 0,
        nbytes: int = 0,
        solo: bool = False,
    ) -> None: ...

class ManualQueue:
    """Calls `queue` as the dispatcher does. A request must be offered or given back to one queue at a time."""

    queue: BatchQueue

    def __init__(self, queue: BatchQueue) -> None: ...
    def offer(self, request: Request, now: float, backlog: float = 0.0, slots: int = 1) -> int:
        """The `batching.Shed` reason; 0 when it is queued."""

    def take(self, now: float) -> list[Request]:
        """The next batch; empty when nothing should run now."""

    def take_dropped(self) -> list[Request]:
        """What `take`, `expire` and `clear` have turned away since the last call."""

    def withdraw(self, request: Request) -> None: ...
    def give_back(self, request: Request, now: float) -> None: ...
    def expire(self, now: float) -> None: ...
    def wake_at(self) -> float: ...
    def clear(self, code: int, message: str) -> None: ...
    def allow_timeout_override(self, level: int) -> bool: ...
    def measure(self, rounds: int, burst: int, timeout: float = 0.0, groups: int = 1) -> float:
        """Seconds of real time that one request costs, offered in bursts and taken in batches."""
