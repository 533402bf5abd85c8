# Where every request of the loop comes in: decoded, routed, checked, admitted; and where wake-ups end.
cimport cython
from libc.stdint cimport int32_t, int64_t, uint64_t
from libcpp cimport bool as cbool
from libcpp.string cimport string

from kernels.batching cimport ADMITTED, EXPIRED, QUEUE_ROWS
from kernels.deployment cimport Binding, Deployment, bind
from kernels.exchange cimport (ANSWERED, CANCELLED, DEADLINE_EXCEEDED, GRPC, INVALID_ARGUMENT, NOT_FOUND, PARKED,
                               QUEUED, RECEIVING, RESOURCE_EXHAUSTED, RUNNING, UNAVAILABLE, Exchange, ReplySink)
from kernels.infer cimport WireError, clipped, kMaxRank, string_view
from kernels.lanes cimport kLaneTensors
from kernels.loop cimport LoopIntake, monotonic
from kernels.meters cimport CANCELED, OTHER, REJECTED, Meters
from kernels.parking cimport ParkingLot
from kernels.routes cimport FOUND, NO_VERSIONS, UNKNOWN_MODEL, UNKNOWN_VERSION, VERSION_NOT_READY, RouteTable
from kernels.wire cimport decode_proto, match_infer_path


