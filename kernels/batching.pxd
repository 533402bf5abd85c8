# Which requests run together, when, and which are turned away. Time is a parameter; nothing here reads a clock.
from cpython.object cimport PyObject
from libc.stdint cimport int32_t, int64_t, uint64_t
from libcpp cimport bool as cbool
from libcpp.vector cimport vector

from kernels.exchange cimport Exchange
from kernels.fifos cimport Fifo, Fifos
from kernels.queue_policy cimport Policy
from kernels.service_time cimport ServiceTime

# Why a request was turned away; the index of the `reason` label of the shed counter.
cdef enum Shed:
    ADMITTED = 0
    QUEUE_ROWS = 1       # limit on queued rows (or the level's max_queue_size) reached
    QUEUE_BYTES = 2      # limit on queued bytes reached
    PREDICTED_WAIT = 3   # would miss its deadline, or wait longer than allowed
    EXPIRED = 4          # deadline or queue timeout passed while queued
    SHED_REASONS = 5


# The three lines of one priority level, in the order they are served.
cdef enum Standing:
    RETURNED = 0    # given back: has no queue timeout any more
    WAITING = 1
    DELAYED = 2     # its queue timeout passed and the policy says DELAY
    STANDINGS = 3

# One request that `gather` has found for the next batch, and the index of its line.
cdef struct Member:
    PyObject* exchange
    size_t line


cdef class BatchQueue:
    cdef readonly int64_t rows, nbytes, count   # what is queued now
    cdef readonly ServiceTime service_time
    # A chain (by `next`) of what take and expire turned away, and, with code OK, of what an arm has no more time for.
    # The caller empties it.
    cdef Exchange dropped
    cdef Exchange dropped_last

    cdef readonly int64_t max_batch_size, max_rows, max_bytes
    cdef readonly double max_queue_delay, max_wait
    cdef readonly int32_t priority_levels, default_priority_level
    cdef vector[cbool] preferred                # by number of rows
    cdef vector[Policy] policies                # by level, from 1
    cdef vector[int64_t] level_rows, level_count

    cdef list lines                             # of Fifos: STANDINGS for each level, level 1 first
    cdef vector[Member] members                 # what `gather` found; empty between calls
    cdef int slots                              # as `offer` was told last
    cdef double next_ready                      # when a batch that waits for more members goes
    cdef double next_expiry                     # nothing queued expires before
    cdef double next_sweep                      # not to be swept again before
    cdef readonly uint64_t visits               # requests that sweeps have looked at, ever

    # Admits or refuses: on refusal sets code, message, retry_after and returns the reason. `backlog` is the predicted
    # seconds until running batches have freed a slot; `slots` how many batches run at once. Sets `queued`, `priority`
    # (a level that does not exist, and 0, mean the default one) and the stage.
    cdef int offer(self, Exchange exchange, double now, double backlog, int slots) noexcept
    # Takes out one that is queued (caller has gone). One that is not queued (any more) is left alone.
    cdef void withdraw(self, Exchange exchange) noexcept
    # Puts back, in front and never refused, one whose batch failed or whose worker died; `solo` ones run alone.
    cdef void give_back(self, Exchange exchange, double now) noexcept
    # The next batch as a chain by `next`, oldest first, or None when nothing should run now. What can no longer make
    # its deadline goes to `dropped` with code, message and `Shed` reason set. Call it until it gives None or no slot is
    # free, after every offer and whenever a slot becomes free.
    cdef Exchange take(self, double now)
    # Drops what has expired, without taking a batch.
    cdef void expire(self, double now) noexcept
    # When take or expire could next do something by the passing of time alone; 0 for never.
    cdef double wake_at(self) noexcept
    # Empties the queue into `dropped` with this code and message (drain, unload).
    cdef void clear(self, int code, const char* message) noexcept
    # Takes out those that a rollout sent to one of its arms, as a chain by `next`.
    cdef Exchange take_arms(self)
    # Whether a request's own `timeout` counts at this level.
    cdef cbool allow_timeout_override(self, int32_t level) noexcept

    cdef int32_t to_level(self, int32_t priority) noexcept
    cdef double expected(self, int64_t rows) noexcept
    cdef double expiry(self, Exchange exchange, size_t line) noexcept
    cdef void enter(self, Exchange exchange, size_t line, int32_t level) noexcept
    cdef void leave(self, Exchange exchange, size_t line, Fifo fifo) noexcept
    cdef void drop(self, Exchange exchange, size_t line, Fifo fifo, int reason, double now) noexcept
    cdef void add_dropped(self, Exchange exchange) noexcept
    cdef void delay(self, Exchange exchange, size_t line, Fifo fifo) noexcept
    cdef cbool turn_away(self, Exchange exchange, size_t line, Fifo fifo, double now) noexcept
    cdef int refuse(self, Exchange exchange, int reason, int code, double retry_after, const char* text) noexcept
    cdef void sweep(self, Fifo fifo, size_t line, double now) noexcept
    cdef Py_ssize_t gather(self, uint64_t group, double now)
    cdef Py_ssize_t cut(self, int64_t rows, double now)
    cdef Py_ssize_t wait(self, int64_t rows, cbool full, double now) noexcept
    cdef Fifo another(self, Fifos line, double now)
    cdef Exchange remove_batch(self, size_t size)
