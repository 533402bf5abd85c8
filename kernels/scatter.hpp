// The outputs of one batch, dealt out to the requests that made it up, in order. Each request gets views into the slot,
// or of a copy where the worker could make an encoder trip by changing what it has read once already.
#pragma once

#include "lanes.hpp"
#include "signature.hpp"

namespace sluice {

class Scatter {
public:
    // False when the outputs cannot be what the signature and the batch say.
    bool open(const Signature& signature, LaneHeader* lane, int slot, size_t slot_bytes, bool batched, int64_t rows,
              uint64_t wanted) {
        const Slot& s = lane->slot[slot];
        count_ = s.output_count;
        read_once();
        if (count_ > uint32_t(kLaneTensors)) return false;
        batched_ = batched;
        given_ = 0;
        is_spent_ = false;
        const uint8_t* base = lane_outputs(lane, slot, slot_bytes);
        for (uint32_t i = 0; i < count_; ++i) {
            SlotTensor& t = tensors_[i];
            if (!read_output(s, int(i), slot_bytes, t)) return false;
            if (t.index >= uint32_t(kLaneTensors) || (given_ >> t.index & 1)) return false;
            if (batched && (t.rank == 0 || t.shape[0] != rows)) return false;
            at_[i] = base + t.offset;
            end_[i] = at_[i] + t.size;
            elements_[i] = 1;
            for (uint32_t d = batched ? 1 : 0; d < t.rank; ++d) elements_[i] *= uint64_t(t.shape[d]);
            position_[t.index] = i;
            given_ |= uint64_t{1} << t.index;
        }
        for (const TensorSpec& spec : signature.outputs) {
            if (!(wanted >> spec.index & 1)) continue;
            if (!(given_ >> spec.index & 1)) return false;
            const SlotTensor& t = tensors_[position_[spec.index]];
            if (DataType(t.datatype) != spec.datatype || (spec.reshaped && int32_t(t.rank) != spec.engine_rank)) return false;
        }
        return true;
    }

    // Moves on to the next request of the batch, which has `rows` rows. False when a BYTES output ends too early, for
    // this request and all behind it: nobody knows any more whose rows come next.
    bool next(int64_t rows) {
        if (is_spent_) return false;
        is_spent_ = true;
        for (uint32_t i = 0; i < count_; ++i) {
            const SlotTensor& t = tensors_[i];
            const uint64_t elements = elements_[i] * uint64_t(batched_ ? rows : 1);
            size_t span = size_t(elements) * element_size(DataType(t.datatype));
            if (DataType(t.datatype) == DataType::BYTES && !bytes_span(at_[i], size_t(end_[i] - at_[i]), elements, span)) return false;
            if (span > size_t(end_[i] - at_[i])) return false;
            data_[i] = at_[i];
            size_[i] = span;
            at_[i] += span;
        }
        is_spent_ = false;
        return true;
    }

    // The current request's part of a wanted output.
    void view(const TensorSpec& spec, int64_t rows, OutputView& out) const {
        const uint32_t i = position_[spec.index];
        const SlotTensor& t = tensors_[i];
        out.name = spec.name;
        out.data = data_[i];
        out.size = size_[i];
        out.rank = int32_t(t.rank);
        std::memcpy(out.shape, t.shape, sizeof t.shape);
        if (batched_) out.shape[0] = rows;
        if (spec.reshaped) {
            translate(spec.engine_shape, spec.engine_rank, out.shape, spec.shape, spec.rank, out.shape);
            out.rank = spec.rank;
        }
        out.datatype = DataType(t.datatype);
        out.binary = -1;
    }

private:
    // The bytes of `count` length-prefixed elements.
    static bool bytes_span(const uint8_t* at, size_t size, uint64_t count, size_t& span) {
        const uint8_t* p = at;
        size_t left = size;
        for (uint64_t i = 0; i < count; ++i) {
            uint32_t length;
            if (left < 4) return false;
            std::memcpy(&length, p, 4);
            read_once();
            if (left - 4 < length) return false;
            p += 4 + size_t(length);
            left -= 4 + size_t(length);
        }
        span = size_t(p - at);
        return true;
    }

    SlotTensor tensors_[kLaneTensors];
    const uint8_t* at_[kLaneTensors];
    const uint8_t* end_[kLaneTensors];
    const uint8_t* data_[kLaneTensors];
    size_t size_[kLaneTensors];
    uint64_t elements_[kLaneTensors];
    uint32_t position_[kLaneTensors];
    uint32_t count_ = 0;
    uint64_t given_ = 0;
    bool batched_ = false;
    bool is_spent_ = false;
};

// The answer's outputs: those the request lists, in its order, else all of the signature's. `typed`: the encoder counts
// integers before it writes them; it always does so with BYTES. `classed`: those that the request wants classified are.
inline void collect_views(const Signature& s, const Scatter& scatter, InferRequest& r, int64_t rows, bool typed,
                          bool classed, std::vector<OutputView>& views) {
    const bool batched = s.max_batch_size > 0;
    views.clear();
    const auto add = [&](const TensorSpec& spec) -> OutputView& {
        OutputView& view = views.emplace_back();
        scatter.view(spec, rows, view);
        if (view.size && (typed || view.datatype == DataType::BYTES))
            view.data = reinterpret_cast<const uint8_t*>(
                r.arena.copy({reinterpret_cast<const char*>(view.data), view.size}).data());
        return view;
    };
    if (r.outputs.empty())
        for (const TensorSpec& spec : s.outputs) add(spec);
    for (const RequestedOutput& wanted : r.outputs) {
        const TensorSpec& spec = s.outputs[size_t(s.find_output(wanted.name))];
        OutputView& view = add(spec);
        view.binary = wanted.binary;
        if (classed && wanted.classification > 0) classify(spec, batched, wanted.classification, view, r.arena);
    }
}

}  // namespace sluice
