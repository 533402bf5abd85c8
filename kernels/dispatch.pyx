# Where every request of the loop comes in: decoded, routed, checked, admitted; and where wake-ups end.
cimport cython
from libc.stdint cimport int32_t, int64_t, uint64_t
from libcpp cimport bool as cbool
from libcpp.string cimport string

from kernels.batching cimport ADMITTED, EXPIRED, QUEUE_ROWS
from kernels.deployment cimport Deployment
from kernels.exchange cimport (ANSWERED, CANCELLED, DEADLINE_EXCEEDED, FAILED_PRECONDITION, GRPC, INTERNAL,
                               INVALID_ARGUMENT, NOT_FOUND, OK, PARKED, QUEUED, RECEIVING, RESOURCE_EXHAUSTED, RUNNING,
                               UNAVAILABLE, Exchange, ReplySink)
from kernels.infer cimport Attribute, WireError, clipped, kMaxRank, string_view
from kernels.lanes cimport kLaneTensors
from kernels.loop cimport LoopIntake, monotonic
from kernels.meters cimport CANCELED, OTHER, REJECTED, Meters
from kernels.mirror cimport Pair, is_copy
from kernels.parking cimport ParkingLot
from kernels.rollout cimport Rollout
from kernels.routes cimport (FOUND, NO_VERSIONS, UNKNOWN_MODEL, UNKNOWN_VERSION, VERSION_NOT_READY, ModelRoute,
                             RouteTable)
from kernels.signature cimport Binding, bind
from kernels.wire cimport decode_proto, match_infer_path

cdef enum:
    MAX_HEADER_NAME = 128

