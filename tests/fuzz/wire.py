"""Inference messages through the module that Python sees, held against the decoders in plain Python of
`kernels.reference` and `kernels.reference_proto`. Reads the inputs of the targets proto and json, which run the same
decoders alone.

Invariant: any bytes give a request or a RefusedError that says why. A request is the one that the reference reads,
and written down by the reference it decodes to the same.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from kernels import reference, reference_proto
from kernels.tensors import RefusedError, Request
from kernels.wire import decode_request


def decode(data: bytes, encoding: Literal["json", "proto"], header_length: int = -1) -> Request | None:
    """None when it is refused."""
    try:
        request = decode_request(data, encoding, header_length=header_length, model="m")
    except RefusedError as refused:
        assert refused.code == 3
        assert 0 < len(refused.message) < 1000
        return None
    for tensor in request.inputs:
        if header_length != 0:
            reference.checked(tensor)
    return request


def without_parameters(request: Request) -> Request:
    """What the reference can write down."""
    outputs = tuple(replace(output, classification=0) for output in request.outputs)
    return replace(request, outputs=outputs, priority=0, timeout_us=0, binary_data_output=False)


def proto(data: bytes) -> None:
    request = decode(data, "proto")
    if request is None:
        return
    assert request == reference_proto.decode_proto(data)
    plain = without_parameters(request)
    assert decode(reference_proto.proto_request(replace(plain, raw=True)), "proto") == replace(plain, raw=True)
    if not request.raw and all(tensor.raw for tensor in request.inputs):
        assert decode(reference_proto.proto_request(plain), "proto") == plain


def json(data: bytes) -> None:
    line, _, body = data.partition(b"\n")
    if line and not (line.isdigit() and len(line) <= 18):
        return  # the connection refuses it
    header_length = int(line) if line else -1
    request = decode(body, "json", header_length)
    if request is None:
        return
    assert request == reference.decode_json(body, header_length, "m")
    if header_length == 0:
        return
    plain = without_parameters(request)
    binary, length = reference.binary_request(plain)
    assert decode(binary, "json", length) == plain
