"""Answers in every encoding are what protobuf, Python's json and Triton's own clients read back as the same tensors."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tritonclient import grpc as tritongrpc
from tritonclient import http as tritonhttp
from tritonclient.grpc import service_pb2
from tritonclient.utils import triton_to_np_dtype
from wire_messages import TYPED_DATATYPES, distinct_tensors, names, tensors, with_one_nan

from kernels import reference, reference_proto, wire
from kernels.tensors import DTYPES, RefusedError, Tensor, pack_bytes


def to_json(outputs: list[Tensor], **options: Any) -> tuple[bytes, int]:
    return wire.encode_response(outputs, "json", model="m", version="3", **options)


def data_of(tensor: Tensor) -> str:
    """The elements as they stand in the JSON."""
    text, header_length = to_json([tensor])
    assert header_length == -1
    return text.decode().partition('"data":[')[2].removesuffix("]}]}")


def float_tensor(datatype: str, value: float) -> Tensor:
    if datatype == "BF16":
        return Tensor("O", "BF16", (1,), reference.round_to_bits(value, 8).to_bytes(2, "little"))
    return Tensor("O", datatype, (1,), np.array([value], dtype=DTYPES[datatype]).tobytes())


@given(distinct_tensors(), names, names, names)
def test_raw_protobuf_answers_are_those_of_the_reference(
    outputs: list[Tensor], model: str, version: str, id: str
) -> None:
    message, _ = wire.encode_response(outputs, "proto", model=model, version=version, id=id)
    assert message == reference_proto.proto_response(outputs, model, version, id, is_raw=True)
    parsed = service_pb2.ModelInferResponse.FromString(message)
    assert (parsed.model_name, parsed.model_version, parsed.id) == (model, version, id)
    assert list(parsed.raw_output_contents) == [output.raw for output in outputs]
    assert [(o.name, o.datatype, tuple(o.shape)) for o in parsed.outputs] == [
        (output.name, output.datatype, output.shape) for output in outputs
    ]


@given(distinct_tensors(TYPED_DATATYPES))
def test_typed_protobuf_answers_are_those_of_the_reference(outputs: list[Tensor]) -> None:
    message, _ = wire.encode_response(outputs, "proto", model="m", version="3", id="a1", raw=False)
    assert message == reference_proto.proto_response(outputs, "m", "3", "a1", is_raw=False)
    parsed = service_pb2.ModelInferResponse.FromString(message)
    assert not parsed.raw_output_contents
    for entry, output in zip(parsed.outputs, outputs, strict=True):
        _, _, contents = reference_proto.read_proto_tensor(entry.SerializeToString())
        assert reference_proto.raw_from_contents(output.datatype, contents or {}) == output.raw


@given(distinct_tensors(TYPED_DATATYPES), tensors(["FP16", "BF16"], name=st.just("0" * 20)))
def test_an_output_without_a_typed_form_makes_the_whole_answer_raw(outputs: list[Tensor], half: Tensor) -> None:
    outputs = [*outputs, half]
    message, _ = wire.encode_response(outputs, "proto", raw=False)
    assert list(service_pb2.ModelInferResponse.FromString(message).raw_output_contents) == [o.raw for o in outputs]


@given(distinct_tensors(as_text=True), names, st.none() | names)
def test_json_answers_read_back_as_the_same_tensors(outputs: list[Tensor], model: str, id: str | None) -> None:
    text, header_length = wire.encode_response(outputs, "json", model=model, version="3", id=id)
    document, tensors_read = reference.decode_json_response(text)
    assert header_length == -1
    assert (document["model_name"], document["model_version"], document.get("id")) == (model, "3", id)
    assert ("id" in document) == (id is not None)
    assert not any("parameters" in entry for entry in [document, *document["outputs"]])
    assert tensors_read == list(map(with_one_nan, outputs))


@given(distinct_tensors(as_text=True), st.data())
def test_each_output_is_binary_or_not_as_the_request_said(outputs: list[Tensor], data: st.DataObject) -> None:
    binary = {output.name: data.draw(st.booleans()) for output in outputs}
    message, header_length = to_json(outputs, binary=binary, binary_data_output=True)
    document, tensors_read = reference.decode_json_response(message, header_length)
    assert tensors_read == [o if binary[o.name] else with_one_nan(o) for o in outputs]
    assert (header_length >= 0) == any(output.raw for output in outputs if binary[output.name])
    for entry in document["outputs"]:
        assert ("data" in entry) != binary[entry["name"]]
        assert list(entry.get("parameters", {})) == ["binary_data_size"] * binary[entry["name"]]


@given(distinct_tensors())
def test_binary_data_output_makes_outputs_binary_that_say_nothing(outputs: list[Tensor]) -> None:
    message, header_length = to_json(outputs, binary_data_output=True)
    _, tensors_read = reference.decode_json_response(message, header_length)
    assert tensors_read == outputs


@given(distinct_tensors())
def test_tritonclient_reads_grpc_answers(outputs: list[Tensor]) -> None:
    message, _ = wire.encode_response(outputs, "proto", model="m", id="a1")
    result = tritongrpc.InferResult(service_pb2.ModelInferResponse.FromString(message))
    for output in outputs:
        if output.datatype != "BF16":
            array = result.as_numpy(output.name)
            np.testing.assert_array_equal(array, output.to_numpy().astype(triton_to_np_dtype(output.datatype)))


@given(distinct_tensors(as_text=True), st.booleans())
def test_tritonclient_reads_http_answers(outputs: list[Tensor], is_binary: bool) -> None:
    message, header_length = to_json(outputs, binary_data_output=is_binary)
    result = tritonhttp.InferResult.from_response_body(
        message, header_length=None if header_length < 0 else header_length
    )
    assert result.get_response()["model_version"] == "3"
    for output in outputs:
        if output.raw and is_binary and output.datatype != "BF16":
            np.testing.assert_array_equal(result.as_numpy(output.name), output.to_numpy())


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_doubles_print_no_longer_than_python_prints_them(value: float) -> None:
    text = data_of(float_tensor("FP64", value))
    assert float(text) == value
    assert len(text.removesuffix(".0")) <= len(repr(value))


@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_floats_print_no_longer_than_numpy_prints_them(value: float) -> None:
    text = data_of(float_tensor("FP32", value))
    assert np.float32(text) == np.float32(value)
    assert len(text.removesuffix(".0")) <= len(str(np.float32(value)))


@pytest.mark.parametrize("bits", [0x0000, 0x8000, 0x3C00, 0x0001, 0x03FF, 0x7BFF, 0x2E66, 0xC900])
@pytest.mark.parametrize(("datatype", "exponent_bits"), [("FP16", 5), ("BF16", 8)])
def test_small_floats_print_as_numbers_that_round_back(bits: int, datatype: str, exponent_bits: int) -> None:
    text = data_of(Tensor("O", datatype, (1,), bits.to_bytes(2, "little")))
    assert reference.round_to_bits(float(text), exponent_bits) == bits


@pytest.mark.parametrize("datatype", ["FP16", "BF16", "FP32", "FP64"])
@pytest.mark.parametrize(
    ("value", "text"),
    [(math.nan, "null"), (math.inf, "1e999"), (-math.inf, "-1e999"), (1.0, "1.0"), (-0.0, "-0.0"), (0.5, "0.5")],
)
def test_floats_look_like_floats_and_what_json_lacks_has_a_stand_in(datatype: str, value: float, text: str) -> None:
    assert data_of(float_tensor(datatype, value)) == text


def test_booleans_and_integers_print_plainly() -> None:
    assert data_of(Tensor("O", "BOOL", (3,), b"\x00\x01\x02")) == "false,true,true"
    assert data_of(Tensor("O", "INT64", (2,), np.array([-(2**63), 7]).tobytes())) == "-9223372036854775808,7"
    assert data_of(Tensor("O", "UINT64", (1,), b"\xff" * 8)) == "18446744073709551615"


def test_strings_print_with_every_escape_they_need() -> None:
    text = "".join(map(chr, range(0x80))) + "é😀"
    assert json.loads(data_of(Tensor("O", "BYTES", (1,), pack_bytes([text.encode()])))) == text


def test_bytes_that_are_no_text_are_refused_with_the_way_out() -> None:
    output = Tensor("O", "BYTES", (2,), pack_bytes([b"fine", b"\xff\xfe"]))
    with pytest.raises(
        RefusedError, match="output 'O' holds bytes .* not valid UTF-8.* parameter binary_data"
    ) as refused:
        to_json([output])
    assert refused.value.code == 3
    message, header_length = to_json([output], binary={"O": True})
    assert message[header_length:] == output.raw


@given(st.binary(max_size=6))
def test_utf8_is_judged_as_python_judges_it(data: bytes) -> None:
    output = Tensor("O", "BYTES", (1,), pack_bytes([b"12345678" + data]))
    try:
        data.decode()
    except UnicodeDecodeError:
        with pytest.raises(RefusedError):
            to_json([output])
    else:
        assert json.loads(data_of(output)).encode() == b"12345678" + data


@pytest.mark.parametrize("encoding", ["json", "proto"])
@pytest.mark.parametrize("is_raw", [True, False])
@pytest.mark.parametrize(
    "output",
    [
        Tensor("O", "FP32", (2,), bytes(7)),
        Tensor("O", "FP32", (2,), bytes(12)),
        Tensor("O", "INT8", (-1,), b"\x00"),
        Tensor("O", "INT64", (1 << 62, 1 << 62), b""),
        Tensor("O", "BYTES", (1,), b"\x05\x00\x00\x00abc"),
        Tensor("O", "BYTES", (1,), b"\x01\x00"),
        Tensor("O", "BYTES", (2,), pack_bytes([b"a"])),
        Tensor("O", "BYTES", (1,), pack_bytes([b"a", b"b"])),
        Tensor("O", "FP31", (1,), bytes(4)),
    ],
)
def test_what_does_not_match_its_shape_is_never_printed(output: Tensor, encoding: Any, is_raw: bool) -> None:
    with pytest.raises(RefusedError, match="output 'O' has .* bytes that do not match its") as refused:
        wire.encode_response([output], encoding, raw=is_raw)
    assert refused.value.code == 13


def test_a_large_answer_grows_its_buffer() -> None:
    output = Tensor.from_numpy("O", np.linspace(0, 1, 50_000, dtype="f8"), "FP64")
    _, (read,) = reference.decode_json_response(to_json([output], repeat=2)[0])
    assert read == output
    text = Tensor("T", "BYTES", (1,), pack_bytes([b'"' * 100_000]))
    _, (read,) = reference.decode_json_response(to_json([text])[0])
    assert read == text
