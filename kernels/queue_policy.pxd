# How one priority level is queued. See queue_policy.pyi.
from libc.stdint cimport int64_t
from libcpp cimport bool as cbool


cdef struct Policy:
    cbool delays                    # the timeout action is DELAY
    cbool allows_timeout_override
    double timeout                  # seconds; 0 for none
    int64_t max_queue_size          # requests; 0 for no limit

# Raises ValueError for a `QueuePolicy` with a negative limit.
cdef Policy to_policy(object policy) except *
