# The asyncio side of an HTTP/2 session: a transport, the intake, and the Python face of calls. See http2.pyi.
cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.ref cimport Py_DECREF, Py_INCREF
from cython.operator cimport dereference as deref
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t
from libcpp cimport bool as cbool
from libcpp.string cimport string
from libcpp.utility cimport pair

import asyncio

from kernels.exchange cimport GRPC, Exchange, Intake, ReplySink
from kernels.http2_limits cimport Http2Limits
from kernels.infer cimport string_view
from kernels.receive cimport ReceiveBuffer


cdef extern from "<sys/socket.h>" nogil:
    int setsockopt(int, int, int, const void*, unsigned int)

cdef extern from "<netinet/in.h>" nogil:
    enum: IPPROTO_TCP

cdef extern from "<netinet/tcp.h>" nogil:
    enum: TCP_NODELAY

cdef extern from "<time.h>" nogil:
    struct timespec:
        long tv_sec
        long tv_nsec
    int clock_gettime(int, timespec*)
    enum: CLOCK_MONOTONIC

# What is cimported has no name in the module that Python sees.
globals()["Http2Limits"] = Http2Limits

cdef enum:
    OUT_HIGH_WATER = 256 * 1024
    DEADLINE_EXCEEDED = 4
    INTERNAL = 13
    NO_ERROR = 0


cdef inline double monotonic() noexcept:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <double>now.tv_sec + <double>now.tv_nsec * 1e-9


cdef inline string_view view_of(const string& text) noexcept:
    return string_view(text.data(), text.size())


cdef inline string_view view_of_bytes(bytes data):
    return string_view(<const char*>data, len(data))


cdef class Http2Shared:
    def __init__(self, ReceiveBuffer receive=None):
        self.receive = ReceiveBuffer() if receive is None else receive

    @property
    def live_streams(self):
        return self.pool.streams.live()


# ---- what the session calls; `self` is the protocol, the stream's owner an Exchange or a Call

cdef cbool wants_header(void* self, string_view name) noexcept:
    return (<Http2Protocol>self).intake.wants_header(name)


cdef void open_unary(void* self, Stream* stream) noexcept:
    protocol = <Http2Protocol>self
    cdef size_t i
    exchange = protocol.intake.acquire(protocol, stream.id, GRPC)
    exchange.arrived = stream.arrived
    exchange.deadline = stream.deadline
    for i in range(stream.metadata.size()):
        protocol.intake.take_header(exchange, view_of(stream.metadata[i].first), view_of(stream.metadata[i].second))
    Py_INCREF(exchange)
    stream.owner = <void*>exchange
    stream.body = &exchange.request.body


cdef void submit(void* self, Stream* stream) noexcept:
    (<Http2Protocol>self).intake.submit(<Exchange>stream.owner)


cdef void cancel(void* self, void* owner) noexcept:
    exchange = <Exchange>owner
    (<Http2Protocol>self).intake.cancel(exchange)
    Py_DECREF(exchange)


cdef void release(void* self, void* owner) noexcept:
    exchange = <Exchange>owner
    (<Http2Protocol>self).intake.release(exchange)
    Py_DECREF(exchange)


cdef void open_call(void* self, Stream* stream) noexcept:
    protocol = <Http2Protocol>self
    cdef pair[string, string] item
    cdef Call call = Call.__new__(Call)
    call.protocol = protocol
    call.stream = stream
    call.path = stream.path
    call.deadline = stream.deadline
    call.metadata = [(item.first, item.second) for item in stream.metadata]
    Py_INCREF(call)
    stream.owner = <void*>call
    if call.deadline != 0.0 and protocol.loop is not None:
        call.timer = protocol.loop.call_later(max(0.0, call.deadline - stream.arrived), call.expire)
    call.fire(protocol.handler, (call,))


cdef void message(void* self, Stream* stream, const uint8_t* data, size_t size) noexcept:
    call = <Call>stream.owner
    if call.on_message is not None:
        call.fire(call.on_message, (PyBytes_FromStringAndSize(<const char*>data, size),))


cdef void half_close(void* self, Stream* stream) noexcept:
    call = <Call>stream.owner
    if call.on_end is not None:
        call.fire(call.on_end, ())


cdef void drop_call(void* self, Stream* stream) noexcept:
    (<Call>stream.owner).end(True)


cdef void writable(void* self, Stream* stream) noexcept:
    call = <Call>stream.owner
    if call.on_writable is not None:
        call.fire(call.on_writable, ())


