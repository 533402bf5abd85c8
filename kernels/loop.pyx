# What every part of one event loop's data plane shares: recycled exchanges, answers to flush, clocks and the timer.
from libc.errno cimport errno
from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.time cimport time_t
from libcpp cimport bool as cbool

from kernels.exchange cimport RECEIVING, Exchange, Intake, ReplySink

import os

cdef extern from "<time.h>" nogil:
    cdef struct timespec:
        time_t tv_sec
        long tv_nsec
    cdef struct itimerspec:
        timespec it_interval
        timespec it_value
    int clock_gettime(int, timespec*)
    enum: CLOCK_MONOTONIC
    enum: CLOCK_REALTIME

cdef extern from "<sys/timerfd.h>" nogil:
    int timerfd_create(int, int)
    int timerfd_settime(int, int, const itimerspec*, itimerspec*)
    enum: TFD_NONBLOCK
    enum: TFD_CLOEXEC
    enum: TFD_TIMER_ABSTIME

cdef extern from "<unistd.h>" nogil:
    ssize_t read(int, void*, size_t)


cdef double monotonic() noexcept nogil:
    cdef timespec t
    clock_gettime(CLOCK_MONOTONIC, &t)
    return t.tv_sec + t.tv_nsec * 1e-9


cdef int64_t epoch_ms() noexcept nogil:
    cdef timespec t
    clock_gettime(CLOCK_REALTIME, &t)
    return t.tv_sec * 1000 + t.tv_nsec // 1000000


cdef class LoopIntake(Intake):
    def __init__(self, *, call_soon, int max_pooled=4096):
        self.call_soon = call_soon
        self.max_pooled = max_pooled
        self.touched = []
        self.timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC)
        if self.timer < 0:
            raise OSError(errno, os.strerror(errno))

    def __dealloc__(self):
        if self.timer >= 0:
            os.close(self.timer)

    cdef Exchange acquire(self, ReplySink sink, int64_t stream_id, uint8_t protocol):
        cdef Exchange x = self.pool
        if x is None:
            x = Exchange.__new__(Exchange)
        else:
            self.pool = x.next
            x.next = None
            self.pooled -= 1
        x.sink = sink
        x.stream_id = stream_id
        x.protocol = protocol
        x.stage = RECEIVING
        return x

    cdef void release(self, Exchange x) noexcept:
        x.reset()
        if self.pooled < self.max_pooled:
            x.next = self.pool
            self.pool = x
            self.pooled += 1

    cdef void touch(self, ReplySink sink) noexcept:
        if not sink.touched:
            sink.touched = True
            self.touched.append(sink)
            self.schedule()

    cdef cbool reroute(self, Exchange x, object origin, double now) noexcept:
        return False

    cdef void report(self, object rollout, cbool is_urgent, double now) noexcept:
        pass

    cdef void schedule(self) noexcept:
        if not self.settle_scheduled:
            self.settle_scheduled = True
            self.call_soon(self.settle)

    def settle(self):
        self.settle_scheduled = False
        self.flush()

    cdef void flush(self) noexcept:
        cdef ReplySink sink
        if self.touched:
            touched, self.touched = self.touched, []
            for sink in touched:
                sink.touched = False
                sink.flush()

    cdef void arm(self, double when) noexcept:
        cdef itimerspec spec
        cdef time_t seconds = <time_t>when
        cdef long ns = <long>((when - seconds) * 1e9) + 1  # never before `when`, and never zero, which would disarm
        if self.wake > 0 and self.wake <= when:
            return
        self.wake = when
        spec.it_interval.tv_sec = 0
        spec.it_interval.tv_nsec = 0
        spec.it_value.tv_sec = seconds + ns // 1000000000
        spec.it_value.tv_nsec = ns % 1000000000
        timerfd_settime(self.timer, TFD_TIMER_ABSTIME, &spec, NULL)

    cdef void disarm(self) noexcept:
        cdef uint64_t count
        read(self.timer, &count, sizeof(count))
        self.wake = 0
