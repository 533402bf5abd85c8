// `google.rpc.Status` for `grpc-status-details-bin`: what a program can act on, beside the text for a person. Written by
// hand, so that an error costs no protobuf object.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <string_view>

namespace sluice::grpc {

constexpr std::string_view kErrorDomain = "sluice";
constexpr size_t kMaxDetailsText = 1024;  // bytes: clients bound the headers that they accept to 8 KiB

namespace details_detail {

inline void put_varint(std::string& out, uint64_t value) {
    for (; value >= 128; value >>= 7) out.push_back(static_cast<char>(value | 128));
    out.push_back(static_cast<char>(value));
}

inline void put_number(std::string& out, int field, uint64_t value) {
    if (value == 0) return;
    put_varint(out, static_cast<uint64_t>(field) << 3);
    put_varint(out, value);
}

inline void put_bytes(std::string& out, int field, std::string_view value) {
    put_varint(out, static_cast<uint64_t>(field) << 3 | 2);
    put_varint(out, value.size());
    out.append(value);
}

inline void put_any(std::string& status, std::string_view type, std::string_view message) {
    std::string any;
    put_bytes(any, 1, type);
    put_bytes(any, 2, message);
    put_bytes(status, 3, any);
}

// The length of the UTF-8 sequence at the front of `text`, 0 when there is none.
inline size_t utf8_length(std::string_view text) {
    const auto byte = [&](size_t i) { return static_cast<uint8_t>(text[i]); };
    const uint8_t first = byte(0);
    const size_t length = first < 0x80 ? 1 : first < 0xC2 ? 0 : first < 0xE0 ? 2 : first < 0xF0 ? 3 : first < 0xF5 ? 4 : 0;
    if (length == 0 || length > text.size()) return 0;
    for (size_t i = 1; i < length; ++i)
        if ((byte(i) & 0xC0) != 0x80) return 0;
    if (length < 3) return length;
    const uint8_t second = byte(1);
    const bool is_odd = (first == 0xE0 && second < 0xA0) || (first == 0xED && second > 0x9F) ||  // overlong, surrogate
                        (first == 0xF0 && second < 0x90) || (first == 0xF4 && second > 0x8F);    // overlong, too large
    return is_odd ? 0 : length;
}

// Messages repeat what callers sent, and a protobuf string that is not UTF-8 makes clients drop the whole status.
inline std::string to_utf8(std::string_view text) {
    std::string out;
    while (!text.empty()) {
        const size_t length = utf8_length(text);
        if (out.size() + std::max<size_t>(length, 1) > kMaxDetailsText) break;
        if (length) out.append(text.substr(0, length));
        else out.push_back('?');
        text.remove_prefix(std::max<size_t>(length, 1));
    }
    return out;
}

}  // namespace details_detail

// The serialized Status with an ErrorInfo when there is a `reason` (UPPER_SNAKE_CASE) and a RetryInfo when
// `retry_after` (seconds) is positive; empty when there is neither. Throws std::bad_alloc.
inline std::string status_details(int code, std::string_view message, std::string_view reason, double retry_after) {
    using namespace details_detail;
    std::string status;
    if (reason.empty() && !(retry_after > 0.0)) return status;
    put_number(status, 1, static_cast<uint64_t>(code));
    put_bytes(status, 2, to_utf8(message));
    if (!reason.empty()) {
        std::string info;
        put_bytes(info, 1, reason);
        put_bytes(info, 2, kErrorDomain);
        put_any(status, "type.googleapis.com/google.rpc.ErrorInfo", info);
    }
    if (retry_after > 0.0) {
        // The same milliseconds as in grpc-retry-pushback-ms.
        const auto ms = static_cast<uint64_t>(std::ceil(std::min(retry_after, 1e6) * 1e3));
        std::string delay, info;
        put_number(delay, 1, ms / 1000);
        put_number(delay, 2, ms % 1000 * 1000000);
        put_bytes(info, 1, delay);
        put_any(status, "type.googleapis.com/google.rpc.RetryInfo", info);
    }
    return status;
}

}  // namespace sluice::grpc
