// V2 inference requests in JSON, with or without binary tensors behind it, to an InferRequest. Numbers go straight from
// text into typed tensor bytes in the arena; binary tensors stay where they are.
#pragma once

#include <new>
#include <string_view>

#include "infer.hpp"
#include "wire_checks.hpp"
#include "wire_half.hpp"
#include "wire_json_data.hpp"
#include "wire_json_cursor.hpp"
#include "wire_json_tokens.hpp"
#include "wire_parameters.hpp"

namespace sluice {

class JsonRequestReader {
public:
    // `tail`: the bytes behind the JSON.
    JsonRequestReader(const JsonTokens& tokens, std::string_view tail, InferRequest& out, const WireLimits& limits,
                      WireError& error)
        : cursor_(tokens, out.arena, limits.max_json_depth, error), tail_(tail), tail_size_(tail.size()), out_(out),
          limits_(limits), error_(error) {}

    bool read() {
        if (cursor_.kind() != '{') return cursor_.malformed("the document is not an object.");
        unsigned seen = 0;
        const bool whole = cursor_.object(1, [&](std::string_view key) {
            if (key == "inputs") return once(seen, 1, key) && inputs();
            if (key == "outputs") return once(seen, 2, key) && (cursor_.null() || outputs());
            if (key == "parameters") return once(seen, 4, key) && (cursor_.null() || request_parameters());
            if (key == "id") return once(seen, 8, key) && (cursor_.null() || id());
            return cursor_.skip(2);
        });
        if (!whole) return false;
        if (!cursor_.done()) return cursor_.malformed("The document root must not be followed by other values.");
        if (!(seen & 1)) return refuse(error_, kInvalidArgument, "Unable to parse 'inputs': the request has none");
        if (!tail_.empty())
            return refuse(error_, kInvalidArgument, "unexpected additional input data: ", tail_.size(),
                          " of the ", tail_size_, " bytes behind the JSON belong to no input");
        return parameters_.apply(out_, true, error_);
    }

private:
    static constexpr unsigned kName = 1, kDatatype = 2, kShape = 4, kData = 8, kParameters = 16;

    bool once(unsigned& seen, unsigned bit, std::string_view key) {
        if (seen & bit) return refuse(error_, kInvalidArgument, "duplicate key '", key, "' in the request JSON");
        seen |= bit;
        return true;
    }

    bool id() {
        out_.has_id = true;
        return cursor_.string("id", out_.id);
    }

    bool request_parameters() {
        return cursor_.parameters(2, [&](std::string_view key, const ParameterValue& value) {
            if (limits_.wanted_parameters) [[unlikely]] keep_parameter(key, value, limits_, out_);
            return parameters_.note(key, value, error_);
        });
    }

    // Those of an input or a requested output.
    template <class Note>
    bool parameters(Note&& note) { return cursor_.null() || cursor_.parameters(4, note); }

    bool inputs() {
        return cursor_.array(2, "inputs", [&] {
            if (out_.inputs.size() >= limits_.max_tensors)
                return refuse(error_, kInvalidArgument, "inputs exceed the limit max_tensors of ", limits_.max_tensors);
            return input(out_.inputs.emplace_back());
        });
    }

    bool input(TensorView& tensor) {
        constexpr unsigned kReady = kName | kDatatype | kShape;
        unsigned seen = 0;
        size_t postponed = 0;  // the token at which `data` starts, when it came before what it needs
        int64_t binary_size = -1;
        if (cursor_.kind() != '{') return cursor_.mistyped("inputs", "an object");
        const bool whole = cursor_.object(3, [&](std::string_view key) {
            if (key == "name") return once(seen, kName, key) && cursor_.string("name", tensor.name);
            if (key == "datatype") return once(seen, kDatatype, key) && datatype(tensor);
            if (key == "shape") return once(seen, kShape, key) && shape(tensor);
            if (key == "data") {
                if (!once(seen, kData, key)) return false;
                if ((seen & kReady) == kReady) [[likely]] return data(tensor);
                postponed = cursor_.position();
                return cursor_.skip(4);
            }
            if (key == "parameters")
                return once(seen, kParameters, key) &&
                       parameters([&](std::string_view name, const ParameterValue& value) {
                           return note_input_parameter(name, value, &binary_size, error_);
                       });
            return cursor_.skip(4);
        });
        if (!whole) return false;
        if ((seen & kReady) != kReady) return refuse_incomplete(tensor, seen);
        if (postponed) {
            const size_t behind = cursor_.position();
            cursor_.move_to(postponed);
            if (!data(tensor)) return false;
            cursor_.move_to(behind);
        }
        if (!(seen & kData)) {
            if (!binary_data(tensor, binary_size)) return false;
        } else if (binary_size >= 0) {
            return refuse(error_, kInvalidArgument, "input '", tensor.name,
                          "' has both 'data' and parameter 'binary_data_size'");
        }
        return check_input_name(out_.inputs, error_);
    }

    bool datatype(TensorView& tensor) {
        std::string_view name;
        if (!cursor_.string("datatype", name)) return false;
        tensor.datatype = datatype_from_name(name);
        return tensor.datatype != DataType::INVALID ||
               refuse(error_, kInvalidArgument, "inference input '", tensor.name, "' has unknown datatype '", name,
                      "'");
    }

