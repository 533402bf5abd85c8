# Exchanges in the order they came, apart by group, the group whose head is oldest first.
from cpython.object cimport PyObject
from libc.stdint cimport uint64_t
from libcpp cimport bool as cbool
from libcpp.unordered_map cimport unordered_map
from libcpp.vector cimport vector

from kernels.exchange cimport Exchange


cdef class Fifo:
    # One group, linked through Exchange.next and Exchange.previous, oldest (by `queued`) first.
    cdef uint64_t group
    cdef Exchange head, tail
    cdef double latest      # no member expires later than this while `ascending`
    cdef cbool ascending    # members expire in the order they stand in
    cdef size_t position    # in Fifos.active
    cdef void append(self, Exchange exchange, double expiry) noexcept
    cdef void insert(self, Exchange exchange, double expiry) noexcept
    cdef void unlink(self, Exchange exchange) noexcept


cdef class Fifos:
    cdef list owned                                 # every Fifo, the empty ones kept for their group to come back
    cdef unordered_map[uint64_t, PyObject*] by_group
    cdef vector[PyObject*] active                   # those with a head: a heap, oldest head on top
    cdef Fifo recent
    # The group's Fifo, or None when it never had one.
    cdef Fifo find(self, uint64_t group)
    # The same, made when there is none.
    cdef Fifo need(self, uint64_t group)
    # The Fifo with the oldest head. Not to be called when `active` is empty.
    cdef Fifo oldest(self)
    # To be called whenever the head of `fifo` may have changed; `had_head` is whether there was one before.
    cdef void settle(self, Fifo fifo, cbool had_head) noexcept
    cdef void sift_up(self, size_t at) noexcept
    cdef void sift_down(self, size_t at) noexcept
    cdef void forget_empty(self)
