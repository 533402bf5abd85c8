// inference.ModelInferRequest bytes to an InferRequest. Raw contents stay where they are; typed contents become raw
// bytes in the arena. Field numbers are those of the Open Inference Protocol with Triton's extensions.
#pragma once

#include <new>
#include <string_view>

#include "infer.hpp"
#include "wire_checks.hpp"
#include "wire_contents.hpp"
#include "wire_parameters.hpp"
#include "wire_proto_reader.hpp"

namespace sluice {

class ProtoDecoder {
public:
    ProtoDecoder(std::string_view message, InferRequest& out, const WireLimits& limits, WireError& error)
        : message_(message), out_(out), limits_(limits), error_(error) {}

    // False with `error` unset: the bytes are malformed.
    bool decode() {
        if (!read_message()) return false;
        if (!parameters_.apply(out_, false, error_)) return false;
        out_.has_id = !out_.id.empty();
        // A request with no contents at all is answered raw, as clients that index raw_output_contents expect.
        out_.raw = raw_count_ > 0 || !typed_;
        return raw_count_ ? take_raw() : take_typed();
    }

private:
    // Everything but tensor contents. An input's `data` and `size` are its own message until its contents are read;
    // `data` is null when that has none.
    bool read_message() {
        ProtoReader reader(message_);
        std::string_view chunk;
        while (!reader.done()) {
            uint32_t field, wire;
            if (!reader.tag(field, wire)) return false;
            if (wire != CHUNK || field > 7) {
                if (!reader.skip(field, wire)) return false;
                continue;
            }
            if (!reader.chunk(chunk)) return false;
            switch (field) {
                case 1: if (!text(chunk, "model_name", out_.model)) return false; break;
                case 2: if (!text(chunk, "model_version", out_.version)) return false; break;
                case 3: if (!text(chunk, "id", out_.id)) return false; break;
                case 4: {
                    std::string_view key;
                    ParameterValue value;
                    if (!parameter(chunk, key, value) || !parameters_.note(key, value, error_)) return false;
                    if (limits_.wanted_parameters) [[unlikely]] keep_parameter(key, value, limits_, out_);
                    break;
                }
                case 5: if (!input(chunk)) return false; break;
                case 6: if (!requested_output(chunk)) return false; break;
                case 7: ++raw_count_; break;
            }
        }
        return true;
    }

    bool input(std::string_view message) {
        if (out_.inputs.size() >= limits_.max_tensors)
            return refuse(error_, kInvalidArgument, "inputs exceed the limit max_tensors of ", limits_.max_tensors);
        TensorView& tensor = out_.inputs.emplace_back();
        std::string_view datatype, chunk, key;
        ProtoReader reader(message);
        while (!reader.done()) {
            uint32_t field, wire;
            if (!reader.tag(field, wire)) return false;
            if (field == 3 && wire == VARINT) {
                uint64_t dimension;
                if (!reader.varint(dimension) || !add_dimension(tensor, dimension)) return false;
                continue;
            }
            if (wire != CHUNK || field > kContentsField) {
                if (!reader.skip(field, wire)) return false;
                continue;
            }
            if (!reader.chunk(chunk)) return false;
            switch (field) {
                case 1: if (!text(chunk, "inputs.name", tensor.name)) return false; break;
                case 2: if (!text(chunk, "inputs.datatype", datatype)) return false; break;
                case 3:
                    for (ProtoReader packed(chunk); !packed.done();) {
                        uint64_t dimension;
                        if (!packed.varint(dimension) || !add_dimension(tensor, dimension)) return false;
                    }
                    break;
                case 4: {
                    ParameterValue value;
                    if (!parameter(chunk, key, value)) return false;
                    if (!note_input_parameter(key, value, nullptr, error_)) return false;
                    break;
                }
                case kContentsField: tensor.data = kNoBytes; break;
            }
        }
        if (tensor.data) {
            typed_ = true;
            tensor.data = reinterpret_cast<const uint8_t*>(message.data());
            tensor.size = message.size();
        }
        tensor.datatype = datatype_from_name(datatype);
        if (tensor.datatype == DataType::INVALID)
            return refuse(error_, kInvalidArgument, "inference input '", tensor.name, "' has unknown datatype '",
                          datatype, "'");
        return check_input_name(out_.inputs, error_);
    }

    bool add_dimension(TensorView& tensor, uint64_t dimension) {
        if (static_cast<size_t>(tensor.rank) >= limits_.max_rank || tensor.rank >= kMaxRank)
            return refuse(error_, kInvalidArgument, "shape of input '", tensor.name, "' exceeds the limit max_rank of ",
                          limits_.max_rank);
        tensor.shape[tensor.rank++] = static_cast<int64_t>(dimension);
        return true;
    }

    bool requested_output(std::string_view message) {
        if (out_.outputs.size() >= limits_.max_tensors)
            return refuse(error_, kInvalidArgument, "outputs exceed the limit max_tensors of ", limits_.max_tensors);
        RequestedOutput& output = out_.outputs.emplace_back();
        std::string_view chunk, key;
        ProtoReader reader(message);
        while (!reader.done()) {
            uint32_t field, wire;
            if (!reader.tag(field, wire)) return false;
            if (wire != CHUNK || field > 2) {
                if (!reader.skip(field, wire)) return false;
                continue;
            }
            if (!reader.chunk(chunk)) return false;
            ParameterValue value;
            if (field == 1) {
                if (!text(chunk, "outputs.name", output.name)) return false;
            } else if (!parameter(chunk, key, value) || !note_output_parameter(key, value, false, output, error_)) {
                return false;
            }
        }
        return check_output_name(out_.outputs, error_);
    }

