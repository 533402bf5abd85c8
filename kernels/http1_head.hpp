// The head of an HTTP/1 request: where it ends, a strict reader for the ordinary ones, and what its fields mean.
//
// Two readers fill the same `Head`: `scan_head` below, which accepts only what needs no thought, and llhttp (through
// httptools), which is asked about everything else. Neither decides anything: `interpret_head` does, for both, so that
// which reader was used cannot change an answer. Knows no socket and no body bytes.
//
// Lifetime: the views of a `Head` point into the bytes that it was read from.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>

namespace sluice {

constexpr size_t kMaxFields = 256;
// What a request line holds besides its target: method, spaces, version, line end.
constexpr size_t kLineOverhead = 64;

struct HeadLimits {
    size_t max_head = 16384;
    size_t max_target = 8192;
    size_t max_fields = 100;
    uint64_t max_body = uint64_t{64} << 20;
};

// Deliberately without initialisers: a Head has 256 of them on the stack and uses a few.
struct Field {
    const char* name;
    const char* value;
    uint32_t name_size;
    uint32_t value_size;
    std::string_view name_view() const { return {name, name_size}; }
    std::string_view value_view() const { return {value, value_size}; }
};

enum class Coding : uint8_t { IDENTITY = 0, GZIP = 1, DEFLATE = 2 };

struct Head {
    std::string_view method, target;
    int major = 1, minor = 1;
    size_t size = 0;  // bytes of the head, blank line included
    size_t count = 0;
    Field fields[kMaxFields];

    // Set by interpret_head.
    std::string_view path, query;
    int64_t content_length = -1;  // -1: not said
    bool chunked = false;
    bool keep_alive = true;
    bool expects_continue = false;
    Coding content_coding = Coding::IDENTITY;
    Coding answer_coding = Coding::IDENTITY;
    int64_t header_length = -1;  // Inference-Header-Content-Length
    double timeout = 0;          // request-timeout, seconds
    int status = 0;              // not 0: refused, and why
    const char* reason = "";

    bool add(std::string_view name, std::string_view value) {
        if (count == kMaxFields) return false;
        fields[count++] = {name.data(), value.data(), static_cast<uint32_t>(name.size()),
                           static_cast<uint32_t>(value.size())};
        return true;
    }
};

namespace head_detail {

enum : uint8_t { TOKEN = 1, TARGET = 2, VALUE = 4 };

struct Table {
    uint8_t at[256] = {};
    constexpr Table() {
        for (int c = 0; c < 256; ++c) {
            bool alnum = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
            if (alnum || has("!#$%&'*+-.^_`|~", c)) at[c] |= TOKEN;
            if (alnum || has("-._~:/?[]@!$&'()*+,;=%", c)) at[c] |= TARGET;
            if (c == '\t' || (c >= 0x20 && c != 0x7f)) at[c] |= VALUE;
        }
    }
    static constexpr bool has(std::string_view set, int c) {
        for (char member : set)
            if (member == static_cast<char>(c)) return true;
        return false;
    }
};
constexpr Table kTable{};

inline bool is(char c, uint8_t kind) { return kTable.at[static_cast<uint8_t>(c)] & kind; }
inline char lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c | 0x20) : c; }

// `text` must be in lower case.
inline bool equals(std::string_view any, std::string_view text) {
    if (any.size() != text.size()) return false;
    for (size_t i = 0; i < any.size(); ++i)
        if (lower(any[i]) != text[i]) return false;
    return true;
}

inline bool all(std::string_view text, uint8_t kind) {
    for (char c : text)
        if (!is(c, kind)) return false;
    return true;
}

inline std::string_view trim(std::string_view text) {
    while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) text.remove_prefix(1);
    while (!text.empty() && (text.back() == ' ' || text.back() == '\t')) text.remove_suffix(1);
    return text;
}

// Calls `visit` with every trimmed, non-empty element of a comma-separated list.
template <class Visit>
void each_element(std::string_view list, Visit visit) {
    while (!list.empty()) {
        size_t comma = list.find(',');
        auto element = trim(list.substr(0, comma));
        if (!element.empty()) visit(element);
        if (comma == std::string_view::npos) return;
        list.remove_prefix(comma + 1);
    }
}

// Digits only, at most 18 of them: -1 for anything else.
inline int64_t decimal(std::string_view text) {
    if (text.empty() || text.size() > 18) return -1;
    int64_t value = 0;
    for (char c : text) {
        if (c < '0' || c > '9') return -1;
        value = value * 10 + (c - '0');
    }
    return value;
}

