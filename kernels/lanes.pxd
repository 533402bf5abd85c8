# Both ends of a lane; see lanes.hpp for the layout and the protocol, lanes.pyi for what each call promises.
from libc.stddef cimport size_t
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t, uint8_t
from libcpp cimport bool as cbool

from kernels.exchange cimport Exchange


cdef extern from "lanes.hpp" namespace "sluice" nogil:
    enum: kLaneSlots
    enum: kLaneTensors
    enum: SLOT_FREE
    enum: SLOT_FILLED
    enum: SLOT_DONE
    enum: SLOT_FAILED
    const size_t kLaneMessage

    cdef cppclass SlotTensor:
        uint64_t offset
        uint64_t size
        int64_t shape[16]
        uint32_t rank
        uint32_t datatype
        uint32_t index

    cdef cppclass Slot:
        uint32_t rows
        uint32_t input_count
        uint32_t output_count
        uint64_t wanted
        uint64_t compute_start_ns
        uint64_t compute_end_ns
        int32_t code
        uint32_t message_size
        char message[1024]
        SlotTensor inputs[64]
        SlotTensor outputs[64]

    cdef cppclass LaneHeader:
        uint32_t magic
        uint32_t slots
        uint64_t slot_bytes
        Slot slot[2]

    uint8_t* lane_inputs(LaneHeader*, int, size_t)
    uint8_t* lane_outputs(LaneHeader*, int, size_t)
    uint32_t slot_state(const Slot&)
    void set_slot_state(Slot&, uint32_t)
    void set_nudged(LaneHeader*)
    cbool take_nudge(LaneHeader*)
    size_t lane_align(size_t)
    size_t lane_file_bytes(size_t)
    cbool read_output(const Slot&, int, size_t, SlotTensor&)
    const uint32_t kLaneMagic


cdef class Lane:
    cdef LaneHeader* header
    cdef size_t mapped
    cdef readonly int memfd
    # Pipes, because their ends have flags of their own: a worker can neither make the gateway wait nor ring for it.
    # The gateway's end of each, and the worker's, which is kept so that a worker's death is no news here.
    cdef readonly int doorbell, completion
    cdef int worker_doorbell, worker_completion
    cdef readonly size_t slot_bytes
    cdef int fill_next, harvest_next
    # What runs in each slot: the batch as a chain by Exchange.next, how many rows, and since when.
    cdef list running   # of Exchange or None
    cdef int64_t running_rows[2]
    cdef double started[2]
    cdef double last_harvest   # when the last result was read; 0 before the first
    cdef cbool closed

    cdef void unmap(self) noexcept

    # Since when the oldest running batch has had the worker to itself.
    cdef double running_since(self) noexcept
    # The slot that may be filled now, or -1.
    cdef int free_slot(self) noexcept
    # True when the next batch to come back has come back.
    cdef cbool has_result(self) noexcept
    # Copies the chain's inputs into `slot`; returns how many exchanges of it fitted (at least 1 when the first fits).
    cdef int gather(self, int slot, Exchange head, int64_t* rows) noexcept
    cdef void ring(self, int slot, Exchange head, int64_t rows, double now) noexcept
    cdef void acknowledge(self) noexcept
    # Frees the oldest slot after its results were read.
    cdef void release_slot(self, int slot) noexcept
