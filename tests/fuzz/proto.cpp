// ModelInferRequest bytes, as a gRPC message brings them.
//
// Invariant: any bytes give a request or a named refusal and no third thing. A request fits together: every tensor has
// exactly the bytes of its shape and datatype, within the limits. Written down again, as protobuf and as JSON with
// binary tensors, it decodes to the same. A recycled request decodes like a new one, and nothing behind the bytes is
// read.
#include "recode.hpp"

using namespace fuzz;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    static const WireLimits limits;
    Bytes message({reinterpret_cast<const char*>(data), size});
    InferRequest request, recycled;
    WireError error;
    if (!decode_proto(message.data(), message.size(), request, limits, error)) {
        must_be_named(error);
        return 0;
    }
    must_fit(request, limits);
    MUST(valid_utf8(request.model) && valid_utf8(request.version));
    MUST(request.has_id == !request.id.empty() && !request.binary_data_output);
    must_survive_recoding(request, limits);

    WireError ignored;
    decode_proto(message.data(), message.size() / 2, recycled, limits, ignored);
    recycled.clear();
    MUST(decode_proto(message.data(), message.size(), recycled, limits, error));
    MUST(is_same(request, recycled, true) && request.raw == recycled.raw && request.model == recycled.model);
    return 0;
}
