# Exchanges in the order they came, apart by group. Knows no priority, no policy and no clock.
from cpython.object cimport PyObject
from cython.operator cimport dereference
from libc.stdint cimport uint64_t
from libcpp cimport bool as cbool
from libcpp.unordered_map cimport unordered_map

from kernels.exchange cimport Exchange

cdef enum:
    SPARE = 64  # empty Fifos that are kept beside the busy ones


cdef class Fifo:
    cdef void append(self, Exchange exchange, double expiry) noexcept:
        if self.tail is None:
            self.head = exchange
            self.ascending = True
        else:
            self.tail.next = exchange
            exchange.previous = self.tail
            self.ascending = self.ascending and expiry >= self.latest
        self.tail = exchange
        self.latest = expiry

    cdef void insert(self, Exchange exchange, double expiry) noexcept:
        # Before all that are as young or younger.
        cdef Exchange before = None, after = self.head
        while after is not None and after.queued < exchange.queued:
            before = after
            after = after.next
        if after is None:
            self.append(exchange, expiry)
            return
        exchange.previous = before
        exchange.next = after
        after.previous = exchange
        if before is None:
            self.head = exchange
        else:
            before.next = exchange
        self.ascending = False

    cdef void unlink(self, Exchange exchange) noexcept:
        cdef Exchange before = exchange.previous, after = exchange.next
        if before is None:
            self.head = after
        else:
            before.next = after
            exchange.previous = None
        if after is None:
            self.tail = before
        else:
            after.previous = before
            exchange.next = None


cdef inline double age_key(PyObject* fifo) noexcept:
    return (<Fifo>fifo).head.queued


cdef class Fifos:
    def __cinit__(self):
        self.owned = []

    cdef Fifo find(self, uint64_t group):
        if self.recent is not None and self.recent.group == group:
            return self.recent
        cdef unordered_map[uint64_t, PyObject*].iterator at = self.by_group.find(group)
        if at == self.by_group.end():
            return None
        self.recent = <Fifo>dereference(at).second
        return self.recent

    cdef Fifo need(self, uint64_t group):
        cdef Fifo fifo = self.find(group)
        if fifo is None:
            if <size_t>len(self.owned) >= 2 * self.active.size() + SPARE:
                self.forget_empty()
            fifo = Fifo.__new__(Fifo)
            fifo.group = group
            self.owned.append(fifo)
            self.by_group[group] = <PyObject*>fifo
            self.recent = fifo
        return fifo

    cdef void forget_empty(self):
        self.owned = [fifo for fifo in self.owned if (<Fifo>fifo).head is not None]
        self.recent = None
        self.by_group.clear()
        for fifo in self.owned:
            self.by_group[(<Fifo>fifo).group] = <PyObject*>fifo

    cdef Fifo oldest(self):
        return <Fifo>self.active[0]

    cdef void settle(self, Fifo fifo, cbool had_head) noexcept:
        cdef size_t at
        cdef Fifo last
        if fifo.head is not None:
            if had_head:
                self.sift_up(fifo.position)
                self.sift_down(fifo.position)
            else:
                fifo.position = self.active.size()
                self.active.push_back(<PyObject*>fifo)
                self.sift_up(fifo.position)
        elif had_head:
            at = fifo.position
            last = <Fifo>self.active.back()
            self.active.pop_back()
            if last is not fifo:
                self.active[at] = <PyObject*>last
                last.position = at
                self.sift_up(at)
                self.sift_down(last.position)

    cdef void sift_up(self, size_t at) noexcept:
        cdef PyObject* moving = self.active[at]
        cdef double key = age_key(moving)
        cdef size_t parent
        while at:
            parent = (at - 1) >> 1
            if age_key(self.active[parent]) <= key:
                break
            self.active[at] = self.active[parent]
            (<Fifo>self.active[at]).position = at
            at = parent
        self.active[at] = moving
        (<Fifo>moving).position = at

    cdef void sift_down(self, size_t at) noexcept:
        cdef PyObject* moving = self.active[at]
        cdef double key = age_key(moving)
        cdef size_t child, size = self.active.size()
        while 2 * at + 1 < size:
            child = 2 * at + 1
            if child + 1 < size and age_key(self.active[child + 1]) < age_key(self.active[child]):
                child += 1
            if age_key(self.active[child]) >= key:
                break
            self.active[at] = self.active[child]
            (<Fifo>self.active[at]).position = at
            at = child
        self.active[at] = moving
        (<Fifo>moving).position = at
