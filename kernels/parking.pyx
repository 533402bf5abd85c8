# Requests for versions that are still to be loaded: a bounded list that any of them may leave at any time.
cimport cython
from libc.stdint cimport int64_t
from libcpp cimport bool as cbool

from kernels.exchange cimport Exchange


cdef inline int64_t size_of(Exchange x) noexcept:
    # What was received, and what decoding may have made of it.
    cdef int64_t size = <int64_t>x.request.body.size()
    cdef size_t i
    for i in range(x.request.inputs.size()):
        size += <int64_t>x.request.inputs[i].size
    return size


@cython.final
cdef class ParkingLot:
    def __init__(self, int64_t max_count, int64_t max_bytes):
        self.max_count = max_count
        self.max_bytes = max_bytes

    cdef cbool has_room(self, Exchange x) noexcept:
        return self.count < self.max_count and self.nbytes + size_of(x) <= self.max_bytes

    cdef void add(self, Exchange x) noexcept:
        x.previous = self.tail
        x.next = None
        if self.tail is None:
            self.head = x
        else:
            self.tail.next = x
        self.tail = x
        self.count += 1
        self.nbytes += size_of(x)

    cdef void remove(self, Exchange x) noexcept:
        cdef Exchange before = x.previous, after = x.next
        if before is None:
            self.head = after
        else:
            before.next = after
        if after is None:
            self.tail = before
        else:
            after.previous = before
        x.previous = None
        x.next = None
        self.count -= 1
        self.nbytes -= size_of(x)
