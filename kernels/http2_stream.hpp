// What a connection keeps for one gRPC call while its HTTP/2 stream lives, and the pool such structures come from.
// Nothing here talks to nghttp2.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "compression.hpp"
#include "grpc_framing.hpp"
#include "http2_memory.hpp"
#include "http2_output.hpp"
#include "http2_settings.hpp"
#include "infer.hpp"

namespace sluice {

// So many a minute, all at once if need be.
class Budget {
public:
    void set(double per_minute, double now) { level_ = cap_ = per_minute; at_ = now; }
    // False when there is none left.
    bool spend(double now) {
        level_ += (now - at_) * cap_ / 60.0;
        at_ = now;
        if (level_ > cap_) level_ = cap_;
        level_ -= 1.0;
        return level_ >= 0.0;
    }
    void grant(double n) { if (level_ < cap_) level_ += n; }

private:
    double level_ = 0.0, cap_ = 0.0, at_ = 0.0;
};

using Metadata = std::vector<std::pair<std::string, std::string>>;

struct Stream {
    enum Kind : uint8_t {
        HEAD,   // its header block is being read
        UNARY,  // an inference: `owner` is its exchange until the answer has been copied out
        CALL,   // anything else: `owner` is its Call
        DONE,   // its outcome is settled; what still arrives is thrown away
    };

    int32_t id = 0;
    Kind kind = HEAD;

    // The host's object, one reference of which belongs to this structure. `answered`: the exchange has been given back
    // by Intake and is ours to release; without it, it must be cancelled.
    void* owner = nullptr;
    bool answered = false;

    // Head.
    bool is_post = false;
    bool is_grpc = false;
    bool is_infer = false;
    bool accepts_gzip = false;
    bool bad_timeout = false;
    bool bad_metadata = false;
    bool head_too_large = false;
    grpc::Encoding encoding = grpc::Encoding::IDENTITY;
    uint32_t header_bytes = 0;
    double timeout = 0.0;   // seconds, 0 for none
    double arrived = 0.0;
    double deadline = 0.0;  // monotonic, 0 for none
    std::string path;       // empty for an inference
    Metadata metadata;      // of an inference: what the host wants to see

    // Message being received. An inference's goes to `*body`, which belongs to the owner; everything else to `raw`.
    uint8_t prefix[grpc::kPrefix] = {};
    uint8_t prefix_have = 0;
    bool compressed = false;
    bool remote_closed = false;
    bool is_paused = false;     // the call's reader wants no more: its window stays used up
    bool any_compressed = false;
    uint32_t left = 0;          // of the current message
    uint32_t declared = 0;
    uint32_t messages = 0;
    uint32_t unconsumed = 0;    // bytes of the stream's window not given back yet
    uint64_t received = 0;
    size_t held = 0;            // counted in Session::buffered_
    Buffer raw;
    Buffer* body = nullptr;

    // What is being sent: for an uncompressed unary answer `answer_prefix` and `*answer`, else what `pending` holds
    // from `pending_at` on, framed already.
    uint8_t answer_prefix[grpc::kPrefix] = {};
    const Buffer* answer = nullptr;
    size_t sent = 0;
    Buffer pending;
    size_t pending_at = 0;
    bool head_sent = false;
    bool is_deferred = false;   // the data source has run dry
    bool is_finished = false;   // trailers are known
    bool is_full = false;       // send() said no: the host is told when there is room
    bool ended = false;         // END_STREAM is on its way
    double progress = 0.0;      // when it last gave bytes to the connection

    // Trailers.
    int code = 0;
    double retry_after = 0.0;
    std::string message;
    std::string served_version;
    std::string details;
    Metadata trailers;

    Stream* next = nullptr;
    Stream* previous = nullptr;

    // There are many streams at rest: none keeps more than a page.
    static void shrink(Buffer& buffer) {
        buffer.clear();
        if (buffer.capacity() <= 4096) return;
        Buffer empty;
        buffer.swap(empty);
    }

    void reset() {
        id = 0;
        kind = HEAD;
        owner = nullptr;
        body = nullptr;
        answer = nullptr;
        answered = is_post = is_grpc = is_infer = accepts_gzip = bad_timeout = bad_metadata = head_too_large =
            false;
        compressed = remote_closed = is_paused = any_compressed = false;
        head_sent = is_deferred = is_finished = is_full = ended = false;
        encoding = grpc::Encoding::IDENTITY;
        header_bytes = left = declared = messages = unconsumed = 0;
        timeout = arrived = deadline = progress = retry_after = 0.0;
        prefix_have = 0;
        received = 0;
        held = sent = pending_at = 0;
        code = 0;
        shrink(raw);
        shrink(pending);
        next = previous = nullptr;
        path.clear();
        message.clear();
        served_version.clear();
        details.clear();
        metadata.clear();
        trailers.clear();
    }
};

// Recycles streams, up to so many at rest. Counts what is out.
class StreamPool {
public:
    static constexpr size_t kAtRest = 4096;

    StreamPool() = default;
    StreamPool(const StreamPool&) = delete;
    StreamPool& operator=(const StreamPool&) = delete;
    ~StreamPool() {
        while (free_) delete std::exchange(free_, free_->next);
    }
    Stream* take() {
        Stream* stream = free_;
        if (stream) {
            free_ = stream->next;
            stream->next = nullptr;
            --at_rest_;
        } else {
            stream = new Stream;
        }
        ++live_;
        return stream;
    }
    void give_back(Stream* stream) {
        --live_;
        if (at_rest_ >= kAtRest) {
            delete stream;
            return;
        }
        stream->reset();
        stream->next = free_;
        free_ = stream;
        ++at_rest_;
    }
    size_t live() const { return live_; }

private:
    Stream* free_ = nullptr;
    size_t at_rest_ = 0;
    size_t live_ = 0;
};

// What the connections of one event loop share. The last three are scratch: empty outside of what uses them.
struct Http2Pool {
    StreamPool streams;
    FramePages pages;
    Compression compression;
    Output out;                       // what one connection writes
    std::vector<nghttp2_nv> fields;   // one header block
    std::vector<void*> spent;         // owners of answers of which `out` may hold pieces
};

}  // namespace sluice
