// Numbers that divide traffic: a keyed hash (SipHash-2-4) whose outcome nobody without the key can choose or foresee.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace sluice {

struct DrawKey {
    uint64_t first = 0, second = 0;
};

namespace draw_detail {

struct Sip {
    uint64_t a, b, c, d;
    explicit Sip(const DrawKey& key)
        : a(key.first ^ 0x736f6d6570736575ULL), b(key.second ^ 0x646f72616e646f6dULL),
          c(key.first ^ 0x6c7967656e657261ULL), d(key.second ^ 0x7465646279746573ULL) {}
    void round() {
        a += b; b = std::rotl(b, 13); b ^= a; a = std::rotl(a, 32);
        c += d; d = std::rotl(d, 16); d ^= c;
        a += d; d = std::rotl(d, 21); d ^= a;
        c += b; b = std::rotl(b, 17); b ^= c; c = std::rotl(c, 32);
    }
    void take(uint64_t word) {
        d ^= word;
        round();
        round();
        a ^= word;
    }
    uint64_t finish() {
        c ^= 0xff;
        for (int i = 0; i < 4; ++i) round();
        return a ^ b ^ c ^ d;
    }
};

}  // namespace draw_detail

inline uint64_t draw(const DrawKey& key, const void* bytes, size_t size) {
    draw_detail::Sip sip(key);
    auto* at = static_cast<const uint8_t*>(bytes);
    uint64_t word;
    for (size_t left = size; left >= 8; left -= 8, at += 8) {
        std::memcpy(&word, at, 8);
        sip.take(word);
    }
    word = 0;
    std::memcpy(&word, at, size & 7);
    sip.take(word | uint64_t(size & 0xff) << 56);
    return sip.finish();
}

// In [0, 1), every step of 2^-53 as likely as any other.
inline double to_share(uint64_t drawn) { return double(drawn >> 11) * 0x1p-53; }

}  // namespace sluice
