# One model version as one loop serves it. See deployment.pyi.
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint64_t
from libcpp cimport bool as cbool
from libcpp.string cimport string
from libcpp.vector cimport vector

from kernels.batching cimport BatchQueue
from kernels.exchange cimport Exchange
from kernels.infer cimport InferRequest, OutputView
from kernels.lanes cimport Lane, LaneHeader
from kernels.loop cimport LoopIntake
from kernels.meters cimport Meters
from kernels.signature cimport Signature


cdef extern from "scatter.hpp" namespace "sluice" nogil:
    cdef cppclass Scatter:
        cbool open(const Signature&, LaneHeader*, int slot, size_t slot_bytes, cbool batched, int64_t rows,
                   uint64_t wanted)
        cbool next(int64_t rows)

    void collect_views(const Signature&, const Scatter&, InferRequest&, int64_t rows, cbool typed,
                       cbool classed, vector[OutputView]&) except +


cdef extern from "numbers.hpp" namespace "sluice" nogil:
    cbool has_nan(const vector[OutputView]&)


cdef class Deployment:
    cdef readonly str model, version
    cdef string version_name
    cdef Signature signature
    cdef readonly BatchQueue queue
    cdef readonly Meters meters
    cdef list lanes                    # of Lane, each with its own worker; changed by attach and detach only
    cdef LoopIntake loop               # set when it joins a dispatcher
    cdef Scatter outputs               # scratch for one batch
    cdef vector[OutputView] views      # scratch for one answer
    cdef size_t slot_bytes
    cdef readonly int64_t in_flight    # admitted, and neither answered nor (once its rows are back) cancelled
    cdef readonly int64_t in_flight_peak
    cdef readonly double compute_seconds  # in the engine, of all lanes, summed over batches
    cdef cbool idempotent
    cdef cbool dirty                   # waits for its kick at the end of this wake-up
    cdef object on_idle                # called once, when a retiring deployment has answered all

    cdef Lane pick_lane(self, double now, double* start)
    cdef double backlog(self, double now) noexcept
    cdef void kick(self, double now) noexcept
    cdef void put_back(self, Exchange chain, double now) noexcept
    cdef void drop(self, double now) noexcept
    cdef void unstart(self, Exchange head)
    cdef void harvest(self, Lane lane, double now) noexcept
    cdef cbool scatter(self, Lane lane, int slot, Exchange head, int64_t rows, double now) noexcept
    cdef void encode(self, Exchange x) noexcept
    cdef void retry_or_fail(self, Exchange head, cbool ran, int code, string message, double now) noexcept
    cdef void answer(self, Exchange x, double now) noexcept
    cdef void check_idle(self) noexcept
    cdef cbool is_down(self) noexcept
    cdef cbool move_nan(self, Exchange x, double now) noexcept
    cdef void count(self, Exchange x, double now) noexcept
    cdef cbool move(self, Exchange x, double now) noexcept
    cdef Exchange move_chain(self, Exchange head, int code, string message, double now)
    cdef void count_crash(self, Exchange head, double now) noexcept
    cdef Exchange observed(self, Exchange head, double now)
    cdef void abandon(self, Exchange x, double now) noexcept
    cdef void withdraw(self, Exchange x, double now) noexcept
    cdef void expire(self, double now) noexcept
    cdef Exchange end_late(self, Lane lane, int slot, Exchange before, Exchange x, double now)
    cdef Exchange stand_in(self, Exchange x)
    cdef void replace(self, Lane lane, int slot, Exchange before, Exchange other)
    cdef Exchange lose_patience(self, Lane lane, int slot, Exchange before, Exchange x, double now)
    cdef cbool hand_over(self, Exchange x, double now) noexcept
