"""ModelInferRequest bytes become the tensors that protobuf's own parser sees, or are refused where it refuses them."""

from __future__ import annotations

import random
import struct
from typing import Any

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2
from wire_messages import TYPED_DATATYPES, distinct_tensors, one_input, proto_message

from kernels import reference_proto, wire
from kernels.reference_proto import chunk, varint
from kernels.tensors import RefusedError, Request, RequestedOutput, Tensor, pack_bytes


def decode(message: bytes, **limits: Any) -> Request:
    return wire.decode_request(message, "proto", **limits)


@given(distinct_tensors())
def test_raw_contents_are_the_tensors(inputs: list[Tensor]) -> None:
    request = decode(proto_message(inputs, is_raw=True).SerializeToString())
    assert request.inputs == tuple(inputs)
    assert (request.model, request.version, request.id, request.raw) == ("m", "3", "a1", True)


@given(distinct_tensors())
def test_raw_contents_stay_where_they_are_in_the_message(inputs: list[Tensor]) -> None:
    message = proto_message(inputs, is_raw=True).SerializeToString()
    for tensor in decode(message).inputs:
        if tensor.raw:
            assert message[tensor.offset : tensor.offset + len(tensor.raw)] == tensor.raw


@given(distinct_tensors(TYPED_DATATYPES))
def test_typed_contents_are_the_tensors(inputs: list[Tensor]) -> None:
    message = proto_message(inputs, is_raw=False)
    request = decode(message.SerializeToString())
    assert request.inputs == tuple(inputs)
    assert request.raw is not any(entry.HasField("contents") for entry in message.inputs)


@given(st.lists(st.floats(width=32), min_size=1))
def test_packed_floats_stay_where_they_are_in_the_message(values: list[float]) -> None:
    message = proto_message(
        [Tensor("I", "FP32", (len(values),), struct.pack(f"<{len(values)}f", *values))], is_raw=False
    )
    (tensor,) = decode(message.SerializeToString()).inputs
    assert tensor.offset > 0


@given(distinct_tensors(TYPED_DATATYPES), st.randoms(use_true_random=False), st.booleans())
def test_fields_may_come_in_any_order_packed_or_not_and_in_pieces(
    inputs: list[Tensor], order: random.Random, is_raw: bool
) -> None:
    fields = [chunk(1, b"old"), chunk(2, b"0"), chunk(3, b"old")]
    entries = []
    for tensor in inputs:
        parts = [chunk(1, tensor.name.encode()), chunk(2, tensor.datatype.encode())]
        if is_raw:
            entries.append([*parts, *(b"\x18" + varint(dimension) for dimension in tensor.shape)])
            continue
        contents = in_pieces(tensor, order)
        parts += [b"".join(b"\x18" + varint(dimension) for dimension in tensor.shape), b"\x3d1234", chunk(99, b"new")]
        order.shuffle(parts)
        for piece in contents or [b""]:
            parts.insert(order.randrange(len(parts) + 1), b"")
            parts.append(chunk(5, piece))
        entries.append(parts)
    fields += [chunk(5, b"".join(parts)) for parts in entries]
    if is_raw:
        fields += [chunk(7, tensor.raw) for tensor in inputs]
        ordered = sorted(range(len(fields)), key=lambda i: (order.random(), i))
        # Inputs keep their order among themselves, and so do raw contents.
        mixed = merge(fields[:3], fields[3 : 3 + len(inputs)], fields[3 + len(inputs) :], ordered)
    else:
        mixed = fields
    message = b"".join(
        [*mixed, b"\xa3\x06\x08\x01\x9b\x06\x9c\x06\xa4\x06", chunk(1, b"m"), chunk(2, b"3"), chunk(3, b"a1")]
    )
    parsed = service_pb2.ModelInferRequest.FromString(message)
    request = decode(message)
    assert request.inputs == tuple(inputs)
    assert (request.model, request.version, request.id) == (parsed.model_name, parsed.model_version, parsed.id)
    assert (request.model, request.version, request.id) == ("m", "3", "a1")


def merge(heads: list[bytes], inputs: list[bytes], raws: list[bytes], order: list[int]) -> list[bytes]:
    queues = [list(heads), list(inputs), list(raws)]
    merged = []
    for pick in order:
        queue = next(queue for i in range(3) if (queue := queues[(pick + i) % 3]))
        merged.append(queue.pop(0))
    return merged


def in_pieces(tensor: Tensor, order: random.Random) -> list[bytes]:
    """The contents of a tensor as several InferTensorContents that merge to the whole."""
    pieces = []
    for kind, kind_wire, value, _ in reference_proto.read_fields(reference_proto.proto_contents(tensor)):
        scalar = {6: 5, 7: 1}.get(kind, 0)
        elements = [value] if kind == 8 else reference_proto.read_repeated(scalar, kind_wire, value)
        while elements:
            taken, elements = elements[: (n := order.randint(1, 3))], elements[n:]
            encoded = [varint(e) if isinstance(e, int) else e for e in taken]
            if kind == 8:
                pieces.append(b"".join(chunk(8, e) for e in encoded))
            elif order.random() < 0.5:
                pieces.append(chunk(kind, b"".join(encoded)) + chunk(kind, b""))
            else:
                pieces.append(b"".join(varint(kind << 3 | scalar) + e for e in encoded))
    return pieces


