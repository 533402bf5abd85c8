// Output tensors to a V2 inference response: JSON, and behind it as binary tensors those outputs that shall be. Numbers
// print as the shortest text that reads back to the same value.
#pragma once

#include <charconv>
#include <cmath>
#include <cstring>
#include <functional>
#include <new>
#include <string_view>
#include <type_traits>

#include "infer.hpp"
#include "wire_checks.hpp"
#include "wire_half.hpp"

namespace sluice {

// Appends JSON to a Buffer. `finish` must be called for the buffer to have its true size.
class JsonText {
public:
    explicit JsonText(Buffer& out) : out_(out) {
        out_.resize(out_.capacity());
        at_ = out_.data();
        end_ = at_ + out_.capacity();
    }

    void finish() { out_.resize(written()); }
    size_t written() const { return static_cast<size_t>(at_ - out_.data()); }

    // Makes room for `n` bytes more.
    void room(size_t n) {
        if (static_cast<size_t>(end_ - at_) >= n) [[likely]] return;
        const size_t used = written();
        out_.resize(used);
        out_.extend(n);
        out_.resize(out_.capacity());
        at_ = out_.data() + used;
        end_ = out_.data() + out_.capacity();
    }

    void add(std::string_view text) {
        room(text.size());
        if (!text.empty()) std::memcpy(at_, text.data(), text.size());
        at_ += text.size();
    }
    void add(char c) {
        room(1);
        *at_++ = static_cast<uint8_t>(c);
    }

    // These need 32 bytes of room.
    template <class T>
        requires std::is_integral_v<T>
    void number(T value) { at_ = reinterpret_cast<uint8_t*>(std::to_chars(text(), text() + 32, value).ptr); }

    // NaN is null, and an infinity a number past every range: valid JSON that reads back as an infinity.
    template <class T>
        requires std::is_floating_point_v<T>
    void number(T value) {
        if (!std::isfinite(value)) [[unlikely]] return add(std::isnan(value) ? "null" : value > 0 ? "1e999" : "-1e999");
        char* begin = text();
        char* end = std::to_chars(begin, begin + 32, value).ptr;
        at_ = reinterpret_cast<uint8_t*>(end);
        for (const char* c = begin; c != end; ++c)
            if (*c == '.' || *c == 'e') return;
        *at_++ = '.';  // a reader that tells 1 from 1.0 sees a float
        *at_++ = '0';
    }

    // `text` is UTF-8.
    void string(std::string_view text) {
        add('"');
        const char* at = text.data();
        const char* end = at + text.size();
        while (at != end) {
            const char* plain = at;
            while (at != end && static_cast<uint8_t>(*at) >= 0x20 && *at != '"' && *at != '\\') ++at;
            add({plain, static_cast<size_t>(at - plain)});
            if (at != end) escape(*at++);
        }
        add('"');
    }

private:
    void escape(char c) {
        static constexpr char kHex[] = "0123456789abcdef";
        switch (c) {
            case '"': return add("\\\"");
            case '\\': return add("\\\\");
            case '\b': return add("\\b");
            case '\f': return add("\\f");
            case '\n': return add("\\n");
            case '\r': return add("\\r");
            case '\t': return add("\\t");
        }
        add("\\u00");
        add(kHex[static_cast<uint8_t>(c) >> 4]);
        add(kHex[c & 15]);
    }

    char* text() { return reinterpret_cast<char*>(at_); }

    Buffer& out_;
    uint8_t* at_;
    uint8_t* end_;
};

class JsonResponseWriter {
public:
    JsonResponseWriter(const InferRequest& request, const OutputView* outputs, size_t count, Buffer& out,
                       WireError& error)
        : request_(request), outputs_(outputs), count_(count), out_(out), error_(error) {}

    bool write(std::string_view model, std::string_view version, int64_t& header_length) {
        JsonText json(out_);
        size_t binary_bytes = 0;
        json.add('{');
        if (request_.has_id) {
            json.add("\"id\":");
            json.string(request_.id);
            json.add(',');
        }
        json.add("\"model_name\":");
        json.string(model);
        if (!version.empty()) {
            json.add(",\"model_version\":");
            json.string(version);
        }
        json.add(",\"outputs\":[");
        for (size_t i = 0; i < count_; ++i) {
            if (i) json.add(',');
            if (!write_output(json, outputs_[i])) return false;
            if (is_binary(outputs_[i])) binary_bytes += outputs_[i].size;
        }
        json.add("]}");
        header_length = binary_bytes ? static_cast<int64_t>(json.written()) : -1;
        json.finish();
        if (binary_bytes)
            for (size_t i = 0; i < count_; ++i)
                if (is_binary(outputs_[i])) out_.append(outputs_[i].data, outputs_[i].size);
        return true;
    }

private:
    // An output says for itself; the request's default is for requests that list none.
    bool is_binary(const OutputView& output) const {
        return output.binary >= 0 ? output.binary != 0 : request_.outputs.empty() && request_.binary_data_output;
    }

