# Intakes that answer by a fixed rule or by a test's hand, and that notice when a sink breaks the rules of ownership.
from cpython.object cimport PyObject
from libc.stdint cimport uint8_t
from libcpp cimport bool as cbool

from kernels.exchange cimport ANSWERED, IDLE, QUEUED, RECEIVING, Exchange, ReplySink
from kernels.infer cimport string_view


cdef bytes to_bytes(string_view view):
    return view.data()[:view.size()] if view.size() else b""


cdef class EchoIntake:
    def __init__(self, constant=None, call_soon=None):
        self.constant = constant
        self.call_soon = call_soon
        self.waiting = []
        self.faults = []

    cdef Exchange acquire(self, ReplySink sink, int64_t stream_id, uint8_t protocol):
        cdef Exchange exchange = self.free
        if exchange is None:
            exchange = Exchange.__new__(Exchange)
        else:
            self.free = exchange.next
            exchange.next = None
        exchange.sink = sink
        exchange.stream_id = stream_id
        exchange.protocol = protocol
        exchange.stage = RECEIVING
        self.live += 1
        self.acquired += 1
        return exchange

    cdef cbool match_http(self, Exchange exchange, const char* path, size_t size) noexcept:
        # `/v2/models/{model}[/versions/{version}]/infer`, without percent-decoding.
        parts = path[:size].split(b"/")
        if parts[:3] != [b"", b"v2", b"models"] or parts[len(parts) - 1] != b"infer" or len(parts) not in (5, 7):
            return False
        if len(parts) == 7 and parts[4] != b"versions":
            return False
        model, version = parts[3], parts[5] if len(parts) == 7 else b""
        exchange.request.model = exchange.request.arena.copy(string_view(<const char*>model, len(model)))
        exchange.request.version = exchange.request.arena.copy(string_view(<const char*>version, len(version)))
        return True

    cdef void submit(self, Exchange exchange) noexcept:
        self.submitted += 1
        exchange.stage = QUEUED
        if self.constant is not None:
            exchange.answer.append(<const char*>self.constant, len(self.constant))
        else:
            exchange.answer.append(exchange.request.body.data(), exchange.request.body.size())
            exchange.answer_header_length = exchange.header_length
        self.settle(exchange)

    cdef void settle(self, Exchange exchange) noexcept:
        exchange.stage = ANSWERED
        exchange.sink.reply(exchange)

    cdef void cancel(self, Exchange exchange) noexcept:
        if exchange.stage not in (RECEIVING, QUEUED):
            self.faults.append(f"cancel in stage {exchange.stage}")
            return
        self.cancelled += 1
        self.end(exchange)

    cdef void release(self, Exchange exchange) noexcept:
        if exchange.stage != ANSWERED:
            self.faults.append(f"release in stage {exchange.stage}")
            return
        self.released += 1
        self.end(exchange)

    cdef void end(self, Exchange exchange) noexcept:
        self.live -= 1
        exchange.reset()
        exchange.stage = IDLE
        exchange.next = self.free
        self.free = exchange

    cdef void touch(self, ReplySink sink) noexcept:
        if sink.touched:
            return
        sink.touched = True
        self.waiting.append(sink)
        if self.call_soon is not None and len(self.waiting) == 1:
            self.call_soon(self.flush)

    def flush(self):
        waiting, self.waiting = self.waiting, []
        for sink in waiting:
            (<ReplySink>sink).touched = False
            (<ReplySink>sink).flush()


cdef class ScriptedIntake(EchoIntake):
    def __init__(self, script=None, call_soon=None):
        EchoIntake.__init__(self, None, call_soon)
        self.script = script
        self.pending = {}
        self.requests = []

    cdef void submit(self, Exchange exchange) noexcept:
        self.submitted += 1
        exchange.stage = QUEUED
        cdef Pending pending = Pending.__new__(Pending)
        pending.intake = self
        pending.exchange = exchange
        pending.body = to_bytes(exchange.request.body.view())
        pending.model = to_bytes(exchange.request.model)
        pending.version = to_bytes(exchange.request.version)
        pending.stream_id = exchange.stream_id
        pending.header_length = exchange.header_length
        pending.protocol = exchange.protocol
        pending.arrived = exchange.arrived
        pending.deadline = exchange.deadline
        self.pending[<size_t><PyObject*>exchange] = pending
        self.requests.append(pending)
        if self.script is not None:
            try:
                self.script(pending)
            except BaseException as error:
                self.faults.append(f"script raised {error!r}")

    cdef void cancel(self, Exchange exchange) noexcept:
        cdef Pending pending = self.pending.pop(<size_t><PyObject*>exchange, None)
        if pending is not None:
            pending.exchange = None
            pending.is_cancelled = True
        EchoIntake.cancel(self, exchange)


cdef class Pending:
    def answer(self, bytes body=b"", *, int64_t header_length=-1, bytes served_version=b""):
        cdef Exchange exchange = self.take()
        exchange.answer.append(<const char*>body, len(body))
        exchange.answer_header_length = header_length
        exchange.served_version = served_version
        self.intake.settle(exchange)

    def fail(self, int code, bytes message, *, double retry_after=0.0, bytes served_version=b""):
        cdef Exchange exchange = self.take()
        exchange.fail(code, message)
        exchange.retry_after = retry_after
        exchange.served_version = served_version
        self.intake.settle(exchange)

    def take(self):
        exchange, self.exchange = self.exchange, None
        if exchange is None:
            raise ValueError("answered or cancelled already")
        del self.intake.pending[<size_t><PyObject*>exchange]
        self.is_answered = True
        return exchange
