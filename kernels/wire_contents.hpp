// InferTensorContents, the typed form of one tensor's data, turned into raw bytes. A tensor's contents may come in
// several pieces, packed or not; they add up, as protobuf merges them.
#pragma once

#include <limits>
#include <string_view>

#include "infer.hpp"
#include "wire_checks.hpp"
#include "wire_proto_reader.hpp"

namespace sluice {

constexpr uint32_t kContentsField = 5;  // of InferInputTensor and of InferOutputTensor

// The field of InferTensorContents that carries a datatype; 0 for those that are raw only.
constexpr uint32_t contents_field(DataType type) {
    constexpr uint32_t fields[kDataTypes] = {0, 1, 4, 4, 4, 5, 2, 2, 2, 3, 0, 6, 7, 8, 0};
    return fields[static_cast<uint8_t>(type)];
}

constexpr std::string_view contents_name(uint32_t field) {
    constexpr std::string_view names[9] = {"",              "bool_contents",   "int_contents",  "int64_contents",
                                           "uint_contents", "uint64_contents", "fp32_contents", "fp64_contents",
                                           "bytes_contents"};
    return names[field];
}

// Fills `tensor` from `message`, the bytes of its InferInputTensor. Nothing is allocated before the elements there have
// been counted and found to match the shape. False with `error` unset: the bytes are malformed.
class ContentsDecoder {
public:
    ContentsDecoder(TensorView& tensor, Arena& arena, std::string_view model, const WireLimits& limits,
                    WireError& error)
        : tensor_(tensor), arena_(arena), model_(model), limits_(limits), error_(error),
          field_(contents_field(tensor.datatype)) {}

    bool decode(std::string_view message) {
        size_t elements = 0;
        if (!measure(tensor_, limits_, elements, error_)) return false;
        if (!each_contents(message, [&](uint32_t field, uint32_t wire, ProtoReader& reader) {
                return count(field, wire, reader);
            }))
            return false;
        for (uint32_t field = 1; field <= 8; ++field)
            if (counts_[field] && field != field_) return refuse_field(field);
        if (tensor_.datatype == DataType::BYTES) return decode_bytes(message, elements);
        const size_t unit = element_size(tensor_.datatype);
        if (counts_[field_] != elements)
            return refuse_size(tensor_, elements * unit, counts_[field_] * unit, model_, error_);
        tensor_.size = elements * unit;
        tensor_.data = kNoBytes;
        if (!elements) return true;
        if (pieces_ == 1 && !packed_.empty()) {  // floats in one packed piece are raw bytes already
            tensor_.data = reinterpret_cast<const uint8_t*>(packed_.data());
            return true;
        }
        to_ = arena_.allocate(tensor_.size);
        tensor_.data = to_;
        switch (tensor_.datatype) {
            case DataType::BOOL: return fill(message, [this](uint64_t bits) { return put<uint8_t>(bits != 0); });
            case DataType::INT8: return fill(message, [this](uint64_t bits) { return put_int<int8_t>(bits); });
            case DataType::INT16: return fill(message, [this](uint64_t bits) { return put_int<int16_t>(bits); });
            case DataType::INT32: return fill(message, [this](uint64_t bits) { return put_int<int32_t>(bits); });
            case DataType::UINT8: return fill(message, [this](uint64_t bits) { return put_uint<uint8_t>(bits); });
            case DataType::UINT16: return fill(message, [this](uint64_t bits) { return put_uint<uint16_t>(bits); });
            case DataType::UINT32: return fill(message, [this](uint64_t bits) { return put_uint<uint32_t>(bits); });
            case DataType::INT64:
            case DataType::UINT64: return fill(message, [this](uint64_t bits) { return put<uint64_t>(bits); });
            default: return fill_fixed(message, unit);
        }
    }

private:
    // Calls visit(field, wire, reader) for every field of every contents; `visit` reads or skips the field.
    template <class Visit>
    static bool each_contents(std::string_view message, Visit&& visit) {
        ProtoReader outer(message);
        while (!outer.done()) {
            uint32_t field, wire;
            if (!outer.tag(field, wire)) return false;
            if (field != kContentsField || wire != CHUNK) {
                if (!outer.skip(field, wire)) return false;
                continue;
            }
            std::string_view contents;
            if (!outer.chunk(contents)) return false;
            ProtoReader reader(contents);
            while (!reader.done())
                if (!reader.tag(field, wire) || !visit(field, wire, reader)) return false;
        }
        return true;
    }

    bool count(uint32_t field, uint32_t wire, ProtoReader& reader) {
        const uint32_t scalar = field >= 1 && field <= 5 ? VARINT : field == 6 ? FIXED32 : FIXED64;
        if (field < 1 || field > 8 || (wire != scalar && wire != CHUNK) || (field == 8 && wire != CHUNK))
            return reader.skip(field, wire);
        if (wire != CHUNK) {
            ++counts_[field];
            ++pieces_;
            return reader.skip(field, wire);
        }
        std::string_view chunk;
        if (!reader.chunk(chunk)) return false;
        if (field == 8) {
            ++counts_[8];
            text_bytes_ += chunk.size();
        } else if (field >= 6) {
            const size_t unit = field == 6 ? 4 : 8;
            if (chunk.size() % unit) return false;
            counts_[field] += chunk.size() / unit;
            pieces_ += !chunk.empty();
            if (!chunk.empty()) packed_ = chunk;
        } else {
            for (char byte : chunk) counts_[field] += static_cast<uint8_t>(byte) < 0x80;
            if (!chunk.empty() && static_cast<uint8_t>(chunk.back()) >= 0x80) return false;
        }
        return true;
    }

