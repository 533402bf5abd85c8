// What a connection writes at once: frames put together in one buffer, and between them pieces of answers that are sent
// from where they lie.
#pragma once

#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <vector>

#include "infer.hpp"

namespace sluice {

class Output {
public:
    // Shorter pieces are copied: that is cheaper than one more element in a gathering write.
    static constexpr size_t kMinSlice = 4096;

    size_t size() const { return bytes_.size() + lent_; }
    void append(const void* data, size_t n) { bytes_.append(data, n); }
    uint8_t* extend(size_t n) { return bytes_.extend(n); }
    // `data` stays where it is, and what it is, until `clear`.
    void lend(const uint8_t* data, size_t n) {
        slices_.push_back({bytes_.size(), data, n});
        lent_ += n;
    }
    // Keeps its memory: there is one of these for an event loop.
    void clear() {
        bytes_.resize(0);
        slices_.clear();
        lent_ = 0;
    }

    // One system call. How many of the bytes the socket took; -1 and errno when it is broken.
    ssize_t send(int fd) {
        ssize_t n;
        if (slices_.empty()) {
            n = ::send(fd, bytes_.data(), bytes_.size(), MSG_NOSIGNAL);
        } else {
            iovec vectors[kMaxVectors];
            msghdr message = {};
            message.msg_iov = vectors;
            message.msg_iovlen = each([&](const uint8_t* data, size_t size, size_t i) {
                if (i < kMaxVectors) vectors[i] = {const_cast<uint8_t*>(data), size};
            });
            if (message.msg_iovlen > kMaxVectors) message.msg_iovlen = kMaxVectors;
            n = ::sendmsg(fd, &message, MSG_NOSIGNAL);
        }
        if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)) return 0;
        return n;
    }

    // Everything behind the first `skip` bytes, in order; `to` has room for `size() - skip`.
    void copy(size_t skip, uint8_t* to) const {
        each([&](const uint8_t* data, size_t size, size_t) {
            size_t gone = std::min(skip, size);
            skip -= gone;
            std::memcpy(to, data + gone, size - gone);
            to += size - gone;
        });
    }

private:
    static constexpr size_t kMaxVectors = 256;
    struct Slice {
        size_t at;  // behind this many of `bytes_`
        const uint8_t* data;
        size_t size;
    };

    // Calls `take` with every piece and its index, in order. The number of pieces.
    template <class Take>
    size_t each(Take take) const {
        size_t at = 0, i = 0;
        for (const Slice& slice : slices_) {
            if (slice.at != at) take(bytes_.data() + at, slice.at - at, i++);
            take(slice.data, slice.size, i++);
            at = slice.at;
        }
        if (at != bytes_.size()) take(bytes_.data() + at, bytes_.size() - at, i++);
        return i;
    }

    Buffer bytes_;
    std::vector<Slice> slices_;
    size_t lent_ = 0;
};

}  // namespace sluice
