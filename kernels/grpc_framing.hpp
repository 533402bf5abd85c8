// What gRPC writes in headers and in front of messages, as functions of bytes: timeouts, content types, encodings,
// percent- and base64-encoding. Nothing here knows a stream or a session.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace sluice::grpc {

constexpr size_t kPrefix = 5;  // one flag byte and a big-endian length stand before every message

enum class Encoding : uint8_t { IDENTITY = 0, GZIP = 1, DEFLATE = 2, UNKNOWN = 3 };

constexpr std::string_view kAcceptEncoding = "identity,deflate,gzip";

// The decimal text of a status code, in static memory.
inline std::string_view status_text(int code) {
    static constexpr std::string_view texts[17] = {"0", "1", "2",  "3",  "4",  "5",  "6",  "7", "8",
                                                   "9", "10", "11", "12", "13", "14", "15", "16"};
    return texts[code >= 0 && code <= 16 ? code : 2];
}

inline void write_prefix(uint8_t* at, bool compressed, size_t size) {
    at[0] = compressed;
    at[1] = static_cast<uint8_t>(size >> 24);
    at[2] = static_cast<uint8_t>(size >> 16);
    at[3] = static_cast<uint8_t>(size >> 8);
    at[4] = static_cast<uint8_t>(size);
}

inline uint32_t prefix_size(const uint8_t* prefix) {
    return uint32_t{prefix[1]} << 24 | uint32_t{prefix[2]} << 16 | uint32_t{prefix[3]} << 8 | prefix[4];
}

// `grpc-timeout`: one to eight digits and a unit. Seconds, or -1 when malformed.
inline double parse_timeout(std::string_view text) {
    if (text.size() < 2 || text.size() > 9) return -1.0;
    double value = 0.0;
    for (char c : text.substr(0, text.size() - 1)) {
        if (c < '0' || c > '9') return -1.0;
        value = value * 10.0 + (c - '0');
    }
    switch (text.back()) {
        case 'H': return value * 3600.0;
        case 'M': return value * 60.0;
        case 'S': return value;
        case 'm': return value * 1e-3;
        case 'u': return value * 1e-6;
        case 'n': return value * 1e-9;
        default: return -1.0;
    }
}

inline char lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; }

inline bool starts_with_lower(std::string_view text, std::string_view prefix) {
    if (text.size() < prefix.size()) return false;
    for (size_t i = 0; i < prefix.size(); ++i)
        if (lower(text[i]) != prefix[i]) return false;
    return true;
}

// `application/grpc` or `application/grpc+proto`, with or without parameters.
inline bool is_content_type(std::string_view text) {
    constexpr std::string_view name = "application/grpc", suffix = "+proto";
    if (!starts_with_lower(text, name)) return false;
    text.remove_prefix(name.size());
    if (starts_with_lower(text, suffix)) text.remove_prefix(suffix.size());
    while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) text.remove_prefix(1);
    return text.empty() || text.front() == ';';
}

inline Encoding parse_encoding(std::string_view text) {
    if (text == "identity") return Encoding::IDENTITY;
    if (text == "gzip") return Encoding::GZIP;
    if (text == "deflate") return Encoding::DEFLATE;
    return Encoding::UNKNOWN;
}

// Calls `each` with every element of a comma-separated list, spaces around it taken off, empty ones too.
template <class Each>
inline void split_list(std::string_view text, Each each) {
    for (;;) {
        size_t comma = text.find(',');
        std::string_view part = text.substr(0, comma);
        while (!part.empty() && part.front() == ' ') part.remove_prefix(1);
        while (!part.empty() && part.back() == ' ') part.remove_suffix(1);
        each(part);
        if (comma == std::string_view::npos) return;
        text.remove_prefix(comma + 1);
    }
}

inline bool list_has(std::string_view list, std::string_view token) {
    bool found = false;
    split_list(list, [&](std::string_view part) { found |= part == token; });
    return found;
}

// `grpc-message`: printable ASCII but for the percent sign stays, every other byte becomes %XX.
inline void percent_encode(std::string_view text, std::string& out) {
    constexpr char digits[] = "0123456789ABCDEF";
    for (unsigned char c : text) {
        if (c >= 0x20 && c <= 0x7e && c != '%') {
            out.push_back(static_cast<char>(c));
        } else {
            out.push_back('%');
            out.push_back(digits[c >> 4]);
            out.push_back(digits[c & 15]);
        }
    }
}

inline void base64_encode(std::string_view bytes, std::string& out) {
    constexpr char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    uint32_t bits = 0;
    int held = 0;
    for (unsigned char c : bytes) {
        bits = bits << 8 | c;
        for (held += 8; held >= 6; held -= 6) out.push_back(digits[bits >> (held - 6) & 63]);
    }
    if (held) out.push_back(digits[bits << (6 - held) & 63]);  // without padding, as gRPC asks of senders
}

// Padded or not. False when it is not base64.
inline bool base64_decode(std::string_view text, std::string& out) {
    if (text.size() % 4 == 0)
        for (int i = 0; i < 2 && !text.empty() && text.back() == '='; ++i) text.remove_suffix(1);
    if (text.size() % 4 == 1) return false;
    uint32_t bits = 0;
    int held = 0;
    for (char c : text) {
        uint32_t value;
        if (c >= 'A' && c <= 'Z') value = static_cast<uint32_t>(c - 'A');
        else if (c >= 'a' && c <= 'z') value = static_cast<uint32_t>(c - 'a' + 26);
        else if (c >= '0' && c <= '9') value = static_cast<uint32_t>(c - '0' + 52);
        else if (c == '+') value = 62;
        else if (c == '/') value = 63;
        else return false;
        bits = bits << 6 | value;
        held += 6;
        if (held >= 8) {
            held -= 8;
            out.push_back(static_cast<char>(bits >> held & 255));
        }
    }
    return true;
}

// Names that a call's handler does not see: the transport has dealt with them.
inline bool is_reserved(std::string_view name) {
    return name.front() == ':' || name == "te" || name == "content-type" || name.substr(0, 5) == "grpc-";
}

inline bool is_binary(std::string_view name) { return name.size() > 4 && name.substr(name.size() - 4) == "-bin"; }

// What a server may send as a metadata key.
inline bool is_metadata_key(std::string_view name) {
    if (name.empty() || is_reserved(name) || name == "connection" || name == "transfer-encoding") return false;
    for (char c : name)
        if (!((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' || c == '_' || c == '.')) return false;
    return true;
}

inline bool is_metadata_text(std::string_view value) {
    for (unsigned char c : value)
        if (c < 0x20 || c > 0x7e) return false;
    return value.empty() || (value.front() != ' ' && value.back() != ' ');
}

}  // namespace sluice::grpc
