# How the requests of one model are divided among versions, and what is counted of it. See rollout.pyi.
from libc.stddef cimport size_t
from libc.stdint cimport int8_t, int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libcpp cimport bool as cbool
from libcpp.string cimport string
from libcpp.vector cimport vector

from kernels.exchange cimport Exchange
from kernels.infer cimport string_view
from kernels.mirror cimport Mirror


cdef extern from "draw.hpp" namespace "sluice" nogil:
    cdef cppclass DrawKey:
        uint64_t first, second

    uint64_t draw(const DrawKey&, const void*, size_t)
    double to_share(uint64_t)


cdef enum:
    MAX_ARMS = 100
    RULED = 101         # Exchange.arm of one that a rule sent to a version that is no arm

cdef enum EventKind:
    FAILED = 0
    SLOW = 1

# Events that are alike, not told yet.
cdef struct EventRow:
    int8_t arm
    uint8_t kind
    uint8_t level
    cbool has_unit
    uint64_t unit
    int32_t code
    uint32_t count
    double at


cdef class ArmTally:
    cdef readonly str version
    cdef readonly double weight
    cdef uint64_t canary, stable, canary_failed, stable_failed, retried


cdef class Rollout:
    # Given.
    cdef readonly str model
    cdef readonly object stable
    cdef list targets, tallies         # by arm
    cdef vector[double] ends           # by arm: the sum of the weights up to it
    cdef readonly tuple rules          # (header, kind, value or compiled pattern, target, arm)
    cdef readonly tuple sticky         # (kind, name) or None
    cdef string sticky_name
    cdef cbool is_cookie, is_parameter
    cdef cbool retries
    cdef readonly Mirror mirror        # None: nothing is copied
    cdef cbool is_counted              # every arm and the stable version are ready: labels are as the weights say
    cdef DrawKey key
    cdef uint64_t last_draw
    cdef double[3] thresholds
    cdef int levels
    # Events that wait to be told: added by `failed` and `slow`, taken by `drain`. Bounded.
    cdef vector[EventRow] rows
    cdef cbool is_reported             # whoever tells them knows of it
    # Members of the largest batch of this and the last stretch of time.
    cdef size_t peak, last_peak
    cdef double peak_since

    # The target of a request that names no version (None: not ready); says on the exchange how it was decided.
    cdef object divide(self, Exchange x)
    # Whether one more request of the stable version is to be copied. There is a mirror.
    cdef cbool is_sampled(self) noexcept
    cdef int arm_of(self, double share) noexcept
    cdef cbool find_unit(self, Exchange x, string_view* unit) noexcept
    cdef object rule_for(self, Exchange x)
    # Once for each counted exchange: that it has ended well, or as the version's own failure.
    cdef void ended(self, Exchange x) noexcept
    cdef void failed(self, Exchange x, int code, double now) noexcept
    # The same for one that never ran because the arm does not take it, and is an exchange of the stable version now.
    cdef void fail_unrun(self, int arm, cbool has_unit, uint64_t unit, int code, double now) noexcept
    cdef void slow(self, Exchange x, int level, double now) noexcept
    cdef void moved(self, int arm) noexcept
    cdef void add(self, int arm, cbool has_unit, uint64_t unit, EventKind kind, int level, int code,
                  double now) noexcept
    cdef int level_of(self, double seconds) noexcept
    # The position, among the members of a batch, of the one whose time is looked at; beyond them: none is. The members
    # of a batch share their time, so at most one of them may be evidence, and each must be as likely as any member of
    # any other batch: a batch of the canary is smaller than one of the stable version.
    cdef size_t observed(self, size_t members, double now) noexcept
    cdef void drain(self, list events)
