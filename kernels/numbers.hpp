// Whether an answer holds what is no number: the one thing about values that is wrong without knowing the model.
#pragma once

#include <cstdint>
#include <cstring>
#include <vector>

#include "infer.hpp"

namespace sluice {

namespace numbers_detail {

// Elements whose exponent is all ones and whose fraction is not zero.
template <class Word>
bool has_nan(const uint8_t* data, size_t size, Word infinity) {
    constexpr Word kMagnitude = static_cast<Word>(Word(~Word(0)) >> 1);
    unsigned found = 0;
    for (size_t at = 0; at + sizeof(Word) <= size; at += sizeof(Word)) {
        Word word;
        std::memcpy(&word, data + at, sizeof word);
        found |= static_cast<Word>(word & kMagnitude) > infinity;
    }
    return found != 0;
}

}  // namespace numbers_detail

inline bool has_nan(const std::vector<OutputView>& views) {
    using numbers_detail::has_nan;
    for (const OutputView& view : views) {
        switch (view.datatype) {
        case DataType::FP32: if (has_nan<uint32_t>(view.data, view.size, 0x7f800000u)) return true; break;
        case DataType::FP64: if (has_nan<uint64_t>(view.data, view.size, 0x7ff0000000000000u)) return true; break;
        case DataType::FP16: if (has_nan<uint16_t>(view.data, view.size, 0x7c00u)) return true; break;
        case DataType::BF16: if (has_nan<uint16_t>(view.data, view.size, 0x7f80u)) return true; break;
        default: break;
        }
    }
    return false;
}

}  // namespace sluice
