# One request's state, and the abstract ends it travels between.


cdef class Exchange:
    def __cinit__(self):
        self.header_length = -1
        self.answer_header_length = -1
        self.arm = -1

    cdef void reset(self) noexcept:
        self.sink = None
        self.owner = None
        self.rollout = None
        self.pair = None
        self.arm = -1
        self.patience = 0.0
        self.counted = False
        self.has_unit = False
        self.unit = 0
        self.next = None
        self.previous = None
        self.stream_id = 0
        self.header_length = -1
        self.request.clear()
        self.stage = IDLE
        self.arrived = self.deadline = self.queued = self.started = self.finished = 0.0
        self.rows = 0
        self.priority = 0
        self.nbytes = 0
        self.group = 0
        self.solo = False
        self.attempts = 0
        self.shed = 0
        self.outputs_mask = 0
        self.inputs_mask = 0
        self.batched = False
        self.code = OK
        self.message.clear()
        self.reason = NULL
        self.retry_after = 0.0
        self.answer.clear()
        self.answer_header_length = -1
        self.served_version.clear()

    cdef void fail(self, int code, string message) noexcept:
        self.code = code
        self.message = message


cdef class ReplySink:
    cdef void reply(self, Exchange exchange) noexcept:
        pass

    cdef void flush(self) noexcept:
        pass


cdef class Intake:
    cdef Exchange acquire(self, ReplySink sink, int64_t stream_id, uint8_t protocol):
        raise AssertionError("this is a bug: Intake is abstract")

    cdef cbool match_http(self, Exchange exchange, const char* path, size_t size) noexcept:
        return False

    cdef void take_header(self, Exchange exchange, string_view name, string_view value) noexcept:
        pass

    cdef cbool wants_header(self, string_view name) noexcept:
        return False

    cdef void submit(self, Exchange exchange) noexcept:
        pass

    cdef void cancel(self, Exchange exchange) noexcept:
        pass

    cdef void release(self, Exchange exchange) noexcept:
        pass

    cdef void touch(self, ReplySink sink) noexcept:
        pass