    bool decode_bytes(std::string_view message, size_t elements) {
        if (counts_[8] != elements)
            return refuse(error_, kInvalidArgument, "unexpected number of string elements ", counts_[8],
                          " for inference input '", tensor_.name, "' for model '", model_, "', expecting ", elements);
        tensor_.size = 4 * elements + text_bytes_;
        tensor_.data = kNoBytes;
        if (tensor_.size > limits_.max_tensor_bytes)
            return refuse(error_, kInvalidArgument, "input '", tensor_.name, "' of ", tensor_.size,
                          " bytes exceeds the limit max_tensor_bytes of ", limits_.max_tensor_bytes);
        if (!elements) return true;
        uint8_t* to = arena_.allocate(tensor_.size);
        tensor_.data = to;
        return each_contents(message, [&](uint32_t field, uint32_t wire, ProtoReader& reader) {
            std::string_view chunk;
            if (field != 8 || wire != CHUNK) return reader.skip(field, wire);
            if (!reader.chunk(chunk)) return false;
            const auto length = static_cast<uint32_t>(chunk.size());
            std::memcpy(to, &length, 4);
            if (length) std::memcpy(to + 4, chunk.data(), length);
            to += 4 + chunk.size();
            return true;
        });
    }

    // Hands every varint of the tensor's field to `put`. A varint longer than ten bytes is noticed here.
    template <class Put>
    bool fill(std::string_view message, Put&& put) {
        return each_contents(message, [&](uint32_t field, uint32_t wire, ProtoReader& reader) {
            uint64_t bits;
            std::string_view chunk;
            if (field != field_ || (wire != VARINT && wire != CHUNK)) return reader.skip(field, wire);
            if (wire == VARINT) return reader.varint(bits) && put(bits);
            if (!reader.chunk(chunk)) return false;
            for (ProtoReader packed(chunk); !packed.done();)
                if (!packed.varint(bits) || !put(bits)) return false;
            return true;
        });
    }

    bool fill_fixed(std::string_view message, size_t unit) {
        const uint32_t scalar = unit == 4 ? FIXED32 : FIXED64;
        return each_contents(message, [&](uint32_t field, uint32_t wire, ProtoReader& reader) {
            std::string_view chunk;
            uint32_t word;
            uint64_t number;
            if (field != field_ || (wire != scalar && wire != CHUNK)) return reader.skip(field, wire);
            if (wire == CHUNK) {
                if (!reader.chunk(chunk)) return false;
                if (!chunk.empty()) std::memcpy(to_, chunk.data(), chunk.size());
                to_ += chunk.size();
                return true;
            }
            if (unit == 4) return reader.fixed(word) && put<uint32_t>(word);
            return reader.fixed(number) && put<uint64_t>(number);
        });
    }

    template <class T>
    bool put(T value) {
        std::memcpy(to_, &value, sizeof(T));
        to_ += sizeof(T);
        return true;
    }

    // int_contents are int32 whatever the datatype, and protobuf keeps the low 32 bits of what was sent.
    template <class T>
    bool put_int(uint64_t bits) {
        const auto value = static_cast<int32_t>(static_cast<uint32_t>(bits));
        if (value < std::numeric_limits<T>::min() || value > std::numeric_limits<T>::max()) return refuse_range(value);
        return put<T>(static_cast<T>(value));
    }

    template <class T>
    bool put_uint(uint64_t bits) {
        const auto value = static_cast<uint32_t>(bits);
        if (value > std::numeric_limits<T>::max()) return refuse_range(value);
        return put<T>(static_cast<T>(value));
    }

    bool refuse_range(int64_t value) {
        return refuse(error_, kInvalidArgument, "input '", tensor_.name, "' holds ", value, " in ",
                      contents_name(field_), ", which is out of range for datatype ",
                      datatype_name(tensor_.datatype));
    }

    bool refuse_field(uint32_t field) {
        if (!field_)
            return refuse(error_, kInvalidArgument, "input '", tensor_.name, "' of datatype ",
                          datatype_name(tensor_.datatype), " must come in raw_input_contents, not in ",
                          contents_name(field));
        return refuse(error_, kInvalidArgument, "unexpected explicit tensor data for input tensor '", tensor_.name,
                      "' for model '", model_, "': ", contents_name(field), " given, datatype ",
                      datatype_name(tensor_.datatype), " comes in ", contents_name(field_));
    }

    TensorView& tensor_;
    Arena& arena_;
    std::string_view model_;
    const WireLimits& limits_;
    WireError& error_;
    const uint32_t field_;
    size_t counts_[9] = {};
    size_t text_bytes_ = 0;
    size_t pieces_ = 0;
    std::string_view packed_;
    uint8_t* to_ = nullptr;
};

}  // namespace sluice
