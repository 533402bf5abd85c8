# What a batch takes, learned from what batches took.
from libc.stdint cimport int64_t, uint64_t
from libcpp cimport bool as cbool


cdef class ServiceTime:
    # Online fit of service time in seconds: predict(rows) = alpha * rows + tau.
    cdef readonly double alpha, tau
    cdef readonly double deviation      # mean of |observed / predicted - 1|
    cdef readonly uint64_t observations
    cdef double weight, mean_rows, mean_seconds, variance, covariance   # the last two are sums, not yet divided
    cdef int surprises      # slow observations in a row that were left out
    # Takes in what a batch of so many rows took. Nonsense (no rows, no time, NaN) is ignored.
    cdef void observe(self, int64_t rows, double seconds) noexcept
    # 0 before the first observation.
    cdef double predict(self, int64_t rows) noexcept
    # What nine batches out of ten stay below.
    cdef double predict_cautiously(self, int64_t rows) noexcept
    # Whether there is enough to refuse somebody for it.
    cdef cbool is_settled(self) noexcept
    cdef void fit(self, double rows, double seconds, double keep) noexcept
