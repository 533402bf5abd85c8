# Which requests run together, when, and which are turned away. Knows no clock, no socket and no model.
from cpython.object cimport PyObject
from libc.math cimport INFINITY, isfinite
from libc.stdint cimport int32_t, int64_t, uint64_t
from libc.stdio cimport snprintf
from libcpp cimport bool as cbool
from libcpp.string cimport string

from kernels.exchange cimport DEADLINE_EXCEEDED, INVALID_ARGUMENT, QUEUED, RESOURCE_EXHAUSTED, Exchange
from kernels.fifos cimport Fifo, Fifos
from kernels.queue_policy cimport Policy, to_policy
from kernels.service_time cimport ServiceTime

from kernels.queue_policy import QueuePolicy

cdef enum:
    MESSAGE = 192

cdef double VISIT_SECONDS = 1e-6    # what a sweep pauses for each request that it looked at
cdef double TIMER_SLACK = 2e-3      # a batch is not held back for more members into the last of its time
cdef double RETRY_UNKNOWN = 1.0     # the advice while nothing is known


cdef const char* shed_name(int reason) noexcept:
    # What programs are told.
    if reason == QUEUE_ROWS:
        return b"QUEUE_ROWS"
    if reason == QUEUE_BYTES:
        return b"QUEUE_BYTES"
    return b"PREDICTED_WAIT" if reason == PREDICTED_WAIT else b"EXPIRED"