    bool write_output(JsonText& json, const OutputView& output) {
        size_t elements = 0;
        if (!check_output(output, elements, error_)) return false;
        json.add("{\"name\":");
        json.string(output.name);
        json.add(",\"datatype\":\"");
        json.add(datatype_name(output.datatype));
        json.add("\",\"shape\":[");
        for (int32_t i = 0; i < output.rank; ++i) {
            json.room(64);
            if (i) json.add(',');
            json.number(output.shape[i]);
        }
        if (is_binary(output)) {
            json.add("],\"parameters\":{\"binary_data_size\":");
            json.room(64);
            json.number(output.size);
            json.add("}}");
            return true;
        }
        json.add("],\"data\":[");
        if (!write_data(json, output)) return false;
        json.add("]}");
        return true;
    }

    bool write_data(JsonText& json, const OutputView& output) {
        switch (output.datatype) {
            case DataType::BOOL: {
                bool first = true;
                for (size_t i = 0; i < output.size; ++i, first = false) {
                    if (!first) json.add(',');
                    json.add(output.data[i] ? "true" : "false");
                }
                return true;
            }
            case DataType::UINT8: return numbers<uint8_t>(json, output);
            case DataType::UINT16: return numbers<uint16_t>(json, output);
            case DataType::UINT32: return numbers<uint32_t>(json, output);
            case DataType::UINT64: return numbers<uint64_t>(json, output);
            case DataType::INT8: return numbers<int8_t>(json, output);
            case DataType::INT16: return numbers<int16_t>(json, output);
            case DataType::INT32: return numbers<int32_t>(json, output);
            case DataType::INT64: return numbers<int64_t>(json, output);
            case DataType::FP16: return numbers<uint16_t>(json, output, float_from_half);
            case DataType::BF16: return numbers<uint16_t>(json, output, float_from_bfloat);
            case DataType::FP32: return numbers<float>(json, output);
            case DataType::FP64: return numbers<double>(json, output);
            case DataType::BYTES: return strings(json, output);
            case DataType::INVALID: break;
        }
        return refuse(error_, kInternal, "this is a bug: output '", output.name, "' has no datatype");
    }

    template <class T, class Widen = std::identity>
    static bool numbers(JsonText& json, const OutputView& output, Widen widen = {}) {
        for (size_t i = 0; i < output.size; i += sizeof(T)) {
            json.room(64);
            if (i) json.add(',');
            T value;
            std::memcpy(&value, output.data + i, sizeof(T));
            json.number(widen(value));
        }
        return true;
    }

    bool strings(JsonText& json, const OutputView& output) {
        for (size_t i = 0; i < output.size;) {
            const std::string_view text(reinterpret_cast<const char*>(output.data) + i + 4, load_u32(output.data + i));
            if (!valid_utf8(text))
                return refuse(error_, kInvalidArgument, "output '", output.name,
                              "' holds bytes that are not valid UTF-8, which JSON cannot carry; ask for it with "
                              "parameter binary_data");
            if (i) json.add(',');
            json.string(text);
            i += 4 + text.size();
        }
        return true;
    }

    const InferRequest& request_;
    const OutputView* outputs_;
    const size_t count_;
    Buffer& out_;
    WireError& error_;
};

// Replaces what `out` holds by the answer to `request`; `header_length` is that of its JSON part when binary tensors
// follow it, else -1. False: `error` says why, and `out` is empty.
inline bool encode_json(const InferRequest& request, std::string_view model, std::string_view version,
                        const OutputView* outputs, size_t count, Buffer& out, int64_t& header_length,
                        WireError& error) noexcept {
    error.code = 0;
    header_length = -1;
    out.resize(0);
    try {
        if (JsonResponseWriter(request, outputs, count, out, error).write(model, version, header_length)) [[likely]]
            return true;
    } catch (const std::bad_alloc&) {
        error.code = kResourceExhausted;
        error.text = "out of memory";
    }
    out.resize(0);
    return false;
}

}  // namespace sluice
