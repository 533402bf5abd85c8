// Memory for nghttp2. A session keeps one frame buffer of 16 KiB all its life and needs nothing of what is in it while
// it has nothing to send: those buffers come from pages of their own, which idle connections give back to the system.
#pragma once

#include <nghttp2/nghttp2.h>
#include <sys/mman.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <vector>

namespace sluice {

class FramePages {
public:
    static constexpr size_t kSlot = 5 * 4096;  // a frame buffer, in whole pages
    static constexpr size_t kMinSize = 16 * 1024;
    static constexpr size_t kSlots = 32768;    // address space only

    FramePages() = default;
    FramePages(const FramePages&) = delete;
    FramePages& operator=(const FramePages&) = delete;
    ~FramePages() { if (region_) munmap(region_, kSlots * kSlot); }

    // Null when there are no more.
    void* take() {
        if (!free_.empty()) {
            void* slot = free_.back();
            free_.pop_back();
            return slot;
        }
        if (!region_ && !reserve()) return nullptr;
        if (used_ == kSlots) return nullptr;
        free_.reserve(used_ + 1);  // so that giving back cannot fail
        return region_ + kSlot * used_++;
    }
    void give_back(void* slot) {
        rest(slot);
        free_.push_back(slot);
    }
    bool owns(const void* pointer) const {
        auto* at = static_cast<const uint8_t*>(pointer);
        return region_ && at >= region_ && at < region_ + kSlots * kSlot;
    }
    // The contents are gone, the slot stays taken.
    static void rest(void* slot) { madvise(slot, kSlot, MADV_DONTNEED); }

private:
    bool reserve() {
        void* region = mmap(nullptr, kSlots * kSlot, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (region == MAP_FAILED) return false;
        region_ = static_cast<uint8_t*>(region);
        return true;
    }
    uint8_t* region_ = nullptr;
    size_t used_ = 0;
    std::vector<void*> free_;
};

// One session's allocator. Lives until the session is deleted.
class SessionMemory {
public:
    explicit SessionMemory(FramePages& pages) : pages_(pages) {}

    nghttp2_mem functions() { return {this, allocate, release, allocate_zeroed, reallocate}; }
    // Only while the session has nothing to send.
    void rest() { if (frame_) FramePages::rest(frame_); }

private:
    static void* allocate(size_t size, void*) { return std::malloc(size); }
    static void* allocate_zeroed(size_t n, size_t size, void*) { return std::calloc(n, size); }
    static void release(void* pointer, void* user) {
        auto& self = *static_cast<SessionMemory*>(user);
        if (!self.pages_.owns(pointer)) return std::free(pointer);
        if (pointer == self.frame_) self.frame_ = nullptr;
        self.pages_.give_back(pointer);
    }
    static void* reallocate(void* pointer, size_t size, void* user) {
        auto& self = *static_cast<SessionMemory*>(user);
        if (!pointer && !self.frame_ && size >= FramePages::kMinSize && size <= FramePages::kSlot) {
            try {
                if ((self.frame_ = self.pages_.take())) return self.frame_;
            } catch (const std::bad_alloc&) {
                return nullptr;
            }
        }
        if (!pointer || !self.pages_.owns(pointer)) return std::realloc(pointer, size);
        void* moved = std::malloc(size);
        if (!moved) return nullptr;
        std::memcpy(moved, pointer, size < FramePages::kSlot ? size : FramePages::kSlot);
        release(pointer, user);
        return moved;
    }

    FramePages& pages_;
    void* frame_ = nullptr;
};

}  // namespace sluice
