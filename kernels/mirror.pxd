# Copies of requests for a version whose answers nobody sees. See mirror.pyi.
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint64_t
from libcpp cimport bool as cbool
from libcpp.string cimport string
from libcpp.vector cimport vector

from kernels.exchange cimport Exchange, Intake, ReplySink
from kernels.infer cimport OutputView


cdef class Mirror:
    # Given; changed by `aim`.
    cdef readonly object target        # the shadow's deployment, or None while it is not ready
    cdef readonly double fraction
    cdef readonly int64_t max_requests, max_bytes
    cdef object call_soon, on_pairs
    # What is held: added by `copy` and `hold`, taken off by `give_back`.
    cdef readonly int64_t requests, nbytes
    cdef readonly uint64_t mirrored, dropped, unpaired
    cdef list done                     # pairs that wait for `tell`

    # An exchange with the same request, to be launched or dropped; None when there is no room for it.
    cdef Exchange copy(self, Intake intake, Exchange live)
    cdef cbool hold(self, Pair pair, int64_t nbytes) noexcept
    cdef void give_back(self, Pair pair) noexcept
    cdef void add(self, Pair pair) noexcept


cdef class Pair(ReplySink):
    # `Exchange.pair` of the live request and of its copy, whose sink it is too; ends when both have ended.
    cdef Mirror mirror                 # None once its room has been given back
    cdef Intake intake
    cdef int64_t nbytes                # as counted in the mirror
    cdef readonly bytes request_id     # the caller's, cut; empty when it gave none
    cdef readonly object live, shadow  # tuples of Tensor; None without an answer
    cdef readonly bytes failure        # what the shadow failed with, by its own doing; None when it did not
    cdef cbool live_ended, shadow_ended, is_dropped

    # The outputs of one of the two, before they are answered.
    cdef void capture(self, Exchange x, vector[OutputView]& views) noexcept
    cdef void end_live(self, int code) noexcept
    # The shadow does not take what the stable version takes.
    cdef void refuse(self, Exchange x, string text) noexcept
    # The copy is not sent, or the pair has grown too large.
    cdef void drop(self, Exchange x) noexcept
    cdef void finish(self) noexcept


cdef inline cbool is_copy(Exchange x) noexcept:
    return x.pair is not None and x.sink is x.pair
