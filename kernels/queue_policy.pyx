# How one priority level is queued, as it is given and as the queue reads it.
from collections import namedtuple
from enum import IntEnum

from libc.math cimport isfinite


class TimeoutAction(IntEnum):
    REJECT = 0
    DELAY = 1


QueuePolicy = namedtuple("QueuePolicy", "timeout_action default_timeout allow_timeout_override max_queue_size",
                         defaults=(TimeoutAction.REJECT, 0.0, True, 0))


cdef Policy to_policy(object policy) except *:
    cdef Policy result
    if not isfinite(policy.default_timeout) or policy.default_timeout < 0 or policy.max_queue_size < 0:
        raise ValueError(f"a queue policy's limits must not be negative: {policy}")
    result.delays = TimeoutAction(policy.timeout_action) is TimeoutAction.DELAY
    result.allows_timeout_override = policy.allow_timeout_override
    result.timeout = policy.default_timeout
    result.max_queue_size = policy.max_queue_size
    return result