# Slow answers are common at the lowest threshold: they are told together so often, failed ones at once.
cdef double GATHER_SECONDS = 0.01


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
        self.reporting = []
        self.copies = []

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
        self.wants_headers = table.has_headers
        # Read while a request is decoded only; the table lives as long as it is the one in force.
        self.limits.wanted_parameters = NULL
        if not table.parameters.empty():
            self.limits.wanted_parameters = &table.parameters
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

    cdef cbool wants_header(self, string_view name) noexcept:
        return self.routes.headers.find(name) >= 0

    cdef void take_header(self, Exchange x, string_view name, string_view value) noexcept:
        cdef char[MAX_HEADER_NAME] lowered
        cdef Attribute attribute
        cdef size_t i
        cdef char c
        if name.size() > MAX_HEADER_NAME:
            return
        for i in range(name.size()):
            c = name.data()[i]
            lowered[i] = c | 0x20 if c"A" <= c <= c"Z" else c
        attribute.name = string_view(lowered, name.size())
        if not self.wants_header(attribute.name):
            return
        try:
            attribute.name = x.request.arena.copy(attribute.name)
            attribute.value = x.request.arena.copy(value)
            x.request.attributes.push_back(attribute)
        except MemoryError:
            pass  # divided as if it did not have it; what follows will not find memory either

    cdef void submit(self, Exchange x) noexcept:
        cdef double now = monotonic()
        cdef WireError error
        if x.arrived == 0:
            x.arrived = now
        if self.refusing is not None:
            x.reason = b"NOT_SERVING"
            self.refuse(x, self.unrouted, UNAVAILABLE, self.refusing.encode(), now)
            return
        try:
            if not self.decode(x, error):
                x.reason = b"MALFORMED_REQUEST"
                self.refuse(x, self.unrouted, error.code, error.text, now)
                return
        except BaseException as raised:
            self.refuse_raised(x, raised, now)
            return
        self.direct(x, now)

    cdef void direct(self, Exchange x, double now) noexcept:
        # A decoded request goes where the routes say, or waits for a version that is on its way here, or is refused.
        cdef ModelRoute route
        cdef int miss = FOUND
        target = None
        try:
            route = self.routes.find(x.request.model)
            if route is None:
                miss = UNKNOWN_MODEL
            elif route.rollout is not None and x.request.version.empty():
                target = route.rollout.divide(x)
                if target is None:
                    miss = VERSION_NOT_READY
            else:
                target = route.pick(x.request.version, &miss)
        except BaseException as raised:
            self.refuse_raised(x, raised, now)
            return
        if target is not None:
            self.route(x, <Deployment>target, now)
        elif not self.park(x, miss, now):
            self.refuse_unrouted(x, miss, now)

    cdef void route(self, Exchange x, Deployment d, double now) noexcept:
        # The version that is to answer: the request is checked, admitted and queued there, or refused.
        cdef WireError error
        cdef int reason
        try:
            if not self.fit(x, d, error):
                # What the stable version takes is well-formed, so it is the arm's failure not to take it.
                if x.arm < 0 or not self.turn(x, d, FAILED_PRECONDITION, now):
                    self.refuse(x, d.meters, error.code, error.text, now)
                return
            if x.arm >= 0 and d.is_down() and self.turn(x, d, OK, now):
                return
        except BaseException as raised:
            self.refuse_raised(x, raised, now)
            return
        if self.in_flight >= self.max_in_flight:
            d.meters.shed(QUEUE_ROWS)
            x.retry_after = 1.0
            x.reason = b"IN_FLIGHT"
            self.refuse(x, d.meters, RESOURCE_EXHAUSTED,
                        f"{self.in_flight} requests are in flight, the limit is {self.max_in_flight}".encode(), now)
            return
        if x.deadline > 0 and x.deadline <= now:
            d.meters.shed(EXPIRED)
            x.reason = b"EXPIRED"
            self.refuse(x, d.meters, DEADLINE_EXCEEDED, <string>b"Request timeout expired", now)
            return
        if x.rollout is not None and x.deadline > 0 and (<Rollout>x.rollout).retries:
            x.patience = now + (x.deadline - now) / 2
        reason = d.queue.offer(x, now, d.backlog(now), 1 if len(d.lanes) == 0 else <int>len(d.lanes))
        if reason != ADMITTED:
            if x.arm >= 0 and self.turn(x, d, OK, now):
                return
            d.meters.shed(reason)
            d.meters.failed(REJECTED, now - x.arrived)
            d.meters.answered(x.protocol, x.code, now - x.arrived)
            self.reply(x)
            return
        x.queued = now
        self.enter(d, x)
        if x.rollout is not None and x.arm < 0 and (<Rollout>x.rollout).mirror is not None:
            self.mirror(x)

    cdef cbool decode(self, Exchange x, WireError& error) except? False:
        if x.protocol == GRPC:
            return decode_proto(x.request.body.data(), x.request.body.size(), x.request, self.limits, error)
        return self.json.decode(x.request.body.data(), x.request.body.size(), x.header_length, x.request, self.limits,
                                error)

    cdef cbool fit(self, Exchange x, Deployment d, WireError& error) except? False:
        # Whether the deployment takes the request; it then says what its queue must know of it.
        cdef Binding binding
        cdef double limit
        if not bind(d.signature, x.request, binding, error):
            x.reason = b"SIGNATURE_MISMATCH"
            return False
        if binding.nbytes + 64 * <int64_t>x.request.inputs.size() > <int64_t>d.slot_bytes:
            x.reason = b"INPUTS_TOO_LARGE"
            error.code = INVALID_ARGUMENT
            error.text = f"inputs of {binding.nbytes} bytes exceed the batch limit of {d.slot_bytes} bytes".encode()
            return False
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
        return True

    cdef void enter(self, Deployment d, Exchange x) noexcept:
        # What has been put into its queue is the deployment's.
        x.stage = QUEUED
        x.owner = d
        d.in_flight += 1
        if d.in_flight > d.in_flight_peak:
            d.in_flight_peak = d.in_flight
        if not is_copy(x):  # nobody waits for copies, so they take nobody's place
            self.in_flight += 1
        if x.deadline > 0:
            self.arm(x.patience if x.patience > 0 else x.deadline)
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
            x.reason = b"VERSION_NOT_READY"
            self.refuse(x, self.unrouted, UNAVAILABLE, why_not.encode(), now)
        elif x.deadline > 0 and x.deadline <= now:
            self.refuse_expired(x, now)
        elif not self.parked.has_room(x):
            x.retry_after = 1.0
            x.reason = b"TOO_MANY_WAITING"
            text = f"{self.parked.count} requests of {self.parked.nbytes} bytes wait for models to load, " \
                   f"the limits are {self.parked.max_count} and {self.parked.max_bytes} bytes"
            self.refuse(x, self.unrouted, RESOURCE_EXHAUSTED, text.encode(), now)
        else:
            # Whatever a rollout said of it, another may say by then, or none.
            x.rollout = None
            x.counted = False
            x.has_unit = False
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
        while left > 0 and self.parked.head is not None:
            left -= 1
            x = self.parked.head
            self.parked.remove(x)
            self.direct(x, now)

    cdef void expire_parked(self, double now) noexcept:
        cdef Exchange x
        cdef int64_t left = self.parked.count
        while left > 0 and self.parked.head is not None:
            left -= 1
            x = self.parked.head
            self.parked.remove(x)
            if x.deadline > 0 and x.deadline <= now:
                self.refuse_expired(x, now)
                continue
            self.parked.add(x)
            if x.deadline > 0:
                self.arm(x.deadline)

    # Shadows

    cdef void mirror(self, Exchange x) noexcept:
        # Copies a request that the stable version has just been given, if it is drawn.
        cdef Rollout rollout = <Rollout>x.rollout
        cdef Exchange copied
        if rollout.is_sampled():
            copied = rollout.mirror.copy(self, x)
            if copied is not None:
                self.copies.append(copied)

    cdef void launch(self, Exchange x, double now) noexcept:
        # A copy goes straight to the shadow, behind everything that somebody waits for, or is dropped.
        cdef Pair pair = <Pair>x.pair
        cdef Deployment d
        cdef WireError error
        if pair.mirror.target is None:
            pair.drop(x)
            return
        d = <Deployment>pair.mirror.target
        if d.is_down() or d.queue.rows > max(d.queue.max_batch_size, 1):
            pair.drop(x)
            return
        x.arrived = now
        try:
            if not self.decode(x, error):
                pair.drop(x)
                return
            x.request.timeout_us = 0  # the caller's hurry is not the copy's
            if not self.fit(x, d, error):
                pair.refuse(x, error.text)
                return
        except MemoryError:
            pair.drop(x)
            return
        x.priority = max(d.queue.priority_levels, 1)
        if d.queue.offer(x, now, d.backlog(now), max(<int>len(d.lanes), 1)) != ADMITTED:
            pair.drop(x)
            return
        x.queued = now
        self.enter(d, x)

    # Rollouts

    cdef cbool turn(self, Exchange x, Deployment d, int code, double now) noexcept:
        # Has the stable version answer what an arm will not run. With a code, that is the arm's failure, if the stable
        # version takes it.
        cdef Rollout rollout = <Rollout>x.rollout
        cdef int arm = x.arm
        cdef cbool counted = x.counted
        cdef uint64_t unit = x.unit
        cdef cbool has_unit = x.has_unit
        if self.in_flight >= self.max_in_flight or (code != OK and not rollout.retries):
            return False
        if not self.reroute(x, d, now):
            return False
        if counted and code != OK:
            rollout.fail_unrun(arm, has_unit, unit, code, now)
            self.report(rollout, True, now)
        return True

    cdef cbool reroute(self, Exchange x, object origin, double now) noexcept:
        cdef ModelRoute route
        cdef Deployment d
        cdef WireError error
        cdef const char* reason = x.reason
        if x.deadline > 0 and x.deadline <= now:
            return False
        try:
            route = self.routes.find(x.request.model)
            if route is None or route.default is None or route.default is origin:
                return False
            d = <Deployment>route.default
            if not self.read_again(x, error) or not self.fit(x, d, error):
                # It stays where it is, which is where it has to fit again; where it never did, it is refused anyway.
                if self.read_again(x, error):
                    self.fit(x, <Deployment>origin, error)
                x.reason = reason
                return False
        except MemoryError:
            return False
        x.code = OK
        x.message.clear()
        x.reason = NULL
        x.retry_after = 0.0
        x.answer.clear()
        x.answer_header_length = -1
        x.shed = 0
        x.solo = False
        x.patience = 0.0
        x.counted = False
        x.rollout = None
        x.arm = -1
        x.queued = now
        # It was admitted once: the limits of the queue are not asked again.
        d.queue.give_back(x, now)
        self.enter(d, x)
        return True

    cdef cbool read_again(self, Exchange x, WireError& error) except? False:
        # Binding to a signature may have reordered and reshaped the inputs, also when it failed in the end: back to
        # what was received.
        x.request.inputs.clear()
        x.request.outputs.clear()
        x.request.attributes.clear()
        return self.decode(x, error)

    cdef void report(self, object rollout, cbool is_urgent, double now) noexcept:
        cdef Rollout r = <Rollout>rollout
        if not r.is_reported:
            r.is_reported = True
            self.reporting.append(r)
        if is_urgent:
            self.is_urgent = True
            self.schedule()
        elif self.tell_at == 0:
            self.tell_at = now + GATHER_SECONDS
            self.arm(self.tell_at)

    cdef int tell(self) except -1:
        cdef Rollout rollout
        self.is_urgent = False
        self.tell_at = 0
        if not self.reporting:
            return 0
        events = []
        reporting, self.reporting = self.reporting, []
        for rollout in reporting:
            rollout.drain(events)
        if self.on_events is not None and events:
            self.on_events(events)
        return 0

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

    cdef void refuse_expired(self, Exchange x, double now) noexcept:
        # A request that waited for its version, or came to wait, when its time was over.
        x.reason = b"EXPIRED"
        self.refuse(x, self.unrouted, DEADLINE_EXCEEDED, <string>b"Request timeout expired", now)

    cdef void refuse_raised(self, Exchange x, object raised, double now) noexcept:
        # Nobody further up could answer the request. What is no lack of memory is a bug, and then told as unraisable.
        if isinstance(raised, MemoryError):
            self.refuse(x, self.unrouted, RESOURCE_EXHAUSTED, <string>b"no memory for the request", now)
            return
        x.reason = b"GATEWAY_FAILED"
        self.refuse(x, self.unrouted, INTERNAL, <string>b"the gateway failed on the request", now)
        raise raised

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
        cdef Exchange x
        cdef double now
        self.settle_scheduled = False
        if self.dirty:
            now = monotonic()
            dirty, self.dirty = self.dirty, []
            for d in dirty:
                d.kick(now)
        self.flush()
        if self.copies:
            now = monotonic()
            copies, self.copies = self.copies, []
            for x in copies:
                self.launch(x, now)
        if self.is_urgent:
            self.tell()

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
        if self.tell_at > now:
            self.arm(self.tell_at)
        elif self.tell_at > 0:
            self.tell()
