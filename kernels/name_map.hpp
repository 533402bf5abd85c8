// Names to small numbers, looked up by views without making a string.
#pragma once

#include <string>
#include <string_view>
#include <unordered_map>

namespace sluice {

class NameMap {
public:
    void add(std::string name, int value) { names_.emplace(std::move(name), value); }
    int find(std::string_view name) const {
        auto at = names_.find(name);
        return at == names_.end() ? -1 : at->second;
    }

private:
    struct Hash {
        using is_transparent = void;
        size_t operator()(std::string_view text) const { return std::hash<std::string_view>{}(text); }
    };
    std::unordered_map<std::string, int, Hash, std::equal_to<>> names_;
};

}  // namespace sluice
