// Answers as bytes: status line, fields and body appended to a connection's output. Knows no socket and no request.
#pragma once

#include <charconv>
#include <cstddef>
#include <cstdint>
#include <new>
#include <string_view>

#include "http1_head.hpp"
#include "infer.hpp"

namespace sluice {

struct Answer {
    int status = 200;
    bool head_only = false;        // the request was HEAD: the length is that of the body which is not sent
    bool close = false;            // say that the connection ends here
    bool says_keep_alive = false;  // HTTP/1.0 asks to be told
    bool varies = false;           // Accept-Encoding had a say
    Coding coding = Coding::IDENTITY;
    std::string_view content_type;  // empty: none
    std::string_view version;       // of the model that answered; empty: none
    std::string_view extra;         // complete header lines
    int64_t header_length = -1;
    int64_t retry_after = 0;  // seconds
};

inline std::string_view reason_phrase(int status) {
    switch (status) {
    case 200: return "OK";
    case 201: return "Created";
    case 202: return "Accepted";
    case 204: return "No Content";
    case 206: return "Partial Content";
    case 301: return "Moved Permanently";
    case 302: return "Found";
    case 304: return "Not Modified";
    case 307: return "Temporary Redirect";
    case 308: return "Permanent Redirect";
    case 400: return "Bad Request";
    case 401: return "Unauthorized";
    case 403: return "Forbidden";
    case 404: return "Not Found";
    case 405: return "Method Not Allowed";
    case 406: return "Not Acceptable";
    case 408: return "Request Timeout";
    case 409: return "Conflict";
    case 411: return "Length Required";
    case 412: return "Precondition Failed";
    case 413: return "Content Too Large";
    case 414: return "URI Too Long";
    case 415: return "Unsupported Media Type";
    case 417: return "Expectation Failed";
    case 422: return "Unprocessable Content";
    case 429: return "Too Many Requests";
    case 431: return "Request Header Fields Too Large";
    case 499: return "Client Closed Request";
    case 500: return "Internal Server Error";
    case 501: return "Not Implemented";
    case 502: return "Bad Gateway";
    case 503: return "Service Unavailable";
    case 504: return "Gateway Timeout";
    case 505: return "HTTP Version Not Supported";
    default: return "Unknown";
    }
}

inline bool has_body(int status) { return status >= 200 && status != 204 && status != 304; }

namespace answer_detail {

inline void append_number(Buffer& out, int64_t value) {
    char digits[24];
    auto end = std::to_chars(digits, digits + sizeof digits, value).ptr;
    out.append(digits, static_cast<size_t>(end - digits));
}

// Length of the well-formed UTF-8 sequence at `at`, or 0.
inline size_t sequence_length(const uint8_t* at, const uint8_t* end) {
    uint8_t c = at[0];
    size_t n = c < 0x80 ? 1 : c >= 0xc2 && c < 0xe0 ? 2 : c >= 0xe0 && c < 0xf0 ? 3 : c >= 0xf0 && c < 0xf5 ? 4 : 0;
    if (n == 0 || static_cast<size_t>(end - at) < n) return 0;
    for (size_t i = 1; i < n; ++i)
        if ((at[i] & 0xc0) != 0x80) return 0;
    if ((c == 0xe0 && at[1] < 0xa0) || (c == 0xed && at[1] > 0x9f)) return 0;
    if ((c == 0xf0 && at[1] < 0x90) || (c == 0xf4 && at[1] > 0x8f)) return 0;
    return n;
}

}  // namespace answer_detail

// `{"error":"..."}`: always valid JSON in valid UTF-8, whatever the message holds.
inline void append_error(Buffer& out, std::string_view message) {
    using namespace answer_detail;
    out.append("{\"error\":\"");
    auto* at = reinterpret_cast<const uint8_t*>(message.data());
    auto* end = at + message.size();
    while (at < end) {
        size_t n = sequence_length(at, end);
        if (n == 0) {
            out.append("\xef\xbf\xbd");
            ++at;
            continue;
        }
        if (*at == '"' || *at == '\\') {
            out.push('\\');
            out.push(static_cast<char>(*at));
        } else if (*at < 0x20) {
            constexpr char digits[] = "0123456789abcdef";
            out.append("\\u00");
            out.push(digits[*at >> 4]);
            out.push(digits[*at & 15]);
        } else {
            out.append(at, n);
        }
        at += n;
    }
    out.append("\"}");
}

// The head alone; false when there is no memory for it.
inline bool append_answer_head(Buffer& out, const Answer& answer, size_t body_size) noexcept {
    using namespace answer_detail;
    try {
        if (answer.status == 200) {
            out.append("HTTP/1.1 200 OK\r\n");
        } else {
            out.append("HTTP/1.1 ");
            append_number(out, answer.status);
            out.push(' ');
            out.append(reason_phrase(answer.status));
            out.append("\r\n");
        }
        if (has_body(answer.status)) {
            if (!answer.content_type.empty()) {
                out.append("Content-Type: ");
                out.append(answer.content_type);
                out.append("\r\nContent-Length: ");
            } else {
                out.append("Content-Length: ");
            }
            append_number(out, static_cast<int64_t>(body_size));
            out.append("\r\n");
        }
        if (answer.header_length >= 0) {
            out.append("Inference-Header-Content-Length: ");
            append_number(out, answer.header_length);
            out.append("\r\n");
        }
        if (!answer.version.empty() && head_detail::all(answer.version, head_detail::VALUE)) {
            out.append("sluice-model-version: ");
            out.append(answer.version);
            out.append("\r\n");
        }
        if (answer.retry_after > 0) {
            out.append("Retry-After: ");
            append_number(out, answer.retry_after);
            out.append("\r\n");
        }
        if (answer.coding != Coding::IDENTITY)
            out.append(answer.coding == Coding::GZIP ? "Content-Encoding: gzip\r\n" : "Content-Encoding: deflate\r\n");
        if (answer.varies) out.append("Vary: Accept-Encoding\r\n");
        out.append(answer.extra);
        if (answer.close) out.append("Connection: close\r\n");
        else if (answer.says_keep_alive) out.append("Connection: keep-alive\r\n");
        out.append("\r\n");
        return true;
    } catch (const std::bad_alloc&) {
        return false;
    }
}

inline bool append_answer(Buffer& out, const Answer& answer, const uint8_t* body, size_t size) noexcept {
    if (!append_answer_head(out, answer, size)) return false;
    if (answer.head_only || !has_body(answer.status)) return true;
    try {
        out.append(body, size);
        return true;
    } catch (const std::bad_alloc&) {
        return false;
    }
}

inline bool append_error_answer(Buffer& out, Answer answer, std::string_view message) noexcept {
    try {
        Buffer body;
        append_error(body, message);
        answer.content_type = "application/json";
        return append_answer(out, answer, body.data(), body.size());
    } catch (const std::bad_alloc&) {
        return false;
    }
}

// An interim answer: the client may send its body.
inline bool append_continue(Buffer& out) noexcept {
    try {
        out.append("HTTP/1.1 100 Continue\r\n\r\n");
        return true;
    } catch (const std::bad_alloc&) {
        return false;
    }
}

}  // namespace sluice
