// What a model version takes and gives, and the check of one request against it. The check orders the request's inputs
// as the signature has them, counts its rows and says which requests it may share a batch with.
#pragma once

#include <algorithm>
#include <cinttypes>
#include <cmath>
#include <cstdio>
#include <string>
#include <string_view>
#include <vector>

#include "infer.hpp"

namespace sluice {

struct TensorSpec {
    std::string name;
    int64_t shape[kMaxRank] = {};  // as on the wire: -1 is free, the first one counts rows when the model batches
    int32_t rank = 0;
    DataType datatype = DataType::INVALID;
    bool optional = false;
    std::vector<std::string> labels;  // for the classification extension
    uint32_t index = 0;               // position among the engine's inputs or outputs, as lanes count them
    bool reshaped = false;            // the engine sees `engine_shape` instead, with the same free dimensions in order
    int64_t engine_shape[kMaxRank] = {};
    int32_t engine_rank = 0;
};

// The shape `to` with its free dimensions filled from `actual`, which has the form of `from`.
inline void translate(const int64_t* from, int from_rank, const int64_t* actual, const int64_t* to, int to_rank, int64_t* out) {
    int64_t filled[kMaxRank] = {};
    int at = 0;
    for (int d = 0; d < to_rank; ++d) {
        filled[d] = to[d];
        if (to[d] >= 0) continue;
        while (at < from_rank && from[at] >= 0) ++at;
        filled[d] = at < from_rank ? actual[at++] : 1;
    }
    std::copy_n(filled, kMaxRank, out);
}

struct Signature {
    std::string model;
    std::vector<TensorSpec> inputs;
    std::vector<TensorSpec> outputs;
    int64_t max_batch_size = 0;  // 0: no batch dimension

