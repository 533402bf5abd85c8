// What one inference request is, as views on its own bytes. Every decoder fills these structures, every encoder reads
// them; nothing here knows a socket, a model or a policy.
//
// Lifetime: the views point into `InferRequest::body` (the bytes as received) or into `InferRequest::arena` (what had to
// be converted: JSON numbers, typed contents, unescaped strings). Both live until `clear()`; moving neither is allowed
// while a view is out.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <string>
#include <string_view>
#include <vector>

namespace sluice {

// Bytes that must be readable (not necessarily meaningful) behind any text handed to the JSON decoder.
constexpr size_t kPadding = 64;
constexpr int kMaxRank = 16;

enum class DataType : uint8_t {
    INVALID = 0,
    BOOL, UINT8, UINT16, UINT32, UINT64, INT8, INT16, INT32, INT64, FP16, FP32, FP64, BYTES, BF16,
};
constexpr int kDataTypes = 15;

// Size of one element in bytes; 0 for BYTES, whose elements are a 4-byte little-endian length and that many bytes.
constexpr size_t element_size(DataType type) {
    constexpr size_t sizes[kDataTypes] = {0, 1, 1, 2, 4, 8, 1, 2, 4, 8, 2, 4, 8, 0, 2};
    return sizes[static_cast<uint8_t>(type)];
}

constexpr std::string_view datatype_name(DataType type) {
    constexpr std::string_view names[kDataTypes] = {"", "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16",
                                                    "INT32", "INT64", "FP16", "FP32", "FP64", "BYTES", "BF16"};
    return names[static_cast<uint8_t>(type)];
}

constexpr DataType datatype_from_name(std::string_view name) {
    for (int i = 1; i < kDataTypes; ++i)
        if (datatype_name(static_cast<DataType>(i)) == name) return static_cast<DataType>(i);
    return DataType::INVALID;
}

// A growable byte buffer whose contents always have kPadding readable bytes behind them. It keeps its memory over
// `clear()`, up to `kKeep`, so that a recycled request allocates nothing.
class Buffer {
public:
    static constexpr size_t kKeep = 64 * 1024;

    Buffer() = default;
    Buffer(const Buffer&) = delete;
    Buffer& operator=(const Buffer&) = delete;
    ~Buffer() { std::free(data_); }

    uint8_t* data() { return data_; }
    const uint8_t* data() const { return data_; }
    size_t size() const { return size_; }
    size_t capacity() const { return capacity_; }
    std::string_view view() const { return {reinterpret_cast<const char*>(data_), size_}; }

    void clear() {
        size_ = 0;
        if (capacity_ > kKeep) { std::free(data_); data_ = nullptr; capacity_ = 0; }
    }
    // Throws std::bad_alloc.
    void reserve(size_t capacity) {
        if (capacity <= capacity_) return;
        void* grown = std::realloc(data_, capacity + kPadding);
        if (!grown) throw std::bad_alloc();
        data_ = static_cast<uint8_t*>(grown);
        capacity_ = capacity;
        std::memset(data_ + capacity_, 0, kPadding);
    }
    // Makes room for `n` more bytes and returns where they go; the caller fills them.
    uint8_t* extend(size_t n) {
        size_t need = size_ + n;
        if (need > capacity_) reserve(need < 2 * capacity_ ? 2 * capacity_ : (need < 256 ? 256 : need));
        uint8_t* at = data_ + size_;
        size_ = need;
        return at;
    }
    void append(const void* bytes, size_t n) { if (n) std::memcpy(extend(n), bytes, n); }
    void append(std::string_view text) { append(text.data(), text.size()); }
    void push(char c) { *extend(1) = static_cast<uint8_t>(c); }
    void resize(size_t n) { if (n > size_) extend(n - size_); else size_ = n; }
    void swap(Buffer& other) noexcept {
        std::swap(data_, other.data_); std::swap(size_, other.size_); std::swap(capacity_, other.capacity_);
    }

private:
    uint8_t* data_ = nullptr;
    size_t size_ = 0;
    size_t capacity_ = 0;
};

// Memory for what a decoder has to write down. Blocks never move, so views into it stay valid until `clear()`.
class Arena {
public:
    static constexpr size_t kBlock = 4096;

