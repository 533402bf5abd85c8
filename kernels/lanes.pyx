# The shared-memory mailbox of one worker: the gateway's end (Lane) and the worker's end (LanePort).
cimport cython
from cpython.buffer cimport PyBUF_C_CONTIGUOUS, PyBUF_WRITE, PyBuffer_Release, PyObject_GetBuffer
from cpython.memoryview cimport PyMemoryView_FromMemory
from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport int64_t, uint32_t, uint64_t, uint8_t
from libc.string cimport memcmp, memcpy

from kernels.exchange cimport Exchange
from kernels.infer cimport DataType, TensorView

import fcntl
import os

import numpy as np

cdef extern from "<sys/mman.h>" nogil:
    void* mmap(void*, size_t, int, int, int, long)
    int munmap(void*, size_t)
    enum: PROT_READ
    enum: PROT_WRITE
    enum: MAP_SHARED
    enum: MAP_NORESERVE
    void* MAP_FAILED

cdef extern from "<unistd.h>" nogil:
    ssize_t read(int, void*, size_t)
    ssize_t write(int, const void*, size_t)

cdef extern from "<poll.h>" nogil:
    cdef struct pollfd:
        int fd
        short events
        short revents
    int poll(pollfd*, unsigned long, int)
    enum: POLLIN

# How numpy sees each datatype; BF16 travels as its 16 bits, BYTES in its length-prefixed form.
cdef tuple NUMPY_DTYPES = (
    None, np.dtype("?"), np.dtype("u1"), np.dtype("<u2"), np.dtype("<u4"), np.dtype("<u8"), np.dtype("i1"),
    np.dtype("<i2"), np.dtype("<i4"), np.dtype("<i8"), np.dtype("<f2"), np.dtype("<f4"), np.dtype("<f8"),
    np.dtype("u1"), np.dtype("<u2"),
)
# Views kept per port: a steady batch size then costs one dictionary look-up per input.
cdef Py_ssize_t VIEW_CACHE = 2048


# What one batch has in common with another that may be run in the same way, besides its inputs' descriptions.
cdef struct Key:
    int64_t slot
    uint64_t rows
    uint64_t wanted


cdef LaneHeader* map_lane(int memfd, size_t size) except NULL:
    cdef void* at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, memfd, 0)
    if at == MAP_FAILED:
        raise OSError(errno, os.strerror(errno))
    return <LaneHeader*>at


cdef void ring_bell(int fd) noexcept nogil:
    # A full pipe has rung already.
    while write(fd, b"!", 1) < 0 and errno == EINTR:
        pass


cdef cbool is_alike(Exchange head, Exchange x) noexcept:
    # Equal groups are equal hashes, and callers choose what is hashed: here it is looked at.
    cdef size_t i
    cdef TensorView* a
    cdef TensorView* b
    if (x.inputs_mask != head.inputs_mask or x.outputs_mask != head.outputs_mask or
            x.request.inputs.size() != head.request.inputs.size()):
        return False
    for i in range(head.request.inputs.size()):
        a = &head.request.inputs[i]
        b = &x.request.inputs[i]
        if a.rank != b.rank or (a.rank > 1 and memcmp(&a.shape[1], &b.shape[1], (a.rank - 1) * sizeof(int64_t)) != 0):
            return False
    return True


