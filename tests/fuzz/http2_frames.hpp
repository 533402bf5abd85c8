// An input of the target http2 as its parts: a byte of choices, the client's preface, frames, and what is left over.
// Also the mutator's ways to make frames that a server has to think about.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "checks.hpp"

namespace fuzz {

constexpr std::string_view kPreface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
constexpr size_t kFrameHead = 9;

enum FrameType : uint8_t {
    DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION,
    EVENTS = 0xfa,  // never sent: each byte of it is something that happens on the server's side meanwhile
};
enum FrameFlag : uint8_t { END_STREAM = 1, ACK = 1, END_HEADERS = 4, PADDED = 8, HAS_PRIORITY = 32 };

struct Frame {
    uint8_t type = 0;
    uint8_t flags = 0;
    uint32_t stream = 0;
    std::string payload;

    std::string bytes() const {
        auto at = [](size_t value, int shift) { return static_cast<char>(value >> shift); };
        size_t n = payload.size();
        std::string head{at(n, 16), at(n, 8), at(n, 0), static_cast<char>(type), static_cast<char>(flags),
                         at(stream, 24), at(stream, 16), at(stream, 8), at(stream, 0)};
        return head + payload;
    }
};

struct Frames {
    std::vector<Frame> frames;
    std::string rest;  // less than a frame

    explicit Frames(std::string_view bytes) {
        while (bytes.size() >= kFrameHead) {
            auto at = [&](size_t i) { return static_cast<uint8_t>(bytes[i]); };
            size_t n = size_t{at(0)} << 16 | size_t{at(1)} << 8 | at(2);
            if (bytes.size() - kFrameHead < n) break;
            uint32_t stream = uint32_t{at(5)} << 24 | uint32_t{at(6)} << 16 | uint32_t{at(7)} << 8 | at(8);
            frames.push_back({at(3), at(4), stream, std::string(bytes.substr(kFrameHead, n))});
            bytes.remove_prefix(kFrameHead + n);
        }
        rest = bytes;
    }
};

struct Script {
    uint8_t choices = 0;
    bool has_preface = false;
    Frames frames{""};

    explicit Script(std::string_view bytes) {
        if (bytes.empty()) return;
        choices = static_cast<uint8_t>(bytes[0]);
        bytes.remove_prefix(1);
        has_preface = bytes.substr(0, kPreface.size()) == kPreface;
        if (has_preface) bytes.remove_prefix(kPreface.size());
        frames = Frames(bytes);
    }
    std::string bytes() const {
        std::string out(1, static_cast<char>(choices));
        if (has_preface) out += kPreface;
        for (const Frame& frame : frames.frames) out += frame.bytes();
        return out + frames.rest;
    }
};

class FrameMutator {
public:
    using Mutate = size_t (*)(uint8_t* data, size_t size, size_t max_size);
    FrameMutator(uint32_t seed, Mutate mutate) : dice_(seed), mutate_(mutate) {}

    void operator()(Script& script) {
        std::vector<Frame>& frames = script.frames.frames;
        script.has_preface |= dice_.below(50) != 0;
        if (dice_.below(16) == 0) script.choices ^= static_cast<uint8_t>(1u << dice_.below(8));
        size_t at = frames.empty() ? 0 : dice_.below(frames.size());
        switch (frames.empty() ? 0 : dice_.below(10)) {
            case 0:
            case 1: frames.insert(frames.begin() + static_cast<ptrdiff_t>(dice_.below(frames.size() + 1)),
                                  make(frames)); break;
            case 2: frames.erase(frames.begin() + static_cast<ptrdiff_t>(at)); break;
            case 3: frames.insert(frames.begin() + static_cast<ptrdiff_t>(at), Frame(frames[at])); break;
            case 4: std::swap(frames[at], frames[dice_.below(frames.size())]); break;
            case 5: change_head(frames, frames[at]); break;
            case 6: split(frames, at); break;
            default: change_payload(frames[at]); break;
        }
    }

private:
    void change_payload(Frame& frame) {
        size_t before = frame.payload.size();
        frame.payload.resize(2 * before + 32);
        frame.payload.resize(mutate_(reinterpret_cast<uint8_t*>(frame.payload.data()), before, frame.payload.size()));
    }

    void change_head(const std::vector<Frame>& frames, Frame& frame) {
        switch (dice_.below(4)) {
            case 0: frame.type = static_cast<uint8_t>(dice_.below(11)); break;
            case 1: frame.stream = frames[dice_.below(frames.size())].stream; break;
            case 2: frame.stream += dice_.below(2) ? 2 : 1; break;
            default: frame.flags ^= static_cast<uint8_t>(1u << dice_.below(6)); break;
        }
    }

