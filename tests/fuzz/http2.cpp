// Bytes into the server's side of an HTTP/2 connection: the session, its limits and what gRPC puts on top, with
// exchanges and calls that are answered at once, later or never. The first byte of an input chooses how (see
// `Choices`), frames of type 0xfa are things that happen on the server's side, and the rest is what the client sends.
//
// Invariant: whatever arrives, the server's output is whole frames that a client can read; no stream is answered that
// was not opened, none twice, and every answer that ends has a status. Each exchange is answered, or cancelled, exactly
// once, and when the connection is closed none is left and no stream is out of the pool. The same bytes in any split
// bring the same requests, messages and answers.
#include "http2_client.hpp"
#include "http2_session.hpp"

using namespace sluice;
using fuzz::Client;
using fuzz::Script;

extern "C" size_t LLVMFuzzerMutate(uint8_t* data, size_t size, size_t max_size);

namespace {

constexpr std::string_view kInferPath = "/inference.GRPCInferenceService/ModelInfer";

enum Choices : uint8_t {
    AT_ONCE = 1,      // exchanges are answered inside of submit
    ECHO = 2,         // calls send every message back, and finish when the client does
    TIGHT = 4,        // limits that a small input can reach
    LITTLE_ROOM = 8,  // the server writes a few bytes at a time
    SLOW = 16,        // after every write the transport is full
};

Http2Settings settings_for(uint8_t choices) {
    bool tight = choices & TIGHT;
    Http2Settings settings;
    settings.max_message_bytes = tight ? 64 : 1 << 16;
    settings.max_buffered_bytes = tight ? 96 : 1 << 24;
    settings.max_inflate_ratio = 100;
    settings.max_concurrent_streams = tight ? 3 : 100;
    settings.max_header_bytes = tight ? 300 : 16384;
    settings.max_continuations = tight ? 2 : 8;
    settings.max_settings = tight ? 2 : 32;
    settings.max_outbound_acks = tight ? 4 : 1000;
    settings.connection_window = 65535;
    settings.stream_window = 16384;
    settings.max_resets_per_minute = tight ? 3 : 6000;
    settings.max_control_frames_per_minute = tight ? 12 : 10000;
    settings.header_timeout = 5;
    settings.body_timeout = 30;
    settings.min_body_rate = 16384;
    settings.write_timeout = 60;
    settings.idle_timeout = 600;
    settings.keepalive_time = 7200;
    settings.keepalive_timeout = 20;
    settings.min_ping_interval = 5;
    settings.max_ping_strikes = tight ? 1 : 1000;
    settings.max_unread_bytes = tight ? 32 : 1 << 20;
    settings.send_high_water = 256;
    settings.compression_min_bytes = 64;
    return settings;
}

// An exchange, or a call. Freed as soon as the session may not touch it any more.
struct Owner {
    enum Stage { RECEIVING, QUEUED, ANSWERED, CALL } stage = RECEIVING;
    int32_t id = 0;
    Buffer body, answer;
    Stream* stream = nullptr;  // a call's
};

class Connection {
public:
    Client client;
    std::string happened;

    explicit Connection(uint8_t choices)
        : choices_(choices), settings_(settings_for(choices)), session_(settings_, kInferPath, pool(), host()) {
        MUST(session_.open(now_));
        pump();
    }

    bool is_open() const { return is_open_; }

    void receive(const uint8_t* data, size_t size) {
        if (!is_open_ || size == 0) return;
        fuzz::Bytes read({reinterpret_cast<const char*>(data), size});
        is_open_ = session_.receive(read.data(), read.size(), now_);
    }

    // The end of a wake-up.
    void pump() {
        while (is_open_ && !is_blocked_) {
            Produced produced = session_.produce(pool().out, choices_ & LITTLE_ROOM ? 40 : 1 << 18, now_);
            MUST(produced != Produced::BROKEN);
            write(pool().out);
            pool().out.clear();
            session_.written();
            if (produced == Produced::IDLE && !session_.notify_writable()) break;
        }
        if (is_open_ && !is_blocked_ && session_.is_over()) is_open_ = false;
    }

    void event(uint8_t what) {
        if (!is_open_) return;
        size_t much = what >> 3;
        switch (what & 7) {
            case 0: answer_next(0, 0); break;
            case 1: answer_next(1 + static_cast<int>(much % 16), 0); break;
            case 2: answer_next(0, 300 * much); break;
            case 3: pass(much == 31 ? 8000.0 : 0.5 * static_cast<double>(much * much)); break;
            case 4: is_blocked_ = (choices_ & SLOW) && !is_blocked_; break;
            case 5: session_.drain(now_); break;
            case 6: if (Owner* call = last_call()) send(*call, std::string(20 * much, 'c')); break;
            default: if (Owner* call = last_call()) end_call(*call, much); break;
        }
        pump();
    }

