// One connection's HTTP/2 session: an nghttp2 session, the streams on it, and what bounds a peer. Bytes and the time go
// in by `receive` and `tick`, bytes come out by `produce`; requests leave, and answers enter, through `Host`.
//
// nghttp2 allows submitting frames inside its callbacks but neither receiving nor producing there, and the session must
// outlive them: the owner calls receive and produce only from its event loop, never from a Host function, and deletes
// the session only when neither is on the stack.
#pragma once

#include <nghttp2/nghttp2.h>

#include <cstdint>
#include <new>
#include <string>
#include <string_view>
#include <vector>

#include "grpc_details.hpp"
#include "grpc_framing.hpp"
#include "http2_stream.hpp"
#include "infer.hpp"

namespace sluice {

// What the session asks of its owner. `self` is the owner. None of these throws.
struct Host {
    void* self = nullptr;
    // Whether `wants_header` is worth asking; null: never. Outlives the session.
    const bool* wants_headers = nullptr;
    // Whether an inference's header is to be kept in `metadata`, in its encoded form.
    bool (*wants_header)(void* self, std::string_view name) = nullptr;
    // Gives the stream an exchange: sets `owner` and `body`. Takes `metadata`.
    void (*open_unary)(void* self, Stream* stream) = nullptr;
    // The exchange's message is complete.
    void (*submit)(void* self, Stream* stream) = nullptr;
    // The caller of a request that has no answer has gone.
    void (*cancel)(void* self, void* owner) = nullptr;
    // The answer has been copied or sent, or nobody wants it.
    void (*release)(void* self, void* owner) = nullptr;
    // Gives the stream a Call: sets `owner`, unless the call is over when it returns.
    void (*open_call)(void* self, Stream* stream) = nullptr;
    void (*message)(void* self, Stream* stream, const uint8_t* data, size_t size) = nullptr;
    void (*half_close)(void* self, Stream* stream) = nullptr;
    // The call's stream is gone. Clears `owner`.
    void (*drop_call)(void* self, Stream* stream) = nullptr;
    // There is room again after `send` returned false.
    void (*writable)(void* self, Stream* stream) = nullptr;
};

enum class Produced : uint8_t { IDLE, MORE, BROKEN };

class Http2Session {
public:
    // All of these outlive the session.
    Http2Session(const Http2Settings& settings, std::string_view infer_path, Http2Pool& pool, const Host& host)
        : settings_(settings), infer_path_(infer_path), pool_(pool), host_(host), memory_(pool.pages) {}
    Http2Session(const Http2Session&) = delete;
    Http2Session& operator=(const Http2Session&) = delete;
    ~Http2Session() { close(); }

    // Queues the connection's preface. False when there is no memory.
    bool open(double now);
    // Drops every stream and deletes the nghttp2 session. Idempotent.
    void close();

    // Takes what has arrived. False: the connection is beyond saving, close it without further ado.
    bool receive(const uint8_t* data, size_t size, double now);
    // Appends frames to `out` until there are none (IDLE) or it holds `high` bytes (MORE).
    Produced produce(Output& out, size_t high, double now);
    // The bytes of `produce` have been written: nothing of an answer is lent any more.
    void written();
    // Tells the host of the calls that may send again. Not part of `produce`, because they will. False: there was none.
    bool notify_writable();
    // What the passing of time alone does. `is_blocked`: the transport takes no more. False: close the connection now.
    bool tick(double now, bool is_blocked);

    // Asks the client to open no more streams; those it has opened already run to their end.
    void drain(double now);
    // GOAWAY and no more input. The owner produces once more and closes.
    void terminate(uint32_t error_code, std::string_view reason);
    // Nothing is left to receive or to send.
    bool is_over() const {
        return closing_ || (!nghttp2_session_want_read(session_) && !nghttp2_session_want_write(session_));
    }
    bool wants_write() const { return nghttp2_session_want_write(session_); }
    size_t live() const { return live_; }

    Stream* find(int64_t id) const {
        if (session_)
            return static_cast<Stream*>(nghttp2_session_get_stream_user_data(session_, static_cast<int32_t>(id)));
        Stream* stream = streams_;  // while closing
        while (stream && stream->id != id) stream = stream->next;
        return stream;
    }

