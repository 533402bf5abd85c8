// Inference requests written down again, in two other forms than they came in: every decoder must read the same from
// them. Plain on purpose; shares no code with the encoders of the gateway.
#pragma once

#include <algorithm>
#include <string>
#include <string_view>

#include "checks.hpp"
#include "infer.hpp"
#include "wire_checks.hpp"
#include "wire_json.hpp"
#include "wire_proto.hpp"

namespace fuzz {

using namespace sluice;

inline void put_varint(std::string& out, uint64_t value) {
    for (; value >= 0x80; value >>= 7) out.push_back(static_cast<char>(value | 0x80));
    out.push_back(static_cast<char>(value));
}

inline void put_chunk(std::string& out, unsigned field, std::string_view bytes) {
    put_varint(out, field << 3 | 2);
    put_varint(out, bytes.size());
    out.append(bytes);
}

// A map entry with InferParameter's `uint64_param`.
inline std::string parameter(std::string_view key, uint64_t number) {
    std::string value, entry;
    put_varint(value, 5 << 3);
    put_varint(value, number);
    put_chunk(entry, 1, key);
    put_chunk(entry, 2, value);
    return entry;
}

// A ModelInferRequest with raw contents.
inline std::string to_proto(const InferRequest& request) {
    std::string out;
    put_chunk(out, 1, request.model);
    put_chunk(out, 2, request.version);
    put_chunk(out, 3, request.id);
    put_chunk(out, 4, parameter("priority", request.priority));
    put_chunk(out, 4, parameter("timeout", static_cast<uint64_t>(request.timeout_us)));
    for (const TensorView& tensor : request.inputs) {
        std::string entry, shape;
        for (int32_t i = 0; i < tensor.rank; ++i) put_varint(shape, static_cast<uint64_t>(tensor.shape[i]));
        put_chunk(entry, 1, tensor.name);
        put_chunk(entry, 2, datatype_name(tensor.datatype));
        put_chunk(entry, 3, shape);
        put_chunk(out, 5, entry);
        put_chunk(out, 7, {reinterpret_cast<const char*>(tensor.data), tensor.size});
    }
    for (const RequestedOutput& output : request.outputs) {
        std::string entry;
        put_chunk(entry, 1, output.name);
        put_chunk(entry, 2, parameter("classification", static_cast<uint64_t>(output.classification)));
        put_chunk(out, 6, entry);
    }
    return out;
}

inline void put_string(std::string& out, std::string_view text) {
    out.push_back('"');
    for (char c : text) {
        char escape[8];
        if (static_cast<unsigned char>(c) < 0x20 || c == '"' || c == '\\')
            out.append(escape, static_cast<size_t>(std::snprintf(escape, sizeof escape, "\\u%04x", c)));
        else
            out.push_back(c);
    }
    out.push_back('"');
}

// V2 JSON with all tensors behind it; `json` becomes the length of the JSON.
inline std::string to_json(const InferRequest& request, size_t& json) {
    std::string out = "{", tail;
    if (request.has_id) {
        out += "\"id\":";
        put_string(out, request.id);
        out += ',';
    }
    out += "\"parameters\":{\"priority\":" + std::to_string(request.priority) +
           ",\"timeout\":" + std::to_string(request.timeout_us) +
           ",\"binary_data_output\":" + (request.binary_data_output ? "true" : "false") + "},\"inputs\":[";
    for (const TensorView& tensor : request.inputs) {
        if (&tensor != &request.inputs.front()) out += ',';
        out += "{\"name\":";
        put_string(out, tensor.name);
        out += ",\"datatype\":\"" + std::string(datatype_name(tensor.datatype)) + "\",\"shape\":[";
        for (int32_t i = 0; i < tensor.rank; ++i) out += (i ? "," : "") + std::to_string(tensor.shape[i]);
        out += "],\"parameters\":{\"binary_data_size\":" + std::to_string(tensor.size) + "}}";
        tail.append(reinterpret_cast<const char*>(tensor.data), tensor.size);
    }
    out += "],\"outputs\":[";
    for (const RequestedOutput& output : request.outputs) {
        if (&output != &request.outputs.front()) out += ',';
        out += "{\"name\":";
        put_string(out, output.name);
        out += ",\"parameters\":{\"classification\":" + std::to_string(output.classification);
        if (output.binary >= 0) out += output.binary ? ",\"binary_data\":true" : ",\"binary_data\":false";
        out += "}}";
    }
    out += "]}";
    json = out.size();
    return out + tail;
}

inline bool is_same(const TensorView& a, const TensorView& b) {
    return a.name == b.name && a.datatype == b.datatype && a.rank == b.rank &&
           std::equal(a.shape, a.shape + a.rank, b.shape) && a.size == b.size &&
           (a.size == 0 || std::memcmp(a.data, b.data, a.size) == 0);
}

// What both encodings can say. `is_http`: also what only HTTP says.
inline bool is_same(const InferRequest& a, const InferRequest& b, bool is_http) {
    bool same = a.id == b.id && a.priority == b.priority && a.timeout_us == b.timeout_us &&
                a.inputs.size() == b.inputs.size() && a.outputs.size() == b.outputs.size();
    for (size_t i = 0; same && i < a.inputs.size(); ++i) same = is_same(a.inputs[i], b.inputs[i]);
    for (size_t i = 0; same && i < a.outputs.size(); ++i)
        same = a.outputs[i].name == b.outputs[i].name && a.outputs[i].classification == b.outputs[i].classification &&
               (!is_http || a.outputs[i].binary == b.outputs[i].binary);
    return same && (!is_http || (a.has_id == b.has_id && a.binary_data_output == b.binary_data_output));
}

// What every decoder promises of a tensor.
inline void must_fit(const TensorView& tensor, const WireLimits& limits) {
    MUST(tensor.datatype != DataType::INVALID && tensor.data);
    MUST(tensor.rank >= 0 && static_cast<size_t>(tensor.rank) <= limits.max_rank);
    size_t elements = 1;
    for (int32_t i = 0; i < tensor.rank; ++i) elements = tensor.shape[i] ? elements : 0;
    for (int32_t i = 0; i < tensor.rank && elements; ++i)
        MUST(tensor.shape[i] > 0 && !__builtin_mul_overflow(elements, static_cast<size_t>(tensor.shape[i]), &elements));
    for (int32_t i = 0; i < tensor.rank; ++i) MUST(tensor.shape[i] >= 0);
    if (tensor.datatype == DataType::BYTES) MUST(bytes_tensor_valid(tensor.data, tensor.size, elements));
    else MUST(tensor.size == elements * element_size(tensor.datatype));
    MUST(tensor.size <= limits.max_tensor_bytes && valid_utf8(tensor.name));
}

inline void must_fit(const InferRequest& request, const WireLimits& limits) {
    MUST(request.inputs.size() <= limits.max_tensors && request.outputs.size() <= limits.max_tensors);
    MUST(request.timeout_us >= 0 && valid_utf8(request.id));
    for (const TensorView& tensor : request.inputs) must_fit(tensor, limits);
    for (const RequestedOutput& output : request.outputs) {
        MUST(output.classification >= 0);
        MUST(valid_utf8(output.name));
    }
}

// A refusal says what is wrong, in text that can be sent.
inline void must_be_named(const WireError& error) {
    MUST(error.code == kInvalidArgument);
    MUST(!error.text.empty() && error.text.size() < 1000 && valid_utf8(error.text));
}

inline void must_survive_recoding(const InferRequest& request, const WireLimits& limits) {
    InferRequest again;
    WireError error;
    Bytes message(to_proto(request));
    MUST(decode_proto(message.data(), message.size(), again, limits, error));
    MUST(is_same(request, again, false) && again.raw);
    MUST(again.model == request.model && again.version == request.version);

    again.clear();
    size_t json = 0;
    Bytes body(to_json(request, json), kPadding);
    JsonDecoder decoder;
    MUST(decoder.decode(body.data(), body.size(), static_cast<int64_t>(json), again, limits, error));
    MUST(is_same(request, again, true));
}

}  // namespace fuzz
