// A place in a row of JSON tokens, and the steps one takes from there. Whatever is stepped over is checked in full.
#pragma once

#include <algorithm>
#include <string_view>

#include "infer.hpp"
#include "wire_checks.hpp"
#include "wire_json_tokens.hpp"
#include "wire_parameters.hpp"

namespace sluice {

// Methods that return bool: false means that the error has been set.
class JsonCursor {
public:
    // Nesting recurses, so that no setting may lift the limit past this.
    static constexpr size_t kMostDepth = 256;

    JsonCursor(const JsonTokens& tokens, Arena& arena, size_t max_depth, WireError& error)
        : tokens_(tokens), arena_(arena), max_depth_(std::min(max_depth, kMostDepth)), error_(error) {}

    uint8_t kind() const { return tokens_.kind(at_); }
    bool done() const { return at_ >= tokens_.count(); }
    size_t position() const { return at_; }
    void move_to(size_t position) { at_ = position; }
    void step() { ++at_; }
    const JsonTokens& tokens() const { return tokens_; }
    std::string_view spelling() const { return tokens_.spelling(at_); }
    // The bytes of a scalar that another token follows; null when none does, for then nothing bounds it.
    const uint8_t* scalar() const { return at_ + 1 < tokens_.count() ? tokens_.at(at_) : nullptr; }

    // Steps through an object; `member(key)` steps over each value.
    template <class Member>
    bool object(size_t depth, Member&& member) {
        if (!open(depth)) return false;
        if (kind() == '}') { ++at_; return true; }
        for (;;) {
            std::string_view key;
            if (kind() != '"') return malformed("Missing a name for object member.");
            if (!text(key)) return false;
            if (kind() != ':') return malformed("Missing a colon after a name of object member.");
            ++at_;
            if (!member(key)) return false;
            const uint8_t next = kind();
            if (next != ',' && next != '}') return malformed("Missing a comma or } after an object member.");
            ++at_;
            if (next == '}') return true;
        }
    }

    // Steps through an array; `element()` steps over each. `name`: whose value it is, for the error.
    template <class Element>
    bool array(size_t depth, const char* name, Element&& element) {
        if (kind() != '[') return mistyped(name, "an array");
        if (!open(depth)) return false;
        if (kind() == ']') { ++at_; return true; }
        for (;;) {
            if (!element()) return false;
            bool more;
            if (!element_end(more)) return false;
            if (!more) return true;
        }
    }

    // Into an array or object at this depth, counted from 1.
    bool open(size_t depth) {
        if (depth > max_depth_)
            return refuse(error_, kInvalidArgument,
                          "the request JSON is nested deeper than the limit max_json_depth of ", max_depth_);
        ++at_;
        return true;
    }

    // Behind an array element: on to the next, or out of the array.
    bool element_end(bool& more) {
        const uint8_t next = kind();
        if (next != ',' && next != ']') return malformed("Missing a comma or ] after an array element.");
        ++at_;
        more = next == ',';
        return true;
    }

    // Steps over any value.
    bool skip(size_t depth) {
        switch (kind()) {
            case '{': return object(depth, [&](std::string_view) { return skip(depth + 1); });
            case '[': return array(depth, "", [&] { return skip(depth + 1); });
            case '"': {
                std::string_view ignored;
                return text(ignored);
            }
            default: {
                const std::string_view token = spelling();
                if (token != "true" && token != "false" && token != "null" && number_kind(token) == NumberKind::NONE)
                    return malformed("Invalid value.");
                ++at_;
                return true;
            }
        }
    }

    // Steps over `null`, if that is what is here.
    bool null() {
        if (kind() != 'n' || spelling() != "null") return false;
        ++at_;
        return true;
    }

    bool string(const char* name, std::string_view& value) {
        return kind() == '"' ? text(value) : mistyped(name, "a string");
    }

    // The string token here: a view of the text, or of the arena when it has escapes.
    bool text(std::string_view& value) {
        bool escaped;
        value = string_body(tokens_.at(at_), tokens_.end(), escaped);
        if (escaped) [[unlikely]] {
            uint8_t* begin = arena_.allocate(value.size());
            const uint8_t* end = unescape(value, begin);
            if (!end) return malformed(kInvalidEscape);
            value = {reinterpret_cast<const char*>(begin), static_cast<size_t>(end - begin)};
        }
        ++at_;
        return true;
    }

    // The integer token here, not stepped over. False without an error: not an integer, or out of range.
    template <class T>
    bool integer(T& value) const {
        const uint8_t* bytes = scalar();
        return bytes && quick_integer(bytes, value);
    }

    // Steps through a `parameters` object.
    template <class Note>
    bool parameters(size_t depth, Note&& note) {
        if (kind() != '{') return mistyped("parameters", "an object");
        return object(depth, [&](std::string_view key) {
            ParameterValue value;
            return parameter(depth + 1, value) && note(key, value);
        });
    }

    bool malformed(const char* what) {
        return refuse(error_, kInvalidArgument, "failed to parse the request JSON buffer: ", what, " at ",
                      tokens_.offset(at_));
    }

    // A value of the wrong type, if it is a value at all.
    bool mistyped(const char* name, const char* wanted) {
        const size_t at = at_;
        if (!skip(1)) return false;
        at_ = at;
        return refuse(error_, kInvalidArgument, "Unable to parse '", name, "': expected ", wanted, ", got ",
                      shortened(spelling(), 40));
    }

private:
    bool parameter(size_t depth, ParameterValue& value) {
        int64_t integer_value;
        uint64_t natural;
        std::string_view words;
        const uint8_t first = kind();
        if (first == '"') {
            if (!text(words)) return false;
            value = ParameterValue::of_string(words);
            return true;
        }
        if (integer(integer_value)) value = ParameterValue::of_int(integer_value);
        else if (integer(natural)) value = ParameterValue::of_uint(natural);
        else if (first == 't' || first == 'f') value = ParameterValue::of_bool(first == 't');
        else if (first == '-' || (first >= '0' && first <= '9')) value = ParameterValue::of_double(1.0);
        else value = ParameterValue::other();
        return skip(depth);
    }

    const JsonTokens& tokens_;
    Arena& arena_;
    const size_t max_depth_;
    WireError& error_;
    size_t at_ = 0;
};

}  // namespace sluice
