// The protobuf wire format, read within bounds: tags, varints, length-delimited fields, and whatever has to be skipped.
// Accepts and refuses exactly what protobuf's own parsers do.
#pragma once

#include <cstdint>
#include <cstring>
#include <string_view>

namespace sluice {

enum ProtoWire : uint32_t { VARINT = 0, FIXED64 = 1, CHUNK = 2, GROUP = 3, END_GROUP = 4, FIXED32 = 5 };

// Every method returns false on malformed bytes and is not to be used any further then.
class ProtoReader {
public:
    static constexpr int kMaxGroupDepth = 100;

    explicit ProtoReader(std::string_view bytes)
        : at_(reinterpret_cast<const uint8_t*>(bytes.data())), end_(at_ + bytes.size()) {}

    bool done() const { return at_ == end_; }

    bool varint(uint64_t& value) {
        if (at_ != end_ && *at_ < 0x80) [[likely]] {
            value = *at_++;
            return true;
        }
        return long_varint(value, 10);
    }

    bool tag(uint32_t& field, uint32_t& wire) {
        uint64_t value;
        if (at_ != end_ && *at_ < 0x80) [[likely]] value = *at_++;
        else if (!long_varint(value, 5) || value > UINT32_MAX) return false;
        field = static_cast<uint32_t>(value >> 3);
        wire = value & 7;
        return field != 0;
    }

    bool chunk(std::string_view& bytes) {
        uint64_t length;
        if (at_ != end_ && *at_ < 0x80) [[likely]] length = *at_++;
        else if (!long_varint(length, 5) || length > INT32_MAX) return false;
        if (length > static_cast<size_t>(end_ - at_)) return false;
        bytes = {reinterpret_cast<const char*>(at_), static_cast<size_t>(length)};
        at_ += length;
        return true;
    }

    template <class T>
    bool fixed(T& value) {
        if (static_cast<size_t>(end_ - at_) < sizeof(T)) return false;
        std::memcpy(&value, at_, sizeof(T));
        at_ += sizeof(T);
        return true;
    }

    // Steps over one field whose tag has been read.
    bool skip(uint32_t field, uint32_t wire, int depth = 0) {
        uint64_t number;
        uint32_t word;
        std::string_view bytes;
        switch (wire) {
            case VARINT: return varint(number);
            case FIXED64: return fixed(number);
            case FIXED32: return fixed(word);
            case CHUNK: return chunk(bytes);
            case GROUP: break;
            default: return false;
        }
        if (depth == kMaxGroupDepth) return false;
        for (;;) {
            uint32_t inner, inner_wire;
            if (!tag(inner, inner_wire)) return false;
            if (inner_wire == END_GROUP) return inner == field;
            if (!skip(inner, inner_wire, depth + 1)) return false;
        }
    }

private:
    bool long_varint(uint64_t& value, int most) {
        uint64_t sum = 0;
        for (int i = 0; i < most && at_ != end_; ++i) {
            const uint8_t byte = *at_++;
            sum |= static_cast<uint64_t>(byte & 0x7f) << (7 * i);
            if (byte < 0x80) {
                value = sum;
                return true;
            }
        }
        return false;
    }

    const uint8_t* at_;
    const uint8_t* end_;
};

}  // namespace sluice