@cython.no_gc_clear  # deleting the session needs what the protocol holds
cdef class Http2Protocol(ReplySink):
    def __init__(self, Intake intake not None, bytes infer_path not None, handler, Http2Limits limits not None,
                 on_close, Http2Shared shared=None):
        self.intake = intake
        self.infer_path = infer_path
        self.handler = handler
        self.limits = limits
        self.on_close = on_close
        self.shared = Http2Shared() if shared is None else shared
        self.fd = -1

    def __dealloc__(self):
        # Streams hold exchanges and calls, and those hold the protocol: there are none left.
        del self.session

    # ---- the protocol that an event loop sees

    def connection_made(self, transport):
        cdef int one = 1
        self.transport = transport
        self.peer = transport.get_extra_info("peername")
        try:
            self.loop = asyncio.get_running_loop()
        except RuntimeError:
            self.loop = None  # driven by hand
        socket = transport.get_extra_info("socket")
        if socket is not None:
            setsockopt(socket.fileno(), IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one))
            if transport.get_extra_info("sslcontext") is None:
                self.fd = socket.fileno()
                # Then a paused transport is one that holds bytes, and an unpaused one may be bypassed.
                transport.set_write_buffer_limits(high=0)
        cdef Host host
        host.self = <void*>self
        host.wants_headers = &self.intake.wants_headers
        host.wants_header = wants_header
        host.open_unary = open_unary
        host.submit = submit
        host.cancel = cancel
        host.release = release
        host.open_call = open_call
        host.message = message
        host.half_close = half_close
        host.drop_call = drop_call
        host.writable = writable
        self.session = new Http2Session(self.limits.settings, view_of_bytes(self.infer_path), self.shared.pool, host)
        if not self.session.open(monotonic()):
            self.close_transport(True)
            return
        self.pump()

    def get_buffer(self, sizehint):
        return self.shared.receive.small_view

    def buffer_updated(self, size_t size):
        if self.session == NULL or self.is_closing:
            return
        self.busy = True
        cdef cbool ok = self.session.receive(self.shared.receive.data, size, monotonic())
        self.busy = False
        if self.is_lost:
            self.teardown()
        elif not ok:
            self.close_transport(True)
        else:
            self.pump()

    def data_received(self, bytes data not None):
        # Event loops that know buffered protocols by their class alone come here.
        cdef size_t at = 0, size = len(data), n
        while at < size:
            n = min(size - at, self.shared.receive.size)
            self.shared.receive.view[:n] = data[at:at + n]
            self.buffer_updated(n)
            at += n

    def eof_received(self):
        return False

    def pause_writing(self):
        self.is_blocked = True

    def resume_writing(self):
        self.is_blocked = False
        self.pump()

    def connection_lost(self, error):
        self.fd = -1
        if self.busy:
            self.is_lost = True
        else:
            self.teardown()

    # ---- the listener's side

    def drain(self):
        if self.session != NULL and not self.is_closing:
            self.session.drain(monotonic())
            self.wake_soon()

    def tick(self, double now):
        if self.session == NULL:
            return
        if self.is_closing:
            if now - self.closing_since > self.limits.settings.write_timeout:
                self.transport.abort()
            return
        self.busy = True
        cdef cbool ok = self.session.tick(now, self.is_blocked)
        self.busy = False
        if self.is_lost:
            self.teardown()
        elif not ok:
            self.close_transport(True)
        elif self.session.wants_write() or self.session.is_over():
            self.pump()

    def close_now(self):
        if self.session == NULL or self.is_closing:
            return
        if not self.busy:
            self.session.terminate(NO_ERROR, string_view())
            self.pump()
        self.close_transport(True)

    @property
    def live_streams(self):
        return self.session.live() if self.session != NULL else 0

    # ---- the intake's side

    cdef void reply(self, Exchange exchange) noexcept:
        cdef Stream* stream = self.session.find(exchange.stream_id) if self.session != NULL else NULL
        if stream == NULL or stream.owner != <void*>exchange:
            self.intake.release(exchange)
            return
        try:
            self.session.respond(deref(stream), exchange.code, view_of(exchange.message), exchange.answer,
                                 exchange.retry_after, view_of(exchange.served_version))
        except MemoryError:
            self.close_transport(True)
        if not self.busy:
            self.intake.touch(self)

    cdef void flush(self) noexcept:
        self.pump()

    # ---- output

    cdef void pump(self) noexcept:
        # Everything that the session has to say, in as few writes as the socket allows.
        if self.busy or self.is_blocked or self.is_closing or self.session == NULL:
            return
        cdef Output* out = &self.shared.pool.out
        cdef Produced produced
        cdef double now = monotonic()
        self.busy = True
        while True:
            produced = self.session.produce(deref(out), OUT_HIGH_WATER, now)
            if produced == Produced.BROKEN:
                self.close_transport(True)
            elif out.size():
                self.write(deref(out))
            out.clear()
            self.session.written()
            if self.is_blocked or self.is_closing:
                break
            if produced == Produced.IDLE and not self.session.notify_writable():
                break
        if not self.is_closing and self.session.is_over():
            self.close_transport(False)
        self.busy = False
        if self.is_lost:
            self.teardown()

    cdef void write(self, Output& out) noexcept:
        cdef ssize_t sent = 0
        cdef bytes rest
        if self.fd >= 0:
            sent = out.send(self.fd)
            if sent == <ssize_t>out.size():
                return
            if sent < 0:
                self.close_transport(True)
                return
        try:
            rest = PyBytes_FromStringAndSize(NULL, <ssize_t>out.size() - sent)
            out.copy(sent, <uint8_t*>PyBytes_AS_STRING(rest))
            self.transport.write(rest)
            if self.fd >= 0 and not self.is_blocked and self.transport.get_write_buffer_size() != 0:
                self.fd = -1  # it holds bytes and did not say so: never go past it again
        except Exception as error:
            self.report("writing to an HTTP/2 connection failed", error)
            self.close_transport(True)

    cdef void wake_soon(self) noexcept:
        # For what happens outside of the connection's own callbacks and of the intake's wake-up.
        if self.busy or self.is_scheduled or self.session == NULL:
            return
        if self.loop is None:
            self.pump()
            return
        self.is_scheduled = True
        self.loop.call_soon(self.wake)

    def wake(self):
        self.is_scheduled = False
        self.pump()

    # ---- the end

    cdef void close_transport(self, cbool at_once) noexcept:
        # The event loop answers with connection_lost, later.
        self.is_closing = True
        self.closing_since = monotonic()
        if at_once:
            self.transport.abort()
        else:
            self.transport.close()

    cdef void teardown(self) noexcept:
        if self.session == NULL:
            return
        self.busy = True
        self.is_closing = True
        self.session.close()
        del self.session
        self.session = NULL
        self.busy = False
        self.transport = None
        on_close, self.on_close = self.on_close, None
        try:
            on_close(self)
        except Exception as error:
            self.report("on_close of an HTTP/2 connection failed", error)

    cdef void report(self, str message, object error) noexcept:
        if self.loop is not None:
            self.loop.call_exception_handler({"message": message, "exception": error, "protocol": self})


