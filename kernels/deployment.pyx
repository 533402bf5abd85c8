# One model version on one loop: its queue, its lanes, and the way of its requests from admission to answer.
cimport cython
from libc.stdint cimport int64_t, uint32_t
from libcpp cimport bool as cbool
from libcpp.string cimport string
from libcpp.vector cimport vector

from kernels.batching cimport BatchQueue
from kernels.exchange cimport (ANSWERED, CANCELLED, DATA_LOSS, DEADLINE_EXCEEDED, GRPC, INTERNAL, OK, QUEUED,
                               RESOURCE_EXHAUSTED, RUNNING, UNAVAILABLE, UNKNOWN, Exchange, ReplySink)
from kernels.infer cimport OutputView, WireError, clipped, string_view
from kernels.lanes cimport SLOT_FAILED, Lane, Slot, kLaneMessage, slot_state
from kernels.loop cimport epoch_ms, monotonic
from kernels.meters cimport BACKEND, CANCELED, OTHER, REJECTED, Meters
from kernels.mirror cimport Pair, is_copy
from kernels.rollout cimport Rollout
from kernels.signature cimport fill_specs
from kernels.wire cimport encode_json, encode_proto

# So long before a batch is expected to end its successor goes into the lane's other slot, so that the worker need not
# wait for the loop. Until then arrivals keep gathering into a larger batch.
cdef double PREFETCH_SECONDS = 0.002
# Runs of one request before it is given up: the first, and two more after a worker died under it.
cdef int MAX_ATTEMPTS = 3


