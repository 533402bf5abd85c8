# A BatchQueue driven by hand. Not on the path of any request that is served.
from libc.stdint cimport int32_t, int64_t, uint64_t

from kernels.batching cimport BatchQueue
from kernels.exchange cimport Exchange

cdef extern from "<time.h>" nogil:
    struct timespec:
        long tv_sec
        long tv_nsec
    int clock_gettime(int, timespec*)
    enum: CLOCK_MONOTONIC


cdef double monotonic() noexcept:
    cdef timespec at
    clock_gettime(CLOCK_MONOTONIC, &at)
    return at.tv_sec + at.tv_nsec * 1e-9


cdef class Request:
    cdef Exchange exchange

    def __init__(self, int32_t rows=1, *, double deadline=0.0, int32_t priority=0, uint64_t group=0, int64_t nbytes=0,
                 bint solo=False):
        self.exchange = Exchange()
        self.exchange.rows = rows
        self.exchange.deadline = deadline
        self.exchange.priority = priority
        self.exchange.group = group
        self.exchange.nbytes = nbytes
        self.exchange.solo = solo
        self.exchange.owner = self

    @property
    def rows(self):
        return self.exchange.rows

    @property
    def deadline(self):
        return self.exchange.deadline

    @property
    def priority(self):
        return self.exchange.priority

    @property
    def group(self):
        return self.exchange.group

    @property
    def nbytes(self):
        return self.exchange.nbytes

    @property
    def queued(self):
        return self.exchange.queued

    @property
    def solo(self):
        return self.exchange.solo

    @solo.setter
    def solo(self, bint value):
        self.exchange.solo = value

    @property
    def shed(self):
        return self.exchange.shed

    @property
    def code(self):
        return self.exchange.code

    @property
    def message(self):
        return (<bytes>self.exchange.message).decode()

    @property
    def retry_after(self):
        return self.exchange.retry_after

    @property
    def is_linked(self):
        return self.exchange.next is not None or self.exchange.previous is not None

    def __repr__(self):
        return (f"Request(rows={self.rows}, deadline={self.deadline}, priority={self.priority}, group={self.group}, "
                f"queued={self.queued}, solo={self.solo})")


cdef list unchain(Exchange exchange):
    cdef Exchange following
    result = []
    while exchange is not None:
        assert exchange.previous is None, "this is a bug: a chain links forward only"
        following = exchange.next
        exchange.next = None
        result.append(exchange.owner)
        exchange = following
    return result


cdef class ManualQueue:
    cdef readonly BatchQueue queue

    def __init__(self, BatchQueue queue not None):
        self.queue = queue

    def offer(self, Request request not None, double now, double backlog=0.0, int slots=1):
        return self.queue.offer(request.exchange, now, backlog, slots)

    def take(self, double now):
        return unchain(self.queue.take(now))

    def take_dropped(self):
        chain, self.queue.dropped = self.queue.dropped, None
        return unchain(chain)

    def withdraw(self, Request request not None):
        self.queue.withdraw(request.exchange)

    def give_back(self, Request request not None, double now):
        self.queue.give_back(request.exchange, now)

    def expire(self, double now):
        self.queue.expire(now)

    def wake_at(self):
        return self.queue.wake_at()

    def clear(self, int code, str message):
        self.queue.clear(code, message.encode())

    def allow_timeout_override(self, int32_t level):
        return self.queue.allow_timeout_override(level)

    def measure(self, int64_t rounds, int32_t burst, double timeout=0.0, int groups=1):
        cdef list exchanges = [Exchange() for _ in range(burst)]
        cdef Exchange exchange, following
        cdef int64_t _round
        cdef int32_t k
        cdef double now = 1000.0, began = monotonic()
        for _round in range(rounds):
            now += 1e-3
            for k in range(burst):
                exchange = <Exchange>exchanges[k]
                exchange.rows = 1
                exchange.group = k % groups
                exchange.deadline = now + timeout if timeout > 0 else 0.0
                self.queue.offer(exchange, now, 0.0, 1)
            while self.queue.count:
                exchange = self.queue.take(now)
                while exchange is not None:
                    following = exchange.next
                    exchange.next = None
                    exchange = following
        return (monotonic() - began) / (rounds * burst)
