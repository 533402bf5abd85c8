# Declarations of the C++ session, and the Python objects around it. See http2.pyi.
from libc.stddef cimport size_t
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t
from libcpp cimport bool as cbool
from libcpp.string cimport string
from libcpp.utility cimport pair
from libcpp.vector cimport vector

from kernels.exchange cimport Exchange, Intake, ReplySink
from kernels.http2_limits cimport Http2Limits, Http2Settings
from kernels.infer cimport Buffer, string_view
from kernels.receive cimport ReceiveBuffer


cdef extern from "http2_session.hpp" namespace "sluice":
    cdef cppclass Stream:
        int32_t id
        void* owner
        double arrived
        double deadline
        string path
        vector[pair[string, string]] metadata
        Buffer* body
        string details
        vector[pair[string, string]] trailers

    cdef cppclass StreamPool:
        size_t live()

    cdef cppclass Output:
        size_t size()
        ssize_t send(int)
        void copy(size_t, uint8_t*)
        void clear()

    cdef cppclass Http2Pool:
        StreamPool streams
        Output out

    cdef cppclass Host:
        void* self
        const cbool* wants_headers
        cbool (*wants_header)(void*, string_view) noexcept
        void (*open_unary)(void*, Stream*) noexcept
        void (*submit)(void*, Stream*) noexcept
        void (*cancel)(void*, void*) noexcept
        void (*release)(void*, void*) noexcept
        void (*open_call)(void*, Stream*) noexcept
        void (*message)(void*, Stream*, const uint8_t*, size_t) noexcept
        void (*half_close)(void*, Stream*) noexcept
        void (*drop_call)(void*, Stream*) noexcept
        void (*writable)(void*, Stream*) noexcept

    cdef enum class Produced:
        IDLE
        MORE
        BROKEN

    cdef cppclass Http2Session:
        Http2Session(const Http2Settings&, string_view, Http2Pool&, const Host&) except +
        cbool open(double)
        void close()
        cbool receive(const uint8_t*, size_t, double)
        Produced produce(Output&, size_t, double)
        void written()
        cbool notify_writable()
        cbool tick(double, cbool)
        void drain(double)
        void terminate(uint32_t, string_view)
        cbool is_over()
        cbool wants_write()
        size_t live()
        Stream* find(int64_t)
        void respond(Stream&, int, string_view, const Buffer&, double, string_view) except +
        cbool send(Stream&, const uint8_t*, size_t) except +
        void finish(Stream&, int, string_view) except +
        void pause(Stream&, cbool)


cdef extern from "grpc_framing.hpp" namespace "sluice::grpc" nogil:
    void base64_encode(string_view, string&) except +
    cbool is_binary(string_view)
    cbool is_metadata_key(string_view)
    cbool is_metadata_text(string_view)


cdef class Http2Shared:
    cdef Http2Pool pool
    cdef ReceiveBuffer receive


cdef class Http2Protocol(ReplySink):
    # Given.
    cdef Intake intake
    cdef bytes infer_path
    cdef object handler, on_close
    cdef Http2Limits limits
    cdef Http2Shared shared
    # The connection, from connection_made to connection_lost. The session and everything in it dies there, and nowhere
    # else; `busy` says that it is on the stack.
    cdef object transport, loop
    cdef readonly object peer
    cdef Http2Session* session
    cdef int fd                  # for sending at once; -1 when all must go through the transport (TLS)
    cdef cbool busy, is_lost     # is_lost: connection_lost came while busy
    cdef cbool is_blocked        # the transport holds bytes that the socket would not take
    cdef cbool is_closing        # closed by us: nothing more goes in or out
    cdef cbool is_scheduled      # a wake is due
    cdef double closing_since
    cdef void pump(self) noexcept
    cdef void write(self, Output& out) noexcept
    cdef void close_transport(self, cbool at_once) noexcept
    cdef void teardown(self) noexcept
    cdef void wake_soon(self) noexcept
    cdef void report(self, str message, object error) noexcept


cdef class Call:
    cdef Http2Protocol protocol
    cdef Stream* stream          # NULL once finished, cancelled or failed
    cdef object timer
    cdef readonly bytes path
    cdef readonly list metadata
    cdef readonly double deadline
    cdef readonly bint is_cancelled
    cdef public object on_message, on_end, on_cancel, on_writable
    cdef void end(self, cbool cancelled) noexcept
    cdef void fire(self, object callback, tuple arguments) noexcept
