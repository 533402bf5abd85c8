// The body of an HTTP/1 request: framing (a length or chunks), content coding (gzip, deflate) and their limits, into
// one Buffer. Knows no socket and no head. Also the way back: compressing an answer.
#pragma once

#include <zlib.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <new>

#include "http1_head.hpp"
#include "infer.hpp"

namespace sluice {

struct BodyLimits {
    uint64_t max_body = uint64_t{64} << 20;  // as received, and again after inflating
    uint64_t max_ratio = 100;                // inflated to received; not asked below kFreeInflate
    uint64_t max_chunks = 65536;
    size_t max_trailer = 16384;  // trailer bytes, and extension bytes of all chunks together
};
constexpr uint64_t kFreeInflate = uint64_t{1} << 20;
constexpr uint64_t kAtOnce = uint64_t{1} << 20;  // room for a body of this size is made before it has come

// Inflates one gzip or deflate stream. "deflate" is the zlib format by the book and raw deflate in the wild: the first
// byte tells them apart.
class Inflater {
public:
    explicit Inflater(Coding coding) : coding_(coding) {}
    Inflater(const Inflater&) = delete;
    Inflater& operator=(const Inflater&) = delete;
    ~Inflater() { if (open_) inflateEnd(&stream_); }

    enum Result { GOOD, BROKEN, TOO_LARGE };

    // Appends to `out` what `size` more bytes give. Throws std::bad_alloc.
    Result feed(const uint8_t* data, size_t size, Buffer& out, const BodyLimits& limits) {
        if (size == 0) return GOOD;
        if (!open_) start(data[0]);
        received_ += size;
        stream_.next_in = const_cast<uint8_t*>(data);
        stream_.avail_in = static_cast<uInt>(size);
        // `full`: the last call filled all the room it had, so more may be waiting inside.
        for (bool full = false; stream_.avail_in || full;) {
            if (ended_) {
                if (!stream_.avail_in) return GOOD;
                if (coding_ != Coding::GZIP || inflateReset(&stream_) != Z_OK) return BROKEN;
                ended_ = false;  // the next member of a gzip file
            }
            const size_t step = size < 4096 ? 16384 : 65536;
            const size_t before = out.size();
            stream_.next_out = out.extend(step);
            stream_.avail_out = static_cast<uInt>(step);
            int result = inflate(&stream_, Z_NO_FLUSH);
            full = stream_.avail_out == 0;
            out.resize(before + step - stream_.avail_out);
            if (result == Z_MEM_ERROR) throw std::bad_alloc();
            if (result == Z_STREAM_END) ended_ = true;
            else if (result == Z_BUF_ERROR) full = false;
            else if (result != Z_OK) return BROKEN;
            if (out.size() > limits.max_body) return TOO_LARGE;
            if (out.size() > kFreeInflate && out.size() / limits.max_ratio > received_) return TOO_LARGE;
            if (result == Z_BUF_ERROR && stream_.avail_in) return BROKEN;
        }
        return GOOD;
    }
    // Whether the stream has come to its end (or never began).
    bool is_complete() const { return ended_ || !open_; }

private:
    void start(uint8_t first) {
        int bits = coding_ == Coding::GZIP ? 15 + 16 : (first & 0x0f) == 8 ? 15 : -15;
        std::memset(&stream_, 0, sizeof stream_);
        if (inflateInit2(&stream_, bits) != Z_OK) throw std::bad_alloc();
        open_ = true;
    }

    z_stream stream_;
    uint64_t received_ = 0;
    Coding coding_;
    bool open_ = false;
    bool ended_ = false;
};

// Reads one body into `out`, which the caller owns and must keep until `is_done()`, `status()` or the next `start`.
class BodyReader {
public:
    // Length -1 means chunked.
    void start(Buffer* out, int64_t length, Coding coding, const BodyLimits* limits) {
        out_ = out;
        limits_ = limits;
        left_ = length > 0 ? static_cast<uint64_t>(length) : 0;
        received_ = chunks_ = extra_ = 0;
        step_ = length < 0 ? SIZE_FIRST : length == 0 ? DONE : LENGTH;
        status_ = 0;
        inflater_.reset(coding == Coding::IDENTITY || length == 0 ? nullptr : new (std::nothrow) Inflater(coding));
        if (coding != Coding::IDENTITY && length != 0 && !inflater_) fail(503, "out of memory");
    }
    void stop() { out_ = nullptr; inflater_.reset(); step_ = DONE; }