@cython.final
cdef class Dispatcher(LoopIntake):
    def __init__(self, *, call_soon, int64_t max_in_flight=65536, size_t max_tensors=kLaneTensors,
                 size_t max_json_depth=32, size_t max_tensor_bytes=<size_t>1 << 30, int max_pooled=4096,
                 size_t max_pooled_bytes=32 << 20, int64_t max_parked=1024, int64_t max_parked_bytes=64 << 20):
        LoopIntake.__init__(self, call_soon=call_soon, max_pooled=max_pooled, max_pooled_bytes=max_pooled_bytes)
        self.max_in_flight = max_in_flight
        self.limits.max_tensors = max_tensors
        self.limits.max_rank = kMaxRank
        self.limits.max_json_depth = max_json_depth
        self.limits.max_tensor_bytes = max_tensor_bytes
        self.routes = RouteTable()
        self.unrouted = Meters()
        self.dirty = []
        self.deployments = []
        self.parked = ParkingLot(max_parked, max_parked_bytes)

    def add(self, Deployment deployment):
        deployment.loop = self
        self.deployments.append(deployment)

    def remove(self, Deployment deployment):
        assert deployment.in_flight == 0, "this is a bug: a deployment removed with requests in flight"
        self.deployments.remove(deployment)

    @property
    def route_table(self):
        return self.routes

    @route_table.setter
    def route_table(self, RouteTable table not None):
        self.routes = table
        if self.parked.count:
            self.unpark(monotonic())

    @property
    def refusal(self):
        return self.refusing

    @refusal.setter
    def refusal(self, reason):
        self.refusing = reason

    cdef cbool match_http(self, Exchange x, const char* path, size_t size) noexcept:
        return match_infer_path(string_view(path, size), x.request.arena, x.request.model, x.request.version)

    cdef void submit(self, Exchange x) noexcept:
        cdef double now = monotonic()
        cdef WireError error
        cdef cbool decoded
        cdef int miss = FOUND
        if x.arrived == 0:
            x.arrived = now
        if self.refusing is not None:
            x.reason = b"NOT_SERVING"
            self.refuse(x, self.unrouted, UNAVAILABLE, self.refusing.encode(), now)
            return
        try:
            if x.protocol == GRPC:
                decoded = decode_proto(x.request.body.data(), x.request.body.size(), x.request, self.limits, error)
            else:
                decoded = self.json.decode(x.request.body.data(), x.request.body.size(), x.header_length, x.request,
                                           self.limits, error)
            if not decoded:
                x.reason = b"MALFORMED_REQUEST"
                self.refuse(x, self.unrouted, error.code, error.text, now)
                return
            target = self.routes.pick(x.request.model, x.request.version, &miss)
        except MemoryError:
            self.refuse(x, self.unrouted, RESOURCE_EXHAUSTED, <string>b"no memory for the request", now)
            return
        if target is not None:
            self.route(x, <Deployment>target, now)
        elif not self.park(x, miss, now):
            self.refuse_unrouted(x, miss, now)

    cdef void route(self, Exchange x, Deployment d, double now) noexcept:
        # A decoded request and the version that is to answer it: checked, admitted and queued there, or refused.
        cdef WireError error
        cdef Binding binding
        cdef int reason
        cdef double limit
        try:
            if not bind(d.signature, x.request, binding, error):
                x.reason = b"SIGNATURE_MISMATCH"
                self.refuse(x, d.meters, error.code, error.text, now)
                return
        except MemoryError:
            self.refuse(x, self.unrouted, RESOURCE_EXHAUSTED, <string>b"no memory for the request", now)
            return
        if binding.nbytes + 64 * <int64_t>x.request.inputs.size() > <int64_t>d.slot_bytes:
            text = f"inputs of {binding.nbytes} bytes exceed the batch limit of {d.slot_bytes} bytes"
            x.reason = b"INPUTS_TOO_LARGE"
            self.refuse(x, d.meters, INVALID_ARGUMENT, text.encode(), now)
            return
        if self.in_flight >= self.max_in_flight:
            d.meters.shed(QUEUE_ROWS)
            x.retry_after = 1.0
            x.reason = b"IN_FLIGHT"
            self.refuse(x, d.meters, RESOURCE_EXHAUSTED,
                        f"{self.in_flight} requests are in flight, the limit is {self.max_in_flight}".encode(), now)
            return
        x.inputs_mask = binding.inputs_mask
        x.outputs_mask = binding.outputs_mask
        x.group = binding.group
        x.rows = <int32_t>binding.rows
        x.nbytes = binding.nbytes
        x.batched = d.signature.max_batch_size > 0
        x.priority = <int32_t>min(x.request.priority, <uint64_t>0x7fffffff)
        if x.request.timeout_us > 0 and d.queue.allow_timeout_override(x.priority):
            limit = x.arrived + x.request.timeout_us * 1e-6
            if x.deadline == 0 or limit < x.deadline:
                x.deadline = limit
        if x.deadline > 0 and x.deadline <= now:
            d.meters.shed(EXPIRED)
            x.reason = b"EXPIRED"
            self.refuse(x, d.meters, DEADLINE_EXCEEDED, <string>b"Request timeout expired", now)
            return
        reason = d.queue.offer(x, now, d.backlog(now), 1 if len(d.lanes) == 0 else <int>len(d.lanes))
        if reason != ADMITTED:
            d.meters.shed(reason)
            d.meters.failed(REJECTED, now - x.arrived)
            d.meters.answered(x.protocol, x.code, now - x.arrived)
            self.reply(x)
            return
        x.stage = QUEUED
        x.queued = now
        x.owner = d
        d.in_flight += 1
        if d.in_flight > d.in_flight_peak:
            d.in_flight_peak = d.in_flight
        self.in_flight += 1
        if x.deadline > 0:
            self.arm(x.deadline)
        if not d.dirty:
            d.dirty = True
            self.dirty.append(d)
            self.schedule()

    cdef cbool park(self, Exchange x, int miss, double now) noexcept:
        # Keeps a request for a version that is on its way here. False when it is not; then nothing has happened.
        if miss != VERSION_NOT_READY or self.demand is None:
            return False
        cdef bytes model = clipped(x.request.model, 256), version = clipped(x.request.version, 64)
        cdef double limit = x.arrived + x.request.timeout_us * 1e-6
        why_not = self.demand(model.decode(errors="replace"), version.decode(errors="replace"))
        if why_not is None:
            return False
        if x.request.timeout_us > 0 and (x.deadline == 0 or limit < x.deadline):
            x.deadline = limit  # whatever the version's queue will say: nobody waits longer than they said
        if why_not:
            self.refuse(x, self.unrouted, UNAVAILABLE, why_not.encode(), now)
        elif x.deadline > 0 and x.deadline <= now:
            self.refuse(x, self.unrouted, DEADLINE_EXCEEDED, <string>b"Request timeout expired", now)
        elif not self.parked.has_room(x):
            x.retry_after = 1.0
            text = f"{self.parked.count} requests of {self.parked.nbytes} bytes wait for models to load, " \
                   f"the limits are {self.parked.max_count} and {self.parked.max_bytes} bytes"
            self.refuse(x, self.unrouted, RESOURCE_EXHAUSTED, text.encode(), now)
        else:
            x.stage = PARKED
            self.parked.add(x)
            if x.deadline > 0:
                self.arm(x.deadline)
        return True

    cdef void unpark(self, double now) noexcept:
        # Each goes where the routes now say; who still has nowhere to go is asked about again. An answer may make
        # somebody cancel another one of these, so between two of them nothing is held but the list itself.
        cdef Exchange x
        cdef int64_t left = self.parked.count
        cdef int miss = FOUND
        while left > 0 and self.parked.head is not None:
            left -= 1
            x = self.parked.head
            self.parked.remove(x)
            target = self.routes.pick(x.request.model, x.request.version, &miss)
            if target is not None:
                self.route(x, <Deployment>target, now)
            elif not self.park(x, miss, now):
                self.refuse_unrouted(x, miss, now)

    cdef void expire_parked(self, double now) noexcept:
        cdef Exchange x
        cdef int64_t left = self.parked.count
        while left > 0 and self.parked.head is not None:
            left -= 1
            x = self.parked.head
            self.parked.remove(x)
            if x.deadline > 0 and x.deadline <= now:
                self.refuse(x, self.unrouted, DEADLINE_EXCEEDED, <string>b"Request timeout expired", now)
                continue
            self.parked.add(x)
            if x.deadline > 0:
                self.arm(x.deadline)

    cdef void refuse_unrouted(self, Exchange x, int miss, double now) noexcept:
        cdef bytes model = clipped(x.request.model, 256), version = clipped(x.request.version, 64)
        text = b"Request for unknown model: '" + model + b"'"
        if miss == UNKNOWN_MODEL:
            text += b" is not found"
            x.reason = b"UNKNOWN_MODEL"
        elif miss == NO_VERSIONS:
            text += b" has no available versions"
            x.reason = b"NO_VERSION_AVAILABLE"
        elif miss == UNKNOWN_VERSION:
            text += b" version " + version + b" is not found"
            x.reason = b"UNKNOWN_VERSION"
        else:
            x.reason = b"VERSION_NOT_READY"
            text += (b" version " + version if version else b"") + b" is not at ready state"
        self.refuse(x, self.unrouted, UNAVAILABLE if miss == VERSION_NOT_READY else NOT_FOUND, text, now)

    cdef void refuse(self, Exchange x, Meters meters, int code, string message, double now) noexcept:
        # Answers a request that was never queued.
        x.fail(code, message)
        meters.failed(REJECTED if code == RESOURCE_EXHAUSTED or code == DEADLINE_EXCEEDED else OTHER, now - x.arrived)
        meters.answered(x.protocol, code, now - x.arrived)
        self.reply(x)

    cdef void reply(self, Exchange x) noexcept:
        # Of one that was parked, the exchange may be all that keeps its caller.
        cdef ReplySink sink = x.sink
        x.stage = ANSWERED
        sink.reply(x)

    cdef void cancel(self, Exchange x) noexcept:
        if x.stage == RECEIVING:
            self.release(x)
        elif x.stage == QUEUED:
            (<Deployment>x.owner).withdraw(x, monotonic())
        elif x.stage == PARKED:
            self.parked.remove(x)
            self.unrouted.failed(CANCELED, monotonic() - x.arrived)
            self.unrouted.answered(x.protocol, CANCELLED, monotonic() - x.arrived)
            self.release(x)
        elif x.stage == RUNNING:
            x.sink = None  # its rows run on; nobody waits for them

    def settle(self):
        """The end of a wake-up: hand over what arrived, write what was answered."""
        cdef Deployment d
        cdef double now
        self.settle_scheduled = False
        if self.dirty:
            now = monotonic()
            dirty, self.dirty = self.dirty, []
            for d in dirty:
                d.kick(now)
        self.flush()

    def on_timer(self):
        """The timer fired: drop what has expired, run what was held back, answer what runs past its deadline."""
        cdef Deployment d
        cdef double now = monotonic()
        self.disarm()
        for d in list(self.deployments):
            d.expire(now)
            d.kick(now)
        if self.parked.count:
            self.expire_parked(now)
        self.flush()