cdef class Call:
    @property
    def peer(self):
        return self.protocol.peer

    def send(self, bytes message not None):
        if self.stream == NULL:
            return True
        cdef cbool ready = self.protocol.session.send(
            deref(self.stream), <const uint8_t*><const char*>message, len(message))
        self.protocol.wake_soon()
        return ready

    def finish(self, int code=0, str message="", metadata=(), bytes details=b""):
        cdef pair[string, string] item
        cdef Http2Protocol protocol = self.protocol
        if not 0 <= code <= 16:
            raise ValueError("code must be a gRPC status code")
        if self.stream == NULL:
            return
        cdef Stream* stream = self.stream
        fields = [check_metadata(key, value) for key, value in metadata]
        for key, value in fields:
            item.first = key
            item.second.clear()
            if is_binary(view_of_bytes(key)):
                base64_encode(view_of_bytes(value), item.second)
            else:
                item.second = value
            stream.trailers.push_back(item)
        if details:
            base64_encode(view_of_bytes(details), stream.details)
        text = message.encode("utf-8", "replace")
        self.end(False)
        protocol.session.finish(deref(stream), code, view_of_bytes(text))
        protocol.wake_soon()

    def pause_reading(self):
        if self.stream != NULL:
            self.protocol.session.pause(deref(self.stream), True)

    def resume_reading(self):
        if self.stream != NULL:
            self.protocol.session.pause(deref(self.stream), False)
            self.protocol.wake_soon()

    def expire(self):
        # The deadline has passed: the client hears of it, and the handler as of any other cancellation.
        cdef Http2Protocol protocol = self.protocol
        cdef Stream* stream = self.stream
        if stream == NULL:
            return
        self.end(True)
        protocol.session.finish(deref(stream), DEADLINE_EXCEEDED, string_view(b"Deadline Exceeded", 17))
        protocol.wake_soon()

    cdef void end(self, cbool cancelled) noexcept:
        # Parts with the stream. From here on the call is inert.
        if self.stream == NULL:
            return
        self.stream.owner = NULL
        self.stream = NULL
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        on_cancel = self.on_cancel
        self.on_message = self.on_end = self.on_cancel = self.on_writable = None
        if cancelled:
            self.is_cancelled = True
            if on_cancel is not None:
                self.fire(on_cancel, ())
        Py_DECREF(self)

    cdef void fire(self, object callback, tuple arguments) noexcept:
        cdef Stream* stream
        try:
            callback(*arguments)
        except Exception as error:
            self.protocol.report("the handler of a gRPC call failed", error)
            stream = self.stream
            if stream != NULL:
                self.end(True)
                self.protocol.session.finish(deref(stream), INTERNAL, string_view(b"the handler failed", 18))


cdef tuple check_metadata(bytes key, bytes value):
    if not is_metadata_key(view_of_bytes(key)):
        raise ValueError(f"not a metadata key: {key!r}")
    if not is_binary(view_of_bytes(key)) and not is_metadata_text(view_of_bytes(value)):
        raise ValueError(f"not printable ASCII: the value of {key!r}")
    return key, value