    // Unary answers. `answer` belongs to the stream's owner and stays as it is until it is released.
    // `reason` says for programs why `code` is not 0; empty when there is nothing to say.
    void respond(Stream& stream, int code, std::string_view message, const Buffer& answer, double retry_after,
                 std::string_view served_version, std::string_view reason);
    // Calls. `send` is false when more than the high-water mark is waiting now; it has taken the message all the same.
    bool send(Stream& stream, const uint8_t* data, size_t size);
    // Sends what is waiting and then the status; `trailers` and `details` are encoded already. Ends the owner's part.
    void finish(Stream& stream, int code, std::string_view message);
    void pause(Stream& stream, bool paused);

private:
    enum class Drain : uint8_t { NONE, ANNOUNCED, SEEN, FINAL };

    // Receiving: http2_receive.hpp.
    static int on_begin_frame(nghttp2_session*, const nghttp2_frame_hd*, void*);
    static int on_begin_headers(nghttp2_session*, const nghttp2_frame*, void*);
    static int on_header(nghttp2_session*, const nghttp2_frame*, const uint8_t*, size_t, const uint8_t*, size_t,
                         uint8_t, void*);
    static int on_frame_recv(nghttp2_session*, const nghttp2_frame*, void*);
    static int on_data_chunk(nghttp2_session*, uint8_t, int32_t, const uint8_t*, size_t, void*);
    static int on_stream_close(nghttp2_session*, int32_t, uint32_t, void*);
    void take_header(Stream& stream, std::string_view name, std::string_view value);
    void take_head(Stream& stream);
    void take_data(Stream& stream, const uint8_t* data, size_t size);
    void begin_message(Stream& stream);
    bool hold(Stream& stream, size_t size);
    bool append_message(Stream& stream, const uint8_t* data, size_t size);
    void end_message(Stream& stream, const uint8_t* data, size_t size);
    bool inflate(Stream& stream, Buffer& to);
    void take_half_close(Stream& stream);
    void take_ping(const nghttp2_frame& frame);
    void consume(Stream& stream, size_t size);

    // Sending: http2_send.hpp.
    static int on_frame_send(nghttp2_session*, const nghttp2_frame*, void*);
    static ssize_t read_answer(nghttp2_session*, int32_t, uint8_t*, size_t, uint32_t*, nghttp2_data_source*, void*);
    static int send_data(nghttp2_session*, nghttp2_frame*, const uint8_t*, size_t, nghttp2_data_source*, void*);
    void send_answer(Stream& stream, size_t length);
    void send_pending(Stream& stream, size_t length);
    size_t waiting(const Stream& stream) const;
    void count_unread(Stream& stream);
    void field(std::string_view name, std::string_view value, bool is_static);
    void add_status_fields(const Stream& stream, char* scratch, size_t size);
    void begin_answer(Stream& stream);
    void end_answer(Stream& stream);
    void reject(Stream& stream, std::string_view status);
    void fail(Stream& stream, int code, std::string_view message);

    void drop_owner(Stream& stream);
    void forget(Stream* stream);
    void take_drain_ack();
    void send_final_goaway();

    // Set once.
    const Http2Settings& settings_;
    const std::string_view infer_path_;
    Http2Pool& pool_;
    const Host host_;
    SessionMemory memory_;
    nghttp2_session* session_ = nullptr;

    // Streams, newest first: linked in on_begin_headers, taken out and given back to the pool in `forget` alone.
    Stream* streams_ = nullptr;
    size_t live_ = 0;
    Stream* current_ = nullptr;        // whose head is being read
    int32_t head_id_ = 0;              // whose header block, trailers included, was last begun
    uint32_t continuations_ = 0;       // frames of that header block behind its first
    size_t buffered_ = 0;              // bytes of messages not yet complete
    size_t unread_ = 0;                // bytes of answers that nghttp2 has not taken, and when it last took some
    double read_at_ = 0.0;
    std::vector<int32_t> writable_;    // streams to tell of room; told by notify_writable

    // Times, by the clock of the last receive, produce or tick.
    double now_ = 0.0, opened_ = 0.0, last_received_ = 0.0, idle_since_ = 0.0;
    double head_began_ = 0.0, blocked_since_ = 0.0, ping_sent_ = 0.0, last_ping_ = 0.0, drain_began_ = 0.0;
    int ping_strikes_ = 0;
    Budget resets_, control_frames_;
    Drain drain_ = Drain::NONE;
    bool has_preface_ = false;
    bool closing_ = false;             // terminated: what arrives is thrown away
    bool paused_ = false;              // produce has filled its buffer
    bool is_resting_ = false;          // the frame buffer has been given back to the system