    int find_input(std::string_view name) const { return find(inputs, name); }
    int find_output(std::string_view name) const { return find(outputs, name); }

private:
    static int find(const std::vector<TensorSpec>& specs, std::string_view name) {
        for (size_t i = 0; i < specs.size(); ++i)
            if (specs[i].name == name) return int(i);
        return -1;
    }
};

// What binding a request to a signature finds out.
struct Binding {
    uint64_t inputs_mask = 0;
    uint64_t outputs_mask = 0;
    uint64_t group = 0;
    int64_t rows = 0;
    int64_t nbytes = 0;
};

// Entries that the classification extension may write for one request: ranking and printing them takes the loop's time.
constexpr int64_t kMaxClassEntries = 32768;

namespace binding_detail {

constexpr int kInvalidArgument = 3;

inline bool refuse(WireError& error, std::string text) {
    error.code = kInvalidArgument;
    error.text = std::move(text);
    return false;
}

inline std::string in_quotes(std::string_view name) { return "'" + std::string(name) + "'"; }

// How many entries the top `k` of each row are, at most. A free dimension may be anything, so that `k` counts in full.
inline int64_t class_entries(const TensorSpec& spec, bool batched, int64_t rows, int64_t k) {
    int64_t width = 1, entries = 0;
    for (int d = batched ? 1 : 0; d < spec.rank; ++d)
        if (spec.shape[d] < 0 || __builtin_mul_overflow(width, spec.shape[d], &width)) width = INT64_MAX;
    return __builtin_mul_overflow(std::min(k, width), batched ? rows : 1, &entries) ? INT64_MAX : entries;
}

inline std::string shape_text(const int64_t* shape, int rank) {
    std::string text = "[";
    for (int i = 0; i < rank; ++i) text += (i ? "," : "") + std::to_string(shape[i]);
    return text + "]";
}

inline uint64_t mix(uint64_t h, uint64_t v) {
    h ^= v + 0x9e3779b97f4a7c15ULL + (h << 6) + (h >> 2);
    return h * 0xff51afd7ed558ccdULL;
}

inline std::string missing_text(const Signature& s, const InferRequest& r) {
    std::string got, missing;
    size_t required = 0;
    for (const auto& spec : s.inputs) {
        if (spec.optional) continue;
        ++required;
        bool given = std::any_of(r.inputs.begin(), r.inputs.end(), [&](const TensorView& v) { return v.name == spec.name; });
        if (!given) missing += (missing.empty() ? "" : ",") + in_quotes(spec.name);
    }
    for (const auto& view : r.inputs) got += (got.empty() ? "" : ",") + in_quotes(view.name);
    return "expected " + std::to_string(required) + " inputs but got " + std::to_string(r.inputs.size()) +
           " inputs for model " + in_quotes(s.model) + ". Got input(s) [" + got + "], but missing required input(s) [" +
           missing + "]. Please provide all required input(s).";
}

// A body that is one tensor and nothing else: its description comes from the signature.
inline bool describe_raw_body(const Signature& s, TensorView& view, WireError& error) {
    if (s.inputs.size() != 1)
        return refuse(error, "a raw request body needs a model with exactly one input; model " + in_quotes(s.model) + " has " +
                                 std::to_string(s.inputs.size()));
    const TensorSpec& spec = s.inputs[0];
    view.name = spec.name;
    view.datatype = spec.datatype;
    view.rank = spec.rank;
    std::copy_n(spec.shape, kMaxRank, view.shape);
    if (spec.datatype == DataType::BYTES)
        return refuse(error, "a raw request body cannot carry the BYTES input " + in_quotes(spec.name) +
                                 "; send it with Inference-Header-Content-Length");
    size_t known = element_size(spec.datatype);
    int free_dim = -1;
    bool one_row = false;
    for (int d = 0; d < spec.rank; ++d) {
        if (spec.shape[d] >= 0) { known *= size_t(spec.shape[d]); continue; }
        if (free_dim == 0 && s.max_batch_size > 0 && !one_row) { view.shape[0] = 1; one_row = true; free_dim = d; continue; }
        if (free_dim >= 0)
            return refuse(error, "a raw request body needs an input with one variable dimension at most; input " +
                                     in_quotes(spec.name) + " has shape " + shape_text(spec.shape, spec.rank));
        free_dim = d;
    }
    if (free_dim < 0)
        return view.size == known ||
               refuse(error, "raw request body of " + std::to_string(view.size) + " bytes, but input " +
                                 in_quotes(spec.name) + " has " + std::to_string(known));
    if (known == 0 || view.size % known)
        return refuse(error, "raw request body of " + std::to_string(view.size) + " bytes is no multiple of the " +
                                 std::to_string(known) + " bytes of one element of the variable dimension of input " +
                                 in_quotes(spec.name));
    view.shape[free_dim] = int64_t(view.size / known);
    return true;
}

}  // namespace binding_detail

// Checks `request` against `signature`. On success its inputs are in signature order and have the engine's shapes, and
// `binding` is filled, its masks by the engine's positions; otherwise
// `error` names the field and what was expected.
inline bool bind(const Signature& s, InferRequest& r, Binding& binding, WireError& error) {
    using namespace binding_detail;
    auto& inputs = r.inputs;
    if (inputs.size() == 1 && inputs[0].datatype == DataType::INVALID && !describe_raw_body(s, inputs[0], error)) return false;

    uint64_t mask = 0;
    bool ordered = true;
    int last = -1;
    for (auto& view : inputs) {
        int at = last + 1 < int(s.inputs.size()) && s.inputs[last + 1].name == view.name ? last + 1 : s.find_input(view.name);
        if (at < 0) return refuse(error, "unexpected inference input " + in_quotes(view.name) + " for model " + in_quotes(s.model));
        if (mask >> at & 1) return refuse(error, "input " + in_quotes(view.name) + " already exists in request");
        mask |= uint64_t{1} << at;
        ordered = ordered && at > last;
        last = at;
    }
    for (size_t i = 0; i < s.inputs.size(); ++i)
        if (!(mask >> i & 1) && !s.inputs[i].optional) return refuse(error, missing_text(s, r));
    if (inputs.empty()) return refuse(error, missing_text(s, r));
    if (!ordered)
        std::sort(inputs.begin(), inputs.end(), [&](const TensorView& a, const TensorView& b) {
            return s.find_input(a.name) < s.find_input(b.name);
        });

    const bool batched = s.max_batch_size > 0;
    uint64_t group = mask;
    int64_t rows = batched ? -1 : 1;
    int64_t nbytes = 0;
    size_t position = 0;
    for (size_t i = 0; i < s.inputs.size(); ++i) {
        if (!(mask >> i & 1)) continue;
        const TensorSpec& spec = s.inputs[i];
        TensorView& view = inputs[position++];
        if (view.datatype != spec.datatype)
            return refuse(error, "inference input " + in_quotes(spec.name) + " data-type is '" +
                                     std::string(datatype_name(view.datatype)) + "', but model " + in_quotes(s.model) +
                                     " expects '" + std::string(datatype_name(spec.datatype)) + "'");
        bool fits = view.rank == spec.rank;
        for (int d = 0; fits && d < spec.rank; ++d) fits = spec.shape[d] < 0 || spec.shape[d] == view.shape[d];
        if (!fits)
            return refuse(error, "unexpected shape for input " + in_quotes(spec.name) + " for model " + in_quotes(s.model) +
                                     ". Expected " + shape_text(spec.shape, spec.rank) + ", got " +
                                     shape_text(view.shape, view.rank));
        if (batched) {
            if (rows < 0) rows = view.shape[0];
            if (view.shape[0] != rows)
                return refuse(error, "input " + in_quotes(spec.name) + " batch size does not match other inputs for model " +
                                         in_quotes(s.model) + ": expected " + std::to_string(rows) + ", got " +
                                         std::to_string(view.shape[0]));
        }
        for (int d = batched ? 1 : 0; d < view.rank; ++d) group = mix(group, uint64_t(view.shape[d]));
        nbytes += int64_t(view.size);
        if (spec.reshaped) {
            translate(spec.shape, spec.rank, view.shape, spec.engine_shape, spec.engine_rank, view.shape);
            view.rank = spec.engine_rank;
        }
    }
    if (batched && rows < 1)
        return refuse(error, "inference request batch-size must be >= 1 for " + in_quotes(s.model) + ", got " + std::to_string(rows));
    if (batched && rows > s.max_batch_size)
        return refuse(error, "inference request batch-size must be <= " + std::to_string(s.max_batch_size) + " for " + in_quotes(s.model));

    uint64_t wanted = 0;
    for (const auto& output : r.outputs) {
        int at = s.find_output(output.name);
        if (at < 0) return refuse(error, "unexpected inference output " + in_quotes(output.name) + " for model " + in_quotes(s.model));
        const uint64_t bit = uint64_t{1} << s.outputs[size_t(at)].index;
        if (wanted & bit) return refuse(error, "output " + in_quotes(output.name) + " already exists in request");
        if (output.classification > 0 && s.outputs[at].datatype == DataType::BYTES)
            return refuse(error, "classification is not possible for output " + in_quotes(output.name) + " of datatype BYTES");
        wanted |= bit;
        const int64_t entries = class_entries(s.outputs[size_t(at)], batched, rows, output.classification);
        if (entries > kMaxClassEntries)
            return refuse(error, "classification of output " + in_quotes(output.name) + " would give " + std::to_string(entries) +
                                     " entries, " + std::to_string(kMaxClassEntries) + " at most");
    }
    if (r.outputs.empty())
        for (const TensorSpec& spec : s.outputs) wanted |= uint64_t{1} << spec.index;

    uint64_t engine_mask = 0;
    for (size_t i = 0; i < s.inputs.size(); ++i)
        if (mask >> i & 1) engine_mask |= uint64_t{1} << s.inputs[i].index;
    binding.inputs_mask = engine_mask;
    binding.outputs_mask = wanted;
    binding.group = mix(group, wanted);
    binding.rows = rows;
    binding.nbytes = nbytes;
    return true;
}

namespace binding_detail {

inline float half_value(uint16_t bits) {
    int exponent = bits >> 10 & 31;
    float value = exponent == 31   ? ((bits & 1023) ? NAN : INFINITY)
                  : exponent == 0 ? std::ldexp(float(bits & 1023), -24)
                                  : std::ldexp(float((bits & 1023) | 1024), exponent - 25);
    return bits & 0x8000 ? -value : value;
}

inline double element_value(const uint8_t* at, DataType type) {
    auto load = [at](auto value) { std::memcpy(&value, at, sizeof(value)); return value; };
    switch (type) {
        case DataType::BOOL: case DataType::UINT8: return load(uint8_t{});
        case DataType::UINT16: return load(uint16_t{});
        case DataType::UINT32: return load(uint32_t{});
        case DataType::UINT64: return double(load(uint64_t{}));
        case DataType::INT8: return load(int8_t{});
        case DataType::INT16: return load(int16_t{});
        case DataType::INT32: return load(int32_t{});
        case DataType::INT64: return double(load(int64_t{}));
        case DataType::FP16: return half_value(load(uint16_t{}));
        case DataType::BF16: { uint32_t wide = uint32_t(load(uint16_t{})) << 16; float f; std::memcpy(&f, &wide, 4); return f; }
        case DataType::FP32: return load(float{});
        case DataType::FP64: return load(double{});
        default: return 0;
    }
}

}  // namespace binding_detail

// The classification extension: replaces `view` by the k highest elements of each row, as BYTES "value:index[:label]"
// with shape [rows, k] (or [k] without a batch dimension). A NaN ranks lowest. The new bytes live in `arena`.
inline void classify(const TensorSpec& spec, bool batched, int64_t k, OutputView& view, Arena& arena) {
    const size_t element = element_size(view.datatype);
    const int64_t rows = batched ? view.shape[0] : 1;
    const int64_t width = element && rows ? int64_t(view.size / element) / rows : 0;
    k = std::min(k, width);
    std::string packed;
    std::vector<std::pair<double, int64_t>> ranked(static_cast<size_t>(width));
    const auto is_above = [](const auto& a, const auto& b) {
        bool lost_a = std::isnan(a.first), lost_b = std::isnan(b.first);
        if (lost_a || lost_b) return lost_a == lost_b ? a.second < b.second : lost_b;
        return a.first != b.first ? a.first > b.first : a.second < b.second;
    };
    for (int64_t row = 0; row < rows; ++row) {
        for (int64_t i = 0; i < width; ++i)
            ranked[size_t(i)] = {binding_detail::element_value(view.data + size_t(row * width + i) * element, view.datatype), i};
        // Not partial_sort, whose heap costs a logarithm for every element of a tensor that happens to ascend.
        if (k < width) std::nth_element(ranked.begin(), ranked.begin() + k, ranked.end(), is_above);
        std::sort(ranked.begin(), ranked.begin() + k, is_above);
        for (int64_t i = 0; i < k; ++i) {
            char number[400];
            int length = std::snprintf(number, sizeof number, "%f:%" PRId64, ranked[size_t(i)].first, ranked[size_t(i)].second);
            std::string entry(number, size_t(length));
            size_t index = size_t(ranked[size_t(i)].second);
            if (index < spec.labels.size()) entry += ":" + spec.labels[index];
            uint32_t size = uint32_t(entry.size());
            packed.append(reinterpret_cast<const char*>(&size), 4).append(entry);
        }
    }
    std::string_view kept = arena.copy(packed);
    view.data = reinterpret_cast<const uint8_t*>(kept.data());
    view.size = kept.size();
    view.datatype = DataType::BYTES;
    view.rank = 0;
    if (batched) view.shape[view.rank++] = rows;
    view.shape[view.rank++] = k;
}

}  // namespace sluice
