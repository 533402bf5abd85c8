# Where every request of one loop comes in. See dispatch.pyi.
from libc.stdint cimport int64_t
from libcpp cimport bool as cbool
from libcpp.string cimport string

from kernels.deployment cimport Deployment
from kernels.exchange cimport Exchange
from kernels.infer cimport WireError, WireLimits
from kernels.loop cimport LoopIntake
from kernels.meters cimport Meters
from kernels.parking cimport ParkingLot
from kernels.routes cimport RouteTable
from kernels.wire cimport JsonDecoder


cdef class Dispatcher(LoopIntake):
    cdef RouteTable routes
    cdef WireLimits limits
    cdef JsonDecoder json
    cdef list dirty                    # deployments that wait for their kick
    cdef list deployments
    cdef readonly int64_t max_in_flight
    cdef readonly Meters unrouted      # requests that reached no deployment
    cdef str refusing                  # why everything is refused, or None
    cdef readonly ParkingLot parked
    cdef public object demand
    cdef list copies                   # requests for shadows that wait for the live ones to be handed over

    cdef void route(self, Exchange x, Deployment d, double now) noexcept
    cdef void direct(self, Exchange x, double now) noexcept
    cdef cbool park(self, Exchange x, int miss, double now) noexcept
    cdef void unpark(self, double now) noexcept
    cdef void expire_parked(self, double now) noexcept
    # Rollouts with events that wait to be told: added by `report`, taken by `tell`.
    cdef list reporting
    cdef cbool is_urgent               # some of them at the end of this wake-up
    cdef double tell_at                # the others then; 0 when there are none
    cdef public object on_events

    cdef cbool decode(self, Exchange x, WireError& error) except? False
    cdef cbool fit(self, Exchange x, Deployment d, WireError& error) except? False
    cdef void enter(self, Deployment d, Exchange x) noexcept
    cdef void mirror(self, Exchange x) noexcept
    cdef void launch(self, Exchange x, double now) noexcept
    cdef cbool turn(self, Exchange x, Deployment d, int code, double now) noexcept
    cdef cbool read_again(self, Exchange x, WireError& error) except? False
    cdef int tell(self) except -1
    cdef void refuse_unrouted(self, Exchange x, int miss, double now) noexcept
    cdef void refuse_expired(self, Exchange x, double now) noexcept
    cdef void refuse_raised(self, Exchange x, object raised, double now) noexcept
    cdef void refuse(self, Exchange x, Meters meters, int code, string message, double now) noexcept
    cdef void reply(self, Exchange x) noexcept
