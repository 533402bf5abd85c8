// Output tensors to inference.ModelInferResponse bytes. Sizes are counted first, so that each byte is written once.
#pragma once

#include <cstring>
#include <new>
#include <string_view>

#include "infer.hpp"
#include "wire_checks.hpp"
#include "wire_contents.hpp"

namespace sluice {

inline size_t varint_size(uint64_t value) {
    return static_cast<size_t>(((63 - __builtin_clzll(value | 1)) * 9 + 73) / 64);
}

// A length-delimited field with a one-byte tag.
inline size_t chunk_size(size_t length) { return 1 + varint_size(length) + length; }
inline size_t text_size(std::string_view text) { return text.empty() ? 0 : chunk_size(text.size()); }

inline uint8_t* write_varint(uint8_t* to, uint64_t value) {
    for (; value >= 0x80; value >>= 7) *to++ = static_cast<uint8_t>(value | 0x80);
    *to++ = static_cast<uint8_t>(value);
    return to;
}

inline uint8_t* write_head(uint8_t* to, uint32_t field, size_t length) {
    *to++ = static_cast<uint8_t>(field << 3 | CHUNK);
    return write_varint(to, length);
}

inline uint8_t* write_chunk(uint8_t* to, uint32_t field, std::string_view bytes) {
    to = write_head(to, field, bytes.size());
    if (!bytes.empty()) std::memcpy(to, bytes.data(), bytes.size());
    return to + bytes.size();
}

inline uint8_t* write_text(uint8_t* to, uint32_t field, std::string_view text) {
    return text.empty() ? to : write_chunk(to, field, text);
}

// The elements of one output as the varints that InferTensorContents has for them.
template <class Each>
void each_varint(const OutputView& output, Each&& each) {
    const auto walk = [&]<class T, class Wide>(T, Wide) {
        for (const uint8_t* at = output.data; at != output.data + output.size; at += sizeof(T)) {
            T value;
            std::memcpy(&value, at, sizeof(T));
            each(static_cast<uint64_t>(static_cast<Wide>(value)));
        }
    };
    switch (output.datatype) {
        case DataType::BOOL:
            for (size_t i = 0; i < output.size; ++i) each(output.data[i] != 0);
            break;
        case DataType::UINT8: walk(uint8_t{}, uint64_t{}); break;
        case DataType::UINT16: walk(uint16_t{}, uint64_t{}); break;
        case DataType::UINT32: walk(uint32_t{}, uint64_t{}); break;
        case DataType::UINT64: walk(uint64_t{}, uint64_t{}); break;
        case DataType::INT8: walk(int8_t{}, int64_t{}); break;
        case DataType::INT16: walk(int16_t{}, int64_t{}); break;
        case DataType::INT32: walk(int32_t{}, int64_t{}); break;
        case DataType::INT64: walk(int64_t{}, int64_t{}); break;
        default: break;
    }
}

// Bytes of one output's InferTensorContents; `packed` is what is inside its single packed field.
struct ContentsSize { size_t message = 0, packed = 0; };

inline ContentsSize contents_size(const OutputView& output) {
    ContentsSize size;
    if (output.datatype == DataType::BYTES) {
        for (const uint8_t* at = output.data; at != output.data + output.size;) {
            const size_t length = load_u32(at);
            size.message += chunk_size(length);
            at += 4 + length;
        }
        return size;
    }
    if (output.datatype == DataType::FP32 || output.datatype == DataType::FP64) size.packed = output.size;
    else each_varint(output, [&](uint64_t value) { size.packed += varint_size(value); });
    size.message = size.packed ? chunk_size(size.packed) : 0;
    return size;
}

inline uint8_t* write_contents(uint8_t* to, const OutputView& output, const ContentsSize& size) {
    if (!size.message) return to;
    to = write_head(to, kContentsField, size.message);
    const uint32_t field = contents_field(output.datatype);
    if (output.datatype == DataType::BYTES) {
        for (const uint8_t* at = output.data; at != output.data + output.size;) {
            const size_t length = load_u32(at);
            to = write_chunk(to, field, {reinterpret_cast<const char*>(at) + 4, length});
            at += 4 + length;
        }
        return to;
    }
    if (output.datatype == DataType::FP32 || output.datatype == DataType::FP64)
        return write_chunk(to, field, {reinterpret_cast<const char*>(output.data), output.size});
    to = write_head(to, field, size.packed);
    each_varint(output, [&](uint64_t value) { to = write_varint(to, value); });
    return to;
}

class ProtoWriter {
public:
    ProtoWriter(const InferRequest& request, std::string_view model, std::string_view version,
                const OutputView* outputs, size_t count)
        : request_(request), model_(model), version_(version), outputs_(outputs), count_(count), raw_(request.raw) {}

