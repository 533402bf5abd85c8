# One HTTP/1 connection: bytes in, exchanges and answers out. What a path means is the intake's and the handler's.
#
# Who owns what. The connection owns a slot per request, from its head to its answer, in request order. A slot holds a
# reference to its Exchange; the exchange itself belongs to the connection while its body arrives, to the intake from
# submit() on, and to the connection again from reply() on, which releases it when its answer is in the output. When the
# caller goes first, the connection cancels what is not answered, releases what is, and forgets both. An HttpRequest is
# the handler's; it holds the connection only until it is answered or cancelled.
from cpython.buffer cimport PyBUF_WRITE
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.string cimport memmove, strlen
from libcpp cimport bool as cbool
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec

from asyncio import get_running_loop

import kernels.http1_request as _public

from kernels.exchange cimport HTTP
from kernels.http1_answer cimport Answer, SlotKind
from kernels.http1_head cimport (END_FOUND, END_MORE, HeadEnd, HeadLimits, OddHead, Scan, find_head_end, interpret_head,
                                 scan_head)
from kernels.infer cimport string_view

# cimport alone would leave them out of what Python sees here.
globals().update(Http1Limits=_public.Http1Limits, HttpRequest=_public.HttpRequest)

cdef extern from *:
    object PyMemoryView_FromMemory(char* memory, Py_ssize_t size, int flags)

cdef enum:
    OUTPUT_HIGH = 256 * 1024    # no more requests are taken while this much waits to be written


cdef inline double monotonic() noexcept:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <double>now.tv_sec + <double>now.tv_nsec * 1e-9


cdef inline cbool is_method(const Head& head, const char* name) noexcept:
    return head.method == string_view(name, strlen(name))


cdef inline str to_str(string_view text):
    return text.data()[:text.size()].decode("latin-1") if text.size() else ""


