# Intakes for tests and for measuring a front end alone. See testing.pyi.
from libc.stdint cimport int64_t, uint8_t

from kernels.exchange cimport Exchange, Intake, ReplySink


cdef class EchoIntake(Intake):
    cdef object constant        # the one answer, or None to echo
    cdef Exchange free          # pool, linked by `next`
    cdef list waiting           # touched sinks
    cdef object call_soon
    cdef readonly int64_t live, acquired, submitted, released, cancelled
    cdef readonly list faults
    cdef void end(self, Exchange exchange) noexcept
    cdef void settle(self, Exchange exchange) noexcept


cdef class ScriptedIntake(EchoIntake):
    cdef object script
    cdef dict pending           # id of the exchange -> Pending
    cdef readonly list requests


cdef class Pending:
    cdef ScriptedIntake intake
    cdef Exchange exchange      # None once answered or cancelled
    cdef readonly bytes body, model, version
    cdef readonly int64_t stream_id, header_length
    cdef readonly int protocol
    cdef readonly double arrived, deadline
    cdef readonly bint is_answered, is_cancelled
