# Counters and histograms in C. Nothing here knows a metric's name or a label beyond an index.
from collections import namedtuple

from cython.operator cimport dereference, preincrement
from libc.math cimport isfinite
from libc.stdint cimport int64_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libcpp.map cimport map

from kernels.exchange cimport GRPC, OK, UNAUTHENTICATED, UNKNOWN

DURATION_BOUNDS = (25e-6, 50e-6, 100e-6, 250e-6, 500e-6, 1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 50e-3, 100e-3, 250e-3,
                   500e-3, 1.0, 2.5, 5.0, 10.0)
BATCH_SIZE_BOUNDS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0)

CountAndTime = namedtuple("CountAndTime", "events ns")
BatchStatistics = namedtuple("BatchStatistics", "batch_size compute_input compute_infer compute_output")
Statistics = namedtuple("Statistics", "success fail queue compute_input compute_infer compute_output")
HistogramSnapshot = namedtuple("HistogramSnapshot", "bounds cumulative sum")


cdef uint64_t nanoseconds(double seconds) noexcept:
    # Clocks of two processes may disagree by a little; a counter never goes back. NaN counts as nothing.
    return <uint64_t>(seconds * 1e9 + 0.5) if 0 < seconds < 1e9 else 0


cdef void add(Cost* cost, double seconds) noexcept:
    cost.count += 1
    cost.ns += nanoseconds(seconds)


cdef object to_tuple(Cost cost):
    return CountAndTime(cost.count, cost.ns)


cdef class Histogram:
    def __cinit__(self, bounds=DURATION_BOUNDS):
        cdef int i
        values = [float(bound) for bound in bounds]
        if not values:
            raise ValueError("bounds: at least one is needed")
        if any(not isfinite(b) for b in values) or any(a >= b for a, b in zip(values, values[1:])):
            raise ValueError(f"bounds must be finite and strictly ascending: {values}")
        self.size = len(values)
        self.bounds = <double*>malloc(self.size * sizeof(double))
        self.counts = <uint64_t*>calloc(self.size + 1, sizeof(uint64_t))
        if self.bounds is NULL or self.counts is NULL:
            raise MemoryError()
        for i in range(self.size):
            self.bounds[i] = values[i]

    def __dealloc__(self):
        free(self.bounds)
        free(self.counts)

    cdef void observe(self, double value) noexcept:
        self.observe_many(value, 1)

    cdef void observe_many(self, double value, uint64_t n) noexcept:
        if value != value:
            return  # one NaN would spoil the sum for good
        # The first bound that is not below the value, by halving without a branch to mispredict.
        cdef int at = 0, left = self.size, half
        while left > 1:
            half = left // 2
            at += half * <int>(self.bounds[at + half - 1] < value)
            left -= half
        at += <int>(self.bounds[at] < value)
        self.counts[at] += n
        self.sum += value * n

    def add(self, double value, uint64_t n=1):
        self.observe_many(value, n)

    def snapshot(self):
        cdef uint64_t total = 0
        cdef int i
        cumulative = []
        for i in range(self.size + 1):
            total += self.counts[i]
            cumulative.append(total)
        return HistogramSnapshot(tuple([self.bounds[i] for i in range(self.size)]), tuple(cumulative), self.sum)


cdef class Meters:
    def __cinit__(self, *, batch_size_bounds=BATCH_SIZE_BOUNDS):
        self.http_duration = Histogram()
        self.grpc_duration = Histogram()
        self.queue = Histogram()
        self.compute = Histogram()
        self.batch_size = Histogram(batch_size_bounds)

    cdef void answered(self, int protocol, int code, double seconds) noexcept:
        if not OK <= code <= UNAUTHENTICATED:
            code = UNKNOWN
        if seconds < 0:
            seconds = 0
        if protocol == GRPC:
            self.grpc_requests[code] += 1
            self.grpc_duration.observe(seconds)
        else:
            self.http_requests[code] += 1
            self.http_duration.observe(seconds)

    cdef void shed(self, int reason) noexcept:
        if 0 <= reason < SHED_REASONS:
            self.shed_requests[reason] += 1

    cdef void succeeded(self, int64_t rows, double request, double queue, double compute_input, double compute_infer,
                        double compute_output) noexcept:
        self.inference_count += rows
        add(&self.success, request)
        add(&self.queue_cost, queue)
        add(&self.compute_input, compute_input)
        add(&self.compute_infer, compute_infer)
        add(&self.compute_output, compute_output)
        self.queue.observe(queue if queue > 0 else 0)

    cdef void failed(self, int reason, double request) noexcept:
        self.failures[reason if 0 <= reason < FAILURE_REASONS else <int>OTHER] += 1
        add(&self.fail, request)

    cdef void executed(self, int64_t rows, double compute_input, double compute_infer, double compute_output,
                       int64_t epoch_ms) noexcept:
        cdef BatchCosts* costs = &self.batches[rows]
        self.execution_count += 1
        self.last_inference = epoch_ms
        add(&costs.compute_input, compute_input)
        add(&costs.compute_infer, compute_infer)
        add(&costs.compute_output, compute_output)
        self.compute.observe(compute_infer if compute_infer > 0 else 0)
        self.batch_size.observe(rows)

    def requests(self, int protocol):
        cdef int code
        if protocol == GRPC:
            return tuple([self.grpc_requests[code] for code in range(CODES)])
        return tuple([self.http_requests[code] for code in range(CODES)])

    def duration(self, int protocol):
        return self.grpc_duration.snapshot() if protocol == GRPC else self.http_duration.snapshot()

    def shed_counts(self):
        cdef int reason
        return tuple([self.shed_requests[reason] for reason in range(SHED_REASONS)])

    def failure_counts(self):
        cdef int reason
        return tuple([self.failures[reason] for reason in range(FAILURE_REASONS)])

    def statistics(self):
        return Statistics(to_tuple(self.success), to_tuple(self.fail), to_tuple(self.queue_cost),
                          to_tuple(self.compute_input), to_tuple(self.compute_infer), to_tuple(self.compute_output))

    def batch_statistics(self):
        result = []
        cdef map[int64_t, BatchCosts].iterator at = self.batches.begin()
        while at != self.batches.end():
            costs = dereference(at).second
            result.append(BatchStatistics(dereference(at).first, to_tuple(costs.compute_input),
                                          to_tuple(costs.compute_infer), to_tuple(costs.compute_output)))
            preincrement(at)
        return result

    def record_answered(self, int protocol, int code, double seconds):
        self.answered(protocol, code, seconds)

    def record_shed(self, int reason):
        self.shed(reason)

    def record_succeeded(self, int64_t rows, double request, double queue, double compute_input, double compute_infer,
                         double compute_output):
        self.succeeded(rows, request, queue, compute_input, compute_infer, compute_output)

    def record_failed(self, int reason, double request):
        self.failed(reason, request)

    def record_executed(self, int64_t rows, double compute_input, double compute_infer, double compute_output,
                        int64_t epoch_ms):
        self.executed(rows, compute_input, compute_infer, compute_output, epoch_ms)
