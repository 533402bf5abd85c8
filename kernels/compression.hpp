// gzip and zlib over whole messages, with a limit on what comes out. The zlib states are kept and reset, so that one
// object serves every message of an event loop.
#pragma once

#include <zlib.h>

#include <algorithm>
#include <cstdint>

#include "infer.hpp"

namespace sluice {

enum class Inflated : uint8_t { DONE, CORRUPT, TOO_LARGE, RATIO };

class Compression {
public:
    Compression() = default;
    Compression(const Compression&) = delete;
    Compression& operator=(const Compression&) = delete;
    ~Compression() {
        if (inflating_) inflateEnd(&in_);
        if (deflating_) deflateEnd(&out_);
    }

    // Appends the plain bytes to `to`, at most `limit` of them, and past a megabyte at most `ratio` times `size`.
    // Exactly one gzip (or zlib) stream must be there. Throws std::bad_alloc.
    Inflated inflate(const uint8_t* data, size_t size, bool gzip, size_t limit, size_t ratio, Buffer& to) {
        int window = gzip ? 15 + 16 : 15;
        if (!inflating_) {
            in_ = {};
            if (inflateInit2(&in_, window) != Z_OK) throw std::bad_alloc();
            inflating_ = true;
        } else if (inflateReset2(&in_, window) != Z_OK) {
            throw std::bad_alloc();
        }
        size_t allowed = std::min(limit, std::max(kAlwaysAllowed, ratio * size));
        size_t start = to.size(), made = 0;
        in_.next_in = const_cast<uint8_t*>(data);
        in_.avail_in = static_cast<uInt>(size);
        for (int rc = Z_OK; rc != Z_STREAM_END;) {
            // One byte more than allowed, so that a stream of exactly the limit can end.
            size_t room = std::min(std::max<size_t>(made, 4 * size + 1024), allowed + 1 - made);
            in_.next_out = to.extend(room);
            in_.avail_out = static_cast<uInt>(room);
            rc = ::inflate(&in_, Z_NO_FLUSH);
            made += room - in_.avail_out;
            to.resize(start + made);
            if (made > allowed) return made > limit ? Inflated::TOO_LARGE : Inflated::RATIO;
            if (rc == Z_MEM_ERROR) throw std::bad_alloc();
            if (rc != Z_OK && rc != Z_STREAM_END) return Inflated::CORRUPT;
            if (rc == Z_OK && in_.avail_in == 0 && in_.avail_out != 0) return Inflated::CORRUPT;  // it breaks off
        }
        return in_.avail_in == 0 ? Inflated::DONE : Inflated::CORRUPT;
    }

    // Appends the gzip form of the bytes to `to`. Throws std::bad_alloc.
    void gzip(const uint8_t* data, size_t size, Buffer& to) {
        if (!deflating_) {
            out_ = {};
            if (deflateInit2(&out_, Z_BEST_SPEED, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY) != Z_OK)
                throw std::bad_alloc();
            deflating_ = true;
        } else {
            deflateReset(&out_);
        }
        size_t start = to.size(), bound = deflateBound(&out_, size);
        out_.next_in = const_cast<uint8_t*>(data);
        out_.avail_in = static_cast<uInt>(size);
        out_.next_out = to.extend(bound);
        out_.avail_out = static_cast<uInt>(bound);
        if (::deflate(&out_, Z_FINISH) != Z_STREAM_END) throw std::bad_alloc();
        to.resize(start + bound - out_.avail_out);
    }

private:
    static constexpr size_t kAlwaysAllowed = size_t{1} << 20;
    z_stream in_ = {};
    z_stream out_ = {};
    bool inflating_ = false;
    bool deflating_ = false;
};

}  // namespace sluice
