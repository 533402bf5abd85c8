// The one HTTP path of an inference call: /v2/models/{model}[/versions/{version}]/infer.
#pragma once

#include <new>
#include <string_view>

#include "infer.hpp"
#include "wire_checks.hpp"

namespace sluice {

inline int hex_digit(char c) noexcept {
    if (c >= '0' && c <= '9') return c - '0';
    const char lower = static_cast<char>(c | 0x20);
    return lower >= 'a' && lower <= 'f' ? lower - 'a' + 10 : -1;
}

// One path segment without its %XX escapes, in the arena. False: a broken escape, an empty name, one that is not UTF-8.
inline bool decode_segment(std::string_view segment, Arena& arena, std::string_view& name) {
    if (segment.empty()) return false;
    auto* begin = reinterpret_cast<char*>(arena.allocate(segment.size()));
    char* to = begin;
    for (size_t i = 0; i < segment.size(); ++i) {
        if (segment[i] != '%') { *to++ = segment[i]; continue; }
        if (segment.size() - i < 3) return false;
        const int high = hex_digit(segment[i + 1]), low = hex_digit(segment[i + 2]);
        if (high < 0 || low < 0) return false;
        *to++ = static_cast<char>(high * 16 + low);
        i += 2;
    }
    name = {begin, static_cast<size_t>(to - begin)};
    return valid_utf8(name);
}

// `path` without its query. True: it is an inference call, and `model` and `version` (empty when the path has none) lie
// decoded in the arena. False for every other path, and when memory is short.
inline bool match_infer_path(std::string_view path, Arena& arena, std::string_view& model,
                             std::string_view& version) noexcept {
    constexpr std::string_view kModels = "/v2/models/", kVersions = "versions/", kInfer = "infer";
    if (!path.starts_with(kModels)) return false;
    path.remove_prefix(kModels.size());
    size_t slash = path.find('/');
    if (slash == path.npos) return false;
    const std::string_view model_segment = path.substr(0, slash);
    std::string_view version_segment;
    path.remove_prefix(slash + 1);
    if (path.starts_with(kVersions)) {
        path.remove_prefix(kVersions.size());
        slash = path.find('/');
        if (slash == path.npos || slash == 0) return false;
        version_segment = path.substr(0, slash);
        path.remove_prefix(slash + 1);
    }
    if (path != kInfer) return false;
    try {
        std::string_view found_model, found_version;
        if (!decode_segment(model_segment, arena, found_model)) return false;
        if (!version_segment.empty() && !decode_segment(version_segment, arena, found_version)) return false;
        model = found_model;
        version = found_version;
        return true;
    } catch (const std::bad_alloc&) {
        return false;
    }
}

}  // namespace sluice
