# A request that is not an inference call, and the limits of a connection. See http1_request.pyi.
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint64_t
from libcpp cimport bool as cbool

from kernels.exchange cimport ReplySink
from kernels.http1_body cimport BodyLimits
from kernels.http1_head cimport HeadLimits
from kernels.infer cimport Buffer


cdef class Http1Limits:
    cdef HeadLimits head
    cdef BodyLimits body
    cdef int[17] status_of         # HTTP status of each gRPC code
    cdef readonly double header_timeout, body_timeout, idle_timeout, linger_timeout, drain_grace
    cdef readonly size_t max_pipelined, max_unread_bytes, compression_min_bytes, compression_max_bytes


cdef class RequestOwner(ReplySink):
    # The request with this sequence number has its answer.
    cdef void answered(self, int64_t sequence) noexcept


cdef class HttpRequest:
    cdef RequestOwner owner        # None once answered or cancelled
    cdef int64_t sequence
    cdef Buffer content            # the body while it arrives
    cdef readonly str method, path, query
    cdef readonly list headers
    cdef readonly bytes body
    cdef readonly object peer
    cdef readonly bint is_cancelled
    # The answer, once there is one.
    cdef int status
    cdef bytes answer, content_type, extra
    cdef bint is_encoded           # the handler has chosen a content coding
    # The caller has gone.
    cdef void cancel(self) noexcept