    // A header block or a message in two frames.
    void split(std::vector<Frame>& frames, size_t at) {
        Frame& first = frames[at];
        if (first.payload.size() < 2 || (first.type != DATA && first.type != HEADERS && first.type != CONTINUATION))
            return change_payload(first);
        size_t cut = 1 + dice_.below(first.payload.size() - 1);
        Frame second{first.type == DATA ? DATA : CONTINUATION, first.flags, first.stream, first.payload.substr(cut)};
        first.payload.resize(cut);
        first.flags &= static_cast<uint8_t>(~(first.type == DATA ? END_STREAM : END_HEADERS));
        second.flags &= first.type == DATA ? END_STREAM : END_HEADERS;
        frames.insert(frames.begin() + static_cast<ptrdiff_t>(at) + 1, second);
    }

    Frame make(const std::vector<Frame>& frames) {
        uint32_t last = 0;
        for (const Frame& frame : frames)
            if (frame.type == HEADERS && frame.stream > last && frame.stream < 1000) last = frame.stream;
        uint32_t fresh = last ? last + 2 : 1, known = 1 + 2 * static_cast<uint32_t>(dice_.below(last / 2 + 1));
        auto end = static_cast<uint8_t>(dice_.below(2));
        std::string byte(1, static_cast<char>(dice_.below(256)));
        switch (dice_.below(12)) {
            case 0:
            case 1: return {HEADERS, static_cast<uint8_t>(END_HEADERS | !dice_.below(6)), fresh, head()};
            case 2:
            case 3: return {DATA, end, dice_.below(4) ? last : known, message()};
            case 4: return {SETTINGS, static_cast<uint8_t>(dice_.below(4) ? 0 : ACK), 0, settings()};
            case 5: return {PING, end, 0, dice_.below(3) ? "pingpong" : "draining"};
            case 6: return {WINDOW_UPDATE, 0, end ? known : 0, std::string(2, '\0') + byte + "\1"};
            case 7: return {RST_STREAM, 0, known, std::string(3, '\0') + (end ? '\x08' : byte[0])};
            case 8: return {PRIORITY, 0, known, std::string(4, '\0') + byte};
            case 9: return {HEADERS, END_HEADERS | END_STREAM, known, field("x-trailer", "1")};
            default: return {EVENTS, 0, 0, byte};
        }
    }

    static std::string field(std::string_view name, std::string_view value) {
        std::string out(1, '\0');  // a literal that is not put into the table
        out += static_cast<char>(name.size());
        out += name;
        out += static_cast<char>(value.size());
        return out += value;
    }

    std::string head() {
        static constexpr std::string_view extras[][2] = {
            {"grpc-timeout", "1S"}, {"grpc-timeout", "0n"}, {"grpc-timeout", "x"}, {"grpc-encoding", "gzip"},
            {"grpc-encoding", "deflate"}, {"grpc-encoding", "snappy"}, {"grpc-accept-encoding", "identity, gzip"},
            {"x-key", "value"}, {"x-bin", "AAEC, /w=="}, {"x-bin", "!"}, {"te", "trailers"}, {"te", "gzip"},
            {"connection", "close"}, {"content-length", "7"}, {"host", "h"}, {"Upper", "x"}, {"cookie", "a=b"},
        };
        bool is_infer = dice_.below(2), is_odd = dice_.below(12) == 0;
        std::string out = field(":method", is_odd ? "GET" : "POST") + field(":scheme", "http");
        std::string_view path = dice_.below(4) ? "/s/m" : "/s/!";
        out += field(":path", is_infer ? "/inference.GRPCInferenceService/ModelInfer" : path);
        out += field("content-type", dice_.below(12) ? "application/grpc" : "text/plain");
        for (size_t n = dice_.below(4); n; --n) {
            const auto& extra = extras[dice_.below(std::size(extras))];
            out += field(extra[0], extra[1]);
        }
        return out;
    }

    std::string message() {
        size_t n = dice_.below(20);
        std::string out{dice_.below(8) ? '\0' : '\1', '\0', '\0', '\0', static_cast<char>(n)};
        return out + std::string(dice_.below(6) ? n : n / 2, 'm');
    }

    std::string settings() {
        std::string out;
        for (size_t n = dice_.below(3); n; --n)
            out += std::string{'\0', static_cast<char>(1 + dice_.below(8)), '\0', '\0',
                               static_cast<char>(dice_.below(3) ? 0 : 64), static_cast<char>(dice_.below(8))};
        return out;
    }

    Dice dice_;
    Mutate mutate_;
};

}  // namespace fuzz