    Output* out_ = nullptr;            // from produce to written
    size_t high_ = 0;
    size_t consumed_ = 0;              // of the connection's window, while receiving
};

constexpr uint8_t kDrainPing[8] = {'d', 'r', 'a', 'i', 'n', 'i', 'n', 'g'};
constexpr double kDrainGrace = 5.0;      // seconds that a client has to answer the drain's pings
constexpr double kRestAfter = 1.0;       // seconds without a byte, until a connection gives memory back
constexpr double kYoungStream = 0.05;    // resets of older streams are ordinary cancellations
constexpr double kFramesPerUse = 10.0;   // control frames that a request, or a DATA frame sent, makes up for

inline bool Http2Session::open(double now) {
    now_ = opened_ = last_received_ = idle_since_ = now;
    pool_.fields.reserve(16);
    pool_.spent.reserve(16);
    resets_.set(settings_.max_resets_per_minute, now);
    control_frames_.set(settings_.max_control_frames_per_minute, now);
    nghttp2_session_callbacks* callbacks = nullptr;
    nghttp2_option* option = nullptr;
    if (nghttp2_session_callbacks_new(&callbacks) != 0) return false;
    if (nghttp2_option_new(&option) != 0) {
        nghttp2_session_callbacks_del(callbacks);
        return false;
    }
    nghttp2_session_callbacks_set_on_begin_frame_callback(callbacks, on_begin_frame);
    nghttp2_session_callbacks_set_on_begin_headers_callback(callbacks, on_begin_headers);
    nghttp2_session_callbacks_set_on_header_callback(callbacks, on_header);
    nghttp2_session_callbacks_set_on_frame_recv_callback(callbacks, on_frame_recv);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, on_data_chunk);
    nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, on_stream_close);
    nghttp2_session_callbacks_set_on_frame_send_callback(callbacks, on_frame_send);
    nghttp2_session_callbacks_set_send_data_callback(callbacks, send_data);
    nghttp2_option_set_no_auto_window_update(option, 1);
    nghttp2_option_set_no_closed_streams(option, 1);
    nghttp2_option_set_max_outbound_ack(option, settings_.max_outbound_acks);
    nghttp2_option_set_max_settings(option, settings_.max_settings);
    // Counted here instead: nghttp2 counts reads while it waits for one, so that slow bytes are taken for a flood.
    nghttp2_option_set_max_continuations(option, SIZE_MAX);
    // Resets are counted here instead, where it is known which of them are worth counting.
    nghttp2_option_set_stream_reset_rate_limit(option, uint64_t{1} << 40, uint64_t{1} << 40);
    nghttp2_mem memory = memory_.functions();
    int rc = nghttp2_session_server_new3(&session_, callbacks, this, option, &memory);
    nghttp2_option_del(option);
    nghttp2_session_callbacks_del(callbacks);
    if (rc != 0) {
        session_ = nullptr;
        return false;
    }
    const nghttp2_settings_entry entries[] = {
        {NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, settings_.max_concurrent_streams},
        {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, static_cast<uint32_t>(settings_.stream_window)},
        {NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, settings_.max_header_bytes},
    };
    return nghttp2_submit_settings(session_, NGHTTP2_FLAG_NONE, entries, 3) == 0 &&
           nghttp2_session_set_local_window_size(session_, NGHTTP2_FLAG_NONE, 0, settings_.connection_window) == 0;
}

inline void Http2Session::close() {
    if (!session_) return;
    closing_ = true;
    // What its host functions submit goes nowhere.
    nghttp2_session* session = std::exchange(session_, nullptr);
    while (streams_) forget(streams_);
    nghttp2_session_del(session);
}

inline void Http2Session::forget(Stream* stream) {
    if (stream->previous) stream->previous->next = stream->next;
    else streams_ = stream->next;
    if (stream->next) stream->next->previous = stream->previous;
    if (current_ == stream) current_ = nullptr;
    if (head_id_ == stream->id) head_began_ = 0.0;
    if (--live_ == 0) idle_since_ = now_;
    buffered_ -= stream->held;
    drop_owner(*stream);
    unread_ -= std::exchange(stream->unread, 0);
    pool_.streams.give_back(stream);
}

