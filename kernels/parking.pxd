# Requests for versions that are still to be loaded. See parking.pyi.
from libc.stdint cimport int64_t
from libcpp cimport bool as cbool

from kernels.exchange cimport Exchange


cdef class ParkingLot:
    cdef Exchange head, tail           # oldest first, linked both ways
    cdef readonly int64_t count, nbytes
    cdef readonly int64_t max_count, max_bytes

    cdef cbool has_room(self, Exchange x) noexcept
    # At the end. The exchange is in no other list, and stays in this one until it is removed.
    cdef void add(self, Exchange x) noexcept
    cdef void remove(self, Exchange x) noexcept