    void close() {
        session_.close();
        MUST(owners_.empty() && session_.live() == 0 && pool().streams.live() == 0);
        MUST(pool().spent.empty() && pool().out.size() == 0);
        MUST(session_.find(1) == nullptr);
    }

private:
    // Shared by all connections, as those of one event loop share theirs.
    static Http2Pool& pool() {
        static Http2Pool shared;
        return shared;
    }
    static Connection& of(void* self) { return *static_cast<Connection*>(self); }

    Host host() {
        Host host;
        host.self = this;
        host.open_unary = [](void* self, Stream* stream) { of(self).open(stream, Owner::RECEIVING); };
        host.submit = [](void* self, Stream* stream) { of(self).submit(stream); };
        host.cancel = [](void* self, void* owner) { of(self).forget(owner, true); };
        host.release = [](void* self, void* owner) { of(self).forget(owner, false); };
        host.open_call = [](void* self, Stream* stream) { of(self).open(stream, Owner::CALL); };
        host.message = [](void* self, Stream* stream, const uint8_t* data, size_t size) {
            of(self).message(stream, {reinterpret_cast<const char*>(data), size});
        };
        host.half_close = [](void* self, Stream* stream) { of(self).half_close(stream); };
        host.drop_call = [](void* self, Stream* stream) { of(self).drop_call(stream); };
        host.writable = [](void* self, Stream* stream) { of(self).note("writable", stream->id); };
        return host;
    }

    void note(const char* what, int32_t id, std::string_view more = {}) {
        happened += std::string(what) + ' ' + std::to_string(id) + ' ' + std::string(more) + '\n';
    }

    void open(Stream* stream, Owner::Stage stage) {
        auto* owner = new Owner;
        owner->stage = stage;
        owner->id = stream->id;
        owners_.push_back(owner);
        stream->owner = owner;
        if (stage != Owner::CALL) {
            note("infer", stream->id);
            stream->body = &owner->body;
            return;
        }
        owner->stream = stream;
        note("call", stream->id, stream->path);
        for (const auto& [name, value] : stream->metadata) note(name.c_str(), stream->id, value);
        if (stream->path.ends_with('!')) end_call(*owner, 12);
    }

    void submit(Stream* stream) {
        auto& owner = *static_cast<Owner*>(stream->owner);
        MUST(owner.stage == Owner::RECEIVING);
        owner.stage = Owner::QUEUED;
        note("submit", stream->id, owner.body.view());
        if (choices_ & AT_ONCE) answer(owner, 0, 0);
    }

    void answer_next(int code, size_t size) {
        for (Owner* owner : owners_)
            if (owner->stage == Owner::QUEUED) return answer(*owner, code, size);
    }

    void answer(Owner& owner, int code, size_t size) {
        Stream* stream = session_.find(owner.id);
        MUST(stream && stream->owner == &owner);
        owner.stage = Owner::ANSWERED;
        owner.answer.append(owner.body.view());
        owner.answer.append(std::string(size, 'a'));
        session_.respond(*stream, code, code ? "no %\n" : "", owner.answer, code == 14 ? 0.25 : 0, "3", code == 8 ? "REASON" : "");
    }

    void message(Stream* stream, std::string_view text) {
        note("message", stream->id, text);
        if (choices_ & ECHO) send(*static_cast<Owner*>(stream->owner), std::string(text));
    }

    void half_close(Stream* stream) {
        note("half-close", stream->id);
        if (choices_ & ECHO) end_call(*static_cast<Owner*>(stream->owner), 0);
    }

    Owner* last_call() {
        for (size_t i = owners_.size(); i--;)
            if (owners_[i]->stage == Owner::CALL) return owners_[i];
        return nullptr;
    }

    void send(Owner& call, const std::string& text) {
        fuzz::Bytes bytes(text);
        session_.send(*call.stream, bytes.data(), bytes.size());
    }

    // Finishes, or has its reader pause and go on.
    void end_call(Owner& call, size_t how) {
        if (how > 16) return session_.pause(*call.stream, how & 1);
        Stream* stream = call.stream;
        stream->trailers.emplace_back("x-key", "value");
        stream->details = "AAEC";
        stream->owner = nullptr;
        remove(&call);
        session_.finish(*stream, static_cast<int>(how), "caf\xc3\xa9");
    }