@cython.final
cdef class Lane:
    def __cinit__(self, size_t slot_bytes):
        self.memfd = self.doorbell = self.completion = self.worker_doorbell = self.worker_completion = -1
        if slot_bytes == 0 or slot_bytes % 4096:
            raise ValueError(f"slot_bytes must be a positive multiple of 4096, not {slot_bytes}")
        self.slot_bytes = slot_bytes
        self.running = [None] * kLaneSlots
        self.memfd = os.memfd_create("sluice-lane", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        self.mapped = lane_file_bytes(slot_bytes)
        os.ftruncate(self.memfd, self.mapped)
        fcntl.fcntl(self.memfd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
        self.header = map_lane(self.memfd, self.mapped)
        self.header.magic = kLaneMagic
        self.header.slots = kLaneSlots
        self.header.slot_bytes = slot_bytes
        self.worker_doorbell, self.doorbell = os.pipe2(os.O_CLOEXEC)
        self.completion, self.worker_completion = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self.doorbell, False)
        os.set_blocking(self.completion, False)

    def __dealloc__(self):
        self.unmap()

    cdef void unmap(self) noexcept:
        if self.header != NULL:
            munmap(self.header, self.mapped)
            self.header = NULL
        for fd in (self.memfd, self.doorbell, self.completion, self.worker_doorbell, self.worker_completion):
            if fd >= 0:
                os.close(fd)
        self.memfd = self.doorbell = self.completion = self.worker_doorbell = self.worker_completion = -1

    def close(self):
        if self.closed:
            return
        assert self.running[0] is None and self.running[1] is None, "this is a bug: a lane closed over a running batch"
        self.closed = True
        self.unmap()

    @property
    def fds(self):
        return self.memfd, self.worker_doorbell, self.worker_completion

    @property
    def is_idle(self):
        return self.running[0] is None and self.running[1] is None

    @property
    def oldest_started(self):
        return self.running_since() if self.running[self.harvest_next] is not None else 0.0

    def nudge(self):
        if not self.closed:
            set_nudged(self.header)
            ring_bell(self.doorbell)

    cdef double running_since(self) noexcept:
        # A batch that waited in the second slot was only served once the first one had come back.
        return max(self.started[self.harvest_next], self.last_harvest)

    cdef int free_slot(self) noexcept:
        # Whatever the worker says about a slot in which nothing of ours runs.
        return -1 if self.closed or self.running[self.fill_next] is not None else self.fill_next

    cdef cbool has_result(self) noexcept:
        # Nor does it matter that a worker answers what nobody asked.
        return (not self.closed and self.running[self.harvest_next] is not None and
                slot_state(self.header.slot[self.harvest_next]) >= SLOT_DONE)

    cdef int gather(self, int slot, Exchange head, int64_t* rows) noexcept:
        cdef Slot* s = &self.header.slot[slot]
        cdef uint8_t* base = lane_inputs(self.header, slot, self.slot_bytes)
        cdef size_t count = head.request.inputs.size()
        cdef size_t offset = 0, used
        cdef uint64_t mask = head.inputs_mask
        cdef int members = 0, fitted, index
        cdef int64_t sum_rows = 0
        cdef size_t i
        cdef Exchange x
        cdef TensorView* view
        cdef SlotTensor* tensor
        # How many members fit: each tensor starts aligned, so the slack is bounded by one alignment per tensor.
        used = count * 64
        x = head
        while x is not None:
            if used + <size_t>x.nbytes > self.slot_bytes or not is_alike(head, x):
                break
            used += x.nbytes
            sum_rows += x.rows
            members += 1
            x = x.next
        if members == 0:
            return 0
        index = -1
        for i in range(count):
            index += 1
            while not (mask >> index) & 1:
                index += 1
            tensor = &s.inputs[i]
            view = &head.request.inputs[i]
            tensor.index = index
            tensor.datatype = <uint32_t>view.datatype
            tensor.rank = view.rank
            memcpy(tensor.shape, view.shape, sizeof(view.shape))
            if head.batched:
                tensor.shape[0] = sum_rows
            tensor.offset = offset
            x = head
            fitted = members
            while fitted:
                view = &x.request.inputs[i]
                if view.size:
                    memcpy(base + offset, view.data, view.size)
                offset += view.size
                x = x.next
                fitted -= 1
            tensor.size = offset - tensor.offset
            offset = lane_align(offset)
        s.input_count = <uint32_t>count
        s.output_count = 0
        s.rows = <uint32_t>sum_rows
        s.wanted = head.outputs_mask
        rows[0] = sum_rows
        return members

    cdef void ring(self, int slot, Exchange head, int64_t rows, double now) noexcept:
        self.running[slot] = head
        self.running_rows[slot] = rows
        self.started[slot] = now
        self.fill_next = (slot + 1) % kLaneSlots
        set_slot_state(self.header.slot[slot], SLOT_FILLED)
        ring_bell(self.doorbell)

    cdef void acknowledge(self) noexcept:
        cdef char[64] rings
        if not self.closed:
            read(self.completion, rings, sizeof(rings))

    cdef void release_slot(self, int slot) noexcept:
        self.running[slot] = None
        self.harvest_next = (slot + 1) % kLaneSlots
        set_slot_state(self.header.slot[slot], SLOT_FREE)

    # By hand, for tests and probes: the same memory, without exchanges.

    def put(self, inputs, int rows, uint64_t wanted=~<uint64_t>0):
        cdef int slot = self.free_slot()
        if slot < 0 or slot_state(self.header.slot[slot]) != SLOT_FREE:
            return -1
        cdef Slot* s = &self.header.slot[slot]
        cdef size_t offset = 0
        cdef bytes data
        cdef int i = 0, d
        cdef uint8_t* base = lane_inputs(self.header, slot, self.slot_bytes)
        for index, datatype, shape, data in inputs:
            if offset + len(data) > self.slot_bytes:
                raise ValueError(f"inputs exceed the slot's {self.slot_bytes} bytes")
            s.inputs[i].index = index
            s.inputs[i].datatype = datatype
            s.inputs[i].rank = len(shape)
            for d in range(len(shape)):
                s.inputs[i].shape[d] = shape[d]
            s.inputs[i].offset = offset
            s.inputs[i].size = len(data)
            memcpy(base + offset, <const char*>data, len(data))
            offset = lane_align(offset + len(data))
            i += 1
        s.input_count = i
        s.output_count = 0
        s.rows = rows
        s.wanted = wanted
        self.fill_next = (slot + 1) % kLaneSlots
        set_slot_state(self.header.slot[slot], SLOT_FILLED)
        ring_bell(self.doorbell)
        return slot

    def get(self):
        if self.closed or slot_state(self.header.slot[self.harvest_next]) < SLOT_DONE:
            return None
        cdef int slot = self.harvest_next
        cdef Slot* s = &self.header.slot[slot]
        cdef SlotTensor tensor
        cdef uint32_t i, count
        outputs = []
        if slot_state(s[0]) == SLOT_FAILED:
            size = min(s.message_size, <uint32_t>kLaneMessage)
            result = (slot, s.code, (<char*>s.message)[:size].decode("utf-8", "replace"), outputs)
        else:
            count = min(s.output_count, <uint32_t>kLaneTensors)
            for i in range(count):
                if not read_output(s[0], i, self.slot_bytes, tensor):
                    raise ValueError(f"output {i} of the slot is not a tensor")
                base = lane_outputs(self.header, slot, self.slot_bytes) + tensor.offset
                outputs.append((tensor.index, tensor.datatype, tuple([tensor.shape[d] for d in range(tensor.rank)]),
                                (<char*>base)[:tensor.size]))
            result = (slot, 0, "", outputs)
        self.acknowledge()
        self.harvest_next = (slot + 1) % kLaneSlots
        set_slot_state(self.header.slot[slot], SLOT_FREE)
        return result


@cython.final
cdef class LanePort:
    cdef LaneHeader* header
    cdef size_t mapped, slot_bytes
    cdef int memfd, doorbell, completion
    cdef int next_slot
    cdef dict views
    cdef object areas

    def __cinit__(self, int memfd, int doorbell, int completion):
        self.memfd, self.doorbell, self.completion = memfd, doorbell, completion
        self.mapped = os.fstat(memfd).st_size
        self.header = map_lane(memfd, self.mapped)
        if self.header.magic != kLaneMagic or lane_file_bytes(self.header.slot_bytes) != self.mapped:
            raise ValueError("not a lane of this version")
        self.slot_bytes = self.header.slot_bytes
        self.views = {}
        self.areas = tuple([
            PyMemoryView_FromMemory(<char*>lane_inputs(self.header, i, self.slot_bytes), self.slot_bytes, PyBUF_WRITE)
            for i in range(kLaneSlots)])

    # Never unmapped: numpy views into the lane live as long as the worker, which ends by leaving its process.

    @property
    def slot_size(self):
        return self.slot_bytes

    def wait(self, int timeout_ms=-1):
        cdef int slot = self.next_slot
        cdef pollfd waiter
        cdef char[64] rings
        cdef ssize_t count
        cdef int ready, failure
        while True:
            if take_nudge(self.header):
                return -1
            if slot_state(self.header.slot[slot]) == SLOT_FILLED:
                self.next_slot = (slot + 1) % kLaneSlots
                return slot
            waiter.fd = self.doorbell
            waiter.events = POLLIN
            failure = 0
            with nogil:
                ready = count = 1
                if timeout_ms >= 0:
                    ready = poll(&waiter, 1, timeout_ms)
                if ready > 0:
                    count = read(self.doorbell, rings, sizeof(rings))
                    if count < 0:
                        failure = errno
            if ready == 0:
                return -2
            if count == 0:
                return -1  # the gateway has gone, of which the control socket tells more
            if failure and failure != EINTR and failure != EAGAIN:
                raise OSError(failure, os.strerror(failure))

    def describe(self, int slot):
        cdef Slot* s = &self.header.slot[slot]
        cdef uint32_t count = min(s.input_count, <uint32_t>kLaneTensors)
        cdef Key key
        key.slot = slot
        key.rows = s.rows
        key.wanted = s.wanted
        cdef bytes head = (<char*>&key)[:sizeof(Key)]
        return head + (<char*>s.inputs)[:count * sizeof(SlotTensor)]

    def repeat(self, int slot, bytes outputs, uint64_t compute_start_ns, uint64_t compute_end_ns):
        cdef Slot* s = &self.header.slot[slot]
        cdef size_t size = len(outputs)
        if size % sizeof(SlotTensor) or size > sizeof(s.outputs):
            raise ValueError("outputs: not what complete returned")
        memcpy(s.outputs, <const char*>outputs, size)
        self.answer(s, <uint32_t>(size // sizeof(SlotTensor)), compute_start_ns, compute_end_ns)

    cdef void answer(self, Slot* s, uint32_t count, uint64_t compute_start_ns, uint64_t compute_end_ns) noexcept:
        s.output_count = count
        s.compute_start_ns = compute_start_ns
        s.compute_end_ns = compute_end_ns
        set_slot_state(s[0], SLOT_DONE)
        ring_bell(self.completion)

    def rows(self, int slot):
        return self.header.slot[slot].rows

    def wanted(self, int slot):
        return self.header.slot[slot].wanted

    def inputs(self, int slot):
        cdef Slot* s = &self.header.slot[slot]
        cdef uint32_t i
        cdef SlotTensor* tensor
        result = []
        for i in range(min(s.input_count, <uint32_t>kLaneTensors)):
            tensor = &s.inputs[i]
            key = (slot, tensor.offset, tensor.datatype,
                   (<char*>tensor.shape)[:8 * tensor.rank], tensor.size)
            view = self.views.get(key)
            if view is None:
                view = self.view(slot, tensor)
                if len(self.views) >= VIEW_CACHE:
                    self.views.clear()
                self.views[key] = view
            result.append((tensor.index, view))
        return result

    cdef object view(self, int slot, SlotTensor* tensor):
        dtype = NUMPY_DTYPES[tensor.datatype]
        area = self.areas[slot][tensor.offset:tensor.offset + tensor.size]
        if tensor.datatype == <uint32_t>DataType.BYTES:
            return np.frombuffer(area, dtype)
        return np.frombuffer(area, dtype).reshape(self.shape_of(tensor))

    cdef tuple shape_of(self, SlotTensor* tensor):
        return tuple([tensor.shape[d] for d in range(tensor.rank)])

    def input_shape(self, int slot, int position):
        return self.shape_of(&self.header.slot[slot].inputs[position])

    def input_datatype(self, int slot, int position):
        return self.header.slot[slot].inputs[position].datatype

    def output_area(self, int slot):
        return PyMemoryView_FromMemory(<char*>lane_outputs(self.header, slot, self.slot_bytes), self.slot_bytes,
                                       PyBUF_WRITE)

    def complete(self, int slot, outputs, uint64_t compute_start_ns, uint64_t compute_end_ns):
        cdef Slot* s = &self.header.slot[slot]
        cdef uint8_t* base = lane_outputs(self.header, slot, self.slot_bytes)
        cdef size_t offset = 0, at
        cdef Py_buffer buffer
        cdef SlotTensor* tensor
        cdef uint32_t i = 0
        cdef Py_ssize_t d
        if len(outputs) > kLaneTensors:
            raise ValueError(f"a model may have {kLaneTensors} outputs at most, not {len(outputs)}")
        for _, _, _, data in outputs:  # what is copied goes behind what is in place already
            PyObject_GetBuffer(data, &buffer, PyBUF_C_CONTIGUOUS)
            if base <= <uint8_t*>buffer.buf < base + self.slot_bytes:
                offset = max(offset, lane_align(<uint8_t*>buffer.buf - base + buffer.len))
            PyBuffer_Release(&buffer)
        for index, datatype, shape, data in outputs:
            tensor = &s.outputs[i]
            PyObject_GetBuffer(data, &buffer, PyBUF_C_CONTIGUOUS)
            try:
                if base <= <uint8_t*>buffer.buf < base + self.slot_bytes:
                    at = <uint8_t*>buffer.buf - base  # bound there by the engine: already in place
                else:
                    at = offset
                    if buffer.len > <Py_ssize_t>(self.slot_bytes - min(at, self.slot_bytes)):
                        raise ValueError(f"outputs exceed the slot's {self.slot_bytes} bytes")
                    if buffer.len:
                        memcpy(base + at, buffer.buf, buffer.len)
                    offset = lane_align(at + buffer.len)
                tensor.offset = at
                tensor.size = buffer.len
            finally:
                PyBuffer_Release(&buffer)
            if len(shape) > 16:
                raise ValueError(f"output {index} has {len(shape)} dimensions, 16 at most")
            tensor.index = index
            tensor.datatype = datatype
            tensor.rank = len(shape)
            for d in range(len(shape)):
                tensor.shape[d] = shape[d]
            i += 1
        # Before the answer: the gateway may fill the slot again at once.
        cdef bytes table = (<char*>s.outputs)[:i * sizeof(SlotTensor)]
        self.answer(s, i, compute_start_ns, compute_end_ns)
        return table

    def fail(self, int slot, int code, str message):
        cdef Slot* s = &self.header.slot[slot]
        cdef bytes text = message.encode("utf-8", "replace")[:kLaneMessage]
        s.code = code
        s.message_size = len(text)
        memcpy(s.message, <const char*>text, len(text))
        s.output_count = 0
        set_slot_state(s[0], SLOT_FAILED)
        ring_bell(self.completion)