    bool shape(TensorView& tensor) {
        return cursor_.array(4, "shape", [&] {
            if (static_cast<size_t>(tensor.rank) >= limits_.max_rank || tensor.rank >= kMaxRank)
                return refuse(error_, kInvalidArgument, "shape of input '", tensor.name,
                              "' exceeds the limit max_rank of ", limits_.max_rank);
            int64_t dimension;
            if (!cursor_.integer(dimension) || dimension < 0)
                return refuse(error_, kInvalidArgument, "Unable to parse 'shape': attempt to access JSON "
                                                        "non-unsigned-integer as unsigned-integer");
            tensor.shape[tensor.rank++] = dimension;
            cursor_.step();
            return true;
        });
    }

    bool data(TensorView& tensor) { return JsonDataReader(cursor_, tensor, out_.arena, limits_, error_).read(); }

    // The next `size` bytes behind the JSON.
    bool binary_data(TensorView& tensor, int64_t size) {
        if (size < 0)
            return refuse(error_, kInvalidArgument, "input '", tensor.name,
                          "' has neither 'data' nor parameter 'binary_data_size'");
        if (static_cast<uint64_t>(size) > tail_.size())
            return refuse(error_, kInvalidArgument, "input '", tensor.name, "' has a binary_data_size of ", size,
                          ", but only ", tail_.size(),
                          " bytes are left behind the JSON part that Inference-Header-Content-Length declares");
        tensor.data = size ? reinterpret_cast<const uint8_t*>(tail_.data()) : kNoBytes;
        tensor.size = static_cast<size_t>(size);
        tail_.remove_prefix(tensor.size);
        return check_raw(tensor, limits_, out_.model, error_);
    }

    bool refuse_incomplete(const TensorView& tensor, unsigned seen) {
        const char* missing = !(seen & kName) ? "name" : !(seen & kDatatype) ? "datatype" : "shape";
        return refuse(error_, kInvalidArgument, "Unable to parse 'inputs': input '", tensor.name, "' has no '", missing,
                      "'");
    }

    bool outputs() {
        return cursor_.array(2, "outputs", [&] {
            if (out_.outputs.size() >= limits_.max_tensors)
                return refuse(error_, kInvalidArgument, "outputs exceed the limit max_tensors of ",
                              limits_.max_tensors);
            return output(out_.outputs.emplace_back());
        });
    }

    bool output(RequestedOutput& output) {
        unsigned seen = 0;
        if (cursor_.kind() != '{') return cursor_.mistyped("outputs", "an object");
        const bool whole = cursor_.object(3, [&](std::string_view key) {
            if (key == "name") return once(seen, kName, key) && cursor_.string("name", output.name);
            if (key == "parameters")
                return once(seen, kParameters, key) &&
                       parameters([&](std::string_view name, const ParameterValue& value) {
                           return note_output_parameter(name, value, true, output, error_);
                       });
            return cursor_.skip(4);
        });
        if (!whole) return false;
        if (!(seen & kName))
            return refuse(error_, kInvalidArgument, "Unable to parse 'outputs': an output has no 'name'");
        return check_output_name(out_.outputs, error_);
    }

    JsonCursor cursor_;
    std::string_view tail_;
    const size_t tail_size_;
    InferRequest& out_;
    const WireLimits& limits_;
    WireError& error_;
    RequestParameters parameters_;
};

// Decodes HTTP inference bodies, one at a time; keeps its memory from one to the next, so have one per thread.
class JsonDecoder {
public:
    // Decodes one body into a cleared request, whose `model` is for error texts. `body` has kPadding readable bytes
    // behind it. `header_length`: the JSON part's, -1 when all of it is JSON, 0 when none is: then the request gets one
    // nameless input over all of the body, without datatype and shape, and binary outputs. True: every input has its
    // shape, datatype and raw bytes, which match, as views of `body` or of the request's arena. False: `error` says
    // why, and the request holds nothing of use.
    bool decode(const uint8_t* body, size_t size, int64_t header_length, InferRequest& out, const WireLimits& limits,
                WireError& error) noexcept {
        error.code = 0;
        try {
            const bool good = decode_body(body, size, header_length, out, limits, error);
            tokens_.shrink();
            return good;
        } catch (const std::bad_alloc&) {
            error.code = kResourceExhausted;
            error.text = JsonTokens::kNoMemory;
            tokens_.shrink();
            return false;
        }
    }

private:
    bool decode_body(const uint8_t* body, size_t size, int64_t header_length, InferRequest& out,
                     const WireLimits& limits, WireError& error) {
        if (header_length == 0) {
            TensorView& tensor = out.inputs.emplace_back();
            tensor.data = size ? body : kNoBytes;
            tensor.size = size;
            out.binary_data_output = true;
            return true;
        }
        if (header_length > 0 && static_cast<uint64_t>(header_length) > size)
            return refuse(error, kInvalidArgument, "Inference-Header-Content-Length of ", header_length,
                          " exceeds the request body of ", size, " bytes");
        const size_t json = header_length < 0 ? size : static_cast<size_t>(header_length);
        if (const char* wrong = tokens_.scan(body, json)) {
            if (wrong == JsonTokens::kNoMemory) throw std::bad_alloc();
            return refuse(error, kInvalidArgument, "failed to parse the request JSON buffer: ", wrong);
        }
        const std::string_view tail(reinterpret_cast<const char*>(body) + json, size - json);
        return JsonRequestReader(tokens_, tail, out, limits, error).read();
    }

    JsonTokens tokens_;
};

}  // namespace sluice