    // One entry of a map<string, InferParameter>.
    bool parameter(std::string_view entry, std::string_view& key, ParameterValue& value) {
        key = {};
        ProtoReader reader(entry);
        while (!reader.done()) {
            uint32_t field, wire;
            std::string_view chunk;
            if (!reader.tag(field, wire)) return false;
            if (wire != CHUNK || field > 2) {
                if (!reader.skip(field, wire)) return false;
                continue;
            }
            if (!reader.chunk(chunk)) return false;
            if (field == 1 ? !text(chunk, "parameter key", key) : !parameter_value(chunk, value)) return false;
        }
        return true;
    }

    // The last member of the oneof counts.
    bool parameter_value(std::string_view message, ParameterValue& value) {
        ProtoReader reader(message);
        while (!reader.done()) {
            uint32_t field, wire;
            uint64_t bits;
            double number;
            std::string_view chunk;
            if (!reader.tag(field, wire)) return false;
            if (wire == VARINT && (field == 1 || field == 2 || field == 5)) {
                if (!reader.varint(bits)) return false;
                value = field == 1   ? ParameterValue::of_bool(bits != 0)
                        : field == 2 ? ParameterValue::of_int(static_cast<int64_t>(bits))
                                     : ParameterValue::of_uint(bits);
            } else if (wire == CHUNK && field == 3) {
                if (!reader.chunk(chunk) || !text(chunk, "string_param", chunk)) return false;
                value = ParameterValue::of_string(chunk);
            } else if (wire == FIXED64 && field == 4) {
                if (!reader.fixed(number)) return false;
                value = ParameterValue::of_double(number);
            } else if (!reader.skip(field, wire)) {
                return false;
            }
        }
        return true;
    }

    bool take_raw() {
        for (const TensorView& tensor : out_.inputs)
            if (tensor.data) [[unlikely]]
                return refuse(error_, kInvalidArgument,
                              "contents field must not be specified when using raw_input_contents for '", tensor.name,
                              "' for model '", out_.model, "'");
        ProtoReader reader(message_);
        size_t taken = 0;
        while (!reader.done() && taken < out_.inputs.size()) {
            uint32_t field, wire;
            std::string_view chunk;
            if (!reader.tag(field, wire)) return false;
            if (field != 7 || wire != CHUNK) {
                if (!reader.skip(field, wire)) return false;
                continue;
            }
            if (!reader.chunk(chunk)) return false;
            TensorView& tensor = out_.inputs[taken++];
            tensor.data = chunk.empty() ? kNoBytes : reinterpret_cast<const uint8_t*>(chunk.data());
            tensor.size = chunk.size();
            if (!check_raw(tensor, limits_, out_.model, error_)) return false;
        }
        // Surplus entries are ignored, as Triton does.
        return taken == out_.inputs.size() || refuse_missing(out_.inputs[taken]);
    }

    bool take_typed() {
        for (TensorView& tensor : out_.inputs) {
            if (tensor.data) {
                const std::string_view message(reinterpret_cast<const char*>(tensor.data), tensor.size);
                if (!ContentsDecoder(tensor, out_.arena, out_.model, limits_, error_).decode(message)) return false;
                continue;
            }
            size_t elements = 0;
            if (!measure(tensor, limits_, elements, error_)) return false;
            if (elements) return refuse_missing(tensor);
            tensor.data = kNoBytes;
        }
        return true;
    }

    bool refuse_missing(const TensorView& tensor) {
        return refuse(error_, kInvalidArgument, "unable to find data for input tensor '", tensor.name, "' for model '",
                      out_.model, "' in request.");
    }

    // A proto3 string. `name` is the field's, for the error.
    bool text(std::string_view chunk, const char* name, std::string_view& to) {
        if (!valid_utf8(chunk)) [[unlikely]]
            return refuse(error_, kInvalidArgument, "failed to parse the ModelInferRequest message: ", name,
                          " is not valid UTF-8");
        to = chunk;
        return true;
    }

    const std::string_view message_;
    InferRequest& out_;
    const WireLimits& limits_;
    WireError& error_;
    RequestParameters parameters_;
    size_t raw_count_ = 0;
    bool typed_ = false;
};

// Decodes one message into a cleared request. True: every input has its shape, datatype and raw bytes, which match, as
// views of `data` or of the request's arena. False: `error` says why, and the request holds nothing of use.
inline bool decode_proto(const uint8_t* data, size_t size, InferRequest& out, const WireLimits& limits,
                         WireError& error) noexcept {
    error.code = 0;
    try {
        const std::string_view message(reinterpret_cast<const char*>(data), size);
        if (ProtoDecoder(message, out, limits, error).decode()) [[likely]] return true;
        if (!error.code)
            refuse(error, kInvalidArgument,
                   "failed to parse the ModelInferRequest message: truncated or malformed protobuf");
    } catch (const std::bad_alloc&) {
        error.code = kResourceExhausted;
        error.text = "out of memory";
    }
    return false;
}

}  // namespace sluice