inline void Http2Session::drop_owner(Stream& stream) {
    if (!stream.owner) return;
    if (!stream.is_infer) return host_.drop_call(host_.self, &stream);
    void* owner = std::exchange(stream.owner, nullptr);
    stream.body = nullptr;
    stream.answer = nullptr;
    if (!stream.answered) host_.cancel(host_.self, owner);
    else if (out_) pool_.spent.push_back(owner);
    else host_.release(host_.self, owner);
}

inline void Http2Session::terminate(uint32_t error_code, std::string_view reason) {
    if (closing_) return;
    closing_ = true;
    nghttp2_submit_goaway(session_, NGHTTP2_FLAG_NONE, nghttp2_session_get_last_proc_stream_id(session_), error_code,
                          reinterpret_cast<const uint8_t*>(reason.data()), reason.size());
}

inline void Http2Session::drain(double now) {
    if (drain_ != Drain::NONE || closing_) return;
    drain_ = Drain::ANNOUNCED;
    drain_began_ = now;
    nghttp2_submit_shutdown_notice(session_);
    nghttp2_submit_ping(session_, NGHTTP2_FLAG_NONE, kDrainPing);
}

// The first answer says that the client has seen the notice. It may come before requests that were begun earlier: clients
// write answers to pings ahead of what waits to be sent. Those have arrived with the second one.
inline void Http2Session::take_drain_ack() {
    if (drain_ == Drain::ANNOUNCED) {
        drain_ = Drain::SEEN;
        nghttp2_submit_ping(session_, NGHTTP2_FLAG_NONE, kDrainPing);
    } else if (drain_ == Drain::SEEN) {
        send_final_goaway();
    }
}

inline void Http2Session::send_final_goaway() {
    drain_ = Drain::FINAL;
    nghttp2_submit_goaway(session_, NGHTTP2_FLAG_NONE, nghttp2_session_get_last_proc_stream_id(session_),
                          NGHTTP2_NO_ERROR, nullptr, 0);
}

inline bool Http2Session::tick(double now, bool is_blocked) {
    now_ = now;
    if (!has_preface_ && now - opened_ > settings_.header_timeout) return false;
    if (head_began_ != 0.0 && now - head_began_ > settings_.header_timeout) return false;
    if (!is_blocked) blocked_since_ = 0.0;
    else if (blocked_since_ == 0.0) blocked_since_ = now;
    else if (now - blocked_since_ > settings_.write_timeout) return false;
    if (ping_sent_ != 0.0) {
        if (now - ping_sent_ > settings_.keepalive_timeout) return false;
    } else if (now - last_received_ > settings_.keepalive_time) {
        ping_sent_ = now;
        nghttp2_submit_ping(session_, NGHTTP2_FLAG_NONE, nullptr);
    }
    if (live_ == 0 && now - idle_since_ > settings_.idle_timeout) drain(now);
    if ((drain_ == Drain::ANNOUNCED || drain_ == Drain::SEEN) && now - drain_began_ > kDrainGrace) send_final_goaway();
    if (live_ == 0 && !is_resting_ && now - last_received_ > kRestAfter && !wants_write()) {
        memory_.rest();
        is_resting_ = true;
    }
    if (unread_ > settings_.max_unread_bytes && now - read_at_ > settings_.write_timeout) return false;
    for (Stream* stream = streams_; stream;) {
        Stream* next = stream->next;  // nothing below takes a stream out
        if (stream->kind == Stream::UNARY && !stream->remote_closed &&
            now > stream->arrived + settings_.body_timeout +
                      static_cast<double>(stream->received) / settings_.min_body_rate)
            fail(*stream, 4, "the request's message did not arrive in time (body_timeout)");
        else if (waiting(*stream) != 0 && now - stream->progress > settings_.write_timeout)
            nghttp2_submit_rst_stream(session_, NGHTTP2_FLAG_NONE, stream->id, NGHTTP2_CANCEL);
        stream = next;
    }
    return true;
}

}  // namespace sluice

#include "http2_receive.hpp"
#include "http2_send.hpp"
