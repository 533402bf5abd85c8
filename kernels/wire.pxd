# Bytes to requests and outputs to bytes, for the modules that do it once a request. See the headers for the contracts.
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t
from libcpp cimport bool as cbool

from kernels.infer cimport Arena, Buffer, InferRequest, OutputView, WireError, WireLimits, string_view


cdef extern from "wire_checks.hpp" namespace "sluice" nogil:
    # True when `elements` elements of a BYTES tensor fill the bytes exactly.
    cbool bytes_tensor_valid(const uint8_t* data, size_t size, size_t elements) noexcept
    # Where `count` elements lie after the first `skip`. False: the bytes hold fewer.
    cbool bytes_tensor_span(const uint8_t* data, size_t size, size_t skip, size_t count, const uint8_t*& begin,
                            size_t& length) noexcept


cdef extern from "wire_path.hpp" namespace "sluice" nogil:
    cbool match_infer_path(string_view path, Arena& arena, string_view& model, string_view& version) noexcept


cdef extern from "wire_proto.hpp" namespace "sluice" nogil:
    cbool decode_proto(const uint8_t* data, size_t size, InferRequest& out, const WireLimits& limits,
                       WireError& error) noexcept


cdef extern from "wire_proto_writer.hpp" namespace "sluice" nogil:
    cbool encode_proto(const InferRequest& request, string_view model, string_view version, const OutputView* outputs,
                       size_t count, Buffer& out, WireError& error) noexcept


cdef extern from "wire_json.hpp" namespace "sluice" nogil:
    # One per thread: keeps its memory from one body to the next.
    cdef cppclass JsonDecoder:
        JsonDecoder()
        # `body` has kPadding readable bytes behind it.
        cbool decode(const uint8_t* body, size_t size, int64_t header_length, InferRequest& out,
                     const WireLimits& limits, WireError& error) noexcept


cdef extern from "wire_json_writer.hpp" namespace "sluice" nogil:
    cbool encode_json(const InferRequest& request, string_view model, string_view version, const OutputView* outputs,
                      size_t count, Buffer& out, int64_t& header_length, WireError& error) noexcept