    bool is_done() const { return step_ == DONE; }
    int status() const { return status_; }
    const char* reason() const { return reason_; }
    uint64_t received() const { return received_; }

    // Consumes bytes and returns how many: all of them, unless the body ends before or is refused.
    size_t feed(const uint8_t* data, size_t size) noexcept {
        try {
            size_t used = step_ == LENGTH ? take(data, size) : chunked(data, size);
            if (step_ == DONE && !status_) finish();
            return used;
        } catch (const std::bad_alloc&) {
            fail(503, "out of memory");
            return size;
        }
    }

    // Where the transport may write the next bytes of the body itself, or nullptr when they have to pass `feed`. Memory
    // grows with what has come, so that a large Content-Length alone costs nothing.
    // DANGER: the place is valid until `placed`, `start` or `stop`, or until anything else touches the buffer.
    uint8_t* place(size_t& size) noexcept {
        constexpr uint64_t kWorthwhile = 16384;
        if (step_ != LENGTH || inflater_ || left_ < kWorthwhile) return nullptr;
        try {
            uint64_t known = out_->size(), total = known + left_;
            if (out_->capacity() == known || known == 0)
                out_->reserve(static_cast<size_t>(std::min(total, std::max(kAtOnce, 2 * known))));
            size = static_cast<size_t>(std::min<uint64_t>(out_->capacity() - known, left_));
            return out_->data() + known;
        } catch (const std::bad_alloc&) {
            return nullptr;
        }
    }
    // `size` bytes have been written there.
    void placed(size_t size) noexcept {
        out_->resize(out_->size() + size);  // within its capacity: cannot throw
        received_ += size;
        left_ -= size;
        if (left_ == 0) step_ = DONE;
    }

private:
    enum Step : uint8_t {
        LENGTH, SIZE_FIRST, SIZE_MORE, EXT_NAME, EXT_NAME_MORE, EXT_VALUE, EXT_TOKEN, EXT_QUOTED, EXT_ESCAPED,
        EXT_QUOTED_END, SIZE_LF, DATA, DATA_CR, DATA_LF, TRAILER, TRAILER_NAME, TRAILER_VALUE, TRAILER_LF, END_LF, DONE,
    };

    void fail(int status, const char* reason) {
        status_ = status;
        reason_ = reason;
        step_ = DONE;
    }

    // Up to `left_` bytes of content.
    size_t take(const uint8_t* data, size_t size) {
        size_t n = size < left_ ? size : static_cast<size_t>(left_);
        left_ -= n;
        received_ += n;
        if (received_ > limits_->max_body) {
            fail(413, "request body too large");
            return size;
        }
        if (!inflater_) {
            if (step_ == LENGTH && out_->size() == 0 && left_ < kAtOnce) out_->reserve(n + static_cast<size_t>(left_));
            out_->append(data, n);
        } else {
            auto result = inflater_->feed(data, n, *out_, *limits_);
            if (result == Inflater::BROKEN) fail(400, "malformed compressed body");
            if (result == Inflater::TOO_LARGE) fail(413, "request body too large after decompression");
            if (status_) return size;
        }
        if (left_ == 0) step_ = step_ == LENGTH ? DONE : DATA_CR;
        return n;
    }

    void finish() {
        if (inflater_ && !inflater_->is_complete()) fail(400, "compressed body ends too early");
        inflater_.reset();
    }

    static int hex(uint8_t c) {
        if (c >= '0' && c <= '9') return c - '0';
        c |= 0x20;
        return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
    }