cdef class BatchQueue:
    def __init__(self, *, int64_t max_batch_size, double max_queue_delay=0.0, preferred_batch_sizes=(),
                 int32_t priority_levels=0, int32_t default_priority_level=0, policies=None, default_policy=None,
                 int64_t max_rows=0, int64_t max_bytes=0, double max_wait=0.0):
        cdef int32_t level
        for name, value in (("max_batch_size", max_batch_size), ("max_queue_delay", max_queue_delay),
                            ("priority_levels", priority_levels), ("max_rows", max_rows), ("max_bytes", max_bytes),
                            ("max_wait", max_wait)):
            if not isfinite(value) or value < 0:
                raise ValueError(f"{name} must not be negative, got {value}")
        self.max_batch_size = max_batch_size
        self.max_queue_delay = max_queue_delay
        self.max_rows = max_rows
        self.max_bytes = max_bytes
        self.max_wait = max_wait
        self.priority_levels = max(priority_levels, 1)
        self.default_priority_level = default_priority_level or 1
        if not 1 <= self.default_priority_level <= self.priority_levels:
            raise ValueError(f"default_priority_level must lie in 1..{self.priority_levels}, "
                             f"got {default_priority_level}")
        self.preferred.resize(max_batch_size + 1)
        for size in preferred_batch_sizes:
            if not 1 <= size <= max_batch_size:
                raise ValueError(f"preferred_batch_sizes must lie in 1..{max_batch_size}, got {size}")
            self.preferred[<size_t>size] = True
        policies = dict(policies or {})
        fallback = default_policy if default_policy is not None else QueuePolicy()
        self.policies.resize(self.priority_levels + 1)
        for level in range(1, self.priority_levels + 1):
            self.policies[level] = to_policy(policies.pop(level, fallback))
        if policies:
            raise ValueError(f"policies name levels beyond 1..{self.priority_levels}: {sorted(policies)}")
        self.level_rows.resize(self.priority_levels + 1)
        self.level_count.resize(self.priority_levels + 1)
        self.lines = [Fifos() for _ in range(self.priority_levels * STANDINGS)]
        self.service_time = ServiceTime()
        self.slots = 1
        self.next_ready = self.next_expiry = INFINITY

    # Coming in

    cdef int offer(self, Exchange exchange, double now, double backlog, int slots) noexcept:
        cdef char[MESSAGE] text
        cdef int32_t level = self.to_level(exchange.priority), i
        cdef int64_t batch = max(self.max_batch_size, 1), ahead = 0, limit
        cdef double before = 0.0, finish = 0.0, retry_after
        cdef cbool known = self.service_time.is_settled()
        exchange.priority = level
        exchange.queued = now
        exchange.shed = ADMITTED
        self.slots = max(slots, 1)
        if self.max_batch_size == 0:
            exchange.rows = 1
        if not 1 <= exchange.rows <= batch:
            snprintf(text, MESSAGE, b"a request has 1 to %lld rows, this one has %lld", <long long>batch,
                     <long long>exchange.rows)
            return self.refuse(exchange, QUEUE_ROWS, INVALID_ARGUMENT, 0.0, text)
        if 0 < exchange.deadline <= now:
            return self.refuse(exchange, EXPIRED, DEADLINE_EXCEEDED, 0.0, b"Request timeout expired")

        # The full batches that go before it, and the one it runs in.
        for i in range(1, level + 1):
            ahead += self.level_rows[i]
        if known:
            before = backlog + (ahead // batch) * self.service_time.predict(batch) / self.slots
            finish = before + self.expected(min(batch, ahead % batch + exchange.rows))
        retry_after = finish if known else RETRY_UNKNOWN

        limit = self.policies[level].max_queue_size
        if 0 < limit <= self.level_count[level]:
            snprintf(text, MESSAGE, b"Exceeds maximum queue size: %lld requests queued at level %d, limit %lld",
                     <long long>self.level_count[level], <int>level, <long long>limit)
            return self.refuse(exchange, QUEUE_ROWS, RESOURCE_EXHAUSTED, retry_after, text)
        if 0 < self.max_rows < self.rows + exchange.rows:
            snprintf(text, MESSAGE, b"Exceeds maximum queue size: %lld rows queued, limit %lld",
                     <long long>self.rows, <long long>self.max_rows)
            return self.refuse(exchange, QUEUE_ROWS, RESOURCE_EXHAUSTED, retry_after, text)
        if 0 < self.max_bytes < self.nbytes + exchange.nbytes:
            snprintf(text, MESSAGE, b"Exceeds maximum queue bytes: %lld bytes queued, limit %lld",
                     <long long>self.nbytes, <long long>self.max_bytes)
            return self.refuse(exchange, QUEUE_BYTES, RESOURCE_EXHAUSTED, retry_after, text)
        if known and exchange.deadline > 0 and now + self.expected(exchange.rows) > exchange.deadline:
            # Too late if it ran at once: no other moment would be better.
            snprintf(text, MESSAGE, b"predicted time of %.6f s exceeds the deadline %.6f s away",
                     self.expected(exchange.rows), exchange.deadline - now)
            return self.refuse(exchange, PREDICTED_WAIT, DEADLINE_EXCEEDED, 0.0, text)
        if known and exchange.deadline > 0 and now + finish > exchange.deadline:
            snprintf(text, MESSAGE, b"predicted time of %.6f s exceeds the deadline %.6f s away: %lld rows ahead",
                     finish, exchange.deadline - now, <long long>ahead)
            return self.refuse(exchange, PREDICTED_WAIT, RESOURCE_EXHAUSTED, retry_after, text)
        if known and 0 < self.max_wait < before:
            snprintf(text, MESSAGE, b"predicted wait of %.6f s exceeds the limit of %.6f s: %lld rows ahead",
                     before, self.max_wait, <long long>ahead)
            return self.refuse(exchange, PREDICTED_WAIT, RESOURCE_EXHAUSTED, retry_after, text)
        self.enter(exchange, (level - 1) * STANDINGS + WAITING, level)
        return ADMITTED

    cdef int refuse(self, Exchange exchange, int reason, int code, double retry_after, const char* text) noexcept:
        exchange.shed = reason
        exchange.reason = shed_name(reason)
        exchange.retry_after = retry_after
        exchange.fail(code, string(text))
        return reason

    cdef void give_back(self, Exchange exchange, double now) noexcept:
        exchange.priority = self.to_level(exchange.priority)
        exchange.shed = ADMITTED
        self.enter(exchange, (exchange.priority - 1) * STANDINGS + RETURNED, exchange.priority)

    cdef void enter(self, Exchange exchange, size_t line, int32_t level) noexcept:
        cdef Fifos fifos = <Fifos>self.lines[line]
        cdef Fifo fifo = fifos.need(exchange.group)
        cdef cbool had_head = fifo.head is not None
        cdef double expiry = self.expiry(exchange, line)
        exchange.stage = QUEUED
        if line % STANDINGS == WAITING:
            fifo.append(exchange, expiry)
        else:
            fifo.insert(exchange, expiry)
        if fifo.head is exchange:
            fifos.settle(fifo, had_head)
        if expiry < self.next_expiry:
            self.next_expiry = expiry
        self.rows += exchange.rows
        self.nbytes += exchange.nbytes
        self.count += 1
        self.level_rows[level] += exchange.rows
        self.level_count[level] += 1

    # Going out

    cdef Exchange take(self, double now):
        cdef Fifos line
        cdef Fifo fifo
        cdef size_t i
        cdef Py_ssize_t size
        self.expire(now)
        self.next_ready = INFINITY
        for i in range(<size_t>len(self.lines)):
            line = <Fifos>self.lines[i]
            while not line.active.empty():
                fifo = line.oldest()
                if self.turn_away(fifo.head, i, fifo, now):
                    continue
                size = self.gather(fifo.group, now)
                if size < 0:
                    continue
                if size == 0:
                    fifo = self.another(line, now)
                    if fifo is None:
                        break
                    size = self.gather(fifo.group, now)
                return self.remove_batch(<size_t>size)
        return None

    cdef Py_ssize_t gather(self, uint64_t group, double now):
        # Fills `members` and gives how many of them should run now: 0 when they should wait for more, -1 when somebody
        # was dropped and the caller must look again.
        cdef int64_t batch = max(self.max_batch_size, 1), rows = 0
        cdef double deadline = INFINITY
        cdef cbool full = False
        cdef Fifos line
        cdef Fifo fifo
        cdef Exchange exchange, following
        cdef size_t i
        self.members.clear()
        for i in range(<size_t>len(self.lines)):
            line = <Fifos>self.lines[i]
            if line.active.empty():
                continue
            fifo = line.find(group)
            if fifo is None:
                continue
            exchange = fifo.head
            while exchange is not None and not full:
                following = exchange.next
                if not self.turn_away(exchange, i, fifo, now):
                    if rows > 0 and (exchange.solo or rows + exchange.rows > batch):
                        full = True
                        break
                    self.members.push_back(Member(<PyObject*>exchange, i))
                    rows += exchange.rows
                    if 0 < exchange.deadline < deadline:
                        deadline = exchange.deadline
                    full = exchange.solo or rows >= batch
                exchange = following
            if full:
                break
        if self.members.empty():
            return -1
        if now + self.expected(rows) > deadline:
            return self.cut(rows, now)
        if self.max_queue_delay > 0:
            return self.wait(rows, full, now)
        return self.members.size()

    cdef Py_ssize_t cut(self, int64_t rows, double now):
        # All of them together would be late for one of them, though none would be late alone. A smaller batch is the
        # answer unless it makes those behind it late in turn, with the queue as long then as it is now (under a lasting
        # load as many come as go): then batches would only shrink, so the one in the greatest hurry is given up.
        cdef Exchange exchange, hurried = None
        cdef int64_t smaller = 0
        cdef double deadline = INFINITY
        cdef size_t size = 0, line = 0, i
        for i in range(self.members.size()):
            exchange = <Exchange>self.members[i].exchange
            if exchange.deadline > 0:
                deadline = min(deadline, exchange.deadline)
            if now + self.expected(smaller + exchange.rows) > deadline:
                break
            smaller += exchange.rows
            size += 1
        if exchange.deadline == 0:
            return size
        if now + self.expected(smaller) / self.slots + self.expected(rows) <= exchange.deadline:
            return size
        for i in range(self.members.size()):
            exchange = <Exchange>self.members[i].exchange
            if exchange.deadline > 0 and (hurried is None or exchange.deadline < hurried.deadline):
                hurried = exchange
                line = self.members[i].line
        self.drop(hurried, line, (<Fifos>self.lines[line]).find(hurried.group), PREDICTED_WAIT, now)
        return -1

    cdef Py_ssize_t wait(self, int64_t rows, cbool full, double now) noexcept:
        cdef Exchange exchange
        cdef double oldest = INFINITY, deadline = INFINITY, ready
        cdef int64_t sum_rows = 0
        cdef size_t preferred = 0, i
        for i in range(self.members.size()):
            exchange = <Exchange>self.members[i].exchange
            oldest = min(oldest, exchange.queued)
            if exchange.deadline > 0:
                deadline = min(deadline, exchange.deadline)
            sum_rows += exchange.rows
            if sum_rows < <int64_t>self.preferred.size() and self.preferred[sum_rows]:
                preferred = i + 1
        ready = oldest + self.max_queue_delay
        if now >= ready:
            return self.members.size()
        if preferred > 0:
            return preferred
        ready = min(ready, deadline - self.expected(rows) - TIMER_SLACK)
        if full or now >= ready:
            return self.members.size()
        self.next_ready = min(self.next_ready, ready)
        return 0

    cdef Fifo another(self, Fifos line, double now):
        # The group with the oldest head that should run now although the one with the very oldest should wait.
        cdef Fifo fifo, best = None
        cdef size_t i = 1
        cdef Py_ssize_t size
        while i < line.active.size():
            fifo = <Fifo>line.active[i]
            size = self.gather(fifo.group, now)
            if size < 0:
                i = 1
                best = None
                continue
            if size > 0 and (best is None or fifo.head.queued < best.head.queued):
                best = fifo
            i += 1
        return best

    cdef Exchange remove_batch(self, size_t size):
        cdef Exchange exchange, first = None, last = None
        cdef Fifos line
        cdef Fifo fifo
        cdef size_t i, at
        for i in range(size):
            exchange = <Exchange>self.members[i].exchange
            at = self.members[i].line
            if i == 0 or at != self.members[i - 1].line:
                line = <Fifos>self.lines[at]
                fifo = line.find(exchange.group)
            self.leave(exchange, at, fifo)
            if i + 1 == size or self.members[i + 1].line != at:
                line.settle(fifo, True)
            if last is None:
                first = exchange
            else:
                last.next = exchange
            last = exchange
        self.members.clear()
        self.next_ready = INFINITY
        return first

    cdef void withdraw(self, Exchange exchange) noexcept:
        # One that is in no Fifo is no head and has no `previous`. One in the middle touches nothing of its Fifo, so any
        # Fifo of its level will do.
        cdef size_t first, i
        cdef cbool is_inside = exchange.previous is not None and exchange.next is not None
        cdef Fifos line
        cdef Fifo fifo
        if not 1 <= exchange.priority <= self.priority_levels:
            return
        first = (exchange.priority - 1) * STANDINGS
        for i in range(first, first + STANDINGS):
            line = <Fifos>self.lines[i]
            fifo = line.find(exchange.group)
            if fifo is not None and (is_inside or fifo.head is exchange or
                                     (exchange.previous is not None and fifo.tail is exchange)):
                had_head = fifo.head is not None
                self.leave(exchange, i, fifo)
                line.settle(fifo, had_head)
                return

    cdef void leave(self, Exchange exchange, size_t line, Fifo fifo) noexcept:
        cdef size_t level = line // STANDINGS + 1
        fifo.unlink(exchange)
        self.rows -= exchange.rows
        self.nbytes -= exchange.nbytes
        self.count -= 1
        self.level_rows[level] -= exchange.rows
        self.level_count[level] -= 1
        if self.count == 0:
            self.next_expiry = self.next_ready = INFINITY

    # Running out of time

    cdef cbool turn_away(self, Exchange exchange, size_t line, Fifo fifo, double now) noexcept:
        # Whether it left its line: dropped because no batch can save it, or behind the others of its level.
        if exchange.deadline > 0:
            if exchange.deadline <= now:
                self.drop(exchange, line, fifo, EXPIRED, now)
                return True
            if now + self.expected(exchange.rows) > exchange.deadline:
                self.drop(exchange, line, fifo, PREDICTED_WAIT, now)
                return True
            if exchange.arm >= 0 and 0 < exchange.patience <= now:
                self.leave(exchange, line, fifo)
                (<Fifos>self.lines[line]).settle(fifo, True)
                self.add_dropped(exchange)
                return True
        cdef Policy* policy = &self.policies[line // STANDINGS + 1]
        if line % STANDINGS == WAITING and policy.timeout > 0 and exchange.queued + policy.timeout <= now:
            if policy.delays:
                self.delay(exchange, line, fifo)
            else:
                self.drop(exchange, line, fifo, EXPIRED, now)
            return True
        return False

    cdef void delay(self, Exchange exchange, size_t line, Fifo fifo) noexcept:
        self.leave(exchange, line, fifo)
        (<Fifos>self.lines[line]).settle(fifo, True)
        self.enter(exchange, line + 1, exchange.priority)

    cdef void drop(self, Exchange exchange, size_t line, Fifo fifo, int reason, double now) noexcept:
        cdef char[MESSAGE] text
        self.leave(exchange, line, fifo)
        (<Fifos>self.lines[line]).settle(fifo, True)
        exchange.shed = reason
        exchange.reason = shed_name(reason)
        if reason == EXPIRED:
            exchange.fail(DEADLINE_EXCEEDED, string(<const char*>b"Request timeout expired"))
        else:
            snprintf(text, MESSAGE, b"predicted service time of %.6f s exceeds the deadline %.6f s away",
                     self.expected(exchange.rows), exchange.deadline - now)
            exchange.fail(DEADLINE_EXCEEDED, string(<const char*>text))
        self.add_dropped(exchange)

    cdef void add_dropped(self, Exchange exchange) noexcept:
        if self.dropped is None:
            self.dropped = exchange
        else:
            self.dropped_last.next = exchange
        self.dropped_last = exchange

    cdef void expire(self, double now) noexcept:
        cdef uint64_t before = self.visits
        cdef Fifos line
        cdef Fifo fifo
        cdef size_t i, k
        if now >= self.next_ready:
            self.next_ready = INFINITY  # take has its turn now, or no slot is free
        if now < self.next_expiry or now < self.next_sweep:
            return
        self.next_expiry = INFINITY
        for i in range(<size_t>len(self.lines)):
            line = <Fifos>self.lines[i]
            for k in range(<size_t>len(line.owned)):
                fifo = <Fifo>line.owned[k]
                if fifo.head is not None:
                    self.sweep(fifo, i, now)
        self.next_sweep = now + (self.visits - before) * VISIT_SECONDS

    cdef void sweep(self, Fifo fifo, size_t line, double now) noexcept:
        cdef Exchange exchange = fifo.head, following
        cdef double expiry, latest = 0.0
        cdef cbool ascending = True
        while exchange is not None:
            following = exchange.next
            self.visits += 1
            expiry = self.expiry(exchange, line)
            if expiry > now:
                self.next_expiry = min(self.next_expiry, expiry)
                if fifo.ascending:
                    return
                ascending = ascending and expiry >= latest
                latest = expiry
            else:
                self.turn_away(exchange, line, fifo, now)
            exchange = following
        fifo.ascending = ascending
        fifo.latest = latest

    cdef double wake_at(self) noexcept:
        cdef double when = min(max(self.next_expiry, self.next_sweep), self.next_ready)
        return when if self.count > 0 and when < INFINITY else 0.0

    cdef void clear(self, int code, const char* message) noexcept:
        cdef Fifos line
        cdef Fifo fifo
        cdef Exchange exchange
        cdef size_t i
        for i in range(<size_t>len(self.lines)):
            line = <Fifos>self.lines[i]
            while not line.active.empty():
                fifo = line.oldest()
                exchange = fifo.head
                self.leave(exchange, i, fifo)
                line.settle(fifo, True)
                exchange.fail(code, string(message))
                self.add_dropped(exchange)

    cdef Exchange take_arms(self):
        cdef Fifos line
        cdef Fifo fifo
        cdef Exchange exchange, following, first = None
        cdef size_t i, k
        for i in range(<size_t>len(self.lines)):
            line = <Fifos>self.lines[i]
            for k in range(<size_t>len(line.owned)):
                fifo = <Fifo>line.owned[k]
                exchange = fifo.head
                while exchange is not None:
                    following = exchange.next
                    if exchange.arm >= 0:
                        self.leave(exchange, i, fifo)
                        line.settle(fifo, True)
                        exchange.next = first
                        first = exchange
                    exchange = following
        return first

    # What holds for a request

    cdef cbool allow_timeout_override(self, int32_t level) noexcept:
        return self.policies[self.to_level(level)].allows_timeout_override

    cdef int32_t to_level(self, int32_t priority) noexcept:
        return priority if 1 <= priority <= self.priority_levels else self.default_priority_level

    cdef double expected(self, int64_t rows) noexcept:
        return self.service_time.predict_cautiously(rows) if self.service_time.is_settled() else 0.0

    cdef double expiry(self, Exchange exchange, size_t line) noexcept:
        cdef double timeout = self.policies[line // STANDINGS + 1].timeout
        cdef double when = exchange.deadline if exchange.deadline > 0 else INFINITY
        if exchange.patience > 0 and exchange.arm >= 0:
            when = min(when, exchange.patience)
        if timeout > 0 and line % STANDINGS == WAITING:
            when = min(when, exchange.queued + timeout)
        return when
