// What the native targets share: a check that ends the process and says what did not hold, bytes whose ends
// AddressSanitizer guards, and numbers that an input decides.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

// On in every build, unlike assert.
#define MUST(condition)                                                                      \
    do {                                                                                     \
        if (!(condition)) {                                                                  \
            std::fprintf(stderr, "%s:%d: does not hold: %s\n", __FILE__, __LINE__, #condition); \
            __builtin_trap();                                                                \
        }                                                                                    \
    } while (0)

namespace fuzz {

// A copy on the heap that ends where the bytes end, with `padding` bytes of `fill` behind them.
class Bytes {
public:
    explicit Bytes(std::string_view bytes, size_t padding = 0, char fill = 0)
        : data_(new uint8_t[bytes.size() + padding]), size_(bytes.size()) {
        if (size_) std::memcpy(data_, bytes.data(), size_);
        if (padding) std::memset(data_ + size_, fill, padding);
    }
    Bytes(const Bytes&) = delete;
    Bytes& operator=(const Bytes&) = delete;
    ~Bytes() { delete[] data_; }
    const uint8_t* data() const { return data_; }
    size_t size() const { return size_; }

private:
    uint8_t* data_;
    size_t size_;
};

// Small numbers from a seed, the same every time (an LCG: nothing here needs more).
class Dice {
public:
    explicit Dice(uint32_t seed) : state_(seed * 2654435761u + 1) {}
    // Below `n`, which is positive.
    size_t below(size_t n) {
        state_ = state_ * 1664525u + 1013904223u;
        return (state_ >> 8) % n;
    }

private:
    uint32_t state_;
};

// The sizes of the reads that bring `size` bytes; often single bytes.
inline std::vector<size_t> reads(size_t size, uint32_t seed) {
    Dice dice(seed);
    std::vector<size_t> sizes;
    while (size) {
        size_t n = dice.below(3) == 0 ? 1 + dice.below(64) : 1 + dice.below(3);
        sizes.push_back(n < size ? n : size);
        size -= sizes.back();
    }
    return sizes;
}

}  // namespace fuzz
