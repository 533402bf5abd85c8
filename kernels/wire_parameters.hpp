// What request, input and output parameters mean, whatever encoding they came in: those the gateway acts on, those it
// must refuse rather than ignore, and all others, which pass unread.
#pragma once

#include <charconv>
#include <cstdint>
#include <string_view>

#include "infer.hpp"
#include "wire_checks.hpp"

namespace sluice {

struct ParameterValue {
    enum class Kind : uint8_t { NONE, BOOL, INT64, UINT64, DOUBLE, STRING, OTHER };

    Kind kind = Kind::NONE;
    bool truth = false;
    int64_t integer = 0;        // INT64
    uint64_t natural = 0;       // UINT64
    std::string_view text = {}; // STRING

    static ParameterValue of_bool(bool value) { return {Kind::BOOL, value}; }
    static ParameterValue of_int(int64_t value) { return {Kind::INT64, value != 0, value}; }
    static ParameterValue of_uint(uint64_t value) { return {Kind::UINT64, value != 0, 0, value}; }
    static ParameterValue of_double(double value) { return {Kind::DOUBLE, value != 0}; }
    static ParameterValue of_string(std::string_view value) { return {Kind::STRING, !value.empty(), 0, 0, value}; }
    static ParameterValue other() { return {Kind::OTHER}; }

    // A whole number of at most `most`; false for anything else.
    bool to_natural(uint64_t most, uint64_t& value) const {
        if (kind == Kind::INT64 && integer >= 0) value = static_cast<uint64_t>(integer);
        else if (kind == Kind::UINT64) value = natural;
        else return false;
        return value <= most;
    }
};

// Keeps a parameter that routing wants to see, as text, if it is a string or a whole number. The first of two counts.
[[gnu::cold, gnu::noinline]] inline void keep_parameter(std::string_view key, const ParameterValue& value,
                                                        const WireLimits& limits, InferRequest& request) {
    using Kind = ParameterValue::Kind;
    for (const std::string& name : *limits.wanted_parameters) {
        if (key != name) continue;
        char digits[24];
        std::string_view text = value.text;
        if (value.kind == Kind::INT64 || value.kind == Kind::UINT64) {
            auto end = value.kind == Kind::INT64 ? std::to_chars(digits, digits + sizeof digits, value.integer).ptr
                                                 : std::to_chars(digits, digits + sizeof digits, value.natural).ptr;
            text = {digits, static_cast<size_t>(end - digits)};
        } else if (value.kind != Kind::STRING) {
            return;
        }
        request.attributes.push_back({request.arena.copy(key), request.arena.copy(text), true});
        return;
    }
}

// The request's own parameters. The last of two with one key counts, so they are judged at the end.
class RequestParameters {
public:
    bool note(std::string_view key, const ParameterValue& value, WireError& error) {
        if (key == "priority") priority_ = value;
        else if (key == "timeout") timeout_ = value;
        else if (key == "binary_data_output") binary_data_output_ = value;
        else if (key == "sequence_id") sequence_[0] = value;
        else if (key == "sequence_start") sequence_[1] = value;
        else if (key == "sequence_end") sequence_[2] = value;
        else if (key.starts_with("triton_") && key != "triton_enable_empty_final_response")
            return refuse(error, kInvalidArgument,
                          "parameter keys starting with 'triton_' are reserved for Triton, got '", key, "'");
        else return true;
        noted_ = true;
        return true;
    }

    // `http`: `binary_data_output` is the protocol's own there, and anyone's over gRPC.
    bool apply(InferRequest& request, bool http, WireError& error) const {
        using Kind = ParameterValue::Kind;
        if (!noted_) [[likely]] return true;
        static constexpr std::string_view kSequence[3] = {"sequence_id", "sequence_start", "sequence_end"};
        for (int i = 0; i < 3; ++i)
            if (sequence_[i].truth)
                return refuse(error, kInvalidArgument, "parameter '", kSequence[i],
                              "': sequences are not supported by model '", request.model, "'");
        if (priority_.kind != Kind::NONE && !priority_.to_natural(UINT64_MAX, request.priority))
            return refuse(error, kInvalidArgument, "parameter 'priority' must be an integer of at least 0");
        uint64_t timeout = 0;
        if (timeout_.kind != Kind::NONE && !timeout_.to_natural(INT64_MAX, timeout))
            return refuse(error, kInvalidArgument,
                          "parameter 'timeout' must be an integer of at least 0, in microseconds");
        request.timeout_us = static_cast<int64_t>(timeout);
        if (http && binary_data_output_.kind != Kind::NONE) {
            if (binary_data_output_.kind != Kind::BOOL)
                return refuse(error, kInvalidArgument, "parameter 'binary_data_output' must be true or false");
            request.binary_data_output = binary_data_output_.truth;
        }
        return true;
    }

private:
    bool noted_ = false;
    ParameterValue priority_, timeout_, binary_data_output_, sequence_[3];
};

inline bool refuse_shared_memory(std::string_view key, WireError& error) {
    return refuse(error, kInvalidArgument, "shared memory is not supported, got parameter '", key, "'");
}

// One parameter of an input; `binary_data_size` (HTTP) is noted as a natural number, -1 before.
inline bool note_input_parameter(std::string_view key, const ParameterValue& value, int64_t* binary_data_size,
                                 WireError& error) {
    if (key.starts_with("shared_memory_")) return refuse_shared_memory(key, error);
    if (!binary_data_size || key != "binary_data_size") return true;
    uint64_t size;
    if (!value.to_natural(INT64_MAX, size))
        return refuse(error, kInvalidArgument, "parameter 'binary_data_size' must be an integer of at least 0");
    *binary_data_size = static_cast<int64_t>(size);
    return true;
}

// One parameter of a requested output; `binary_data` means something over HTTP only.
inline bool note_output_parameter(std::string_view key, const ParameterValue& value, bool http, RequestedOutput& output,
                                  WireError& error) {
    if (key.starts_with("shared_memory_")) return refuse_shared_memory(key, error);
    if (key == "classification") {
        uint64_t k;
        if (!value.to_natural(INT64_MAX, k))
            return refuse(error, kInvalidArgument, "parameter 'classification' must be an integer of at least 0");
        output.classification = static_cast<int64_t>(k);
    } else if (http && key == "binary_data") {
        if (value.kind != ParameterValue::Kind::BOOL)
            return refuse(error, kInvalidArgument, "parameter 'binary_data' must be true or false");
        output.binary = value.truth;
    }
    return true;
}

}  // namespace sluice
