# The one object a request has, and the two roles that pass it on: an `Intake` takes requests in, a `ReplySink` takes
# answers out. See exchange.pyi for what each promises.
from libc.stdint cimport int8_t, int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libcpp cimport bool as cbool
from libcpp.string cimport string

from kernels.infer cimport Buffer, InferRequest, string_view

cdef enum Protocol:
    HTTP = 0
    GRPC = 1

# Where an exchange is. The owner may recycle it only in IDLE or ANSWERED.
cdef enum Stage:
    IDLE = 0        # in the pool
    RECEIVING = 1   # the connection is filling `request.body`
    QUEUED = 2      # in a batch queue
    RUNNING = 3     # its rows are in a lane
    ANSWERED = 4    # `code` and `answer` are set, the sink has it
    PARKED = 5      # decoded, waits for its version to be loaded

# gRPC status codes; the HTTP front end maps them to its own.
cdef enum Code:
    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16

cdef class Exchange:
    # Transport: set by the connection, read by nobody else.
    cdef ReplySink sink          # NULLed (None) when the caller has gone
    cdef int64_t stream_id
    cdef uint8_t protocol        # Protocol
    cdef int64_t header_length   # HTTP `Inference-Header-Content-Length`; -1 when absent

    # Request: decoded in place.
    cdef InferRequest request

    # Scheduling. Seconds on the monotonic clock; a deadline of 0 means none.
    cdef uint8_t stage           # Stage
    cdef double arrived, deadline, queued, started, finished
    cdef int32_t rows
    cdef int32_t priority        # 1 is the highest level
    cdef int64_t nbytes          # input bytes
    cdef uint64_t group          # equal groups may share a batch
    cdef cbool solo              # runs alone: its batch failed or its worker died
    cdef uint8_t attempts        # runs begun
    cdef uint8_t shed            # batching.Shed: why it was turned away, 0 when it was not
    cdef uint64_t outputs_mask  # bit i: output i of the signature is wanted
    cdef uint64_t inputs_mask    # bit i: input i of the signature is given; request.inputs is in signature order
    cdef cbool batched           # the first dimension of every tensor counts rows
    cdef object owner            # the deployment that queued it

    # Rollout: set by `Rollout.divide` for what its weights or rules sent here, cleared when it is handed over.
    cdef object rollout          # that Rollout, or None
    cdef int8_t arm              # which of its arms; -1 for the stable version
    cdef double patience         # when half of the time that it had when it was admitted is over; 0 when no matter
    cdef cbool counted           # drawn at random and not yet evidence: its end counts
    cdef cbool has_unit
    cdef uint64_t unit           # what it sticks by, hashed
    cdef object pair             # mirror.Pair of a request that was copied, and of its copy; else None

    cdef Exchange next, previous  # links of the queue or of the pool that holds it

    # Outcome.
    cdef int32_t code            # Code
    cdef string message          # why, when code is not OK
    cdef const char* reason      # the same for programs: UPPER_SNAKE_CASE in static memory; NULL: nothing to say
    cdef double retry_after      # seconds; 0 when there is nothing to say
    cdef Buffer answer           # the encoded message (gRPC: without its 5-byte prefix) or HTTP body
    cdef int64_t answer_header_length  # HTTP: JSON part of a binary answer, else -1
    cdef string served_version

    cdef void reset(self) noexcept
    cdef void fail(self, int code, string message) noexcept


cdef class ReplySink:
    # Takes an answered exchange. The sink owns it from here and gives it back with Intake.release once its bytes have
    # been copied or sent. Never raises. A connection re-enters the intake only by release and touch; a LocalCall tells
    # its caller, who may acquire, submit and cancel as well. So an intake replies only when its lists are whole, and
    # expects of every other exchange that its caller may have gone meanwhile.
    cdef void reply(self, Exchange exchange) noexcept
    # Writes what replies have gathered; called once per wake-up for every sink that asked for it by Intake.touch.
    cdef void flush(self) noexcept
    cdef cbool touched           # waits for its flush


cdef class Intake:
    cdef cbool wants_headers     # `take_header` is to be called with each header, between acquire and submit
    # A cleared exchange in stage RECEIVING.
    cdef Exchange acquire(self, ReplySink sink, int64_t stream_id, uint8_t protocol)
    # True when `path` (HTTP, without query) is an inference call: model and version are then set on the exchange.
    cdef cbool match_http(self, Exchange exchange, const char* path, size_t size) noexcept
    # One header of the request, name in any case. Keeps what routing will look at. Both are copied.
    cdef void take_header(self, Exchange exchange, string_view name, string_view value) noexcept
    # The same question, before there is an exchange; name in lower case.
    cdef cbool wants_header(self, string_view name) noexcept
    # The whole message is in exchange.request.body. Answers now or later, through exchange.sink, exactly once,
    # unless cancelled.
    cdef void submit(self, Exchange exchange) noexcept
    # The caller has gone: nothing will be sent. Ends the exchange in whatever stage it is, but ANSWERED ones are the
    # sink's own to release.
    cdef void cancel(self, Exchange exchange) noexcept
    cdef void release(self, Exchange exchange) noexcept
    # Asks for one flush of `sink` at the end of this wake-up.
    cdef void touch(self, ReplySink sink) noexcept
