"""What is refused, with which status and words, and that every limit is named where it bites."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tritonclient.grpc import service_pb2
from wire_messages import one_input

from kernels import wire
from kernels.tensors import RefusedError

INPUT = {"name": "I", "datatype": "FP32", "shape": [2], "data": [1, 2]}
LONG = "Unable to parse 'data': Shape does not match true shape of 'data' field"


def refusal(body: bytes, encoding: Any, **options: Any) -> str:
    with pytest.raises(RefusedError) as refused:
        wire.decode_request(body, encoding, model="m", **options)
    assert refused.value.code == 3
    return refused.value.message


def of_json(document: Any, **options: Any) -> str:
    return refusal(document if isinstance(document, bytes) else json.dumps(document).encode(), "json", **options)


def of_input(**changes: Any) -> str:
    entry = {**INPUT, **changes}
    return of_json({"inputs": [{key: value for key, value in entry.items() if value is not ...}]})


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"", "failed to parse the request JSON buffer: The document is empty."),
        (b"  ", "failed to parse the request JSON buffer: The document is empty."),
        (b"x", "the document is not an object. at 0"),
        (b"[]", "the document is not an object. at 0"),
        (b"{", "Missing a name for object member. at 1"),
        (b'{"inputs" 1}', "Missing a colon after a name of object member. at 10"),
        (b'{"inputs":[}', "Unable to parse"),
        (b'{"a":1 "b":2}', "Missing a comma or } after an object member. at 7"),
        (b'{"a":[1 2]}', "Missing a comma or ] after an array element. at 8"),
        (b'{"a":1,}', "Missing a name for object member. at 7"),
        (b'{"a":[1,]}', "Invalid value. at 8"),
        (b'{"a":tru}', "Invalid value. at 5"),
        (b'{"a":01}', "Invalid value. at 5"),
        (b'{"a":1.}', "Invalid value. at 5"),
        (b'{"a":"x}', "Missing a closing quotation mark in string."),
        (b'{"a":"\xff"}', "Invalid encoding in string."),
        (b'{"a":"\n"}', "Invalid value."),
        (b'{"inputs":[]} {}', "must not be followed by other values. at 14"),
        (b'{"inputs":[]}}', "must not be followed by other values. at 13"),
        (b"{}", "Unable to parse 'inputs'"),
        (b'{"inputs":{}}', "Unable to parse 'inputs': expected an array, got {"),
        (b'{"inputs":[7]}', "Unable to parse 'inputs': expected an object, got 7"),
        (b'{"inputs":null}', "Unable to parse 'inputs': expected an array, got null"),
        (b'{"inputs":[],"inputs":[]}', "duplicate key 'inputs'"),
        (b'{"inputs":[],"id":7}', "Unable to parse 'id': expected a string, got 7"),
        (b'{"inputs":[],"outputs":[{}]}', "Unable to parse 'outputs': an output has no 'name'"),
        (b'{"inputs":[],"parameters":[]}', "Unable to parse 'parameters': expected an object, got ["),
    ],
)
def test_bodies_that_are_no_request(body: bytes, text: str) -> None:
    message = of_json(body)
    if text == "Unable to parse":
        assert message.startswith("failed to parse the request JSON buffer: Invalid value. at 11")
    else:
        assert text in message


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"name": ...}, "input '' has no 'name'"),
        ({"datatype": ...}, "input 'I' has no 'datatype'"),
        ({"shape": ...}, "input 'I' has no 'shape'"),
        ({"data": ...}, "input 'I' has neither 'data' nor parameter 'binary_data_size'"),
        ({"datatype": "FLOAT"}, "inference input 'I' has unknown datatype 'FLOAT'"),
        ({"datatype": 3}, "Unable to parse 'datatype': expected a string, got 3"),
        ({"shape": [-1]}, "Unable to parse 'shape': attempt to access JSON non-unsigned-integer as unsigned-integer"),
        ({"shape": [1.0]}, "Unable to parse 'shape': attempt to access JSON non-unsigned-integer"),
        ({"shape": ["2"]}, "Unable to parse 'shape': attempt to access JSON non-unsigned-integer"),
        ({"shape": [10**20]}, "Unable to parse 'shape': attempt to access JSON non-unsigned-integer"),
        ({"shape": 2}, "Unable to parse 'shape': expected an array, got 2"),
        ({"data": [1]}, f"{LONG}: input 'I' has shape [2]"),
        ({"data": [1, 2, 3]}, f"{LONG}: input 'I' has shape [2]"),
        ({"data": []}, f"{LONG}: input 'I' has shape [2]"),
        ({"data": 1}, f"{LONG}: input 'I' has shape [2]"),
        ({"data": [[1, 2]]}, LONG),
        ({"data": ["1", "2"]}, "input 'I' holds \"1\", which is not a value of datatype FP32"),
        ({"data": [True, 2]}, "holds true, which is not a value of datatype FP32"),
        ({"data": {}}, "holds {, which is not a value of datatype FP32"),
        ({"datatype": "BOOL", "data": [0, 1]}, "holds 0, which is not a value of datatype BOOL"),
        ({"datatype": "BYTES", "data": ["a", 1]}, "holds 1, which is not a value of datatype BYTES"),
        ({"datatype": "INT8", "data": [1, None]}, "holds null, which is not a value of datatype INT8"),
        ({"datatype": "UINT8", "data": [1, -1]}, "holds -1, which is out of range for datatype UINT8"),
        ({"datatype": "INT64", "data": [1, 0.5]}, "holds 0.5, which is not an integer, as required by datatype INT64"),
        ({"parameters": {"binary_data_size": 8}}, "has both 'data' and parameter 'binary_data_size'"),
        ({"parameters": {"binary_data_size": -8}}, "parameter 'binary_data_size' must be an integer of at least 0"),
        (
            {"parameters": {"shared_memory_region": "r"}},
            "shared memory is not supported, got parameter 'shared_memory_region'",
        ),
        (
            {"data": ..., "parameters": {"binary_data_size": 8}},
            "has a binary_data_size of 8, but only 0 bytes are left",
        ),
    ],
)
def test_inputs_that_are_none(changes: dict[str, Any], text: str) -> None:
    assert text in of_input(**changes)


def test_duplicate_names_are_refused_in_tritons_words() -> None:
    assert of_json({"inputs": [INPUT, INPUT]}) == "input 'I' already exists in request"
    assert of_json({"inputs": [], "outputs": [{"name": "O"}] * 2}) == "output 'O' already exists in request"
    message = one_input()
    message.inputs.append(message.inputs[0])
    assert refusal(message.SerializeToString(), "proto") == "input 'I' already exists in request"
    message = service_pb2.ModelInferRequest(outputs=[{"name": "O"}, {"name": "O"}])
    assert refusal(message.SerializeToString(), "proto") == "output 'O' already exists in request"


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("priority", -1, "parameter 'priority' must be an integer of at least 0"),
        ("priority", "1", "parameter 'priority' must be an integer of at least 0"),
        ("timeout", 1.5, "parameter 'timeout' must be an integer of at least 0, in microseconds"),
        ("timeout", True, "parameter 'timeout' must be an integer of at least 0, in microseconds"),
        ("sequence_id", 7, "parameter 'sequence_id': sequences are not supported by model 'm'"),
        ("sequence_id", "s", "parameter 'sequence_id': sequences are not supported by model 'm'"),
        ("sequence_start", True, "parameter 'sequence_start': sequences are not supported by model 'm'"),
        ("sequence_end", True, "parameter 'sequence_end': sequences are not supported by model 'm'"),
        ("triton_final_response", True, "parameter keys starting with 'triton_' are reserved"),
    ],
)
def test_parameters_are_refused_alike_in_both_encodings(key: str, value: Any, text: str) -> None:
    message = one_input()
    kind = {bool: "bool_param", int: "int64_param", str: "string_param", float: "double_param"}[type(value)]
    setattr(message.parameters[key], kind, value)
    assert text in refusal(message.SerializeToString(), "proto")
    assert text in of_json({"inputs": [INPUT], "parameters": {key: value}})


@pytest.mark.parametrize("key", ["binary_data_output"])
def test_http_parameters_must_be_booleans(key: str) -> None:
    assert f"parameter '{key}' must be true or false" in of_json({"inputs": [], "parameters": {key: 1}})
    document = {"inputs": [], "outputs": [{"name": "O", "parameters": {"binary_data": "yes"}}]}
    assert "parameter 'binary_data' must be true or false" in of_json(document)


@pytest.mark.parametrize(("key", "value"), [("classification", -1), ("shared_memory_region", "r")])
def test_output_parameters_are_refused_alike_in_both_encodings(key: str, value: Any) -> None:
    message = one_input()
    entry = message.outputs.add(name="O").parameters[key]
    setattr(entry, "int64_param" if isinstance(value, int) else "string_param", value)
    document = {"inputs": [INPUT], "outputs": [{"name": "O", "parameters": {key: value}}]}
    assert key in refusal(message.SerializeToString(), "proto")
    assert refusal(message.SerializeToString(), "proto") == of_json(document)


def test_shared_memory_inputs_are_refused() -> None:
    message = one_input()
    message.inputs[0].parameters["shared_memory_byte_size"].int64_param = 8
    expected = "shared memory is not supported, got parameter 'shared_memory_byte_size'"
    assert refusal(message.SerializeToString(), "proto") == expected


def test_raw_contents_must_be_there_alone_and_of_the_right_size() -> None:
    message = one_input(raw=bytes(4))
    expected = "input byte size mismatch for input 'I' for model 'm'. Expected 8, got 4"
    assert refusal(message.SerializeToString(), "proto") == expected
    message.ClearField("raw_input_contents")
    expected = "unable to find data for input tensor 'I' for model 'm' in request."
    assert refusal(message.SerializeToString(), "proto") == expected
    message.inputs.add(name="J", datatype="FP32", shape=[1])
    message.raw_input_contents.append(bytes(8))
    expected = "unable to find data for input tensor 'J' for model 'm' in request."
    assert refusal(message.SerializeToString(), "proto") == expected
    message.inputs[1].contents.fp32_contents.append(1)
    expected = "contents field must not be specified when using raw_input_contents for 'J' for model 'm'"
    assert refusal(message.SerializeToString(), "proto") == expected


def test_typed_contents_must_be_those_of_the_datatype_and_complete() -> None:
    message = service_pb2.ModelInferRequest(model_name="m")
    entry = message.inputs.add(name="I", datatype="FP32", shape=[2])
    entry.contents.fp32_contents.append(1)
    expected = "input byte size mismatch for input 'I' for model 'm'. Expected 8, got 4"
    assert refusal(message.SerializeToString(), "proto") == expected
    entry.contents.fp64_contents.append(1)
    assert "unexpected explicit tensor data for input tensor 'I' for model 'm'" in refusal(
        message.SerializeToString(), "proto"
    )
    entry.datatype = "FP16"
    assert "of datatype FP16 must come in raw_input_contents" in refusal(message.SerializeToString(), "proto")
    entry.datatype = "BYTES"
    entry.contents.Clear()
    entry.contents.bytes_contents.append(b"x")
    assert "unexpected number of string elements 1 for inference input 'I'" in refusal(
        message.SerializeToString(), "proto"
    )


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (
            b"\x01\x00",
            "incomplete string length indicator for inference input 'I' for model 'm', expecting 4 bytes but only 2",
        ),
        (
            b"\x05\x00\x00\x00ab",
            "incomplete string data for inference input 'I' for model 'm', expecting string of length 5",
        ),
        (
            b"\x01\x00\x00\x00a",
            "unexpected number of string elements 1 for inference input 'I' for model 'm', expecting 2",
        ),
        (b"\x00\x00\x00\x00" * 3, "input byte size mismatch for input 'I' for model 'm'. Expected 8, got 12"),
    ],
)
def test_bytes_tensors_must_be_whole(raw: bytes, text: str) -> None:
    assert text in refusal(one_input("BYTES", (2,), raw).SerializeToString(), "proto")
    entry = {"name": "I", "datatype": "BYTES", "shape": [2], "parameters": {"binary_data_size": len(raw)}}
    head = json.dumps({"inputs": [entry]}).encode()
    assert text in refusal(head + raw, "json", header_length=len(head))


def test_the_header_length_must_lie_within_the_body() -> None:
    expected = "Inference-Header-Content-Length of 99 exceeds the request body of 13 bytes"
    assert of_json(b'{"inputs":[]}', header_length=99) == expected
    assert "2 of the 2 bytes behind the JSON belong to no input" in of_json(b'{"inputs":[]}12', header_length=13)


@pytest.mark.parametrize("field", ["model_name", "id", "inputs.name"])
def test_names_must_be_text(field: str) -> None:
    message = one_input(name="NAME")
    message.model_name, message.id = ("NAME", "x") if field == "model_name" else ("m", "NAME")
    bytes_of = message.SerializeToString()
    at = bytes_of.rindex(b"NAME") if field == "inputs.name" else bytes_of.index(b"NAME")
    damaged = bytes_of[:at] + b"NA\xffE" + bytes_of[at + 4 :]
    assert refusal(damaged, "proto") == f"failed to parse the ModelInferRequest message: {field} is not valid UTF-8"


@pytest.mark.parametrize("shape", [[1 << 40, 1 << 40], [1 << 62, 4], [3, (1 << 30) // 8], [(1 << 63) - 1]])
def test_huge_shapes_are_refused_before_anything_is_allocated(shape: list[int]) -> None:
    message = service_pb2.ModelInferRequest(model_name="m")
    message.inputs.add(name="I", datatype="FP32", shape=shape).contents.fp32_contents.append(1)
    text = f"[{','.join(map(str, shape))}]"
    expected = f"input 'I' of shape {text} and datatype FP32 exceeds the limit max_tensor_bytes of 1073741824"
    assert refusal(message.SerializeToString(), "proto") == expected
    assert of_input(shape=shape) == expected


def test_a_shape_that_the_body_cannot_hold_is_refused_before_anything_is_allocated() -> None:
    assert LONG in of_input(shape=[1 << 27])
    assert LONG in of_input(shape=[1 << 27], datatype="BYTES", data=["a"])


def test_a_negative_dimension_is_refused() -> None:
    expected = "input 'I' has a negative dimension in shape [-1]"
    assert refusal(one_input(shape=(-1,), raw=b"").SerializeToString(), "proto") == expected


def test_every_limit_is_named_where_it_bites() -> None:
    message = one_input(shape=(1, 2, 1))
    message.inputs.add(name="J", datatype="FP32", shape=[0])
    message.raw_input_contents.append(b"")
    message.outputs.add(name="A")
    message.outputs.add(name="B")
    body = message.SerializeToString()
    document: dict[str, Any] = {
        "inputs": [{**INPUT, "shape": [1, 2, 1]}, {**INPUT, "name": "J"}],
        "outputs": [{"name": "A"}, {"name": "B"}],
    }
    assert refusal(body, "proto", max_tensors=1) == "inputs exceed the limit max_tensors of 1"
    assert of_json(document, max_tensors=1) == "inputs exceed the limit max_tensors of 1"
    del message.inputs[1:]
    del document["inputs"][1:]
    expected = "outputs exceed the limit max_tensors of 1"
    assert refusal(message.SerializeToString(), "proto", max_tensors=1) == expected
    assert of_json(document, max_tensors=1) == expected
    expected = "shape of input 'I' exceeds the limit max_rank of 2"
    assert refusal(body, "proto", max_rank=2) == expected
    assert of_json(document, max_rank=2) == expected
    expected = "input 'I' of shape [1,2,1] and datatype FP32 exceeds the limit max_tensor_bytes of 7"
    assert refusal(body, "proto", max_tensor_bytes=7) == expected
    assert of_json(document, max_tensor_bytes=7) == expected
    strings = {"inputs": [{"name": "I", "datatype": "BYTES", "shape": [1], "data": ["abcd"]}]}
    expected = "input 'I' of 8 bytes exceeds the limit max_tensor_bytes of 7"
    assert of_json(strings, max_tensor_bytes=7) == expected
    bytes_body = one_input("BYTES", (1,), b"\x04\x00\x00\x00abcd").SerializeToString()
    assert refusal(bytes_body, "proto", max_tensor_bytes=7) == expected


@pytest.mark.parametrize(
    "where", ['{"inputs":[],"x":%s}', '{"inputs":[{"name":"I","datatype":"INT8","shape":[1],"x":%s}]}']
)
def test_deep_nesting_is_refused(where: str) -> None:
    expected = "the request JSON is nested deeper than the limit max_json_depth of 32"
    for opening, closing in (("[", "]"), ('{"a":', "}")):
        assert of_json((where % (opening * 40 + "1" + closing * 40)).encode()) == expected
        assert of_json((where % (opening * 100_000)).encode()) == expected
    assert "max_json_depth of 256" in of_json((where % ("[" * 9999)).encode(), max_json_depth=10**6)


def test_the_rank_never_exceeds_what_a_view_holds() -> None:
    assert "max_rank" in refusal(one_input(shape=(1,) * 17).SerializeToString(), "proto", max_rank=99)
    assert "max_rank" in of_json({"inputs": [{**INPUT, "shape": [1] * 17}]}, max_rank=99)


def test_a_long_name_does_not_make_a_long_error() -> None:
    message = of_json({"inputs": [{**INPUT, "name": "é" * 10_000, "data": [1]}]})
    assert len(message) < 400
    assert "é" * 64 in message


@pytest.mark.parametrize(
    ("path", "found"),
    [
        (b"/v2/models/m/infer", ("m", "")),
        (b"/v2/models/m/versions/3/infer", ("m", "3")),
        (b"/v2/models/a%20b%2Fc%C3%A9/versions/best/infer", ("a b/cé", "best")),
        (b"/v2/models/versions/infer", ("versions", "")),
        (b"/v2/models//infer", None),
        (b"/v2/models/m/versions//infer", None),
        (b"/v2/models/m/versions/infer", None),
        (b"/v2/models/m/infer/", None),
        (b"/v2/models/m/infer/x", None),
        (b"/v2/models/m/ready", None),
        (b"/v2/models/m", None),
        (b"/v2/models/infer", None),
        (b"/v2/models/m%2/infer", None),
        (b"/v2/models/m%g0/infer", None),
        (b"/v2/models/m%ff/infer", None),
        (b"/v3/models/m/infer", None),
        (b"", None),
    ],
)
def test_paths_of_inference_calls_are_known(path: bytes, found: tuple[str, str] | None) -> None:
    assert wire.match_path(path) == found
