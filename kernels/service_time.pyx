# What a batch takes, learned from what batches took.
from libc.math cimport fabs, isfinite
from libc.stdint cimport int64_t
from libcpp cimport bool as cbool

cdef enum:
    SETTLED = 5     # observations before anybody is refused for a prediction
    PATIENCE = 3    # surprisingly slow ones in a row that are believed

cdef double KEEP = 0.97             # what an observation leaves of the weight of the earlier ones
cdef double KEEP_SURPRISED = 0.1    # the same when the fit has proved wrong
cdef double CAUTION = 1.5           # mean deviations that a deadline is kept away from
cdef double SURPRISE = 2.0          # so many times slower or faster than possible is a surprise


cdef class ServiceTime:
    cdef void observe(self, int64_t rows, double seconds) noexcept:
        if rows < 1 or not isfinite(seconds) or seconds <= 0:
            return
        # With l(b) = alpha * b + tau and tau >= 0, l(b) / l(mean) lies between 1 and b / mean, whatever alpha is.
        cdef double ratio = rows / self.mean_rows if self.weight > 0 else 1.0
        cdef double slowest = SURPRISE * max(self.predict(rows), self.mean_seconds * max(ratio, 1.0))
        cdef double fastest = min(self.predict(rows), self.mean_seconds * min(ratio, 1.0)) / SURPRISE
        cdef double keep = KEEP
        if self.weight > 0 and seconds > slowest:
            self.surprises += 1
            if self.surprises < PATIENCE:
                return
            keep = KEEP_SURPRISED
        elif self.weight > 0 and seconds < fastest:
            keep = KEEP_SURPRISED
        self.surprises = 0
        # Only near the sizes that are known: elsewhere it is the fit that was wrong, not the batch that was unusual.
        if self.observations >= SETTLED and self.mean_rows / 2 <= rows <= self.mean_rows * 2:
            self.deviation += (fabs(seconds / self.predict(rows) - 1) - self.deviation) * (1 - KEEP)
        self.observations += 1
        self.fit(rows, seconds, keep)

    cdef void fit(self, double rows, double seconds, double keep) noexcept:
        self.weight = self.weight * keep + 1.0
        cdef double apart_rows = rows - self.mean_rows, apart_seconds = seconds - self.mean_seconds
        self.mean_rows += apart_rows / self.weight
        self.mean_seconds += apart_seconds / self.weight
        self.variance = self.variance * keep + apart_rows * (rows - self.mean_rows)
        self.covariance = self.covariance * keep + apart_rows * (seconds - self.mean_seconds)
        # The slope is held to what it was by the weight of one squared row: it survives a long run of equal sizes,
        # and a single size says nothing about it.
        cdef double slope = (self.covariance / self.weight + self.alpha) / (self.variance / self.weight + 1.0)
        self.alpha = min(max(slope, 0.0), self.mean_seconds / self.mean_rows)
        self.tau = max(self.mean_seconds - self.alpha * self.mean_rows, 0.0)

    cdef double predict(self, int64_t rows) noexcept:
        return self.alpha * rows + self.tau

    cdef double predict_cautiously(self, int64_t rows) noexcept:
        return self.predict(rows) * (1 + CAUTION * self.deviation)

    cdef cbool is_settled(self) noexcept:
        return self.observations >= SETTLED

    def add(self, int64_t rows, double seconds):
        self.observe(rows, seconds)

    def estimate(self, int64_t rows):
        return self.predict(rows)

    def estimate_cautiously(self, int64_t rows):
        return self.predict_cautiously(rows)