@cython.final
cdef class Deployment:
    def __init__(self, str model, str version, inputs, outputs, *, int64_t max_batch_size, BatchQueue queue,
                 size_t slot_bytes, Meters meters=None, bint idempotent=True):
        self.model = model
        self.version = version
        self.version_name = version.encode()
        self.signature.model = model.encode()
        self.signature.max_batch_size = max_batch_size
        # In the engine's order, which is how a lane counts them; outputs stay in the order they are answered in.
        fill_specs(self.signature.inputs, sorted(inputs, key=lambda tensor: tensor.index))
        fill_specs(self.signature.outputs, outputs)
        self.queue = queue
        self.meters = meters if meters is not None else Meters()
        self.slot_bytes = slot_bytes
        self.idempotent = idempotent
        self.lanes = []

    @property
    def lane_count(self):
        return len(self.lanes)

    def take_peak(self):
        """The most that was in flight at once since the last call."""
        peak, self.in_flight_peak = self.in_flight_peak, self.in_flight
        return peak

    def attach(self, Lane lane):
        assert self.loop is not None, "this is a bug: attach before Dispatcher.add"
        assert lane.slot_bytes >= self.slot_bytes, "this is a bug: a lane with less room than was promised"
        self.lanes.append(lane)
        self.kick(monotonic())
        self.loop.flush()

    def detach(self, Lane lane):
        if lane not in self.lanes:
            return
        cdef double now = monotonic()
        cdef int slot, turn
        cdef Exchange head
        cdef bytes died = b"the worker that ran the request died"
        self.lanes.remove(lane)
        # What the worker finished before it died still counts.
        while lane.has_result():
            self.harvest(lane, now)
        for turn in range(2):
            slot = lane.harvest_next
            head = <Exchange>lane.running[slot]
            if head is None:
                break
            lane.release_slot(slot)
            if turn == 0:
                self.count_crash(head, now)
            else:
                self.unstart(head)  # it waited behind the batch that ran
            head = self.move_chain(head, UNAVAILABLE, died, now)
            if head is not None:
                self.retry_or_fail(head, turn == 0, UNAVAILABLE, died, now)
        if self.is_down():
            # What waits need not wait for the next worker if there is another version.
            self.put_back(self.move_chain(self.queue.take_arms(), UNAVAILABLE, died, now), now)
        self.kick(now)
        self.loop.flush()

    cdef void unstart(self, Exchange head):
        while head is not None:
            head.attempts -= 1
            head = head.next

    def collect(self, Lane lane):
        """The lane's doorbell back rang: answer what has come back and hand over what waits."""
        cdef double now = monotonic()
        lane.acknowledge()
        while lane.has_result():
            self.harvest(lane, now)
            now = monotonic()
        self.kick(now)
        self.loop.flush()

    def retire(self, on_idle):
        """Nothing new will come: call `on_idle` once, as soon as everything is answered."""
        self.on_idle = on_idle
        if self.in_flight == 0:
            self.on_idle = None
            on_idle()

    def abort(self, int code, str message):
        """Answer everything that is queued with this failure."""
        cdef bytes text = message.encode()
        cdef double now = monotonic()
        self.queue.clear(code, text)
        self.drop(now)
        self.loop.flush()

    def oldest_started(self):
        return [(lane, lane.oldest_started) for lane in self.lanes if not lane.is_idle]

    cdef Lane pick_lane(self, double now, double* start):
        # An idle lane, else the busy one that will be free first, if that is soon; `start` is when it should be.
        cdef Lane lane, soonest = None
        cdef double free_at
        cdef int running
        start[0] = now
        for lane in self.lanes:
            if lane.free_slot() < 0:
                continue
            running = lane.harvest_next
            if lane.running[running] is None:
                return lane
            free_at = lane.running_since() + self.queue.service_time.predict(lane.running_rows[running])
            if soonest is None or free_at < start[0]:
                soonest, start[0] = lane, free_at
        if soonest is None:
            return None
        if start[0] - now > PREFETCH_SECONDS:
            self.loop.arm(start[0] - PREFETCH_SECONDS)
            return None
        # A batch costs the same wake-ups whatever its size: fewer rows than run now had better wait for the lane.
        return soonest if self.queue.rows >= soonest.running_rows[soonest.harvest_next] else None

    cdef double backlog(self, double now) noexcept:
        # Predicted seconds until some lane is idle.
        cdef Lane lane
        cdef double left, least = -1
        cdef int i
        for lane in self.lanes:
            if lane.running[lane.harvest_next] is None:
                return 0.0
            left = 0.0
            for i in range(2):
                if lane.running[i] is not None:
                    left += self.queue.service_time.predict(lane.running_rows[i])
            left -= now - lane.running_since()
            if least < 0 or left < least:
                least = left
        return least if least > 0 else 0.0

    cdef void kick(self, double now) noexcept:
        cdef Lane lane
        cdef Exchange head, x, rest
        cdef int64_t rows
        cdef int slot, members
        cdef double wake, start = now
        self.dirty = False
        while self.queue.count:
            lane = self.pick_lane(now, &start)
            if lane is None:
                break
            head = self.queue.take(max(now, start))
            if head is None:
                break
            slot = lane.free_slot()
            rows = 0
            members = lane.gather(slot, head, &rows)
            assert members > 0, "this is a bug: admitted a request that fits no slot"
            x = head
            while True:
                x.stage = RUNNING
                x.started = now
                x.attempts += 1
                members -= 1
                if members == 0:
                    break
                x = x.next
            rest = x.next
            x.next = None
            lane.ring(slot, head, rows, now)
            self.put_back(rest, now)
        wake = self.queue.wake_at()
        if wake > 0:
            self.loop.arm(wake)
        if self.queue.dropped is not None:
            self.drop(now)

    cdef void put_back(self, Exchange chain, double now) noexcept:
        # In reverse, so that the first of the chain is first again.
        cdef Exchange x, following, turned = None
        while chain is not None:
            following = chain.next
            chain.next = turned
            turned = chain
            chain = following
        while turned is not None:
            x = turned
            turned = x.next
            x.next = None
            x.stage = QUEUED
            self.queue.give_back(x, now)

    cdef void drop(self, double now) noexcept:
        cdef Exchange head = self.queue.dropped, x = head, following
        self.queue.dropped = None
        # An answer may make somebody cancel another one of these, which is in no queue to be withdrawn from.
        while x is not None:
            x.stage = RUNNING
            x = x.next
        x = head
        while x is not None:
            following = x.next
            x.next = None
            if x.code == OK and x.sink is not None:
                if not self.hand_over(x, now):
                    self.put_back(x, now)
                    self.loop.arm(now)  # a lane may be free for it
                x = following
                continue
            if x.shed:
                self.meters.shed(x.shed)
            self.meters.failed(REJECTED, now - x.arrived)
            self.answer(x, now)
            x = following

    cdef void harvest(self, Lane lane, double now) noexcept:
        cdef int slot = lane.harvest_next
        cdef Slot* s = &lane.header.slot[slot]
        cdef Exchange head = <Exchange>lane.running[slot]
        cdef int64_t rows = lane.running_rows[slot]
        cdef double started = lane.running_since()
        cdef uint32_t size
        cdef string message
        cdef int code
        lane.last_harvest = now
        if slot_state(s[0]) == SLOT_FAILED:
            size = s.message_size
            message = clipped(string_view(s.message, min(size, <uint32_t>kLaneMessage)), kLaneMessage)
            code = s.code
            if not 0 < code <= 16:
                code = INTERNAL
            lane.release_slot(slot)
            self.retry_or_fail(head, True, code, message, now)
            return
        self.queue.service_time.observe(rows, now - started)
        if self.scatter(lane, slot, head, rows, now):
            lane.release_slot(slot)
        else:
            lane.release_slot(slot)
            message = <string>b"the model gave outputs that do not fit its signature"
            self.retry_or_fail(head, True, INTERNAL, message, now)

    cdef cbool scatter(self, Lane lane, int slot, Exchange head, int64_t rows, double now) noexcept:
        # False, with nothing answered, when the outputs cannot be what the signature says.
        cdef Slot* s = &lane.header.slot[slot]
        cdef Scatter* outputs = &self.outputs
        cdef double started = head.started  # the head is not ours any more once it is answered
        cdef double compute_start = min(max(s.compute_start_ns * 1e-9, started), now)
        cdef double compute_end = min(max(s.compute_end_ns * 1e-9, compute_start), now)
        cdef double waited
        cdef Exchange x, following, observed = None
        cdef Rollout rollout
        cdef int level
        if not outputs.open(self.signature, lane.header, slot, lane.slot_bytes, head.batched, rows, head.outputs_mask):
            return False
        if head.rollout is not None and (<Rollout>head.rollout).levels:
            observed = self.observed(head, now)
        x = head
        while x is not None:
            following = x.next
            x.next = None
            if not outputs.next(x.rows):
                x.fail(INTERNAL, <string>b"the model gave a BYTES output that ends too early")
            elif x.sink is not None:
                self.encode(x)
                if x.counted and x.code == OK and has_nan(self.views) and self.move_nan(x, now):
                    x = following
                    continue
            if x.sink is None:
                self.abandon(x, now)
            else:
                if x.code != OK:
                    self.meters.failed(OTHER, now - x.arrived)
                else:
                    waited = x.started - x.queued
                    self.meters.succeeded(x.rows, now - x.arrived, waited, compute_start - started,
                                          compute_end - compute_start, now - compute_end)
                    if x is observed:
                        rollout = <Rollout>x.rollout
                        level = rollout.level_of(compute_end - compute_start)
                        if level:
                            rollout.slow(x, level, now)
                            self.loop.report(rollout, False, now)
                self.answer(x, now)
            x = following
        self.compute_seconds += compute_end - compute_start
        self.meters.executed(rows, compute_start - started, compute_end - compute_start, now - compute_end,
                             epoch_ms())
        return True

    cdef void encode(self, Exchange x) noexcept:
        cdef WireError error
        cdef vector[OutputView]* views = &self.views
        cdef cbool encoded
        cdef string_view model = string_view(self.signature.model.data(), self.signature.model.size())
        cdef string_view version = string_view(self.version_name.data(), self.version_name.size())
        try:
            if x.pair is not None:  # compared are the values, not the texts that classification makes of them
                collect_views(self.signature, self.outputs, x.request, x.rows, False, False, views[0])
                (<Pair>x.pair).capture(x, views[0])
                if is_copy(x):
                    return
            collect_views(self.signature, self.outputs, x.request, x.rows, x.protocol == GRPC and not x.request.raw,
                          True, views[0])
            if x.protocol == GRPC:
                encoded = encode_proto(x.request, model, version, views.data(), views.size(), x.answer, error)
            else:
                encoded = encode_json(x.request, model, version, views.data(), views.size(), x.answer,
                                      x.answer_header_length, error)
        except MemoryError:
            error.code = RESOURCE_EXHAUSTED
            error.text = <string>b"no memory for the answer"
            encoded = False
        if not encoded:
            x.answer.clear()
            x.answer_header_length = -1
            x.fail(error.code, error.text)

    cdef void retry_or_fail(self, Exchange head, cbool ran, int code, string message, double now) noexcept:
        # What ran as a batch runs again one by one, so that the request at fault fails alone; what failed alone has
        # failed, unless its worker died under it and may yet have a better one.
        cdef Exchange x = head, following, again = None, last = None
        cdef cbool alone = head.next is None
        while x is not None:
            following = x.next
            x.next = None
            if x.sink is None:
                self.abandon(x, now)
            elif self.idempotent and x.attempts < MAX_ATTEMPTS and (not alone or code == UNAVAILABLE):
                x.solo = x.solo or ran
                if again is None:
                    again = x
                else:
                    last.next = x
                last = x
            else:
                x.fail(code, message)
                x.reason = b"WORKER_DIED" if code == UNAVAILABLE else b"MODEL_FAILED"
                self.meters.failed(BACKEND, now - x.arrived)
                self.answer(x, now)
            x = following
        self.put_back(again, now)

    cdef void answer(self, Exchange x, double now) noexcept:
        # The one end of every exchange that had been queued here.
        cdef ReplySink sink = x.sink
        if x.rollout is not None and sink is not None:
            if x.counted:
                self.count(x, now)
            if x.code != OK and self.move(x, now):
                return
        if x.arrived > 0:  # a stand-in never did: the request that it stands for has been counted
            self.meters.answered(x.protocol, x.code if sink is not None else <int>CANCELLED, now - x.arrived)
        self.in_flight -= 1
        if not is_copy(x):
            self.loop.in_flight -= 1
            if x.pair is not None:
                (<Pair>x.pair).end_live(x.code if sink is not None else <int>CANCELLED)
        x.finished = now
        x.stage = ANSWERED
        x.owner = None
        if sink is None:
            self.loop.release(x)
        else:
            x.served_version = self.version_name
            sink.reply(x)
        self.check_idle()

    cdef void check_idle(self) noexcept:
        if self.in_flight == 0 and self.on_idle is not None:
            on_idle, self.on_idle = self.on_idle, None
            self.loop.call_soon(on_idle)

    # Rollouts

    cdef cbool is_down(self) noexcept:
        return len(self.lanes) == 0

    cdef void count(self, Exchange x, double now) noexcept:
        # Its end is evidence: only what the version itself did with what it ran.
        cdef Rollout rollout = <Rollout>x.rollout
        x.counted = False
        if x.code == OK:
            rollout.ended(x)
        elif x.attempts > 0 and x.code in (UNKNOWN, DEADLINE_EXCEEDED, INTERNAL, UNAVAILABLE, DATA_LOSS):
            rollout.failed(x, x.code, now)
            self.loop.report(rollout, True, now)
        elif x.attempts > 0 and x.code != CANCELLED:
            rollout.ended(x)

    cdef void count_crash(self, Exchange head, double now) noexcept:
        # A worker's death is one event however many it ran, and what they come to elsewhere is none.
        cdef Exchange x = head
        cdef cbool told = False
        while x is not None:
            if x.counted and x.sink is not None:
                x.counted = False
                if not told:
                    told = True
                    (<Rollout>x.rollout).failed(x, UNAVAILABLE, now)
                    self.loop.report(x.rollout, True, now)
            x = x.next

    cdef cbool move(self, Exchange x, double now) noexcept:
        # Whether another version answers the request; the failure is counted here all the same.
        cdef Rollout rollout = <Rollout>x.rollout
        cdef int arm = x.arm, code = x.code
        if arm < 0 or not rollout.retries or not (self.idempotent or x.attempts == 0):
            return False
        if not self.loop.reroute(x, self, now):
            return False
        rollout.moved(arm)
        self.meters.answered(x.protocol, code, now - x.arrived)
        self.in_flight -= 1
        self.loop.in_flight -= 1
        self.check_idle()
        return True

    cdef cbool move_nan(self, Exchange x, double now) noexcept:
        # An answer that holds no numbers counts as a failure. The caller has it all the same if no other can be had.
        x.counted = False
        (<Rollout>x.rollout).failed(x, DATA_LOSS, now)
        self.loop.report(x.rollout, True, now)
        x.code = DATA_LOSS
        if self.move(x, now):
            self.meters.failed(BACKEND, now - x.arrived)
            return True
        x.code = OK
        return False

    cdef Exchange move_chain(self, Exchange head, int code, string message, double now):
        # Moves what it can; the others as a chain, in order.
        cdef Exchange x = head, following, first = None, last = None
        while x is not None:
            following = x.next
            x.next = None
            if x.rollout is not None and x.sink is not None and x.arm >= 0:
                x.fail(code, message)
                if self.move(x, now):
                    self.meters.failed(BACKEND, now - x.arrived)
                    x = following
                    continue
                x.code = OK
                x.message.clear()
            if first is None:
                first = x
            else:
                last.next = x
            last = x
            x = following
        return first

    cdef Exchange observed(self, Exchange head, double now):
        # The member of a batch whose time in the engine is evidence, if any is.
        cdef size_t members = 0, position
        cdef Exchange x = head
        while x is not None:
            members += 1
            x = x.next
        position = (<Rollout>head.rollout).observed(members, now)
        x = head
        while x is not None and position > 0:
            position -= 1
            x = x.next
        return x if x is not None and x.counted else None

    cdef void abandon(self, Exchange x, double now) noexcept:
        # Ends one whose caller has gone.
        x.sink = None
        if x.arrived > 0:
            self.meters.failed(CANCELED, now - x.arrived)
        self.answer(x, now)

    cdef void withdraw(self, Exchange x, double now) noexcept:
        # The caller of a queued exchange has gone.
        self.queue.withdraw(x)
        self.abandon(x, now)

    cdef void expire(self, double now) noexcept:
        self.queue.expire(now)
        if self.queue.dropped is not None:
            self.drop(now)
        cdef double wake = self.queue.wake_at()
        if wake > 0:
            self.loop.arm(wake)
        # What runs past its deadline is answered now; its rows run on, under a stand-in without a caller.
        cdef Lane lane
        cdef Exchange x, before
        cdef int slot
        for lane in self.lanes:
            for slot in range(2):
                x = <Exchange>lane.running[slot]
                before = None
                while x is not None:
                    if x.sink is not None and x.deadline > 0:
                        if x.deadline <= now:
                            x = self.end_late(lane, slot, before, x, now)
                        elif 0 < x.patience <= now:
                            x = self.lose_patience(lane, slot, before, x, now)
                        if x.deadline > 0:
                            self.loop.arm(x.patience if x.patience > 0 else x.deadline)
                    before = x
                    x = x.next

    cdef Exchange stand_in(self, Exchange x):
        # What takes the place of one that runs but is answered already: its rows run on, and nobody waits for them.
        cdef Exchange other = self.loop.acquire(None, 0, x.protocol)
        other.stage = RUNNING
        other.owner = self
        other.started = x.started
        other.rows, other.batched, other.outputs_mask = x.rows, x.batched, x.outputs_mask
        other.attempts = x.attempts
        other.next = x.next
        self.in_flight += 1
        self.loop.in_flight += 1
        x.next = None
        return other

    cdef void replace(self, Lane lane, int slot, Exchange before, Exchange other):
        if before is None:
            lane.running[slot] = other
        else:
            before.next = other

    cdef Exchange end_late(self, Lane lane, int slot, Exchange before, Exchange x, double now):
        cdef Exchange other = self.stand_in(x)
        self.replace(lane, slot, before, other)
        x.fail(DEADLINE_EXCEEDED, <string>b"Request timeout expired")
        self.meters.failed(OTHER, now - x.arrived)
        self.answer(x, now)
        return other

    cdef Exchange lose_patience(self, Lane lane, int slot, Exchange before, Exchange x, double now):
        # Half of its time is over while it runs. That is evidence against stable as much as against an arm, so that a
        # version no worse than stable does not fail more often; but only an arm's request has somewhere else to go.
        cdef Exchange other
        if x.counted and x.started < x.patience:
            x.code = DEADLINE_EXCEEDED
            self.count(x, now)
            x.code = OK
        x.patience = 0.0
        if x.arm < 0:
            return x
        other = self.stand_in(x)
        if self.hand_over(x, now):
            self.replace(lane, slot, before, other)
            return other
        x.next = other.next
        self.in_flight -= 1
        self.loop.in_flight -= 1
        self.loop.release(other)
        return x

    cdef cbool hand_over(self, Exchange x, double now) noexcept:
        # An arm has had its half of the request's time: stable gets the other. False: it stays, as it was.
        x.patience = 0.0
        x.fail(DEADLINE_EXCEEDED, <string>b"Request timeout expired")
        if self.move(x, now):
            self.meters.failed(OTHER, now - x.arrived)
            return True
        x.code = OK
        x.message.clear()
        return False