    size_t chunked(const uint8_t* data, size_t size) {
        using namespace head_detail;
        size_t i = 0;
        while (i < size && step_ != DONE) {
            if (step_ == DATA) {
                i += take(data + i, size - i);
                continue;
            }
            uint8_t c = data[i++];
            bool is_token = kTable.at[c] & TOKEN;
            bool good = true;
            switch (step_) {
            case SIZE_FIRST:
                left_ = 0;
                digits_ = 0;
                step_ = SIZE_MORE;
                if (hex(c) < 0) { good = false; break; }
                [[fallthrough]];
            case SIZE_MORE:
                if (int digit = hex(c); digit >= 0) {
                    left_ = left_ << 4 | static_cast<uint64_t>(digit);
                    good = ++digits_ <= 15;
                } else if (c == '\r') {
                    step_ = SIZE_LF;
                } else if (c == ';') {
                    step_ = EXT_NAME;
                } else {
                    good = false;
                }
                break;
            case EXT_NAME:
                step_ = EXT_NAME_MORE;
                good = is_token;
                break;
            case EXT_NAME_MORE:
                if (c == '=') step_ = EXT_VALUE;
                else if (!is_token) good = end_extension(c);
                break;
            case EXT_VALUE:
                step_ = c == '"' ? EXT_QUOTED : EXT_TOKEN;
                good = c == '"' || is_token;
                break;
            case EXT_TOKEN:
                if (!is_token) good = end_extension(c);
                break;
            case EXT_QUOTED:
                if (c == '"') step_ = EXT_QUOTED_END;
                else if (c == '\\') step_ = EXT_ESCAPED;
                else good = kTable.at[c] & VALUE;
                break;
            case EXT_ESCAPED:
                step_ = EXT_QUOTED;
                good = kTable.at[c] & VALUE;
                break;
            case EXT_QUOTED_END:
                good = end_extension(c);
                break;
            case SIZE_LF:
                good = c == '\n';
                if (!good) break;
                if (left_ > limits_->max_body - received_) fail(413, "request body too large");
                else if (left_ == 0) step_ = TRAILER;
                else if (++chunks_ > limits_->max_chunks) fail(413, "too many chunks");
                else step_ = DATA;
                break;
            case DATA_CR:
                step_ = DATA_LF;
                good = c == '\r';
                break;
            case DATA_LF:
                step_ = SIZE_FIRST;
                good = c == '\n';
                break;
            case TRAILER:
                step_ = c == '\r' ? END_LF : TRAILER_NAME;
                good = c == '\r' || is_token;
                break;
            case TRAILER_NAME:
                if (c == ':') step_ = TRAILER_VALUE;
                else good = is_token;
                break;
            case TRAILER_VALUE:
                if (c == '\r') step_ = TRAILER_LF;
                else good = kTable.at[c] & VALUE;
                break;
            case TRAILER_LF:
                step_ = TRAILER;
                good = c == '\n';
                break;
            case END_LF:
                step_ = DONE;
                good = c == '\n';
                break;
            case LENGTH:
            case DATA:
            case DONE:
                break;
            }
            if (!good) fail(400, "malformed chunked body");
            bool is_extra = (step_ >= EXT_NAME && step_ <= EXT_QUOTED_END) || (step_ >= TRAILER && step_ < DONE);
            if (is_extra && ++extra_ > limits_->max_trailer) fail(431, "chunk extensions or trailers too large");
        }
        return status_ ? size : i;
    }
    bool end_extension(uint8_t c) {
        step_ = c == ';' ? EXT_NAME : SIZE_LF;
        return c == ';' || c == '\r';
    }

    Buffer* out_ = nullptr;
    const BodyLimits* limits_ = nullptr;
    std::unique_ptr<Inflater> inflater_;
    uint64_t left_ = 0;      // of the body, or of the chunk
    uint64_t received_ = 0;  // content bytes, before inflating
    uint64_t chunks_ = 0;
    uint64_t extra_ = 0;
    const char* reason_ = "";
    int status_ = 0;
    int digits_ = 0;
    Step step_ = DONE;
};

// Compresses an answer in one go, at the level that costs least: the loop waits for it. False when it cannot or when it
// would not get smaller.
inline bool compress_answer(const uint8_t* data, size_t size, Coding coding, Buffer& out) noexcept {
    z_stream stream;
    std::memset(&stream, 0, sizeof stream);
    if (deflateInit2(&stream, Z_BEST_SPEED, Z_DEFLATED, coding == Coding::GZIP ? 15 + 16 : 15, 8,
                     Z_DEFAULT_STRATEGY) != Z_OK)
        return false;
    int result = Z_STREAM_ERROR;
    try {
        out.clear();
        out.resize(size);
        stream.next_in = const_cast<uint8_t*>(data);
        stream.avail_in = static_cast<uInt>(size);
        stream.next_out = out.data();
        stream.avail_out = static_cast<uInt>(size);
        result = deflate(&stream, Z_FINISH);
        out.resize(stream.total_out);
    } catch (const std::bad_alloc&) {
    }
    deflateEnd(&stream);
    return result == Z_STREAM_END;
}

}  // namespace sluice
