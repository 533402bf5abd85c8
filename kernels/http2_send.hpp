// Http2Session, the sending half: answers, status and errors as frames.
#pragma once

#include <cmath>
#include <cstdio>

#include "http2_session.hpp"

namespace sluice {

inline Produced Http2Session::produce(Output& out, size_t high, double now) {
    now_ = now;
    out_ = &out;
    high_ = high;
    is_resting_ = false;
    try {
        for (;;) {
            const uint8_t* data = nullptr;
            ssize_t n = nghttp2_session_mem_send(session_, &data);
            if (n < 0) return Produced::BROKEN;
            if (n == 0) return std::exchange(paused_, false) ? Produced::MORE : Produced::IDLE;
            out.append(data, static_cast<size_t>(n));
            if (out.size() >= high) return Produced::MORE;
        }
    } catch (const std::bad_alloc&) {
        return Produced::BROKEN;
    }
}

inline void Http2Session::written() {
    out_ = nullptr;
    for (void* owner : pool_.spent) host_.release(host_.self, owner);
    pool_.spent.clear();
}

inline int Http2Session::on_frame_send(nghttp2_session* session, const nghttp2_frame* frame, void* user) {
    auto& self = *static_cast<Http2Session*>(user);
    switch (frame->hd.type) {
        case NGHTTP2_DATA:
            self.control_frames_.grant(kFramesPerUse);
            [[fallthrough]];
        case NGHTTP2_HEADERS:
            self.ping_strikes_ = 0;
            self.last_ping_ = 0.0;
            if (frame->hd.flags & NGHTTP2_FLAG_END_STREAM) {
                Stream* stream = self.find(frame->hd.stream_id);
                // Nothing that the client may still send matters.
                if (stream && !stream->remote_closed)
                    nghttp2_submit_rst_stream(session, NGHTTP2_FLAG_NONE, stream->id, NGHTTP2_NO_ERROR);
            }
            break;
        case NGHTTP2_RST_STREAM: {
            // Making the server reset is as cheap for a client as resetting.
            uint32_t code = frame->rst_stream.error_code;
            if (code != NGHTTP2_NO_ERROR && code != NGHTTP2_CANCEL && !self.resets_.spend(self.now_))
                self.terminate(NGHTTP2_ENHANCE_YOUR_CALM, "too_many_stream_errors");
            break;
        }
        default:
            break;
    }
    return 0;
}

// Bytes of this stream's answer that nghttp2 has not taken yet.
inline size_t Http2Session::waiting(const Stream& stream) const {
    if (stream.answer) return grpc::kPrefix + stream.answer->size() - stream.sent;
    return stream.pending.size() - stream.pending_at;
}

inline ssize_t Http2Session::read_answer(nghttp2_session*, int32_t, uint8_t*, size_t length, uint32_t* flags,
                                         nghttp2_data_source* source, void* user) {
    auto& self = *static_cast<Http2Session*>(user);
    auto& stream = *static_cast<Stream*>(source->ptr);
    size_t left = self.waiting(stream);
    if (left == 0 && !stream.is_finished) {
        stream.is_deferred = true;
        return NGHTTP2_ERR_DEFERRED;
    }
    *flags |= NGHTTP2_DATA_FLAG_NO_COPY;
    if (left > length) return static_cast<ssize_t>(length);
    if (stream.is_finished) {
        *flags |= NGHTTP2_DATA_FLAG_EOF | NGHTTP2_DATA_FLAG_NO_END_STREAM;
        try {
            self.end_answer(stream);
        } catch (const std::bad_alloc&) {
            return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
        }
    }
    return static_cast<ssize_t>(left);
}

inline int Http2Session::send_data(nghttp2_session*, nghttp2_frame*, const uint8_t* head, size_t length,
                                   nghttp2_data_source* source, void* user) {
    auto& self = *static_cast<Http2Session*>(user);
    auto& stream = *static_cast<Stream*>(source->ptr);
    stream.progress = self.now_;
    try {
        self.out_->append(head, 9);
        if (stream.answer) self.send_answer(stream, length);
        else if (length) self.send_pending(stream, length);
    } catch (const std::bad_alloc&) {
        return NGHTTP2_ERR_CALLBACK_FAILURE;
    }
    if (self.out_->size() < self.high_) return 0;
    self.paused_ = true;
    return NGHTTP2_ERR_PAUSE;
}

inline void Http2Session::send_answer(Stream& stream, size_t length) {
    if (stream.sent < grpc::kPrefix) {
        size_t n = std::min(length, grpc::kPrefix - stream.sent);
        out_->append(stream.answer_prefix + stream.sent, n);
        stream.sent += n;
        length -= n;
    }
    if (length != 0) {
        const uint8_t* data = stream.answer->data() + (stream.sent - grpc::kPrefix);
        if (length >= Output::kMinSlice) out_->lend(data, length);
        else out_->append(data, length);
        stream.sent += length;
    }
    if (waiting(stream) == 0) drop_owner(stream);
}

inline void Http2Session::send_pending(Stream& stream, size_t length) {
    out_->append(stream.pending.data() + stream.pending_at, length);
    stream.pending_at += length;
    if (waiting(stream) == 0) {
        stream.pending.clear();
        stream.pending_at = 0;
    }
    if (stream.is_full && waiting(stream) <= settings_.send_high_water / 2) {
        stream.is_full = false;
        writable_.push_back(stream.id);
    }
}

inline bool Http2Session::notify_writable() {
    if (writable_.empty()) return false;
    std::vector<int32_t> ids;
    ids.swap(writable_);
    for (int32_t id : ids) {
        Stream* stream = find(id);
        if (stream && stream->owner && !stream->is_infer) host_.writable(host_.self, stream);
    }
    return true;
}

inline void Http2Session::field(std::string_view name, std::string_view value, bool is_static) {
    uint8_t flags = is_static ? NGHTTP2_NV_FLAG_NO_COPY_NAME | NGHTTP2_NV_FLAG_NO_COPY_VALUE : NGHTTP2_NV_FLAG_NONE;
    pool_.fields.push_back({reinterpret_cast<uint8_t*>(const_cast<char*>(name.data())),
                       reinterpret_cast<uint8_t*>(const_cast<char*>(value.data())), name.size(), value.size(), flags});
}

inline void Http2Session::add_status_fields(const Stream& stream, char* scratch, size_t size) {
    field("grpc-status", grpc::status_text(stream.code), true);
    if (!stream.message.empty()) field("grpc-message", stream.message, false);
    if (!stream.served_version.empty()) {
        field("sluice-model-version", stream.served_version, false);
        pool_.fields.back().flags = NGHTTP2_NV_FLAG_NO_COPY_NAME;
    }
    if (stream.retry_after > 0.0) {
        int n = std::snprintf(scratch, size, "%.0f", std::ceil(std::min(stream.retry_after, 1e6) * 1e3));
        field("grpc-retry-pushback-ms", {scratch, static_cast<size_t>(n)}, false);
    }
    if (!stream.details.empty()) field("grpc-status-details-bin", stream.details, false);
    for (const auto& [name, value] : stream.trailers) field(name, value, false);
}

// HEADERS, with the data source behind them.
inline void Http2Session::begin_answer(Stream& stream) {
    stream.head_sent = true;
    stream.progress = now_;
    pool_.fields.clear();
    field(":status", "200", true);
    field("content-type", "application/grpc", true);
    if (stream.any_compressed) field("grpc-encoding", "gzip", true);
    nghttp2_data_provider provider;
    provider.source.ptr = &stream;
    provider.read_callback = read_answer;
    nghttp2_submit_response(session_, stream.id, pool_.fields.data(), pool_.fields.size(), &provider);
}

// Trailers, or, when nothing has been sent, the whole answer in one HEADERS frame.
inline void Http2Session::end_answer(Stream& stream) {
    if (stream.ended) return;
    stream.ended = true;
    char scratch[32];
    pool_.fields.clear();
    if (!stream.head_sent) {
        field(":status", "200", true);
        field("content-type", "application/grpc", true);
        if (stream.code == 12 && stream.encoding == grpc::Encoding::UNKNOWN)
            field("grpc-accept-encoding", grpc::kAcceptEncoding, true);
        add_status_fields(stream, scratch, sizeof scratch);
        stream.head_sent = true;
        nghttp2_submit_response(session_, stream.id, pool_.fields.data(), pool_.fields.size(), nullptr);
    } else {
        add_status_fields(stream, scratch, sizeof scratch);
        nghttp2_submit_trailer(session_, stream.id, pool_.fields.data(), pool_.fields.size());
    }
}

inline void Http2Session::respond(Stream& stream, int code, std::string_view message, const Buffer& answer,
                                  double retry_after, std::string_view served_version) {
    stream.answered = true;
    if (!session_) return drop_owner(stream);
    stream.retry_after = retry_after;
    stream.served_version = served_version;
    size_t size = answer.size();
    if (code == 0 && size > UINT32_MAX) {
        code = 8;
        message = "the answer is larger than a gRPC message can be";
    }
    if (code != 0) {
        finish(stream, code, message);  // first: the message is the owner's
        return drop_owner(stream);
    }
    stream.is_finished = true;
    stream.any_compressed = stream.encoding != grpc::Encoding::IDENTITY && stream.accepts_gzip;
    if (stream.any_compressed && size >= settings_.compression_min_bytes) {
        stream.pending.extend(grpc::kPrefix);
        pool_.compression.gzip(answer.data(), size, stream.pending);
        grpc::write_prefix(stream.pending.data(), true, stream.pending.size() - grpc::kPrefix);
        drop_owner(stream);
    } else {
        grpc::write_prefix(stream.answer_prefix, false, size);
        stream.answer = &answer;
    }
    begin_answer(stream);
}

inline bool Http2Session::send(Stream& stream, const uint8_t* data, size_t size) {
    if (!session_ || stream.is_finished) return true;
    if (size > UINT32_MAX) throw std::bad_alloc();
    Buffer& pending = stream.pending;
    if (stream.pending_at > 65536 && stream.pending_at > pending.size() / 2) {
        size_t left = pending.size() - stream.pending_at;
        std::memmove(pending.data(), pending.data() + stream.pending_at, left);
        pending.resize(left);
        stream.pending_at = 0;
    }
    if (!stream.head_sent) stream.any_compressed = stream.encoding != grpc::Encoding::IDENTITY && stream.accepts_gzip;
    bool compressed = stream.any_compressed && size >= settings_.compression_min_bytes;
    if (pending.size() == 0) stream.progress = now_;
    size_t start = pending.size();
    pending.extend(grpc::kPrefix);
    if (compressed) pool_.compression.gzip(data, size, pending);
    else pending.append(data, size);
    grpc::write_prefix(pending.data() + start, compressed, pending.size() - start - grpc::kPrefix);
    if (!stream.head_sent) {
        begin_answer(stream);
    } else if (stream.is_deferred) {
        stream.is_deferred = false;
        nghttp2_session_resume_data(session_, stream.id);
    }
    if (waiting(stream) > settings_.send_high_water) stream.is_full = true;
    return !stream.is_full;
}

inline void Http2Session::finish(Stream& stream, int code, std::string_view message) {
    stream.kind = Stream::DONE;
    if (!session_ || stream.is_finished) return;
    stream.is_finished = true;
    stream.code = code;
    grpc::percent_encode(message, stream.message);
    if (!stream.head_sent) {
        end_answer(stream);
    } else if (stream.is_deferred) {
        stream.is_deferred = false;
        nghttp2_session_resume_data(session_, stream.id);
    }
}

inline void Http2Session::reject(Stream& stream, std::string_view status) {
    stream.kind = Stream::DONE;
    stream.is_finished = stream.ended = stream.head_sent = true;
    pool_.fields.clear();
    field(":status", status, true);
    if (status == "405") field("allow", "POST", true);
    nghttp2_submit_response(session_, stream.id, pool_.fields.data(), pool_.fields.size(), nullptr);
}

// Ends a stream for the client's own fault, or for ours.
inline void Http2Session::fail(Stream& stream, int code, std::string_view message) {
    stream.kind = Stream::DONE;
    buffered_ -= std::exchange(stream.held, 0);
    stream.raw.clear();
    stream.body = nullptr;
    drop_owner(stream);
    finish(stream, code, message);
}

}  // namespace sluice