// `12`, `0.25`, `.5`: seconds; -1 for anything else.
inline double seconds(std::string_view text) {
    size_t dot = text.find('.');
    auto whole = text.substr(0, dot);
    auto part = dot == std::string_view::npos ? std::string_view{} : text.substr(dot + 1);
    if (whole.empty() && part.empty()) return -1;
    if (whole.size() > 9 || part.size() > 9) return -1;
    double value = whole.empty() ? 0 : static_cast<double>(decimal(whole));
    if (value < 0) return -1;
    if (part.empty()) return value;
    int64_t digits = decimal(part);
    if (digits < 0) return -1;
    double scale = 1;
    for (size_t i = 0; i < part.size(); ++i) scale *= 10;
    return value + static_cast<double>(digits) / scale;
}

// A q-value in thousandths; what does not parse counts as 0, so that a broken wish is never taken for one.
inline int quality(std::string_view parameters) {
    parameters = trim(parameters);
    if (parameters.size() < 3 || lower(parameters[0]) != 'q' || parameters[1] != '=') return 0;
    double value = seconds(parameters.substr(2));
    return value < 0 || value > 1 ? 0 : static_cast<int>(value * 1000 + 0.5);
}

struct Wishes {
    int gzip = -1, deflate = -1, any = -1;  // -1: not named

    void add(std::string_view list) {
        each_element(list, [this](std::string_view element) {
            size_t semicolon = element.find(';');
            auto name = trim(element.substr(0, semicolon));
            int q = semicolon == std::string_view::npos ? 1000 : quality(element.substr(semicolon + 1));
            if (equals(name, "gzip") || equals(name, "x-gzip")) gzip = q;
            else if (equals(name, "deflate")) deflate = q;
            else if (name == "*") any = q;
        });
    }
    Coding choice() const {
        int g = gzip >= 0 ? gzip : any, d = deflate >= 0 ? deflate : any;
        if (g <= 0 && d <= 0) return Coding::IDENTITY;
        return g >= d ? Coding::GZIP : Coding::DEFLATE;
    }
};

}  // namespace head_detail

enum class Scan { DONE, MORE, ODD };

