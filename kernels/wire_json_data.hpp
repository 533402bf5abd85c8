// The `data` of one input in JSON, flat or nested as its shape says, into raw tensor bytes.
#pragma once

#include <cstring>
#include <limits>
#include <string_view>

#include "infer.hpp"
#include "wire_checks.hpp"
#include "wire_half.hpp"
#include "wire_json_cursor.hpp"

namespace sluice {

class JsonDataReader {
public:
    JsonDataReader(JsonCursor& cursor, TensorView& tensor, Arena& arena, const WireLimits& limits, WireError& error)
        : cursor_(cursor), tensor_(tensor), arena_(arena), limits_(limits), error_(error) {}

    // Steps over the value, with name, datatype and shape of the tensor known.
    bool read() {
        if (!measure(tensor_, limits_, elements_, error_)) return false;
        // An element takes a character and a comma at least, so the text bounds what is allocated.
        if (elements_ > cursor_.tokens().size() / 2 + 1) return refuse_shape();
        switch (tensor_.datatype) {
            case DataType::BOOL: return booleans();
            case DataType::UINT8: return integers<uint8_t>();
            case DataType::UINT16: return integers<uint16_t>();
            case DataType::UINT32: return integers<uint32_t>();
            case DataType::UINT64: return integers<uint64_t>();
            case DataType::INT8: return integers<int8_t>();
            case DataType::INT16: return integers<int16_t>();
            case DataType::INT32: return integers<int32_t>();
            case DataType::INT64: return integers<int64_t>();
            case DataType::FP16: return floats<uint16_t>([](double value) { return half_from_double(value); });
            case DataType::BF16: return floats<uint16_t>([](double value) { return bfloat_from_double(value); });
            case DataType::FP32: return floats<float>([](double value) { return static_cast<float>(value); });
            case DataType::FP64: return floats<double>([](double value) { return value; });
            case DataType::BYTES: return strings();
            case DataType::INVALID: break;
        }
        return refuse(error_, kInternal, "this is a bug: data of an input without datatype");
    }

private:
    static constexpr size_t kDataDepth = 4;  // request, inputs, input, data

    template <class T>
    bool integers() {
        return scalars<T>([](const uint8_t* at, T& to) { return quick_integer(at, to); },
                          [this](T&) { return refuse_element(); });
    }

    template <class T, class Narrow>
    bool floats(Narrow&& narrow) {
        const auto quick = [&](const uint8_t* at, T& to) {
            double value;
            if (!quick_double(at, value)) return false;
            to = static_cast<T>(narrow(value));
            return true;
        };
        return scalars<T>(quick, [&](T& to) {
            double value;
            if (!odd_float(value)) return false;
            to = static_cast<T>(narrow(value));
            return true;
        });
    }

    bool booleans() {
        const auto quick = [](const uint8_t* at, uint8_t& to) {
            to = !std::memcmp(at, "true", 4);
            return to ? ends_scalar(at[4]) : !std::memcmp(at, "false", 5) && ends_scalar(at[5]);
        };
        return scalars<uint8_t>(quick, [this](uint8_t&) { return refuse_element(); });
    }

    // `null` stands for NaN, and numbers past the range of double are infinite.
    bool odd_float(double& value) {
        const std::string_view token = cursor_.spelling();
        if (token == "null") {
            value = std::numeric_limits<double>::quiet_NaN();
            return true;
        }
        return slow_double(token, value) || refuse_element();
    }

    // Elements of one size. `quick(bytes, T&)` takes an ordinary spelling that another token follows; `odd(T&)` judges
    // the scalar under the cursor when that fails.
    template <class T, class Quick, class Odd>
    bool scalars(Quick&& quick, Odd&& odd) {
        tensor_.size = elements_ * sizeof(T);
        auto* to = reinterpret_cast<T*>(arena_.allocate(tensor_.size + 1));  // never null
        tensor_.data = reinterpret_cast<const uint8_t*>(to);
        const T* const end = to + elements_;
        const auto read = [&] {
            if (to == end) [[unlikely]] return refuse_surplus();
            const uint8_t* at = cursor_.scalar();
            if (!(at && quick(at, *to)) && !odd(*to)) return false;
            ++to;
            cursor_.step();
            return true;
        };
        // Takes as many ordinary elements with a comma behind as come, all in registers, and leaves the rest to `read`.
        const auto run = [&] {
            const JsonTokens& tokens = cursor_.tokens();
            const uint32_t* index = tokens.indexes() + cursor_.position();
            const uint32_t* const last = tokens.indexes() + tokens.count() - 1;
            const uint8_t* const text = tokens.text();
            T* const first = to;
            T* next = to;
            for (T value; next != end && index < last; index += 2) {
                if (!quick(text + index[0], value) || text[index[1]] != ',') break;
                *next++ = value;
            }
            to = next;
            cursor_.move_to(static_cast<size_t>(index - tokens.indexes()));
            return static_cast<int64_t>(next - first);
        };
        return values(read, run) && (to == end || refuse_shape());
    }

