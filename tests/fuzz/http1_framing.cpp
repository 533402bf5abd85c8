// The framing of HTTP/1 requests without a connection around it: where a head ends, the strict reader, what the fields
// mean, and the body behind it. The connection itself is the target http1.py.
//
// Invariant: the same bytes give the same heads and bodies, or the same refusal, however they are cut into reads. The
// strict reader accepts only what the line discipline accepts and ends where the blank line is. Every view lies within
// the head, a length is never negative, and a body never grows past its limits.
#include "checks.hpp"
#include "http1_body.hpp"
#include "http1_head.hpp"

using namespace sluice;
using fuzz::Bytes;

namespace {

const HeadLimits kHeadLimits{1024, 256, 16, 1 << 16};
const BodyLimits kBodyLimits{1 << 16, 100, 32, 256};

struct Transcript {
    std::string text;
    void note(std::string_view what) { text.append(what).push_back('\n'); }
    void note(std::string_view what, int64_t number) { note(std::string(what) + ' ' + std::to_string(number)); }
};

void must_lie_in(std::string_view view, const uint8_t* data, size_t size) {
    auto* begin = reinterpret_cast<const uint8_t*>(view.data());
    MUST(view.empty() || (begin >= data && begin + view.size() <= data + size));
}

// Reads requests as the connection does, one read after the other.
class Reader {
public:
    Transcript said;

    void receive(const uint8_t* data, size_t size) {
        pending_.append(data, size);
        size_t used = 0, n;
        while (!stopped_ && used < pending_.size() && (n = step(pending_.data() + used, pending_.size() - used)))
            used += n;
        Buffer rest;
        rest.append(pending_.data() + used, pending_.size() - used);
        pending_.swap(rest);
    }
    void end() {
        if (stopped_ || !in_body_) return;
        said.note("body is not whole", static_cast<int64_t>(body_.received()));
        said.note(content_.view());
    }

private:
    size_t step(const uint8_t* data, size_t size) {
        if (!in_body_) return take_head(data, size);
        // The exact bytes, so that reading past them is seen.
        Bytes read({reinterpret_cast<const char*>(data), size});
        size_t used = body_.feed(read.data(), size);
        MUST(used <= size && (used == size || body_.is_done() || body_.status()));
        take_body();
        return used;
    }

    size_t take_head(const uint8_t* data, size_t size) {
        Bytes read({reinterpret_cast<const char*>(data), size});
        HeadEnd end = find_head_end(read.data(), size, scanned_, kHeadLimits);
        MUST(scanned_ <= size);
        Head head;
        Scan scan = scan_head(read.data(), size, head, kHeadLimits);
        if (end.state == HeadEnd::MORE) {
            // A head that the strict reader finds whole is one that the other search finds, too.
            MUST(scan != Scan::DONE);
            return 0;
        }
        if (end.state == HeadEnd::REFUSED) return refuse(end.status, end.reason, size);
        MUST(end.size <= size && end.size <= kHeadLimits.max_head && read.data()[end.size - 1] == '\n');
        scanned_ = 0;
        Bytes whole({reinterpret_cast<const char*>(data), end.size});
        const char* fault = odd_head_fault(whole.data(), end.size);
        Head strict;
        scan = scan_head(whole.data(), end.size, strict, kHeadLimits);
        if (scan != Scan::DONE) {
            // llhttp would be asked, which the target http1.py does.
            said.note(fault ? fault : "odd");
            stopped_ = true;
            return end.size;
        }
        MUST(!fault && strict.size == end.size);
        interpret(strict, whole);
        return end.size;
    }

    void interpret(Head& head, const Bytes& whole) {
        interpret_head(head, kHeadLimits);
        MUST(head.count <= kHeadLimits.max_fields);
        for (size_t i = 0; i < head.count; ++i) {
            must_lie_in(head.fields[i].name_view(), whole.data(), whole.size());
            must_lie_in(head.fields[i].value_view(), whole.data(), whole.size());
        }
        if (head.status) {
            refuse(head.status, head.reason, 0);
            return;
        }
        must_lie_in(head.target, whole.data(), whole.size());
        MUST(head.path == "/" || !head.path.empty());
        MUST(head.content_length >= -1 && head.header_length >= -1 && head.timeout >= 0);
        MUST(!(head.chunked && head.content_length >= 0));
        MUST(head.content_length <= static_cast<int64_t>(kHeadLimits.max_body));
        said.note(head.method);
        said.note(head.path);
        said.note(head.query);
        said.note("keep-alive", head.keep_alive);
        said.note("coding", static_cast<int64_t>(head.content_coding) * 4 + static_cast<int64_t>(head.answer_coding));
        said.note("header length", head.header_length);
        content_.clear();
        body_.start(&content_, head.chunked ? -1 : std::max<int64_t>(head.content_length, 0), head.content_coding,
                    &kBodyLimits);
        in_body_ = true;
        take_body();
    }

    void take_body() {
        if (body_.status()) {
            refuse(body_.status(), body_.reason(), 0);
            return;
        }
        MUST(content_.size() <= kBodyLimits.max_body);
        if (!body_.is_done()) return;
        said.note(content_.view());
        body_.stop();
        in_body_ = false;
    }

    size_t refuse(int status, const char* reason, size_t used) {
        MUST(status >= 400 && status < 600 && *reason);
        said.note(reason, status);
        stopped_ = true;
        return used;
    }

    Buffer pending_, content_;
    BodyReader body_;
    size_t scanned_ = 0;
    bool in_body_ = false;
    bool stopped_ = false;
};

std::string transcript(const uint8_t* data, const std::vector<size_t>& reads) {
    Reader reader;
    for (size_t n : reads) {
        reader.receive(data, n);
        data += n;
    }
    reader.end();
    return std::move(reader.said.text);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    if (size == 0) return 0;
    std::string whole = transcript(data, {size});
    MUST(transcript(data, fuzz::reads(size, static_cast<uint32_t>(size) * 31 + data[size / 2])) == whole);
    MUST(transcript(data, std::vector<size_t>(size, 1)) == whole);
    return 0;
}