cdef class Http1Protocol(RequestOwner):
    def __init__(self, Intake intake not None, handler, Http1Limits limits not None, on_close,
                 ReceiveBuffer receive=None):
        self.intake = intake
        self.handler = handler
        self.limits = limits
        self.on_close = on_close
        self.receive = ReceiveBuffer() if receive is None else receive
        self.out = Http1Writer.__new__(Http1Writer)
        self.out.limits = limits
        self.is_lost = True

    def __dealloc__(self):
        # Only when the loop went away without a word: everybody else has called connection_lost.
        while not self.slots.empty():
            if self.slots.front().item != NULL:
                Py_DECREF(<object>self.slots.front().item)
            self.slots.pop_front()

    @property
    def in_flight(self):
        return self.slots.size()

    # --- The transport's side -------------------------------------------------------------------------------------

    def connection_made(self, transport):
        self.transport = transport
        self.loop = get_running_loop()
        self.peer = transport.get_extra_info("peername")
        self.out.open(transport)
        self.is_lost = False
        self.read_at = self.idle_at = monotonic()

    def get_buffer(self, Py_ssize_t hint):
        cdef size_t size = 0
        cdef uint8_t* place
        if self.reading == BODY:
            # DANGER: the view is into the body of an exchange. The transport drops it before it calls anything else.
            place = self.body.place(size)
            if place != NULL:
                self.is_placed = True
                return PyMemoryView_FromMemory(<char*>place, <Py_ssize_t>size, PyBUF_WRITE)
        self.is_placed = False
        return self.receive.small_view

    def buffer_updated(self, Py_ssize_t nbytes):
        if self.is_lost:
            return
        self.in_callback = True
        try:
            self.read_at = monotonic()
            if self.is_placed:
                self.is_placed = False
                if self.reading == BODY:
                    self.body.placed(nbytes)
                    if self.body.is_done():
                        self.finish_message()
            else:
                self.take(self.receive.data, <size_t>nbytes)
        finally:
            self.in_callback = False
        self.settle()

    def data_received(self, data):
        # For loops that know a buffered protocol only by its base class.
        rest = memoryview(data)
        while rest.nbytes:
            target = self.get_buffer(-1)
            n = min(target.nbytes, rest.nbytes)
            target[:n] = rest[:n]
            self.buffer_updated(n)
            rest = rest[n:]

    def pause_writing(self):
        self.out.is_blocked = True

    def resume_writing(self):
        self.out.is_blocked = False
        if not self.in_callback:
            self.settle()

    def eof_received(self):
        # The client may have closed only its half. What is in flight is finished for it, unless it has really gone,
        # which only writing can tell: an unasked-for 100 is harmless to one that listens, and draws a reset otherwise.
        self.has_eof = True
        if self.is_lost or self.is_closing:
            return False
        if not self.has_backlog():
            self.end_requests()
        if self.is_finishing or self.out.is_tls:
            self.write_out()
            return False
        if not self.slots.empty() and not self.slots.front().is_1_0 and self.out.fd >= 0:
            self.out.write_continue()
            self.write_out()
        return not self.out.is_peer_gone()

    def connection_lost(self, exc):
        if not self.is_lost:
            self.abandon()
            self.on_close(self)

    def _resume(self):
        self.is_resuming = False
        if self.is_lost or not self.can_resume():
            return
        self.in_callback = True
        try:
            self.take(NULL, 0)
        finally:
            self.in_callback = False
        if self.is_lost:
            return
        if self.has_eof and not self.has_backlog():
            self.end_requests()
        if self.reading != HEAD or (self.has_room() and not self.has_backlog()):
            self.is_stalled = False
            if not self.has_eof and not self.is_closing:
                self.transport.resume_reading()
        self.settle()

    cdef void end_requests(self) noexcept:
        # What has been taken is all that this connection will bring.
        if self.reading == BODY:
            self.drop_receiving()
            self.slots.pop_back()
        self.reading = STOPPED
        if self.slots.empty():
            self.is_finishing = True
        else:
            self.slots.back().close = True

    # --- The listener's side --------------------------------------------------------------------------------------

    def drain(self):
        if self.is_draining or self.is_lost:
            return
        # An idle connection is not closed yet: the client's next request may be on its way. Its answer says "close".
        self.is_draining = True
        self.loop.call_later(self.limits.drain_grace, self._close_idle)
        if not self.in_callback:
            self.settle()

    def _close_idle(self):
        self.is_grace_over = True
        self.settle()

    def close_now(self):
        if not self.is_lost:
            self.abort()

    def tick(self, double now):
        cdef Buffer fresh
        if self.is_lost:
            return
        if self.out.is_stuck(now, self.limits.body_timeout) or (self.has_eof and self.out.is_peer_gone()):
            self.abort()
            return
        if not self.slots.empty():
            self.idle_at = now
        if self.is_closing:
            if self.out.is_queued:
                self.closing_at = now
            elif now - self.closing_at > self.limits.linger_timeout:
                self.close()
        elif self.reading == BODY:
            if now - self.read_at > self.limits.body_timeout:
                self.refuse(408, b"timed out waiting for the request body", False)
        elif self.reading == HEAD and not self.is_stalled:
            if self.head_at != 0:
                if now - self.head_at > self.limits.header_timeout:
                    self.refuse(408, b"timed out waiting for the request header", False)
            elif self.slots.empty():
                if now - self.idle_at > self.limits.idle_timeout:
                    self.close()
                elif now - self.idle_at > 1 and self.out.output.size() == 0:
                    self.out.output.swap(fresh)  # an idle connection keeps no memory
        self.settle()

    # --- Reading --------------------------------------------------------------------------------------------------

    cdef int take(self, const uint8_t* data, size_t size) except -1:
        # Consumes what is pending and then this; what is left of both is pending afterwards.
        cdef size_t used, left
        if self.pending.size() == 0:
            used = self.consume(data, size)
            if used < size:
                self.pending.append(data + used, size - used)
            return 0
        self.pending.append(data, size)
        used = self.consume(self.pending.data(), self.pending.size())
        left = self.pending.size() - used
        if left == 0:
            self.pending.clear()
        elif used:
            memmove(self.pending.data(), self.pending.data() + used, left)
            self.pending.resize(left)
        return 0

    cdef size_t consume(self, const uint8_t* data, size_t size) except? -1:
        cdef size_t at = 0, used
        while at < size:
            if self.reading == BODY:
                at += self.body.feed(data + at, size - at)
                if self.body.status():
                    self.refuse(self.body.status(), self.body.reason(), False)
                elif self.body.is_done():
                    self.finish_message()
            elif self.reading == HEAD:
                if not self.has_room():
                    self.write_out()
                    if not self.has_room():
                        return at
                if data[at] == c"\r" and (size - at == 1 or data[at + 1] == c"\n"):
                    if size - at == 1:
                        return self.await_head(at)
                    at += 2  # empty lines before a request line mean nothing
                    continue
                used = self.take_head(data + at, size - at)
                if used == 0:
                    return self.await_head(at)
                at += used
            else:
                return size
        return at

    cdef size_t await_head(self, size_t at) noexcept:
        if self.head_at == 0:
            self.head_at = self.read_at
        return at

    cdef size_t take_head(self, const uint8_t* data, size_t size) except? -1:
        # Returns the bytes consumed; 0 when there is no complete head yet.
        cdef Head head
        cdef HeadEnd end
        cdef OddHead odd = None
        cdef const HeadLimits* limits = &self.limits.head
        cdef Scan scan = Scan.MORE
        if self.head_at == 0:
            scan = scan_head(data, size, head, limits[0])
        if scan != Scan.DONE or head.size > limits.max_head or head.target.size() > limits.max_target:
            end = find_head_end(data, size, self.scanned, limits[0])
            if end.state == END_MORE:
                return 0
            if end.state != END_FOUND:
                self.refuse(end.status, end.reason, False)
                return size
            if scan == Scan.MORE:
                scan = scan_head(data, end.size, head, limits[0])
            if scan != Scan.DONE:
                odd = OddHead.__new__(OddHead)
                odd.read(data, end.size, head)
        self.scanned = 0
        self.head_at = 0
        if head.status == 0:
            interpret_head(head, limits[0])
        if head.status:
            self.refuse(head.status, head.reason, is_method(head, b"HEAD"))
            return size
        self.accept(head)
        return head.size

    cdef int accept(self, Head& head) except -1:
        # Opens the slot of a request and, when it has no body, finishes it at once.
        cdef Slot slot
        cdef Exchange exchange = None
        cdef HttpRequest request
        cdef Buffer* content
        cdef int64_t sequence = self.first + <int64_t>self.slots.size()
        if is_method(head, b"POST"):
            exchange = self.intake.acquire(self, sequence, HTTP)
            if not self.intake.match_http(exchange, head.path.data(), head.path.size()):
                self.intake.cancel(exchange)
                exchange = None
        if exchange is not None:
            exchange.arrived = self.read_at
            exchange.header_length = head.header_length
            if head.timeout > 0:
                exchange.deadline = self.read_at + head.timeout
            if self.intake.wants_headers:
                self.give_headers(exchange, head)
            content = &exchange.request.body
            slot.kind = SlotKind.EXCHANGE
            slot.item = <PyObject*>exchange
        else:
            request = self.new_request(head, sequence)
            content = &request.content
            slot.kind = SlotKind.REQUEST
            slot.item = <PyObject*>request
        Py_INCREF(<object>slot.item)
        self.exchange = exchange
        self.request = request if exchange is None else None
        slot.coding = head.answer_coding
        slot.close = not head.keep_alive or self.is_draining
        slot.is_head = is_method(head, b"HEAD")
        slot.is_1_0 = head.minor == 0
        self.slots.push_back(slot)
        self.reading = BODY
        self.wants_continue = head.expects_continue
        self.body.start(content, -1 if head.chunked else max(head.content_length, 0), head.content_coding,
                        &self.limits.body)
        if self.body.status():
            self.refuse(self.body.status(), self.body.reason(), False)
        elif self.body.is_done():
            self.finish_message()
        return 0

    cdef void give_headers(self, Exchange exchange, Head& head) noexcept:
        cdef size_t i
        for i in range(head.count):
            self.intake.take_header(exchange, string_view(head.fields[i].name, head.fields[i].name_size),
                                    string_view(head.fields[i].value, head.fields[i].value_size))

    cdef HttpRequest new_request(self, Head& head, int64_t sequence):
        cdef HttpRequest request = HttpRequest.__new__(HttpRequest)
        cdef size_t i
        request.owner = self
        request.sequence = sequence
        request.method = to_str(head.method)
        request.path = to_str(head.path)
        request.query = to_str(head.query)
        request.peer = self.peer
        request.body = b""
        request.headers = []
        for i in range(head.count):
            name = head.fields[i].name[:head.fields[i].name_size].lower()
            request.headers.append((name, head.fields[i].value[:head.fields[i].value_size]))
        return request

    cdef int finish_message(self) except -1:
        cdef Exchange exchange = self.exchange
        cdef HttpRequest request = self.request
        self.body.stop()
        self.exchange = None
        self.request = None
        self.wants_continue = False
        self.reading = STOPPED if self.slots.back().close else HEAD
        self.idle_at = self.read_at
        if exchange is not None:
            self.intake.submit(exchange)
            return 0
        if request.content.size():
            request.body = (<const char*>request.content.data())[:request.content.size()]
            request.content.clear()
        try:
            self.handler(request)
        except Exception as error:
            self.loop.call_exception_handler({"message": "HTTP handler failed", "exception": error, "protocol": self})
            request.respond(500, b'{"error":"internal error"}')
        return 0

    cdef void refuse(self, int status, const char* reason, bint is_head) noexcept:
        # The last answer of this connection, in its turn.
        cdef Slot slot
        cdef Slot* last
        if self.reading == STOPPED:
            return
        if self.reading == BODY:
            self.drop_receiving()
        else:
            self.slots.push_back(slot)
        self.reading = STOPPED
        self.head_at = 0
        self.refusal = status
        self.refusal_text.assign(reason, strlen(reason))
        last = &self.slots.back()
        last.is_head = last.is_head or is_head
        last.is_ready = True
        last.close = True
        if self.slots.size() == 1:
            self.advance()

    cdef void drop_receiving(self) noexcept:
        # The request whose body is arriving will never be complete: its slot stays, empty.
        cdef Slot* slot = &self.slots.back()
        self.body.stop()
        self.wants_continue = False
        if self.exchange is not None:
            self.intake.cancel(self.exchange)
            self.exchange = None
        if self.request is not None:
            self.request.cancel()
            self.request = None
        Py_DECREF(<object>slot.item)
        slot.item = NULL
        slot.kind = SlotKind.REFUSAL

    cdef bint has_room(self) noexcept:
        return (self.slots.size() < self.limits.max_pipelined and self.out.output.size() < OUTPUT_HIGH and
                not self.out.is_blocked)

    cdef bint has_backlog(self) noexcept:
        # Whole requests, or at least beginnings that nobody has looked at, wait in `pending`.
        return self.pending.size() != 0 and self.head_at == 0

    cdef bint can_resume(self) noexcept:
        # Half empty, so that reading does not stop and go with every answer.
        return self.has_room() and 2 * self.slots.size() <= self.limits.max_pipelined

    # --- Answering ------------------------------------------------------------------------------------------------

    cdef void reply(self, Exchange exchange) noexcept:
        if self.is_lost or <size_t>(exchange.stream_id - self.first) >= self.slots.size():
            self.intake.release(exchange)  # this is a bug of the intake: a cancelled exchange is never answered
            return
        self.answered(exchange.stream_id)

    cdef void answered(self, int64_t sequence) noexcept:
        cdef size_t index = <size_t>(sequence - self.first)
        if self.is_lost or index >= self.slots.size():
            return
        self.slots[index].is_ready = True
        if index:
            return
        self.advance()
        if not self.in_callback:
            self.intake.touch(self)

    cdef void advance(self) noexcept:
        # Puts the answers whose turn it is into the output.
        cdef Slot slot
        cdef bint last
        while not self.slots.empty() and self.slots.front().is_ready and not self.is_finishing:
            slot = self.slots.front()
            self.slots.pop_front()
            self.first += 1
            last = slot.close or (self.is_draining and self.slots.empty() and self.reading == HEAD)
            if last:
                self.reading = STOPPED
                self.is_finishing = True
            self.emit(slot, last)

    cdef void emit(self, Slot& slot, bint last) noexcept:
        cdef Answer answer
        cdef Exchange exchange
        cdef HttpRequest request
        answer.head_only = slot.is_head
        answer.close = last
        answer.says_keep_alive = slot.is_1_0 and not last
        if slot.kind == SlotKind.EXCHANGE:
            exchange = <Exchange>slot.item
            Py_DECREF(exchange)
            self.out.write_exchange(exchange, answer, slot.coding)
            self.intake.release(exchange)
        elif slot.kind == SlotKind.REQUEST:
            request = <HttpRequest>slot.item
            Py_DECREF(request)
            self.out.write_request(request, answer, slot.coding)
        else:
            self.out.write_error(answer, self.refusal, self.refusal_text)

    # --- Writing --------------------------------------------------------------------------------------------------

    cdef void write_out(self) noexcept:
        if self.is_finishing or not self.out.is_blocked:
            self.out.write()

    cdef void flush(self) noexcept:
        self.settle()

    cdef void settle(self) noexcept:
        # The end of a wake-up: everything gathered is written, and reading goes on or pauses.
        if self.is_lost:
            return
        if self.wants_continue and self.slots.size() == 1 and self.body.received() == 0:
            self.wants_continue = False
            self.out.write_continue()
        self.write_out()
        if self.is_lost or self.is_closing:
            return
        try:
            if self.is_finishing:
                self.end_output()
            elif (self.is_grace_over and self.slots.empty() and self.reading == HEAD and self.pending.size() == 0
                  and self.out.output.size() == 0):
                self.close()
            else:
                self.steer_reading()
        except Exception:
            self.abort()

    cdef int steer_reading(self) except -1:
        if not self.is_stalled and self.reading == HEAD and (not self.has_room() or self.has_backlog()):
            self.is_stalled = True
            self.transport.pause_reading()
        if self.is_stalled and not self.is_resuming and self.can_resume():
            # Not here: a flush must not submit.
            self.is_resuming = True
            self.loop.call_soon(self._resume)
        return 0

    cdef int end_output(self) except -1:
        # Closing at once would throw away what the client still sends, with a reset that may overtake the answer: so
        # close for writing (TLS has no such half), drop what comes, and wait a little for the client's own end.
        if self.has_eof:
            self.close()
            return 0
        self.is_closing = True
        self.closing_at = monotonic()
        if not self.out.is_tls and self.transport.can_write_eof():
            self.transport.write_eof()
        if self.is_stalled:
            self.is_stalled = False
            self.transport.resume_reading()
        return 0

    cdef void close(self) noexcept:
        self.reading = STOPPED
        self.is_closing = True
        try:
            self.closing_at = monotonic()
            self.transport.close()
        except Exception:
            self.abort()

    cdef void abort(self) noexcept:
        self.reading = STOPPED
        self.is_finishing = self.is_closing = True
        self.out.abort()

    cdef void abandon(self) noexcept:
        # The connection is gone: nothing may be written, every request ends. `pending` stays: a callback may read it.
        cdef Slot slot
        cdef Exchange exchange
        self.is_lost = True
        self.out.lose()
        self.transport = None
        if self.reading == BODY:
            self.drop_receiving()
        self.reading = STOPPED
        while not self.slots.empty():
            slot = self.slots.front()
            self.slots.pop_front()
            self.first += 1
            if slot.item == NULL:
                continue
            if slot.kind == SlotKind.EXCHANGE:
                exchange = <Exchange>slot.item
                Py_DECREF(exchange)
                if slot.is_ready:
                    self.intake.release(exchange)
                else:
                    self.intake.cancel(exchange)
            else:
                (<HttpRequest>slot.item).cancel()
                Py_DECREF(<object>slot.item)
