"""How one priority level of a queue is queued: what is configured, apart from the queue that follows it."""

from enum import IntEnum
from typing import NamedTuple

class TimeoutAction(IntEnum):
    """What happens to a request whose queue timeout has passed. DELAY: it runs behind all others of its level."""

    REJECT = 0
    DELAY = 1

class QueuePolicy(NamedTuple):
    """How one priority level is queued; the fields and their meaning are Triton's, times in seconds.

    `default_timeout` 0 is none, counted from when the request was queued; one that was given back has none any more.
    `allow_timeout_override` says whether a request's own `timeout` parameter counts (as a deadline).
    `max_queue_size` counts requests, 0 is no limit. The defaults are what holds where no policy is configured.
    """

    timeout_action: TimeoutAction = ...
    default_timeout: float = 0.0
    allow_timeout_override: bool = True
    max_queue_size: int = 0
