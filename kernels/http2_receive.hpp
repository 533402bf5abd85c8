// Http2Session, the receiving half: what nghttp2 reports of frames that arrive, until a message is whole.
#pragma once

#include "http2_session.hpp"

namespace sluice {

inline bool Http2Session::receive(const uint8_t* data, size_t size, double now) {
    now_ = last_received_ = now;
    ping_sent_ = 0.0;
    if (closing_) return true;
    ssize_t rc = nghttp2_session_mem_recv(session_, data, size);
    if (consumed_) nghttp2_session_consume_connection(session_, std::exchange(consumed_, 0));
    if (rc == NGHTTP2_ERR_FLOODED) {
        terminate(NGHTTP2_ENHANCE_YOUR_CALM, "too_many_acknowledgements");
        return true;
    }
    return rc >= 0;
}

inline int Http2Session::on_begin_frame(nghttp2_session*, const nghttp2_frame_hd* head, void* user) {
    auto& self = *static_cast<Http2Session*>(user);
    if (head->type == NGHTTP2_HEADERS) self.continuations_ = 0;
    if (head->type == NGHTTP2_CONTINUATION && ++self.continuations_ > self.settings_.max_continuations)
        return NGHTTP2_ERR_CALLBACK_FAILURE;
    if (head->type != NGHTTP2_DATA && head->type != NGHTTP2_HEADERS && !self.control_frames_.spend(self.now_))
        self.terminate(NGHTTP2_ENHANCE_YOUR_CALM, "too_many_control_frames");
    return 0;
}

inline int Http2Session::on_begin_headers(nghttp2_session* session, const nghttp2_frame* frame, void* user) {
    auto& self = *static_cast<Http2Session*>(user);
    self.head_began_ = self.now_;
    self.head_id_ = frame->hd.stream_id;
    if (frame->headers.cat != NGHTTP2_HCAT_REQUEST || self.closing_) return 0;
    try {
        Stream* stream = self.pool_.streams.take();
        stream->id = frame->hd.stream_id;
        stream->arrived = self.now_;
        stream->next = self.streams_;
        if (stream->next) stream->next->previous = stream;
        self.streams_ = self.current_ = stream;
        ++self.live_;
        nghttp2_session_set_stream_user_data(session, stream->id, stream);
    } catch (const std::bad_alloc&) {
        return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
    }
    self.control_frames_.grant(kFramesPerUse);
    return 0;
}

inline int Http2Session::on_header(nghttp2_session*, const nghttp2_frame* frame, const uint8_t* name, size_t name_size,
                                   const uint8_t* value, size_t value_size, uint8_t, void* user) {
    auto& self = *static_cast<Http2Session*>(user);
    Stream* stream = frame->headers.cat == NGHTTP2_HCAT_REQUEST ? self.current_ : self.find(frame->hd.stream_id);
    if (!stream) return 0;
    stream->header_bytes += static_cast<uint32_t>(name_size + value_size + 32);
    if (stream->header_bytes > self.settings_.max_header_bytes) {
        stream->head_too_large = true;
        return 0;
    }
    if (stream->kind != Stream::HEAD) return 0;  // trailers say nothing to a gRPC server
    try {
        self.take_header(*stream, {reinterpret_cast<const char*>(name), name_size},
                         {reinterpret_cast<const char*>(value), value_size});
    } catch (const std::bad_alloc&) {
        return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
    }
    return 0;
}

inline void Http2Session::take_header(Stream& stream, std::string_view name, std::string_view value) {
    switch (name.size()) {
        case 5:
            if (name == ":path") {
                stream.is_infer = value == infer_path_;
                if (!stream.is_infer) stream.path = value;
                return;
            }
            break;
        case 7:
            if (name == ":method") {
                stream.is_post = value == "POST";
                return;
            }
            break;
        case 12:
            if (name == "content-type") {
                stream.is_grpc = grpc::is_content_type(value);
                return;
            }
            if (name == "grpc-timeout") {
                stream.timeout = grpc::parse_timeout(value);
                stream.bad_timeout = stream.timeout < 0.0;
                // A timeout of nothing is a deadline all the same.
                if (stream.timeout == 0.0) stream.timeout = 1e-9;
                return;
            }
            break;
        case 13:
            if (name == "grpc-encoding") {
                stream.encoding = grpc::parse_encoding(value);
                return;
            }
            break;
        case 20:
            if (name == "grpc-accept-encoding") {
                stream.accepts_gzip = grpc::list_has(value, "gzip");
                return;
            }
            break;
        default:
            break;
    }
    if (stream.is_infer) {
        if (host_.wants_headers && *host_.wants_headers && host_.wants_header(host_.self, name))
            stream.metadata.emplace_back(name, value);
        return;
    }
    if (name.empty() || grpc::is_reserved(name)) return;
    if (!grpc::is_binary(name)) {
        stream.metadata.emplace_back(name, value);
        return;
    }
    grpc::split_list(value, [&](std::string_view part) {
        stream.metadata.emplace_back(name, std::string());
        if (!grpc::base64_decode(part, stream.metadata.back().second)) stream.bad_metadata = true;
    });
}

inline int Http2Session::on_frame_recv(nghttp2_session*, const nghttp2_frame* frame, void* user) {
    auto& self = *static_cast<Http2Session*>(user);
    if (self.closing_) return 0;
    try {
        switch (frame->hd.type) {
            case NGHTTP2_DATA:
                if (frame->hd.flags & NGHTTP2_FLAG_END_STREAM) {
                    if (Stream* stream = self.find(frame->hd.stream_id)) self.take_half_close(*stream);
                } else if (frame->hd.length <= frame->data.padlen && !self.control_frames_.spend(self.now_)) {
                    self.terminate(NGHTTP2_ENHANCE_YOUR_CALM, "too_many_empty_frames");
                }
                break;
            case NGHTTP2_HEADERS: {
                self.head_began_ = 0.0;
                self.current_ = nullptr;
                Stream* stream = self.find(frame->hd.stream_id);
                if (!stream) break;
                if (stream->kind == Stream::HEAD) self.take_head(*stream);
                if (frame->hd.flags & NGHTTP2_FLAG_END_STREAM) self.take_half_close(*stream);
                break;
            }
            case NGHTTP2_RST_STREAM: {
                Stream* stream = self.find(frame->hd.stream_id);
                if (stream && self.now_ - stream->arrived < kYoungStream && !self.resets_.spend(self.now_))
                    self.terminate(NGHTTP2_ENHANCE_YOUR_CALM, "too_many_resets");
                break;
            }
            case NGHTTP2_SETTINGS:
                self.has_preface_ = true;
                break;
            case NGHTTP2_PING:
                self.take_ping(*frame);
                break;
            default:
                break;
        }
    } catch (const std::bad_alloc&) {
        return NGHTTP2_ERR_CALLBACK_FAILURE;
    }
    return 0;
}

inline void Http2Session::take_ping(const nghttp2_frame& frame) {
    if (frame.hd.flags & NGHTTP2_FLAG_ACK) {
        if (std::memcmp(frame.ping.opaque_data, kDrainPing, sizeof kDrainPing) == 0) take_drain_ack();
        return;
    }
    // Pings between two answers are a client measuring its bandwidth: sending clears the strikes.
    if (last_ping_ != 0.0 && now_ - last_ping_ < settings_.min_ping_interval &&
        ++ping_strikes_ > settings_.max_ping_strikes)
        terminate(NGHTTP2_ENHANCE_YOUR_CALM, "too_many_pings");
    last_ping_ = now_;
}

inline void Http2Session::take_head(Stream& stream) {
    if (stream.head_too_large) return reject(stream, "431");
    if (!stream.is_post) return reject(stream, "405");
    if (!stream.is_grpc) return reject(stream, "415");
    stream.arrived = now_;
    if (stream.encoding == grpc::Encoding::UNKNOWN)
        return fail(stream, 12, "the request's grpc-encoding is not supported");
    if (stream.bad_timeout) return fail(stream, 3, "malformed grpc-timeout");
    if (stream.bad_metadata) return fail(stream, 13, "binary metadata that is not base64");
    if (unread_ > settings_.max_unread_bytes)
        return fail(stream, 8, "more than max_unread_bytes (" + std::to_string(settings_.max_unread_bytes) +
                                   ") of answers wait for this client to read them");
    if (stream.timeout != 0.0) stream.deadline = now_ + stream.timeout;
    if (stream.is_infer) {
        stream.kind = Stream::UNARY;
        host_.open_unary(host_.self, &stream);
    } else {
        stream.kind = Stream::CALL;
        host_.open_call(host_.self, &stream);
    }
    if (!stream.owner && stream.kind != Stream::DONE) fail(stream, 8, "no memory for the call");
}

inline int Http2Session::on_data_chunk(nghttp2_session*, uint8_t, int32_t id, const uint8_t* data, size_t size,
                                       void* user) {
    auto& self = *static_cast<Http2Session*>(user);
    self.consumed_ += size;
    Stream* stream = self.find(id);
    if (!stream || self.closing_) return 0;
    stream->received += size;
    try {
        self.take_data(*stream, data, size);
    } catch (const std::bad_alloc&) {
        self.fail(*stream, 8, "no memory for the request's message");
    }
    self.consume(*stream, size);
    return 0;
}

// Streams that carry one small message end before their window needs care.
inline void Http2Session::consume(Stream& stream, size_t size) {
    stream.unconsumed += static_cast<uint32_t>(size);
    if (!session_ || stream.is_paused || stream.unconsumed < static_cast<uint32_t>(settings_.stream_window) / 2) return;
    nghttp2_session_consume_stream(session_, stream.id, std::exchange(stream.unconsumed, 0));
}

inline void Http2Session::pause(Stream& stream, bool paused) {
    stream.is_paused = paused;
    if (!paused) consume(stream, 0);
}

inline void Http2Session::take_data(Stream& stream, const uint8_t* data, size_t size) {
    // Every step may settle the stream's outcome, by an error or by the host's own doing.
    while (size && (stream.kind == Stream::UNARY || stream.kind == Stream::CALL)) {
        if (stream.prefix_have < grpc::kPrefix) {
            size_t n = std::min<size_t>(size, grpc::kPrefix - stream.prefix_have);
            std::memcpy(stream.prefix + stream.prefix_have, data, n);
            stream.prefix_have = static_cast<uint8_t>(stream.prefix_have + n);
            data += n;
            size -= n;
            if (stream.prefix_have < grpc::kPrefix) return;
            begin_message(stream);
            if (stream.left == 0 && (stream.kind == Stream::UNARY || stream.kind == Stream::CALL))
                end_message(stream, data, 0);
            continue;
        }
        size_t n = std::min<size_t>(size, stream.left);
        bool is_whole = n == stream.declared;
        stream.left -= static_cast<uint32_t>(n);
        // A call's message that arrives in one piece is handed on where it lies.
        bool in_place = is_whole && stream.kind == Stream::CALL && !stream.compressed;
        if (!in_place && !append_message(stream, data, n)) return;
        if (stream.left == 0) end_message(stream, in_place ? data : nullptr, in_place ? n : 0);
        data += n;
        size -= n;
    }
}

inline void Http2Session::begin_message(Stream& stream) {
    uint32_t size = grpc::prefix_size(stream.prefix);
    stream.compressed = stream.prefix[0] & 1;
    if (stream.prefix[0] > 1) return fail(stream, 13, "reserved bits are set in the message's flags");
    if (stream.kind == Stream::UNARY && stream.messages != 0)
        return fail(stream, 12, "more than one message for a unary method");
    if (stream.compressed && stream.encoding == grpc::Encoding::IDENTITY)
        return fail(stream, 13, "the message is compressed and grpc-encoding does not say how");
    if (size > settings_.max_message_bytes)
        return fail(stream, 8, "message of " + std::to_string(size) + " bytes is larger than max_message_bytes (" +
                                   std::to_string(settings_.max_message_bytes) + ")");
    stream.declared = stream.left = size;
    ++stream.messages;
}

// Counts `size` bytes for the stream instead of what was counted before.
inline bool Http2Session::hold(Stream& stream, size_t size) {
    buffered_ += size - std::exchange(stream.held, size);
    if (buffered_ <= settings_.max_buffered_bytes) return true;
    fail(stream, 8, "more than max_buffered_bytes (" + std::to_string(settings_.max_buffered_bytes) +
                        ") of unfinished messages on one connection");
    return false;
}

inline bool Http2Session::append_message(Stream& stream, const uint8_t* data, size_t size) {
    if (!hold(stream, stream.held + size)) return false;
    Buffer& to = stream.kind == Stream::UNARY && !stream.compressed ? *stream.body : stream.raw;
    size_t need = to.size() + size;
    // The declared length at once when it is small; else ahead of what has really come, so that a claim costs nothing.
    if (need > to.capacity())
        to.reserve(std::max(need, std::min<size_t>(stream.declared, std::max<size_t>(1 << 20, 4 * to.size()))));
    to.append(data, size);
    return true;
}

inline bool Http2Session::inflate(Stream& stream, Buffer& to) {
    switch (pool_.compression.inflate(stream.raw.data(), stream.raw.size(), stream.encoding == grpc::Encoding::GZIP,
                                      settings_.max_message_bytes, settings_.max_inflate_ratio, to)) {
        case Inflated::DONE:
            stream.raw.clear();
            return true;
        case Inflated::TOO_LARGE:
            fail(stream, 8, "decompressed message is larger than max_message_bytes (" +
                                std::to_string(settings_.max_message_bytes) + ")");
            return false;
        case Inflated::RATIO:
            fail(stream, 8, "decompressed message is larger than max_inflate_ratio allows (" +
                                std::to_string(settings_.max_inflate_ratio) + ")");
            return false;
        case Inflated::CORRUPT:
            break;
    }
    fail(stream, 13, "the message cannot be decompressed");
    return false;
}

inline void Http2Session::end_message(Stream& stream, const uint8_t* data, size_t size) {
    stream.prefix_have = 0;
    if (stream.kind == Stream::UNARY) {
        if (stream.compressed && inflate(stream, *stream.body)) hold(stream, stream.body->size());
        return;  // submitted at the end of the stream: another message would be an error
    }
    buffered_ -= std::exchange(stream.held, 0);
    if (stream.compressed) {
        Buffer plain;
        if (inflate(stream, plain)) host_.message(host_.self, &stream, plain.data(), plain.size());
    } else if (data) {
        host_.message(host_.self, &stream, data, size);
    } else {
        Buffer whole;
        whole.swap(stream.raw);
        host_.message(host_.self, &stream, whole.data(), whole.size());
    }
}

inline void Http2Session::take_half_close(Stream& stream) {
    stream.remote_closed = true;
    if (stream.kind != Stream::UNARY && stream.kind != Stream::CALL) return;
    if (stream.prefix_have != 0) return fail(stream, 13, "the request ends inside a message");
    buffered_ -= std::exchange(stream.held, 0);
    if (stream.kind == Stream::CALL) return host_.half_close(host_.self, &stream);
    if (stream.messages == 0) return fail(stream, 12, "no message for a unary method");
    host_.submit(host_.self, &stream);
}

inline int Http2Session::on_stream_close(nghttp2_session*, int32_t id, uint32_t, void* user) {
    auto& self = *static_cast<Http2Session*>(user);
    if (Stream* stream = self.find(id)) self.forget(stream);
    return 0;
}

}  // namespace sluice
