# What every part of one event loop's data plane shares. See loop.pyi.
from libc.stdint cimport int64_t
from libcpp cimport bool as cbool

from kernels.exchange cimport Exchange, Intake, ReplySink

# Seconds, and milliseconds since the epoch.
cdef double monotonic() noexcept nogil
cdef int64_t epoch_ms() noexcept nogil


cdef class LoopIntake(Intake):
    cdef Exchange pool                 # recycled exchanges, a chain by `next`
    cdef int pooled, max_pooled
    cdef list touched                  # sinks that wait for their flush
    cdef object call_soon
    cdef bint settle_scheduled
    cdef readonly int timer            # a timerfd
    cdef double wake                   # when it fires, 0 when it is not armed
    cdef readonly int64_t in_flight    # admitted, and neither answered nor cancelled

    # Another deployment than `origin`, which holds nothing of the request any more, answers it, if there is one that
    # can and it is not too late. True: it is queued there. False: it is as before, but for its tensor views.
    cdef cbool reroute(self, Exchange x, object origin, double now) noexcept
    # Has the events that wait in a `Rollout` told: at the end of this wake-up, or a little later with others.
    cdef void report(self, object rollout, cbool is_urgent, double now) noexcept
    # Asks for `settle` at the end of this wake-up.
    cdef void schedule(self) noexcept
    cdef void flush(self) noexcept
    # The timer fires at `when` or earlier.
    cdef void arm(self, double when) noexcept
    # It has fired: reads it.
    cdef void disarm(self) noexcept
