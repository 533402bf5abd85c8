// What every decoder and encoder must hold true, whatever the encoding: shapes within their limits, byte counts that
// match them, names that are text, and how a refusal is worded.
#pragma once

#include <bit>
#include <concepts>
#include <cstring>
#include <string>
#include <string_view>

#include "infer.hpp"

namespace sluice {

static_assert(std::endian::native == std::endian::little, "tensor bytes are little-endian and used in place");

// gRPC status codes a decoder or encoder can answer with.
constexpr int kInvalidArgument = 3;
constexpr int kResourceExhausted = 8;
constexpr int kInternal = 13;

// Stands where a tensor without elements has its bytes, so that no view is null.
inline constexpr uint8_t kNoBytes[8] = {};

// A name or token as it appears in an error text: at most this much of it, cut between characters.
inline std::string_view shortened(std::string_view text, size_t most = 128) {
    if (text.size() <= most) return text;
    while (most > 0 && (text[most] & 0xC0) == 0x80) --most;
    return text.substr(0, most);
}

inline void put(std::string& text, std::string_view part) { text.append(shortened(part)); }
inline void put(std::string& text, const char* part) { text.append(part); }
template <std::integral T>
void put(std::string& text, T number) { text.append(std::to_string(number)); }

// The shape of a TensorView or OutputView, as [1,30].
template <class Tensor>
struct ShapeText { const Tensor& tensor; };
template <class Tensor>
ShapeText(const Tensor&) -> ShapeText<Tensor>;

template <class Tensor>
void put(std::string& text, const ShapeText<Tensor>& shape) {
    text += '[';
    for (int32_t i = 0; i < shape.tensor.rank; ++i) {
        if (i) text += ',';
        text += std::to_string(shape.tensor.shape[i]);
    }
    text += ']';
}

// Says no. Always false, so that `return refuse(...)` ends a decoder.
template <class... Parts>
[[gnu::cold, gnu::noinline]] bool refuse(WireError& error, int code, const Parts&... parts) {
    error.code = code;
    error.text.clear();
    (put(error.text, parts), ...);
    return false;
}

// Exactly the well-formed UTF-8 of RFC 3629: no overlong forms, no surrogates, nothing past U+10FFFF.
inline bool valid_utf8(std::string_view text) noexcept {
    const auto* at = reinterpret_cast<const uint8_t*>(text.data());
    const uint8_t* end = at + text.size();
    while (at != end) {
        if (end - at >= 8) {
            uint64_t eight;
            std::memcpy(&eight, at, 8);
            if (!(eight & 0x8080808080808080u)) { at += 8; continue; }
        }
        const uint8_t lead = *at;
        if (lead < 0x80) { ++at; continue; }
        const int more = lead >= 0xF0 ? 3 : lead >= 0xE0 ? 2 : 1;
        if (lead < 0xC2 || lead > 0xF4 || end - at <= more) return false;
        const uint8_t second = at[1];
        if (second < (lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80)) return false;
        if (second > (lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF)) return false;
        for (int i = 2; i <= more; ++i)
            if ((at[i] & 0xC0) != 0x80) return false;
        at += more + 1;
    }
    return true;
}

// The element count of a shape: no negative dimension, no overflow, no more than `max_tensor_bytes`.
inline bool measure(const TensorView& tensor, const WireLimits& limits, size_t& elements, WireError& error) {
    bool empty = false;
    for (int32_t i = 0; i < tensor.rank; ++i) {
        if (tensor.shape[i] < 0)
            return refuse(error, kInvalidArgument, "input '", tensor.name, "' has a negative dimension in shape ",
                          ShapeText{tensor});
        empty |= tensor.shape[i] == 0;
    }
    elements = empty ? 0 : 1;
    if (empty) return true;
    const size_t unit = tensor.datatype == DataType::BYTES ? 4 : element_size(tensor.datatype);
    const size_t most = limits.max_tensor_bytes / (unit ? unit : 1);
    for (int32_t i = 0; i < tensor.rank; ++i)
        if (__builtin_mul_overflow(elements, static_cast<size_t>(tensor.shape[i]), &elements) || elements > most)
            return refuse(error, kInvalidArgument, "input '", tensor.name, "' of shape ", ShapeText{tensor},
                          " and datatype ", datatype_name(tensor.datatype), " exceeds the limit max_tensor_bytes of ",
                          limits.max_tensor_bytes);
    return true;
}

inline uint32_t load_u32(const uint8_t* at) noexcept {
    uint32_t value;
    std::memcpy(&value, at, 4);
    return value;
}

// Steps over up to `count` elements of a BYTES tensor, from `at` on. False: the next one does not fit into `end`.
inline bool bytes_tensor_skip(const uint8_t*& at, const uint8_t* end, size_t count) noexcept {
    for (; count; --count) {
        if (end - at < 4) return false;
        const uint32_t length = load_u32(at);
        if (static_cast<size_t>(end - at) - 4 < length) return false;
        at += size_t{4} + length;
    }
    return true;
}

// True when `elements` elements fill the bytes exactly.
inline bool bytes_tensor_valid(const uint8_t* data, size_t size, size_t elements) noexcept {
    const uint8_t* end = data + size;
    return bytes_tensor_skip(data, end, elements) && data == end;
}

// Where `count` elements lie after the first `skip`. False: the bytes hold fewer.
inline bool bytes_tensor_span(const uint8_t* data, size_t size, size_t skip, size_t count, const uint8_t*& begin,
                              size_t& length) noexcept {
    const uint8_t* end = data + size;
    if (!bytes_tensor_skip(data, end, skip)) return false;
    begin = data;
    if (!bytes_tensor_skip(data, end, count)) return false;
    length = static_cast<size_t>(data - begin);
    return true;
}

// What is wrong with a BYTES tensor, in Triton's words.
[[gnu::cold]] inline bool refuse_bytes(const TensorView& tensor, size_t elements, std::string_view model,
                                       WireError& error) {
    const uint8_t* at = tensor.data;
    const uint8_t* end = at + tensor.size;
    size_t whole = 0;
    for (; whole < elements && at != end; ++whole) {
        const size_t left = static_cast<size_t>(end - at);
        if (left < 4)
            return refuse(error, kInvalidArgument, "incomplete string length indicator for inference input '",
                          tensor.name, "' for model '", model, "', expecting 4 bytes but only ", left,
                          " bytes available");
        if (left - 4 < load_u32(at))
            return refuse(error, kInvalidArgument, "incomplete string data for inference input '", tensor.name,
                          "' for model '", model, "', expecting string of length ", load_u32(at), " but only ",
                          left - 4, " bytes available");
        at += size_t{4} + load_u32(at);
    }
    if (at != end)
        return refuse(error, kInvalidArgument, "input byte size mismatch for input '", tensor.name, "' for model '",
                      model, "'. Expected ", at - tensor.data, ", got ", tensor.size);
    return refuse(error, kInvalidArgument, "unexpected number of string elements ", whole, " for inference input '",
                  tensor.name, "' for model '", model, "', expecting ", elements);
}

[[gnu::cold]] inline bool refuse_size(const TensorView& tensor, size_t expected, size_t got, std::string_view model,
                                      WireError& error) {
    return refuse(error, kInvalidArgument, "input byte size mismatch for input '", tensor.name, "' for model '", model,
                  "'. Expected ", expected, ", got ", got);
}

// The raw bytes of an input against its shape and datatype.
inline bool check_raw(const TensorView& tensor, const WireLimits& limits, std::string_view model, WireError& error) {
    size_t elements = 0;
    if (!measure(tensor, limits, elements, error)) return false;
    if (tensor.datatype != DataType::BYTES) [[likely]] {
        const size_t expected = elements * element_size(tensor.datatype);
        return tensor.size == expected || refuse_size(tensor, expected, tensor.size, model, error);
    }
    if (tensor.size > limits.max_tensor_bytes)
        return refuse(error, kInvalidArgument, "input '", tensor.name, "' of ", tensor.size,
                      " bytes exceeds the limit max_tensor_bytes of ", limits.max_tensor_bytes);
    return bytes_tensor_valid(tensor.data, tensor.size, elements) || refuse_bytes(tensor, elements, model, error);
}

// The last of `inputs` against those before it.
inline bool check_input_name(const std::vector<TensorView>& inputs, WireError& error) {
    for (size_t i = 0; i + 1 < inputs.size(); ++i)
        if (inputs[i].name == inputs.back().name) [[unlikely]]
            return refuse(error, kInvalidArgument, "input '", inputs[i].name, "' already exists in request");
    return true;
}

inline bool check_output_name(const std::vector<RequestedOutput>& outputs, WireError& error) {
    for (size_t i = 0; i + 1 < outputs.size(); ++i)
        if (outputs[i].name == outputs.back().name) [[unlikely]]
            return refuse(error, kInvalidArgument, "output '", outputs[i].name, "' already exists in request");
    return true;
}

// An output's bytes against its own shape: what a worker wrote is checked before it is printed.
inline bool check_output(const OutputView& output, size_t& elements, WireError& error) {
    elements = 1;
    bool fits = output.rank >= 0 && output.rank <= kMaxRank && output.datatype != DataType::INVALID;
    for (int32_t i = 0; fits && i < output.rank; ++i)
        fits = output.shape[i] >= 0 &&
               !__builtin_mul_overflow(elements, static_cast<size_t>(output.shape[i]), &elements);
    size_t bytes = 0;
    if (fits && output.datatype == DataType::BYTES)
        fits = bytes_tensor_valid(output.data, output.size, elements);
    else if (fits)
        fits = !__builtin_mul_overflow(elements, element_size(output.datatype), &bytes) && bytes == output.size;
    if (fits) [[likely]] return true;
    return refuse(error, kInternal, "output '", output.name, "' has ", output.size, " bytes that do not match its ",
                  datatype_name(output.datatype), " shape");
}

}  // namespace sluice