    // 8-byte aligned. Throws std::bad_alloc.
    uint8_t* allocate(size_t n) {
        n = (n + 7) & ~size_t{7};
        if (n > left_) grow(n);
        uint8_t* at = next_;
        next_ += n;
        left_ -= n;
        return at;
    }
    std::string_view copy(std::string_view text) {
        if (text.empty()) return {};
        auto* at = reinterpret_cast<char*>(allocate(text.size()));
        std::memcpy(at, text.data(), text.size());
        return {at, text.size()};
    }
    // Keeps the first block when it has the ordinary size.
    void clear() {
        if (blocks_.empty()) return;
        bool keep = first_size_ == kBlock;
        blocks_.resize(keep ? 1 : 0);
        next_ = keep ? blocks_[0].get() : nullptr;
        left_ = keep ? kBlock : 0;
    }

private:
    void grow(size_t n) {
        size_t size = n > kBlock ? n : kBlock;
        // Room first, so that a failed push cannot leave next_ on freed memory.
        blocks_.reserve(blocks_.size() + 1);
        blocks_.emplace_back(new uint8_t[size]);
        if (blocks_.size() == 1) first_size_ = size;
        next_ = blocks_.back().get();
        left_ = size;
    }
    std::vector<std::unique_ptr<uint8_t[]>> blocks_;
    uint8_t* next_ = nullptr;
    size_t left_ = 0;
    size_t first_size_ = 0;
};

// One tensor: C order, little-endian, `size` bytes at `data`.
struct TensorView {
    std::string_view name;
    const uint8_t* data = nullptr;
    size_t size = 0;
    int64_t shape[kMaxRank] = {};
    int32_t rank = 0;
    DataType datatype = DataType::INVALID;
};

struct RequestedOutput {
    std::string_view name;
    int64_t classification = 0;  // k > 0: the top k as "value:index[:label]" strings
    int8_t binary = -1;          // -1 not said, 0 JSON, 1 binary (HTTP only)
};

// What somebody asked to see of a request besides its tensors: a header of the transport, or a request parameter.
struct Attribute {
    std::string_view name;  // a header's in lower case
    std::string_view value;
    bool is_parameter = false;
};

struct InferRequest {
    Buffer body;
    Arena arena;

    std::string_view model;
    std::string_view version;  // empty: the server picks
    std::string_view id;
    bool has_id = false;
    std::vector<TensorView> inputs;
    std::vector<RequestedOutput> outputs;  // empty: all of them

    uint64_t priority = 0;            // parameter `priority`: 0 default, 1 highest
    int64_t timeout_us = 0;           // parameter `timeout`: 0 none
    bool binary_data_output = false;  // HTTP: the default for outputs when none is listed
    std::vector<Attribute> attributes;  // in the arena; empty unless a route asks for some
    bool raw = false;                 // gRPC: raw_input_contents was used, so the answer is raw too

    void clear() {
        body.clear();
        arena.clear();
        model = version = id = {};
        has_id = false;
        inputs.clear();
        outputs.clear();
        attributes.clear();
        priority = 0;
        timeout_us = 0;
        binary_data_output = raw = false;
    }
};

// At most `limit` bytes of `text`, for messages that repeat what a caller or a worker said.
inline std::string clipped(std::string_view text, size_t limit) { return std::string(text.substr(0, limit)); }

// What a decoder refuses: the gRPC status code and a text that names the field and the limit.
struct WireError {
    int code = 0;
    std::string text;
};

// Checked before anything is allocated. A request is at most `body` bytes (checked by the protocol, which also bounds
// what decompression may give).
struct WireLimits {
    size_t max_tensors = 64;
    size_t max_rank = kMaxRank;
    size_t max_json_depth = 32;
    size_t max_tensor_bytes = size_t{1} << 30;  // shape product times element size, per tensor
    // Names of request parameters to keep as attributes; null: none. Whoever sets it keeps them alive.
    const std::vector<std::string>* wanted_parameters = nullptr;
};

// One output tensor of one request, to encode. `data` holds `size` bytes in the wire's raw form.
struct OutputView {
    std::string_view name;
    const uint8_t* data = nullptr;
    size_t size = 0;
    int64_t shape[kMaxRank] = {};
    int32_t rank = 0;
    DataType datatype = DataType::INVALID;
    int8_t binary = -1;
};

}  // namespace sluice
