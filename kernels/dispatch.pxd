# Where every request of one loop comes in. See dispatch.pyi.
from libc.stdint cimport int64_t
from libcpp cimport bool as cbool
from libcpp.string cimport string

from kernels.deployment cimport Deployment
from kernels.exchange cimport Exchange
from kernels.infer cimport WireLimits
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

    cdef void route(self, Exchange x, Deployment d, double now) noexcept
    cdef cbool park(self, Exchange x, int miss, double now) noexcept
    cdef void unpark(self, double now) noexcept
    cdef void expire_parked(self, double now) noexcept
    cdef void refuse_unrouted(self, Exchange x, int miss, double now) noexcept
    cdef void refuse(self, Exchange x, Meters meters, int code, string message, double now) noexcept
    cdef void reply(self, Exchange x) noexcept
