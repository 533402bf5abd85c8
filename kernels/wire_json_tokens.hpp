// JSON text as a row of tokens. simdjson finds where they start, and that the text is UTF-8 with closed strings; the
// strings and numbers are read here, never past the last token. The one file that knows simdjson, of which it uses the
// first stage and the parser of doubles: with the tokens at hand every step is bounded by their count, and a step back
// costs nothing.
#pragma once

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <string_view>

#include <simdjson.h>

#include "infer.hpp"

namespace sluice {

static_assert(kPadding >= simdjson::SIMDJSON_PADDING);

// A character that may follow a number or a literal.
inline bool ends_scalar(uint8_t c) noexcept {
    return c == ',' || c == ']' || c == '}' || c == ':' || c == '[' || c == '{' || c == ' ' || c == '\n' || c == '\r' ||
           c == '\t';
}

class JsonTokens {
public:
    // Finds the tokens of `text`, which has kPadding readable bytes behind it. Null on success, else what is wrong.
    const char* scan(const uint8_t* text, size_t size) noexcept {
        text_ = text;
        size_ = size;
        count_ = 0;
        if (size > kMostBytes) return "the document is too large";
        if (!scanner_ || scanner_->capacity() < size) {
            if (!grow(size)) return kNoMemory;
        }
        const auto code = scanner_->stage1(text, size, simdjson::stage1_mode::regular);
        if (code == simdjson::EMPTY) return "The document is empty.";
        if (code == simdjson::UTF8_ERROR) return "Invalid encoding in string.";
        if (code == simdjson::UNCLOSED_STRING) return "Missing a closing quotation mark in string.";
        if (code) return "Invalid value.";
        indexes_ = scanner_->structural_indexes.get();
        count_ = scanner_->n_structural_indexes;
        return nullptr;
    }

    // Gives back what a large text needed.
    void shrink() noexcept {
        if (scanner_ && scanner_->capacity() > kKeep) scanner_.reset();
        indexes_ = nullptr;
        count_ = 0;
    }

    static constexpr const char* kNoMemory = "out of memory";

    size_t count() const noexcept { return count_; }
    size_t size() const noexcept { return size_; }
    const uint8_t* text() const noexcept { return text_; }
    const uint32_t* indexes() const noexcept { return indexes_; }
    const uint8_t* end() const noexcept { return text_ + size_; }
    // Where token `i` starts; the end of the text for those past the last.
    size_t offset(size_t i) const noexcept { return i < count_ ? indexes_[i] : size_; }
    const uint8_t* at(size_t i) const noexcept { return text_ + indexes_[i]; }
    // The first character of token `i`; 0 past the last.
    uint8_t kind(size_t i) const noexcept { return i < count_ ? text_[indexes_[i]] : 0; }

    // The token behind the one at `i` with all that its brackets enclose, as far as brackets tell.
    size_t behind(size_t i) const noexcept {
        size_t open = 0;
        do {
            open += kind(i) == '[';
            open -= open && kind(i) == ']';
            ++i;
        } while (open && i < count_);
        return i;
    }

    // The text of token `i` up to the next one, without white space behind.
    std::string_view spelling(size_t i) const noexcept {
        std::string_view token(reinterpret_cast<const char*>(text_) + offset(i), offset(i + 1) - offset(i));
        const size_t last = token.find_last_not_of(" \t\r\n");
        return token.substr(0, last == token.npos ? 0 : last + 1);
    }

private:
    static constexpr size_t kMostBytes = size_t{1} << 31;
    static constexpr size_t kLeast = 16 * 1024;
    static constexpr size_t kKeep = 1024 * 1024;

    bool grow(size_t size) noexcept {
        size_t capacity = kLeast;
        while (capacity < size) capacity *= 2;
        if (scanner_) return scanner_->set_capacity(capacity) == simdjson::SUCCESS;
        return simdjson::get_active_implementation()->create_dom_parser_implementation(capacity, 1, scanner_) ==
               simdjson::SUCCESS;
    }

