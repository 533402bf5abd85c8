// V2 inference bodies, as an HTTP request brings them. The first line of an input is the value of
// Inference-Header-Content-Length, empty where the request has no such header; the body follows.
//
// Invariant: any body under any header length gives a request or a named refusal and no third thing. A request fits
// together: every tensor has exactly the bytes of its shape and datatype, within the limits. Written down again, as
// protobuf and as JSON with binary tensors, it decodes to the same. Neither what lies in the padding behind the body,
// nor what the decoder or the request held before, makes a difference.
#include "http1_head.hpp"
#include "recode.hpp"

using namespace fuzz;

extern "C" size_t LLVMFuzzerMutate(uint8_t* data, size_t size, size_t max_size);

namespace {

struct Input {
    std::string_view body;
    int64_t header_length = -1;
    bool is_good = false;  // the connection refuses the others
};

Input parse(std::string_view bytes) {
    size_t line = bytes.find('\n');
    if (line == std::string_view::npos) return {};
    Input input{bytes.substr(line + 1)};
    if (line) input.header_length = head_detail::decimal(bytes.substr(0, line));
    input.is_good = line == 0 || input.header_length >= 0;
    return input;
}

struct Outcome {
    InferRequest request;
    WireError error;
    bool is_good = false;

    void decode(JsonDecoder& decoder, const Bytes& body, int64_t header_length, const WireLimits& limits) {
        request.clear();
        request.model = "m";
        is_good = decoder.decode(body.data(), body.size(), header_length, request, limits, error);
    }
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    static const WireLimits limits;
    static JsonDecoder seasoned;
    Input input = parse({reinterpret_cast<const char*>(data), size});
    if (!input.is_good) return 0;

    Outcome outcome, other;
    JsonDecoder fresh;
    Bytes body(input.body, kPadding), same_body(input.body, kPadding, '"');
    outcome.decode(fresh, body, input.header_length, limits);
    other.decode(seasoned, same_body, input.header_length, limits);
    MUST(outcome.is_good == other.is_good);
    if (!outcome.is_good) {
        must_be_named(outcome.error);
        MUST(outcome.error.text == other.error.text);
        return 0;
    }
    MUST(is_same(outcome.request, other.request, true));
    other.decode(seasoned, same_body, input.header_length, limits);
    MUST(other.is_good && is_same(outcome.request, other.request, true));
    if (input.header_length == 0) {
        MUST(outcome.request.inputs.size() == 1 && outcome.request.inputs[0].size == input.body.size());
        MUST(outcome.request.binary_data_output);
        return 0;
    }
    must_fit(outcome.request, limits);
    must_survive_recoding(outcome.request, limits);
    return 0;
}

// Mutates the JSON and what is behind it apart from each other and keeps the length right; one in eight at random.
extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size, unsigned seed) {
    std::string_view bytes(reinterpret_cast<const char*>(data), size);
    Dice dice(seed);
    Input input = parse(bytes);
    auto length = static_cast<uint64_t>(input.header_length);
    bool is_plain = input.header_length <= 0 || length > input.body.size();
    if (!input.is_good || dice.below(8) == 0) return LLVMFuzzerMutate(data, size, max_size);
    std::string json(input.body.substr(0, is_plain ? input.body.size() : length));
    std::string tail(is_plain ? std::string_view{} : input.body.substr(length));
    std::string& part = tail.empty() || dice.below(4) ? json : tail;
    size_t before = part.size();
    part.resize(std::max<size_t>(2 * before, before + 64));
    part.resize(LLVMFuzzerMutate(reinterpret_cast<uint8_t*>(part.data()), before, part.size()));
    std::string made = is_plain ? std::string(bytes.substr(0, bytes.find('\n'))) : std::to_string(json.size());
    made += '\n' + json + tail;
    if (made.size() > max_size) return LLVMFuzzerMutate(data, size, max_size);
    std::memcpy(data, made.data(), made.size());
    return made.size();
}
