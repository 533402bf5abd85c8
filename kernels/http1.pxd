# The HTTP/1 front end of one connection. See http1.pyi.
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t
from libcpp.deque cimport deque
from libcpp.string cimport string

from kernels.exchange cimport Exchange, Intake
from kernels.http1_answer cimport Slot
from kernels.http1_body cimport BodyReader
from kernels.http1_head cimport Head
from kernels.http1_request cimport Http1Limits, HttpRequest, RequestOwner
from kernels.http1_writer cimport Http1Writer
from kernels.infer cimport Buffer
from kernels.receive cimport ReceiveBuffer

# What the connection does with the next bytes.
cdef enum Reading:
    HEAD = 0        # a request line and fields
    BODY = 1        # of the request in the last slot
    STOPPED = 2     # drops them: the last request of this connection has been taken


cdef class Http1Protocol(RequestOwner):
    # Who it is with, for good.
    cdef Intake intake
    cdef object handler, on_close
    cdef Http1Limits limits
    cdef ReceiveBuffer receive
    # The connection.
    cdef object transport, loop, peer
    cdef Http1Writer out
    # Requests taken and not yet answered on the wire, oldest first; the first of them has this sequence number. The
    # reading side adds (and removes the last, when it will never be complete), `advance` and `abandon` take out.
    cdef deque[Slot] slots
    cdef int64_t first
    # Reading: changed by the transport's calls, `refuse` and `abandon`.
    cdef uint8_t reading
    cdef Exchange exchange         # whose body is arriving,
    cdef HttpRequest request       # or this one's
    cdef BodyReader body
    cdef bint is_placed            # the transport was given a place in the body itself
    cdef bint wants_continue       # the client waits for 100 before it sends
    cdef Buffer pending            # received and not consumed: part of a head, or what waits for room in `slots`
    cdef size_t scanned            # of `pending`, in search of the head's end
    cdef int refusal               # status and text of the answer in the REFUSAL slot
    cdef string refusal_text
    # Life.
    cdef bint in_callback          # a read callback is running and will settle at its end
    cdef bint is_stalled           # reading is paused until there is room
    cdef bint is_resuming          # its end has been asked for
    cdef bint is_draining          # the answers of what was taken are the last ones
    cdef bint is_grace_over        # and idle connections are closed
    cdef bint has_eof              # the client sends no more
    cdef bint is_finishing         # the last answer is in the output
    cdef bint is_closing           # it is written, too; what is left is the client's end of it
    cdef bint is_lost              # before connection_made and after connection_lost
    cdef double read_at, head_at, idle_at, closing_at

    cdef int take(self, const uint8_t* data, size_t size) except -1
    cdef size_t consume(self, const uint8_t* data, size_t size) except? -1
    cdef size_t await_head(self, size_t at) noexcept
    cdef size_t take_head(self, const uint8_t* data, size_t size) except? -1
    cdef int accept(self, Head& head) except -1
    cdef void give_headers(self, Exchange exchange, Head& head) noexcept
    cdef HttpRequest new_request(self, Head& head, int64_t sequence)
    cdef int finish_message(self) except -1
    cdef void refuse(self, int status, const char* reason, bint is_head) noexcept
    cdef void drop_receiving(self) noexcept
    cdef bint has_room(self) noexcept
    cdef bint has_backlog(self) noexcept
    cdef bint can_resume(self) noexcept
    cdef void end_requests(self) noexcept
    cdef void advance(self) noexcept
    cdef void emit(self, Slot& slot, bint last) noexcept
    cdef void write_out(self) noexcept
    cdef void settle(self) noexcept
    cdef int steer_reading(self) except -1
    cdef int end_output(self) except -1
    cdef void close(self) noexcept
    cdef void abort(self) noexcept
    cdef void abandon(self) noexcept