    bool strings() {
        // Unescaped text is never longer than it was, so that this is room enough.
        const JsonTokens& tokens = cursor_.tokens();
        const size_t begin = cursor_.position();
        const size_t text = tokens.offset(tokens.behind(begin)) - tokens.offset(begin);
        uint8_t* to = arena_.allocate(4 * elements_ + text + 1);
        tensor_.data = to;
        size_t count = 0;
        const auto read = [&] {
            if (count == elements_) [[unlikely]] return refuse_surplus();
            if (cursor_.kind() != '"') return refuse_element();
            bool escaped;
            const std::string_view body = string_body(tokens.at(cursor_.position()), tokens.end(), escaped);
            uint8_t* end = to + 4 + body.size();
            if (escaped) end = unescape(body, to + 4);
            else if (!body.empty()) std::memcpy(to + 4, body.data(), body.size());
            if (!end) return cursor_.malformed(kInvalidEscape);
            const auto length = static_cast<uint32_t>(end - to - 4);
            std::memcpy(to, &length, 4);
            to = end;
            ++count;
            cursor_.step();
            return true;
        };
        if (!values(read, [] { return int64_t{0}; })) return false;
        if (count != elements_) return refuse_shape();
        tensor_.size = static_cast<size_t>(to - tensor_.data);
        return tensor_.size <= limits_.max_tensor_bytes ||
               refuse(error_, kInvalidArgument, "input '", tensor_.name, "' of ", tensor_.size,
                      " bytes exceeds the limit max_tensor_bytes of ", limits_.max_tensor_bytes);
    }

    // Reads each scalar in order: one by `read`, or several by `run`, which says how many. One may stand without
    // brackets.
    template <class Read, class Run>
    bool values(const Read& read, const Run& run) { return cursor_.kind() == '[' ? level(0, read, run) : read(); }

    // An array at a level of nesting: flat if it is the outermost, else as long as the shape says.
    template <class Read, class Run>
    bool level(int32_t depth, const Read& read, const Run& run) {
        if (!cursor_.open(kDataDepth + static_cast<size_t>(depth))) return false;
        const bool nested = cursor_.kind() == '[';
        int64_t length = 0;
        if (cursor_.kind() == ']') {
            cursor_.step();
        } else if (nested) {
            if (depth + 1 >= tensor_.rank) return refuse_shape();
            for (bool more = true; more; ++length) {
                if (cursor_.kind() != '[') return refuse_shape();
                if (!level(depth + 1, read, run) || !cursor_.element_end(more)) return false;
            }
        } else {
            length = run();
            for (bool more = true; more; ++length)
                if (!read() || !cursor_.element_end(more)) return false;
        }
        if (depth == 0 && !nested) return true;
        const bool deep_enough = nested || length == 0 || depth + 1 == tensor_.rank;
        return (length == tensor_.shape[depth] && deep_enough) || refuse_shape();
    }

    [[gnu::cold]] bool refuse_shape() {
        return refuse(error_, kInvalidArgument,
                      "Unable to parse 'data': Shape does not match true shape of 'data' field: input '", tensor_.name,
                      "' has shape ", ShapeText{tensor_});
    }

    // One element too many: unless it is none at all, which is the worse news.
    [[gnu::cold]] bool refuse_surplus() { return cursor_.skip(kDataDepth) && refuse_shape(); }

    // An element that the datatype does not take.
    [[gnu::cold]] bool refuse_element() {
        const size_t at = cursor_.position();
        const uint8_t first = cursor_.kind();
        const std::string_view token = shortened(cursor_.spelling(), 40);
        const NumberKind number = number_kind(cursor_.spelling());
        if (!cursor_.skip(kDataDepth)) return false;
        cursor_.move_to(at);
        if (first == '[') return refuse_shape();
        const bool whole = tensor_.datatype != DataType::BYTES && tensor_.datatype != DataType::BOOL;
        const char* why = whole && number == NumberKind::INTEGER    ? "out of range for"
                          : whole && number == NumberKind::FRACTION ? "not an integer, as required by"
                                                                    : "not a value of";
        return refuse(error_, kInvalidArgument, "Unable to parse 'data': input '", tensor_.name, "' holds ", token,
                      ", which is ", why, " datatype ", datatype_name(tensor_.datatype));
    }

    JsonCursor& cursor_;
    TensorView& tensor_;
    Arena& arena_;
    const WireLimits& limits_;
    WireError& error_;
    size_t elements_ = 0;
};

}  // namespace sluice