    std::unique_ptr<simdjson::internal::dom_parser_implementation> scanner_;
    const uint8_t* text_ = nullptr;
    const uint32_t* indexes_ = nullptr;
    size_t size_ = 0;
    size_t count_ = 0;
};

// The bytes between the quotes of a string token that starts at `quote`. `escaped`: there are backslashes in it. The
// closing quote exists: the scan has found it.
inline std::string_view string_body(const uint8_t* quote, const uint8_t* text_end, bool& escaped) noexcept {
    const uint8_t* begin = quote + 1;
    const uint8_t* at = begin;
    escaped = false;
    for (const uint8_t* near = text_end - at > 16 ? at + 16 : at; at != near; ++at) {
        if (*at == '"') [[unlikely]] return {reinterpret_cast<const char*>(begin), static_cast<size_t>(at - begin)};
        if (*at == '\\') break;
    }
    const auto* end = static_cast<const uint8_t*>(std::memchr(at, '"', static_cast<size_t>(text_end - at)));
    const auto* slash = static_cast<const uint8_t*>(std::memchr(at, '\\', static_cast<size_t>(end - at)));
    if (slash) {
        escaped = true;
        for (end = slash; *end != '"'; ++end) end += *end == '\\';
    }
    return {reinterpret_cast<const char*>(begin), static_cast<size_t>(end - begin)};
}

inline constexpr const char* kInvalidEscape = "Invalid escape character in string.";

// Writes `body` without its escapes to `to`, which has room for body.size() bytes, and returns the end; null for an
// escape that is none, or half of a surrogate pair.
inline uint8_t* unescape(std::string_view body, uint8_t* to) noexcept {
    const char* at = body.data();
    const char* end = at + body.size();
    const auto hex = [&](uint32_t& code) {
        if (end - at < 4) return false;
        code = 0;
        for (int i = 0; i < 4; ++i) {
            const char c = *at++;
            const char lower = static_cast<char>(c | 0x20);
            if (c >= '0' && c <= '9') code = code * 16 + static_cast<uint32_t>(c - '0');
            else if (lower >= 'a' && lower <= 'f') code = code * 16 + static_cast<uint32_t>(lower - 'a' + 10);
            else return false;
        }
        return true;
    };
    while (at != end) {
        if (*at != '\\') { *to++ = static_cast<uint8_t>(*at++); continue; }
        if (++at == end) return nullptr;
        switch (*at++) {
            case '"': *to++ = '"'; break;
            case '\\': *to++ = '\\'; break;
            case '/': *to++ = '/'; break;
            case 'b': *to++ = '\b'; break;
            case 'f': *to++ = '\f'; break;
            case 'n': *to++ = '\n'; break;
            case 'r': *to++ = '\r'; break;
            case 't': *to++ = '\t'; break;
            case 'u': {
                uint32_t code, low;
                if (!hex(code) || (code >= 0xDC00 && code < 0xE000)) return nullptr;
                if (code >= 0xD800 && code < 0xDC00) {
                    if (end - at < 6 || at[0] != '\\' || at[1] != 'u') return nullptr;
                    at += 2;
                    if (!hex(low) || low < 0xDC00 || low >= 0xE000) return nullptr;
                    code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
                }
                const auto tail = [&](int shift) { return static_cast<uint8_t>(0x80 | ((code >> shift) & 0x3f)); };
                if (code < 0x80) {
                    *to++ = static_cast<uint8_t>(code);
                } else if (code < 0x800) {
                    *to++ = static_cast<uint8_t>(0xC0 | (code >> 6));
                    *to++ = tail(0);
                } else if (code < 0x10000) {
                    *to++ = static_cast<uint8_t>(0xE0 | (code >> 12));
                    *to++ = tail(6);
                    *to++ = tail(0);
                } else {
                    *to++ = static_cast<uint8_t>(0xF0 | (code >> 18));
                    *to++ = tail(12);
                    *to++ = tail(6);
                    *to++ = tail(0);
                }
                break;
            }
            default: return nullptr;
        }
    }
    return to;
}

// What a scalar token turned out to be.
enum class NumberKind : uint8_t { NONE, INTEGER, FRACTION };

// Whether `token` is a JSON number, to the letter of RFC 8259, and whether it is written as an integer.
inline NumberKind number_kind(std::string_view token) noexcept {
    size_t i = 0;
    const auto digits = [&] {
        const size_t begin = i;
        while (i < token.size() && token[i] >= '0' && token[i] <= '9') ++i;
        return i - begin;
    };
    if (i < token.size() && token[i] == '-') ++i;
    const size_t first = i;
    const size_t whole = digits();
    if (!whole || (whole > 1 && token[first] == '0')) return NumberKind::NONE;
    NumberKind kind = NumberKind::INTEGER;
    if (i < token.size() && token[i] == '.') {
        ++i;
        kind = NumberKind::FRACTION;
        if (!digits()) return NumberKind::NONE;
    }
    if (i < token.size() && (token[i] | 0x20) == 'e') {
        ++i;
        kind = NumberKind::FRACTION;
        if (i < token.size() && (token[i] == '+' || token[i] == '-')) ++i;
        if (!digits()) return NumberKind::NONE;
    }
    return i == token.size() ? kind : NumberKind::NONE;
}

// Whether `0.` with at least twenty digits behind it stands at `at`: simdjson (3.0) does not see that their value
// overflows, and reads 0.99999999999999999999 as a number near nothing.
inline bool is_long_fraction(const uint8_t* at) noexcept {
    using simdjson::SIMDJSON_BUILTIN_IMPLEMENTATION::numberparsing::is_made_of_eight_digits_fast;
    at += *at == '-';
    return *at == '0' && is_made_of_eight_digits_fast(at + 2) && is_made_of_eight_digits_fast(at + 10) &&
           is_made_of_eight_digits_fast(at + 14);
}

// The number at `at`, rounded to nearest; another token follows it. False: not a number, past the range of double, or
// better left to `slow_double`.
inline bool quick_double(const uint8_t* at, double& value) noexcept {
    return !is_long_fraction(at) &&
           simdjson::SIMDJSON_BUILTIN_IMPLEMENTATION::numberparsing::parse_double(at).get(value) == simdjson::SUCCESS;
}

// Whether a number that is past the range of double is too small for it, and not too large.
inline bool is_tiny(std::string_view token) noexcept {
    const size_t e = std::min(token.find_first_of("eE"), token.size());
    const std::string_view digits = token.substr(0, e);
    const size_t first = digits.find_first_of("123456789"), point = std::min(digits.find('.'), digits.size());
    int64_t exponent = 0;
    if (e < token.size()) {
        token.remove_prefix(e + 1);
        if (token[0] == '+') token.remove_prefix(1);
        const auto [end, code] = std::from_chars(token.data(), token.data() + token.size(), exponent);
        if (code == std::errc::result_out_of_range) return token[0] == '-';
    }
    return exponent < static_cast<int64_t>(first) - static_cast<int64_t>(point);
}

// As `quick_double`, for any spelling: a number past the range is infinite.
inline bool slow_double(std::string_view token, double& value) noexcept {
    if (number_kind(token) == NumberKind::NONE) return false;
    const auto [end, code] = std::from_chars(token.data(), token.data() + token.size(), value);
    if (code == std::errc::result_out_of_range) {
        const double beyond = is_tiny(token) ? 0.0 : std::numeric_limits<double>::infinity();
        value = std::copysign(beyond, token[0] == '-' ? -1.0 : 1.0);
    }
    return true;
}

// The integer at `at`, which another token follows. False: not an integer, or out of T's range.
template <class T>
bool quick_integer(const uint8_t* at, T& value) noexcept {
    const bool negative = *at == '-';
    at += negative;
    const uint8_t* begin = at;
    uint64_t sum = 0;
    bool overflow = false;
    for (; *at >= '0' && *at <= '9'; ++at) {
        const uint64_t digit = *at - uint64_t{'0'};
        if (at - begin < 19) [[likely]] sum = sum * 10 + digit;
        else overflow |= __builtin_mul_overflow(sum, uint64_t{10}, &sum) || __builtin_add_overflow(sum, digit, &sum);
    }
    const auto digits = at - begin;
    if (!digits || (digits > 1 && *begin == '0') || !ends_scalar(*at) || overflow) return false;
    constexpr auto kMost = static_cast<uint64_t>(std::numeric_limits<T>::max());
    constexpr uint64_t kLeast = std::numeric_limits<T>::is_signed ? kMost + 1 : 0;  // magnitude of the lowest
    if (sum > (negative ? kLeast : kMost)) return false;
    value = static_cast<T>(negative ? uint64_t{0} - sum : sum);
    return true;
}

}  // namespace sluice