@given(distinct_tensors(max_size=2), st.booleans(), st.data())
def test_a_damaged_message_is_refused_exactly_when_protobuf_or_the_reference_refuse_it(
    inputs: list[Tensor], is_raw: bool, data: st.DataObject
) -> None:
    if not is_raw:
        inputs = [tensor for tensor in inputs if tensor.datatype in TYPED_DATATYPES]
    message = proto_message(inputs, is_raw=is_raw)
    message.parameters["priority"].uint64_param = 2
    message.parameters["custom"].string_param = "x"
    message.outputs.add(name="O").parameters["classification"].int64_param = 3
    damaged = bytearray(message.SerializeToString())
    for _ in range(data.draw(st.integers(0, 3))):
        at = data.draw(st.integers(0, len(damaged) - 1))
        damaged[at : at + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=3))
    try:
        service_pb2.ModelInferRequest.FromString(bytes(damaged))
        expected = reference_proto.decode_proto(bytes(damaged))
    except (DecodeError, ValueError):
        with pytest.raises(RefusedError) as refused:
            decode(bytes(damaged))
        assert refused.value.code == 3
    else:
        assert decode(bytes(damaged)) == expected


@given(st.binary(max_size=64))
def test_any_bytes_are_refused_exactly_when_protobuf_or_the_reference_refuse_them(message: bytes) -> None:
    try:
        service_pb2.ModelInferRequest.FromString(message)
        expected = reference_proto.decode_proto(message)
    except (DecodeError, ValueError):
        with pytest.raises(RefusedError):
            decode(message)
    else:
        assert decode(message) == expected


def test_an_empty_message_is_a_request_without_anything() -> None:
    request = decode(b"")
    assert request == Request(raw=True)


def test_surplus_raw_contents_are_ignored() -> None:
    message = one_input(shape=(1,))
    message.raw_input_contents.append(b"more")
    assert decode(message.SerializeToString()).inputs[0].raw == bytes(4)


def test_an_empty_tensor_needs_no_contents() -> None:
    message = service_pb2.ModelInferRequest()
    message.inputs.add(name="I", datatype="FP32", shape=[0, 3])
    assert decode(message.SerializeToString()).inputs == (Tensor("I", "FP32", (0, 3), b""),)


def test_the_last_of_two_values_of_a_parameter_counts() -> None:
    def entry(value: int) -> bytes:
        return chunk(4, chunk(1, b"sequence_id") + chunk(2, b"\x10" + varint(value)))

    assert decode(entry(5) + entry(0)).raw
    with pytest.raises(RefusedError, match="sequences are not supported"):
        decode(entry(0) + entry(5))


def test_priority_timeout_and_requested_outputs_are_understood() -> None:
    message = one_input()
    message.parameters["priority"].int64_param = 2
    message.parameters["timeout"].int64_param = 1500
    message.parameters["sequence_id"].string_param = ""
    message.parameters["sequence_start"].bool_param = False
    message.parameters["triton_enable_empty_final_response"].bool_param = True
    message.parameters["temperature"].double_param = 0.5
    message.outputs.add(name="A")
    message.outputs.add(name="B").parameters["classification"].int64_param = 4
    request = decode(message.SerializeToString())
    assert (request.priority, request.timeout_us) == (2, 1500)
    assert request.outputs == (RequestedOutput("A"), RequestedOutput("B", 4))


def test_a_recycled_request_decodes_like_a_new_one() -> None:
    inputs = [Tensor("a", "BYTES", (2,), pack_bytes([b"x", b"yz"])), Tensor("b", "INT8", (3,), b"\x01\xff\x7f")]
    message = proto_message(inputs, is_raw=False).SerializeToString()
    assert decode(message, repeat=3) == decode(message)


def test_integers_beyond_their_datatype_are_refused_and_not_cut() -> None:
    message = service_pb2.ModelInferRequest(model_name="m")
    message.inputs.add(name="I", datatype="INT8", shape=[1]).contents.int_contents.append(300)
    with pytest.raises(RefusedError, match=r"input 'I' holds 300 in int_contents, which is out of range for .* INT8"):
        decode(message.SerializeToString())
    message.inputs[0].datatype = "UINT16"
    message.inputs[0].contents.Clear()
    message.inputs[0].contents.uint_contents.append(65536)
    with pytest.raises(RefusedError, match="65536 in uint_contents"):
        decode(message.SerializeToString())