    bool write(Buffer& out, WireError& error) {
        size_t total = text_size(model_) + text_size(version_) + text_size(request_.id);
        // FP16 and BF16 have no typed form, and raw is for all outputs or none.
        for (size_t i = 0; i < count_; ++i) {
            size_t elements = 0;
            if (!check_output(outputs_[i], elements, error)) return false;
            raw_ |= !contents_field(outputs_[i].datatype);
        }
        for (size_t i = 0; i < count_; ++i) {
            const OutputView& output = outputs_[i];
            total += chunk_size(message_size(output, raw_ ? ContentsSize{} : contents_size(output)));
            if (raw_) total += chunk_size(output.size);
        }
        if (total > INT32_MAX)
            return refuse(error, kResourceExhausted, "the response of ", total,
                          " bytes is larger than a protobuf message can be");
        uint8_t* to = out.extend(total);
        to = write_text(to, 1, model_);
        to = write_text(to, 2, version_);
        to = write_text(to, 3, request_.id);
        for (size_t i = 0; i < count_; ++i) to = write_output(to, outputs_[i]);
        if (raw_)
            for (size_t i = 0; i < count_; ++i)
                to = write_chunk(to, 6, {reinterpret_cast<const char*>(outputs_[i].data), outputs_[i].size});
        return true;
    }

private:
    static size_t shape_size(const OutputView& output) {
        size_t size = 0;
        for (int32_t i = 0; i < output.rank; ++i) size += varint_size(static_cast<uint64_t>(output.shape[i]));
        return size;
    }

    static size_t message_size(const OutputView& output, const ContentsSize& contents) {
        return text_size(output.name) + text_size(datatype_name(output.datatype)) +
               (output.rank ? chunk_size(shape_size(output)) : 0) +
               (contents.message ? chunk_size(contents.message) : 0);
    }

    uint8_t* write_output(uint8_t* to, const OutputView& output) const {
        const ContentsSize contents = raw_ ? ContentsSize{} : contents_size(output);
        to = write_head(to, 5, message_size(output, contents));
        to = write_text(to, 1, output.name);
        to = write_text(to, 2, datatype_name(output.datatype));
        if (output.rank) {
            to = write_head(to, 3, shape_size(output));
            for (int32_t i = 0; i < output.rank; ++i) to = write_varint(to, static_cast<uint64_t>(output.shape[i]));
        }
        return write_contents(to, output, contents);
    }

    const InferRequest& request_;
    const std::string_view model_, version_;
    const OutputView* outputs_;
    const size_t count_;
    bool raw_;
};

// Replaces what `out` holds by the answer to `request`: raw when the request was, or when an output has no typed form.
// False: an output's bytes do not match its shape, and `out` is empty.
inline bool encode_proto(const InferRequest& request, std::string_view model, std::string_view version,
                         const OutputView* outputs, size_t count, Buffer& out, WireError& error) noexcept {
    error.code = 0;
    out.resize(0);
    try {
        if (ProtoWriter(request, model, version, outputs, count).write(out, error)) [[likely]] return true;
    } catch (const std::bad_alloc&) {
        error.code = kResourceExhausted;
        error.text = "out of memory";
    }
    out.resize(0);
    return false;
}

}  // namespace sluice
