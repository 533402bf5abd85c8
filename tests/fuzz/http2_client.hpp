// What a client of the server sees, held against what HTTP/2 and gRPC allow: whole frames, one answer a stream, nothing
// behind the end of a stream, and a status in every answer that ends.
#pragma once

#include <nghttp2/nghttp2.h>

#include <map>
#include <set>

#include "http2_frames.hpp"

namespace fuzz {

class Client {
public:
    Client() { MUST(nghttp2_hd_inflate_new(&inflater_) == 0); }
    Client(const Client&) = delete;
    Client& operator=(const Client&) = delete;
    ~Client() { nghttp2_hd_inflate_del(inflater_); }

    // Everything up to an error of the connection, but window updates, which depend on how the input was cut.
    std::string seen;
    std::set<uint32_t> answered;
    bool has_goaway = false;
    bool has_error = false;

    // What the server wrote at once. Frames never lie across two writes of it, but for DATA.
    void receive(std::string_view bytes) {
        Frames frames(pending_ + std::string(bytes));
        pending_ = frames.rest;
        for (const Frame& frame : frames.frames) {
            take(frame);
            if (frame.type != WINDOW_UPDATE && !has_error) seen += frame.bytes();
        }
    }
    bool is_between_frames() const { return pending_.empty(); }

private:
    struct Answer {
        int heads = 0;
        bool is_ended = false;
        bool is_grpc = false;
    };

    void take(const Frame& frame) {
        MUST(frame.type <= CONTINUATION && frame.type != PUSH_PROMISE && frame.type != PRIORITY);
        Answer& answer = answers_[frame.stream];
        if (frame.type == DATA || frame.type == HEADERS) {
            MUST(frame.stream % 2 == 1 && !answer.is_ended && frame.payload.size() <= 16384);
            answer.is_ended = frame.flags & END_STREAM;
        }
        if (frame.type == DATA) MUST(answer.heads == 1 && answer.is_grpc);
        if (frame.type == HEADERS) {
            MUST(++answer.heads <= 2 && (frame.flags & END_HEADERS));
            answered.insert(frame.stream);
            take_fields(frame, answer);
        }
        if (frame.type == RST_STREAM) answer.is_ended = true;
        if (frame.type == GOAWAY) {
            MUST(frame.payload.size() >= 8);
            has_goaway = true;
            has_error |= frame.payload.substr(4, 4) != std::string(4, '\0');
        }
    }

    void take_fields(const Frame& frame, Answer& answer) {
        auto* at = reinterpret_cast<const uint8_t*>(frame.payload.data());
        size_t left = frame.payload.size();
        bool has_status = false;
        for (int flags = 0; !(flags & NGHTTP2_HD_INFLATE_FINAL);) {
            nghttp2_nv field;
            ssize_t n = nghttp2_hd_inflate_hd2(inflater_, &field, &flags, at, left, 1);
            MUST(n >= 0);
            at += n;
            left -= static_cast<size_t>(n);
            if (!(flags & NGHTTP2_HD_INFLATE_EMIT)) continue;
            std::string_view name(reinterpret_cast<const char*>(field.name), field.namelen);
            std::string_view value(reinterpret_cast<const char*>(field.value), field.valuelen);
            if (name == ":status") {
                MUST(answer.heads == 1 && value.size() == 3);
                answer.is_grpc = value == "200";
            }
            has_status |= name == ":status" ? !answer.is_grpc : name == "grpc-status";
            for (unsigned char c : value) MUST(c >= 0x20 && c < 0x7f);
        }
        nghttp2_hd_inflate_end_headers(inflater_);
        MUST(has_status == static_cast<bool>(frame.flags & END_STREAM));
    }

    nghttp2_hd_inflater* inflater_ = nullptr;
    std::string pending_;
    std::map<uint32_t, Answer> answers_;
};

}  // namespace fuzz