    void drop_call(Stream* stream) {
        note("dropped", stream->id);
        void* owner = std::exchange(stream->owner, nullptr);
        remove(static_cast<Owner*>(owner));
    }

    void forget(void* owner, bool cancelled) {
        auto* exchange = static_cast<Owner*>(owner);
        MUST(exchange->stage != Owner::CALL && cancelled == (exchange->stage != Owner::ANSWERED));
        if (cancelled) note("cancelled", exchange->id);
        remove(exchange);
    }

    void remove(Owner* owner) {
        auto at = std::find(owners_.begin(), owners_.end(), owner);
        MUST(at != owners_.end());
        owners_.erase(at);
        delete owner;
    }

    void pass(double seconds) {
        now_ += seconds;
        is_open_ = session_.tick(now_, is_blocked_);
    }

    void write(const Output& out) {
        if (out.size() == 0) return;
        std::string bytes(out.size(), '\0');
        out.copy(0, reinterpret_cast<uint8_t*>(bytes.data()));
        client.receive(bytes);
        MUST(client.is_between_frames());
        is_blocked_ = choices_ & SLOW;
    }

    const uint8_t choices_;
    const Http2Settings settings_;
    std::vector<Owner*> owners_;  // of exchanges and calls that live, oldest first
    double now_ = 1000.0;
    bool is_open_ = true;
    bool is_blocked_ = false;
    Http2Session session_;
};

struct Outcome {
    std::string happened, seen;
    bool is_leaving, has_error, is_open;  // is_leaving: somebody has said GOAWAY, and not because of an error
};

// `seed` 0: each run of frames arrives in one read.
Outcome play(const Script& script, uint32_t seed) {
    Connection connection(script.choices);
    auto receive = [&](const std::string& bytes) {
        auto* data = reinterpret_cast<const uint8_t*>(bytes.data());
        for (size_t n : seed ? fuzz::reads(bytes.size(), seed) : std::vector<size_t>{bytes.size()}) {
            connection.receive(data, n);
            data += n;
        }
        connection.pump();
    };
    std::string run(script.has_preface ? fuzz::kPreface : std::string_view{});
    size_t heads = 0;
    bool is_leaving = false;
    for (const fuzz::Frame& frame : script.frames.frames) {
        heads += frame.type == fuzz::HEADERS;
        is_leaving |= frame.type == fuzz::GOAWAY;
        if (frame.type != fuzz::EVENTS) {
            run += frame.bytes();
            continue;
        }
        receive(std::exchange(run, {}));
        for (char what : frame.payload) connection.event(static_cast<uint8_t>(what));
    }
    receive(run + script.frames.rest);
    MUST(!script.has_preface || connection.client.answered.size() <= heads);
    connection.close();
    const Client& client = connection.client;
    is_leaving |= client.has_goaway && !client.has_error;
    return {connection.happened, client.seen, is_leaving, client.has_error, connection.is_open()};
}

// Of one another, whichever is longer.
bool is_beginning(const std::string& a, const std::string& b) { return a.starts_with(b) || b.starts_with(a); }

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    if (size == 0) return 0;
    Script script({reinterpret_cast<const char*>(data), size});
    Outcome whole = play(script, 0), split = play(script, static_cast<uint32_t>(size) + 1);
    // How much of unfinished messages is held at once depends on the reads, and that is a limit.
    if (script.choices & TIGHT) return 0;
    if (whole.is_leaving || split.is_leaving) {
        // What stands behind the end of a connection is looked at only when it came in one read with it, errors too.
        MUST(is_beginning(whole.happened, split.happened));
        return 0;
    }
    MUST(whole.happened == split.happened);
    MUST(whole.seen == split.seen && whole.has_error == split.has_error && whole.is_open == split.is_open);
    return 0;
}

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size, unsigned seed) {
    if (fuzz::Dice(seed).below(10) == 0) return LLVMFuzzerMutate(data, size, max_size);
    Script script({reinterpret_cast<const char*>(data), size});
    fuzz::FrameMutator mutate(seed, LLVMFuzzerMutate);
    for (size_t n = 1 + seed % 4; n; --n) mutate(script);
    std::string made = script.bytes();
    if (made.size() > max_size) return LLVMFuzzerMutate(data, size, max_size);
    std::memcpy(data, made.data(), made.size());
    return made.size();
}
