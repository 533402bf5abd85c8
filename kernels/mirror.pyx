# Copies of requests for a version whose answers nobody sees: what is held of them, and the pairs of answers.
cimport cython
from libc.stddef cimport size_t
from libc.stdint cimport int32_t, int64_t
from libcpp cimport bool as cbool
from libcpp.string cimport string
from libcpp.vector cimport vector

from kernels.exchange cimport (DATA_LOSS, DEADLINE_EXCEEDED, INTERNAL, OK, UNAVAILABLE, UNKNOWN, Exchange, Intake,
                               ReplySink)
from kernels.infer cimport OutputView, datatype_name, string_view

from kernels.tensors import Tensor


cdef enum:
    MAX_ID = 256  # bytes of a request's id that are kept


@cython.final
cdef class Mirror:
    def __init__(self, call_soon, on_pairs):
        self.call_soon = call_soon
        self.on_pairs = on_pairs
        self.done = []

    def aim(self, target, double fraction, int64_t max_requests, int64_t max_bytes):
        self.target = target
        self.fraction = fraction
        self.max_requests = max_requests
        self.max_bytes = max_bytes

    def release(self, Pair pair not None):
        assert pair.mirror is self, "this is a bug: a pair released twice"
        self.give_back(pair)

    def tell(self):
        done, self.done = self.done, []
        self.on_pairs(done)

    cdef Exchange copy(self, Intake intake, Exchange live):
        cdef Pair pair
        cdef Exchange x
        cdef int64_t size = <int64_t>live.request.body.size()
        self.mirrored += 1
        if self.target is None or self.requests >= self.max_requests or self.nbytes + size > self.max_bytes:
            self.dropped += 1
            return None
        pair = Pair.__new__(Pair)
        pair.intake = intake
        x = intake.acquire(pair, 0, live.protocol)
        try:
            pair.request_id = (<const char*>live.request.id.data())[:min(live.request.id.size(), MAX_ID)]
            x.request.body.append(live.request.body.data(), <size_t>size)
            x.request.model = x.request.arena.copy(live.request.model)  # of HTTP, where it is in the path
        except MemoryError:
            intake.release(x)
            self.dropped += 1
            return None
        x.header_length = live.header_length
        x.pair = live.pair = pair
        pair.mirror = self
        pair.nbytes = size
        self.requests += 1
        self.nbytes += size
        return x

    cdef cbool hold(self, Pair pair, int64_t nbytes) noexcept:
        if self.nbytes + nbytes > self.max_bytes:
            return False
        self.nbytes += nbytes
        pair.nbytes += nbytes
        return True

    cdef void give_back(self, Pair pair) noexcept:
        pair.mirror = None
        self.requests -= 1
        self.nbytes -= pair.nbytes

    cdef void add(self, Pair pair) noexcept:
        self.done.append(pair)
        if len(self.done) == 1:
            self.call_soon(self.tell)


@cython.final
cdef class Pair(ReplySink):
    cdef void capture(self, Exchange x, vector[OutputView]& views) noexcept:
        cdef size_t i
        cdef int64_t size = 0
        for i in range(views.size()):
            size += <int64_t>views[i].size
        if self.is_dropped or not self.mirror.hold(self, size):
            self.is_dropped = True
            return
        try:
            tensors = tuple([to_tensor(views[i]) for i in range(views.size())])
        except MemoryError:
            self.is_dropped = True
            return
        if x.sink is self:
            self.shadow = tensors
        else:
            self.live = tensors

    cdef void end_live(self, int code) noexcept:
        if code != OK:
            self.live = None
        self.live_ended = True
        self.finish()

    cdef void reply(self, Exchange x) noexcept:
        # The shadow's answer. What it was not let run is no failure of its own.
        if x.code != OK:
            self.shadow = None
            if x.attempts > 0 and x.code in (UNKNOWN, DEADLINE_EXCEEDED, INTERNAL, UNAVAILABLE, DATA_LOSS):
                self.failure = x.message
        self.intake.release(x)
        self.shadow_ended = True
        self.finish()

    cdef void refuse(self, Exchange x, string text) noexcept:
        self.failure = text
        self.intake.release(x)
        self.shadow_ended = True
        self.finish()

    cdef void drop(self, Exchange x) noexcept:
        self.is_dropped = True
        self.intake.release(x)
        self.shadow_ended = True
        self.finish()

    cdef void finish(self) noexcept:
        cdef Mirror mirror = self.mirror
        if not (self.live_ended and self.shadow_ended):
            return
        if self.is_dropped:
            mirror.dropped += 1
        elif self.live is None or (self.shadow is None and self.failure is None):
            mirror.unpaired += 1
        else:
            mirror.add(self)
            return
        mirror.give_back(self)


cdef object to_tensor(const OutputView& view):
    cdef int32_t i
    cdef string_view datatype = datatype_name(view.datatype)
    cdef string_view name = view.name
    raw = (<const char*>view.data)[:view.size] if view.size else b""
    shape = tuple([view.shape[i] for i in range(view.rank)])
    return Tensor(name.data()[:name.size()].decode(), datatype.data()[:datatype.size()].decode(), shape, raw)
