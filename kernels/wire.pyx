# The decoders and encoders of the wire headers, for Python; native modules call the same ones through wire.pxd.
from libc.stdint cimport int8_t, int32_t, int64_t, uint8_t
from libcpp cimport bool as cbool
from libcpp.vector cimport vector

from kernels.infer cimport (
    Buffer,
    InferRequest,
    OutputView,
    TensorView,
    WireError,
    WireLimits,
    datatype_from_name,
    datatype_name,
    kMaxRank,
    string_view,
)

from kernels.tensors import RefusedError, Request, RequestedOutput, Tensor


cdef inline string_view view_of(bytes text) noexcept:
    return string_view(<const char*>text, len(text))


cdef str text_of(string_view view):
    return view.data()[:view.size()].decode() if view.size() else ""


cdef raise_refusal(WireError& error):
    raise RefusedError(error.code, error.text.decode("utf-8", "replace"))


cdef object tensor_of(const TensorView& view, const uint8_t* body, size_t size):
    cdef bytes raw = (<const char*>view.data)[:view.size] if view.size else b""
    cdef object offset = view.data - body if view.size and body <= view.data < body + size else -1
    cdef int32_t i
    shape = tuple([view.shape[i] for i in range(view.rank)])
    return Tensor(text_of(view.name), text_of(datatype_name(view.datatype)), shape, raw, offset)


cdef object request_of(const InferRequest& request, const uint8_t* body, size_t size):
    cdef size_t i
    inputs = tuple([tensor_of(request.inputs[i], body, size) for i in range(request.inputs.size())])
    outputs = tuple([
        RequestedOutput(
            text_of(request.outputs[i].name),
            request.outputs[i].classification,
            None if request.outputs[i].binary < 0 else bool(request.outputs[i].binary),
        )
        for i in range(request.outputs.size())
    ])
    return Request(
        text_of(request.model),
        text_of(request.version),
        text_of(request.id) if request.has_id else None,
        inputs,
        outputs,
        request.priority,
        request.timeout_us,
        request.binary_data_output,
        request.raw,
    )


def decode_request(
    bytes body not None,
    str encoding not None,
    *,
    int64_t header_length=-1,
    str model not None="",
    object max_tensors=None,
    object max_rank=None,
    object max_json_depth=None,
    object max_tensor_bytes=None,
    int repeat=1,
):
    cdef cbool json = encoding == "json"
    if not json and encoding != "proto":
        raise ValueError(f"encoding must be 'json' or 'proto', not {encoding!r}")
    cdef WireLimits limits
    if max_tensors is not None:
        limits.max_tensors = max_tensors
    if max_rank is not None:
        limits.max_rank = max_rank
    if max_json_depth is not None:
        limits.max_json_depth = max_json_depth
    if max_tensor_bytes is not None:
        limits.max_tensor_bytes = max_tensor_bytes
    cdef InferRequest request
    cdef JsonDecoder decoder
    cdef WireError error
    cdef bytes model_name = model.encode()
    cdef string_view body_view = view_of(body)
    cdef string_view model_view = view_of(model_name)
    cdef cbool good = False
    with nogil:
        for _ in range(repeat):
            request.clear()
            request.body.append(body_view.data(), body_view.size())
            if json:
                request.model = request.arena.copy(model_view)
                good = decoder.decode(request.body.data(), request.body.size(), header_length, request, limits, error)
            else:
                good = decode_proto(request.body.data(), request.body.size(), request, limits, error)
    if not good:
        raise_refusal(error)
    return request_of(request, request.body.data(), request.body.size())


def encode_response(
    outputs not None,
    str encoding not None,
    *,
    str model not None="",
    str version not None="",
    str id=None,
    binary not None=(),
    cbool binary_data_output=False,
    cbool raw=True,
    int repeat=1,
):
    cdef cbool json = encoding == "json"
    if not json and encoding != "proto":
        raise ValueError(f"encoding must be 'json' or 'proto', not {encoding!r}")
    cdef vector[OutputView] views
    cdef OutputView view
    cdef bytes name, data
    cdef list kept = []
    cdef size_t i
    for tensor in outputs:
        name = tensor.name.encode()
        data = tensor.raw
        kept += [name, data]
        view.name = view_of(name)
        view.data = <const uint8_t*><const char*>data
        view.size = len(data)
        view.datatype = datatype_from_name(view_of(tensor.datatype.encode()))
        if len(tensor.shape) > kMaxRank:
            raise ValueError(f"rank {len(tensor.shape)} of output {tensor.name!r} is more than {kMaxRank}")
        view.rank = <int32_t>len(tensor.shape)
        for i in range(<size_t>view.rank):
            view.shape[i] = tensor.shape[i]
        view.binary = <int8_t>dict(binary).get(tensor.name, -1)
        views.push_back(view)
    cdef bytes model_name = model.encode()
    cdef bytes version_name = version.encode()
    cdef bytes id_text = (id or "").encode()
    cdef string_view model_view = view_of(model_name)
    cdef string_view version_view = view_of(version_name)
    cdef InferRequest request
    request.id = view_of(id_text)
    request.has_id = id is not None
    request.binary_data_output = binary_data_output
    request.raw = raw
    cdef Buffer answer
    cdef WireError error
    cdef int64_t header_length = -1
    cdef cbool good = False
    with nogil:
        for _ in range(repeat):
            if json:
                good = encode_json(request, model_view, version_view, views.data(), views.size(), answer,
                                   header_length, error)
            else:
                good = encode_proto(request, model_view, version_view, views.data(), views.size(), answer, error)
    if not good:
        raise_refusal(error)
    return (<const char*>answer.data())[:answer.size()] if answer.size() else b"", header_length


def match_path(bytes path not None):
    cdef InferRequest request
    if not match_infer_path(view_of(path), request.arena, request.model, request.version):
        return None
    return text_of(request.model), text_of(request.version)


def split_bytes_tensor(bytes raw not None, size_t skip, size_t count):
    cdef const uint8_t* begin = NULL
    cdef size_t length = 0
    cdef const uint8_t* data = <const uint8_t*><const char*>raw
    if not bytes_tensor_span(data, len(raw), skip, count, begin, length):
        return None
    return raw[begin - data:begin - data + length]