// Reads a head that is complete and has nothing unusual in it. MORE: so far so good, but it does not end here. ODD: ask
// the other reader, once the head is complete.
inline Scan scan_head(const uint8_t* bytes, size_t size, Head& head, const HeadLimits& limits) {
    using namespace head_detail;
    auto* const begin = reinterpret_cast<const char*>(bytes);
    const char* const end = begin + size;
    const char* at = begin;
    head.count = 0;

    while (at < end && *at >= 'A' && *at <= 'Z') ++at;
    if (at == end) return Scan::MORE;
    if (*at != ' ') return Scan::ODD;
    head.method = {begin, static_cast<size_t>(at - begin)};
    bool known = false;
    for (std::string_view method : {"POST", "GET", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH"})
        if (head.method == method) { known = true; break; }
    if (!known) return Scan::ODD;

    const char* start = ++at;
    if (at < end && *at != '/') return Scan::ODD;
    while (at < end && is(*at, TARGET)) ++at;
    if (end - at < 11) {
        // Not even ` HTTP/1.x\r\n` fits: whatever is wrong with it shows when there is more.
        return at < end && *at != ' ' ? Scan::ODD : Scan::MORE;
    }
    head.target = {start, static_cast<size_t>(at - start)};
    if (std::memcmp(at, " HTTP/1.", 8) != 0 || (at[8] != '0' && at[8] != '1') || at[9] != '\r' || at[10] != '\n')
        return Scan::ODD;
    head.major = 1;
    head.minor = at[8] - '0';
    at += 11;

    for (;;) {
        if (at == end) return Scan::MORE;
        if (*at == '\r') {
            if (at + 1 == end) return Scan::MORE;
            if (at[1] != '\n') return Scan::ODD;
            head.size = static_cast<size_t>(at + 2 - begin);
            return Scan::DONE;
        }
        if (head.count == limits.max_fields || head.count == kMaxFields) return Scan::ODD;
        const char* name = at;
        while (at < end && is(*at, TOKEN)) ++at;
        if (at == end) return Scan::MORE;
        if (*at != ':' || at == name) return Scan::ODD;
        const char* name_end = at++;
        const char* value = at;
        while (at < end && is(*at, VALUE)) ++at;
        if (at == end || at + 1 == end) return Scan::MORE;
        if (at[0] != '\r' || at[1] != '\n') return Scan::ODD;
        head.add({name, static_cast<size_t>(name_end - name)}, trim({value, static_cast<size_t>(at - value)}));
        at += 2;
    }
}

struct HeadEnd {
    enum State { MORE, FOUND, REFUSED } state = MORE;
    size_t size = 0;
    int status = 0;
    const char* reason = "";
};

// Looks for the blank line, from `scanned` on, which it moves. The answer depends on the bytes alone, never on how they
// were cut into reads: a head that is refused here would be refused with the same words had it come in one piece.
inline HeadEnd find_head_end(const uint8_t* bytes, size_t size, size_t& scanned, const HeadLimits& limits) {
    HeadEnd found;
    auto refuse = [&found](int status, const char* reason) {
        found.state = HeadEnd::REFUSED;
        found.status = status;
        found.reason = reason;
        return found;
    };
    if (size == 0) return found;
    if (bytes[0] < 'A' || bytes[0] > 'Z') return refuse(400, "malformed request line");
    const size_t max_line = limits.max_target + kLineOverhead < limits.max_head ? limits.max_target + kLineOverhead
                                                                               : limits.max_head;
    size_t window = size < limits.max_head ? size : limits.max_head;
    if (scanned < max_line) {
        size_t line_window = size < max_line ? size : max_line;
        if (!std::memchr(bytes, '\n', line_window)) {
            if (size >= max_line) return refuse(414, "request target too long");
            return found;
        }
    }
    size_t at = scanned;
    while (at < window) {
        auto* feed = static_cast<const uint8_t*>(std::memchr(bytes + at, '\n', window - at));
        if (!feed) { at = window; break; }
        size_t next = static_cast<size_t>(feed - bytes) + 1;
        if (next < window && bytes[next] == '\n') next += 1;
        else if (next + 1 < window && bytes[next] == '\r' && bytes[next + 1] == '\n') next += 2;
        else if (next + 1 < window || (next < window && bytes[next] != '\r')) { at = next; continue; }
        else { at = next - 1; break; }  // the line feed ends what is there: look at it again with more
        found.state = HeadEnd::FOUND;
        found.size = next;
        return found;
    }
    scanned = at;
    if (size >= limits.max_head) return refuse(431, "request header too large");
    return found;
}

// Line discipline that is checked before llhttp sees an odd head, whatever llhttp may be lenient about: every line ends
// in CRLF, none is folded, no control bytes, exactly one space on either side of the target.
inline const char* odd_head_fault(const uint8_t* bytes, size_t size) {
    size_t line = 0, spaces = 0;
    for (size_t i = 0; i < size; ++i) {
        uint8_t c = bytes[i];
        if (c == '\n') {
            if (i == 0 || bytes[i - 1] != '\r') return "line feed without carriage return";
            ++line;
        } else if (c == '\r') {
            if (i + 1 == size || bytes[i + 1] != '\n') return "carriage return without line feed";
        } else if ((c < 0x20 && c != '\t') || c == 0x7f) {
            return "control character in header";
        } else if (c == ' ' || c == '\t') {
            if (i && bytes[i - 1] == '\n') return "folded header line";
            if (line == 0 && (++spaces > 2 || c == '\t')) return "malformed request line";
        }
    }
    return line < 2 || spaces != 2 ? "malformed request line" : nullptr;
}

// Decides what the head means, or sets `status` and `reason`: framing faults first, since after one of them nothing
// else about the message can be believed.
inline void interpret_head(Head& head, const HeadLimits& limits) {
    using namespace head_detail;
    auto refuse = [&head](int status, const char* reason) {
        if (head.status) return;
        head.status = status;
        head.reason = reason;
    };
    size_t hosts = 0, encodings = 0;
    bool close = false, keep = false, unexpected = false, foreign_transfer = false, foreign_coding = false;
    Wishes wishes;

    for (size_t i = 0; i < head.count; ++i) {
        auto name = head.fields[i].name_view();
        auto value = head.fields[i].value_view();
        switch (name.size()) {
        case 4:
            if (equals(name, "host")) ++hosts;
            break;
        case 6:
            if (equals(name, "expect") && !value.empty()) {
                if (equals(value, "100-continue")) head.expects_continue = true;
                else unexpected = true;
            }
            break;
        case 10:
            if (equals(name, "connection"))
                each_element(value, [&](std::string_view option) {
                    close |= equals(option, "close");
                    keep |= equals(option, "keep-alive");
                });
            break;
        case 14:
            if (equals(name, "content-length")) {
                if (head.content_length >= 0) refuse(400, "duplicate Content-Length");
                head.content_length = decimal(value);
                if (head.content_length < 0) refuse(400, "malformed Content-Length");
            }
            break;
        case 15:
            if (equals(name, "accept-encoding")) {
                wishes.add(value);
            } else if (equals(name, "request-timeout")) {
                if (head.timeout != 0) refuse(400, "duplicate request-timeout");
                head.timeout = seconds(value);
                if (head.timeout <= 0) refuse(400, "request-timeout must be a positive decimal number of seconds");
            }
            break;
        case 16:
            if (equals(name, "content-encoding"))
                each_element(value, [&](std::string_view coding) {
                    if (equals(coding, "identity")) return;
                    if (++encodings > 1) foreign_coding = true;
                    if (equals(coding, "gzip") || equals(coding, "x-gzip")) head.content_coding = Coding::GZIP;
                    else if (equals(coding, "deflate")) head.content_coding = Coding::DEFLATE;
                    else foreign_coding = true;
                });
            break;
        case 17:
            if (equals(name, "transfer-encoding")) {
                if (head.chunked) refuse(400, "duplicate Transfer-Encoding");
                head.chunked = true;
                if (equals(value, "chunked")) break;
                // Without `chunked` at the end the length is unknown: that is malformed, not merely unsupported.
                size_t comma = value.rfind(','), chunkings = 0;
                each_element(value, [&](std::string_view coding) { chunkings += equals(coding, "chunked"); });
                if (chunkings != 1 || comma == std::string_view::npos ||
                    !equals(trim(value.substr(comma + 1)), "chunked"))
                    refuse(400, "malformed Transfer-Encoding");
                foreign_transfer = true;
            }
            break;
        case 31:
            if (equals(name, "inference-header-content-length")) {
                if (head.header_length >= 0) refuse(400, "duplicate Inference-Header-Content-Length");
                head.header_length = decimal(value);
                if (head.header_length < 0) refuse(400, "malformed Inference-Header-Content-Length");
            }
            break;
        default:
            break;
        }
    }

    if (head.chunked && head.content_length >= 0) refuse(400, "both Content-Length and Transfer-Encoding");
    if (head.major != 1 || head.minor < 0 || head.minor > 1) refuse(505, "HTTP version not supported");
    bool is_1_0 = head.minor == 0;
    if (head.chunked && is_1_0) refuse(400, "Transfer-Encoding in HTTP/1.0");
    if (hosts > 1) refuse(400, "more than one Host");
    if (hosts == 0 && !is_1_0) refuse(400, "no Host");
    if (head.target.size() > limits.max_target) refuse(414, "request target too long");
    if (head.count > limits.max_fields) refuse(431, "too many header fields");
    if (foreign_transfer) refuse(501, "transfer coding not supported");

    auto target = head.target;
    if (head.method == "CONNECT") refuse(405, "CONNECT is not supported");
    for (char c : target)
        if (static_cast<uint8_t>(c) <= 0x20 || static_cast<uint8_t>(c) >= 0x7f || c == '#') {
            refuse(400, "malformed request target");
            break;
        }
    if (target.empty() || target[0] != '/') {
        size_t scheme = target.find("://");
        if (target == "*" && head.method == "OPTIONS") {
            // The server itself is meant.
        } else if (scheme != std::string_view::npos &&
                   (equals(target.substr(0, scheme), "http") || equals(target.substr(0, scheme), "https"))) {
            size_t path = target.find_first_of("/?", scheme + 3);
            target = path == std::string_view::npos ? std::string_view{} : target.substr(path);
        } else {
            refuse(400, "malformed request target");
        }
    }
    size_t question = target.find('?');
    head.path = target.substr(0, question);
    head.query = question == std::string_view::npos ? std::string_view{} : target.substr(question + 1);
    if (head.path.empty()) head.path = "/";

    head.keep_alive = !close && (!is_1_0 || keep);
    if (is_1_0) head.expects_continue = unexpected = false;
    if (unexpected) refuse(417, "expectation not supported");
    if (foreign_coding) refuse(415, "content coding not supported: use gzip or deflate");
    if (head.content_length > 0 && static_cast<uint64_t>(head.content_length) > limits.max_body)
        refuse(413, "request body too large");
    head.answer_coding = wishes.choice();
}

}  // namespace sluice
