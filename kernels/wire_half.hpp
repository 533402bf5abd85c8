// The two 16-bit floats, FP16 (5 exponent bits) and BF16 (8), to and from wider ones by arithmetic on bits. Narrowing
// rounds once, to nearest even, from the full double.
#pragma once

#include <bit>
#include <cstdint>

namespace sluice {

template <int kExponentBits>
constexpr uint16_t narrow_float(double value) {
    constexpr int kMantissaBits = 15 - kExponentBits;
    constexpr int kBias = (1 << (kExponentBits - 1)) - 1;
    constexpr uint64_t kInfinity = uint64_t((1 << kExponentBits) - 1) << kMantissaBits;
    const uint64_t bits = std::bit_cast<uint64_t>(value);
    const uint64_t sign = (bits >> 63) << 15;
    const int exponent = int((bits >> 52) & 0x7ff);
    const uint64_t fraction = bits & ((uint64_t{1} << 52) - 1);
    if (exponent == 0x7ff) {
        if (!fraction) return uint16_t(sign | kInfinity);
        return uint16_t(sign | kInfinity | (uint64_t{1} << (kMantissaBits - 1)) | (fraction >> (52 - kMantissaBits)));
    }
    int narrow = exponent - 1023 + kBias;
    if (narrow >= (1 << kExponentBits) - 1) return uint16_t(sign | kInfinity);
    uint64_t mantissa = fraction | (exponent ? uint64_t{1} << 52 : 0);
    int shift = 52 - kMantissaBits;
    if (narrow < 1) {  // subnormal there: one exponent for all, fewer bits
        shift += 1 - narrow;
        if (shift > 54) return uint16_t(sign);
        narrow = 1;
    }
    const uint64_t half = uint64_t{1} << (shift - 1);
    const uint64_t rest = mantissa & ((uint64_t{1} << shift) - 1);
    mantissa >>= shift;
    mantissa += rest > half || (rest == half && (mantissa & 1));
    // The leading bit adds one to the exponent field, and so does a carry out of the fraction, up to infinity.
    return uint16_t(sign | ((uint64_t(narrow - 1) << kMantissaBits) + mantissa));
}

constexpr uint16_t half_from_double(double value) { return narrow_float<5>(value); }
constexpr uint16_t bfloat_from_double(double value) { return narrow_float<8>(value); }

constexpr float float_from_bfloat(uint16_t bits) { return std::bit_cast<float>(uint32_t(bits) << 16); }

constexpr float float_from_half(uint16_t bits) {
    const uint32_t sign = uint32_t(bits & 0x8000) << 16;
    const uint32_t exponent = (bits >> 10) & 0x1f;
    const uint32_t fraction = bits & 0x3ff;
    if (exponent == 0x1f) return std::bit_cast<float>(sign | 0x7f800000u | (fraction << 13));
    if (exponent == 0) {
        const float magnitude = float(fraction) * 0x1p-24f;
        return sign ? -magnitude : magnitude;
    }
    return std::bit_cast<float>(sign | ((exponent + 112) << 23) | (fraction << 13));
}

}  // namespace sluice
