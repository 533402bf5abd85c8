// The layout of a lane: shared memory with a mailbox of two slots between the gateway and one worker.
//
// One file (a memfd) holds the header and, per slot, an input and an output area of `slot_bytes` each. The file is sparse:
// memory is used only where a batch has touched it. Slots are used strictly in turn by both ends, so each end knows which
// one comes next and an atomic state per slot is all the protocol there is:
//
//     FREE --gateway fills, rings--> FILLED --worker runs, rings--> DONE | FAILED --gateway scatters--> FREE
//
// The worker is not trusted, and may write anything at any time. So the gateway keeps what it must know of a lane to
// itself (sizes, what runs where), copies what a slot says about its outputs before it checks it, and copies outputs
// that an encoder reads twice. The file is sealed: nobody can shrink it under the gateway.
#pragma once

#include <atomic>
#include <cstdint>

#include "infer.hpp"

namespace sluice {

constexpr uint32_t kLaneMagic = 0x534c4e31;  // "SLN1"
constexpr int kLaneSlots = 2;
constexpr int kLaneTensors = 64;
constexpr size_t kLaneAlign = 64;
constexpr size_t kLaneMessage = 1024;

enum SlotState : uint32_t { SLOT_FREE = 0, SLOT_FILLED = 1, SLOT_DONE = 2, SLOT_FAILED = 3 };

struct SlotTensor {
    uint64_t offset;  // into the slot's input or output area
    uint64_t size;
    int64_t shape[kMaxRank];
    uint32_t rank;
    uint32_t datatype;
    uint32_t index;  // position in the model's signature
    uint32_t reserved;
};

struct Slot {
    std::atomic<uint32_t> state;
    uint32_t rows;
    uint32_t input_count;
    uint32_t output_count;
    uint64_t wanted;  // bit i: output i is wanted
    uint64_t compute_start_ns;  // CLOCK_MONOTONIC
    uint64_t compute_end_ns;
    int32_t code;
    uint32_t message_size;
    char message[kLaneMessage];
    SlotTensor inputs[kLaneTensors];
    SlotTensor outputs[kLaneTensors];
};

struct LaneHeader {
    uint32_t magic;
    uint32_t slots;
    uint64_t slot_bytes;
    std::atomic<uint32_t> nudged;  // a control message waits
    Slot slot[kLaneSlots];
};

inline size_t lane_header_bytes() { return (sizeof(LaneHeader) + 4095) & ~size_t{4095}; }
inline size_t lane_file_bytes(size_t slot_bytes) { return lane_header_bytes() + 2 * kLaneSlots * slot_bytes; }
// `slot_bytes` is each end's own note of it, not the header's.
inline uint8_t* lane_inputs(LaneHeader* h, int slot, size_t slot_bytes) {
    return reinterpret_cast<uint8_t*>(h) + lane_header_bytes() + size_t(2 * slot) * slot_bytes;
}
inline uint8_t* lane_outputs(LaneHeader* h, int slot, size_t slot_bytes) {
    return lane_inputs(h, slot, slot_bytes) + slot_bytes;
}
inline size_t lane_align(size_t n) { return (n + kLaneAlign - 1) & ~(kLaneAlign - 1); }

inline uint32_t slot_state(const Slot& s) { return s.state.load(std::memory_order_acquire); }
inline void set_slot_state(Slot& s, uint32_t state) { s.state.store(state, std::memory_order_release); }
inline void set_nudged(LaneHeader* h) { h->nudged.store(1, std::memory_order_release); }
inline bool take_nudge(LaneHeader* h) { return h->nudged.exchange(0, std::memory_order_acq_rel) != 0; }

// Makes the compiler keep what has been read of shared memory: reading it again could give something else.
inline void read_once() { __asm__ volatile("" ::: "memory"); }

// Copies the description of one output and says whether it can be true: inside its area, and as large as its shape says.
// A BYTES tensor's elements are checked by whoever walks them.
inline bool read_output(const Slot& slot, int i, size_t slot_bytes, SlotTensor& out) {
    out = slot.outputs[i];
    read_once();
    if (out.rank > kMaxRank || out.datatype == 0 || out.datatype >= uint32_t(kDataTypes)) return false;
    if (out.offset > slot_bytes || out.size > slot_bytes - out.offset) return false;
    uint64_t count = 1;
    for (uint32_t d = 0; d < out.rank; ++d) {
        if (out.shape[d] < 0) return false;
        if (__builtin_mul_overflow(count, uint64_t(out.shape[d]), &count)) return false;
    }
    size_t element = element_size(static_cast<DataType>(out.datatype));
    if (element == 0) return count <= out.size / 4 || count == 0;
    uint64_t bytes;
    return !__builtin_mul_overflow(count, uint64_t(element), &bytes) && bytes == out.size;
}

}  // namespace sluice
