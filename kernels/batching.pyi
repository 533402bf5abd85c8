"""Which requests run together, when, and which are turned away: the decision core of dynamic batching.

Time is a parameter: nothing here reads a clock, waits or sends. The dispatcher calls from Cython (batching.pxd); from
Python the same object is driven by hand through `manual_queue.ManualQueue`.
"""

from collections.abc import Mapping, Sequence

from kernels.queue_policy import QueuePolicy
from kernels.service_time import ServiceTime

class BatchQueue:
    """The queue of one model version.

    Requests of one group (same shapes and outputs) may share a batch of at most `max_batch_size` rows; 0 means that the
    model has no batch dimension and each request runs alone. Lower levels go first, within a level the group whose head
    is oldest, within a group the oldest; members of the same group from later levels fill a batch up.

    With no `max_queue_delay` a batch goes as soon as somebody asks for one. With one, it goes when it is full, when it
    meets one of `preferred_batch_sizes`, when its oldest member has waited so long, or when its deadline needs it.

    A request that would miss its deadline is turned away as early as that is known: when it is offered, by the rows
    ahead of it and the fit of service times, or when a batch is taken. A batch is made smaller to save the member in
    the greatest hurry, unless that makes those behind it late; then that member is given up. Nobody is turned away for
    a prediction before the fit has seen a few batches.
    """

    rows: int
    nbytes: int
    count: int
    """Rows, input bytes and requests that are queued now."""
    service_time: ServiceTime
    max_batch_size: int
    max_rows: int
    max_bytes: int
    max_queue_delay: float
    max_wait: float
    priority_levels: int
    default_priority_level: int
    visits: int
    """Requests that sweeps for expired ones have looked at, ever."""

    def __init__(
        self,
        *,
        max_batch_size: int,
        max_queue_delay: float = 0.0,
        preferred_batch_sizes: Sequence[int] = (),
        priority_levels: int = 0,
        default_priority_level: int = 0,
        policies: Mapping[int, QueuePolicy] | None = None,
        default_policy: QueuePolicy | None = None,
        max_rows: int = 0,
        max_bytes: int = 0,
        max_wait: float = 0.0,
    ) -> None:
        """Times in seconds; a limit of 0 is none. `policies` are by level, `default_policy` holds for the other levels.

        `priority_levels` 0 means one level. A request's priority outside of the levels means the default level, which
        is 1 unless given. Raises ValueError, naming the parameter, for what makes no sense.
        """
