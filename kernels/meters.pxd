# Counters and histograms in C, bumped on the loop and read now and then. See meters.pyi for what each number means.
from libc.stdint cimport int64_t, uint64_t
from libcpp.map cimport map

from kernels.batching cimport SHED_REASONS

cdef enum:
    PROTOCOLS = 2
    CODES = 17

# Why a request failed, as Triton's metrics name it.
cdef enum Failure:
    REJECTED = 0    # refused, or dropped from the queue
    CANCELED = 1    # the caller has gone
    BACKEND = 2     # the engine or its worker failed
    OTHER = 3
    FAILURE_REASONS = 4

# `count` events that took `ns` nanoseconds together.
cdef struct Cost:
    uint64_t count
    uint64_t ns

cdef struct BatchCosts:
    Cost compute_input
    Cost compute_infer
    Cost compute_output


cdef class Histogram:
    cdef double* bounds         # ascending; owned
    cdef uint64_t* counts       # size + 1 of them, not cumulative; owned
    cdef readonly int size
    cdef double sum
    cdef void observe(self, double value) noexcept
    cdef void observe_many(self, double value, uint64_t n) noexcept


cdef class Meters:
    cdef uint64_t[CODES] http_requests, grpc_requests   # by code
    cdef uint64_t[SHED_REASONS] shed_requests           # by batching.Shed
    cdef uint64_t[FAILURE_REASONS] failures             # by Failure
    cdef readonly uint64_t inference_count              # rows that succeeded
    cdef readonly uint64_t execution_count              # batches that succeeded
    cdef readonly int64_t last_inference                # milliseconds since the epoch
    cdef Cost success, fail, queue_cost, compute_input, compute_infer, compute_output
    cdef map[int64_t, BatchCosts] batches               # by batch size in rows
    cdef readonly Histogram http_duration, grpc_duration, queue, compute, batch_size

    # Once for every exchange, whatever its end: `seconds` from its head's arrival to its answer (or to the cancel).
    cdef void answered(self, int protocol, int code, double seconds) noexcept
    # Besides `answered`, when the request was turned away: `reason` is a batching.Shed.
    cdef void shed(self, int reason) noexcept
    # Besides `answered`, for every request that got its outputs. All times in seconds.
    cdef void succeeded(self, int64_t rows, double request, double queue, double compute_input, double compute_infer,
                        double compute_output) noexcept
    # Besides `answered`, for every request that did not. `reason` is a Failure.
    cdef void failed(self, int reason, double request) noexcept
    # Once for every batch that ran to its end; `epoch_ms` is the wall clock.
    cdef void executed(self, int64_t rows, double compute_input, double compute_infer, double compute_output,
                       int64_t epoch_ms) noexcept
