"""V2 JSON and binary tensors become the tensors that Python's json and NumPy see in them."""

from __future__ import annotations

import json
import math
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from wire_messages import distinct_tensors, tensors, with_one_nan

from kernels import reference, wire
from kernels.tensors import DTYPES, RefusedError, Request, RequestedOutput, Tensor, pack_bytes

FLOATS = ("FP16", "BF16", "FP32", "FP64")


def decode(document: Any, **options: Any) -> Request:
    body = document if isinstance(document, bytes) else document_text(document)
    return wire.decode_request(body, "json", model="m", **options)


def document_text(document: Any, **style: Any) -> bytes:
    """JSON with infinities, outside of strings, as numbers past every range."""
    text = json.dumps(document, **style)
    string_or_infinity = r'"(?:[^"\\]|\\.)*"|Infinity'
    return re.sub(string_or_infinity, lambda found: "1e999" if found[0] == "Infinity" else found[0], text).encode()


def one_input(datatype: str, data: str, shape: str = "[1]") -> bytes:
    return f'{{"inputs":[{{"name":"I","datatype":"{datatype}","shape":{shape},"data":{data}}}]}}'.encode()


def nested(elements: list[Any], shape: tuple[int, ...]) -> Any:
    if len(shape) <= 1:
        return elements
    step = math.prod(shape[1:])
    return [nested(elements[i * step : (i + 1) * step], shape[1:]) for i in range(shape[0])]


@given(
    distinct_tensors(as_text=True),
    st.booleans(),
    st.sampled_from([{}, {"indent": 1}, {"separators": (",", ":"), "ensure_ascii": False}]),
    st.randoms(use_true_random=False),
)
def test_data_flat_or_nested_with_keys_in_any_order_is_the_tensors(
    inputs: list[Tensor], is_nested: bool, style: dict[str, Any], order: Any
) -> None:
    document = reference.json_request(Request(id="a1", inputs=tuple(inputs)))
    for entry, tensor in zip(document["inputs"], inputs, strict=True):
        if is_nested:
            entry["data"] = nested(entry["data"], tensor.shape)
        entry["parameters"] = {"unit": "cm"}
        entry["unknown"] = {"deep": [1, {"x": None}]}
    document["inputs"] = [dict(order.sample(list(entry.items()), len(entry))) for entry in document["inputs"]]
    document["model_name"] = ["tolerated", 1.5e3, True, None, {}]
    document = dict(order.sample(list(document.items()), len(document)))
    request = decode(document_text(document, **style))
    assert request == Request("m", "", "a1", tuple(map(with_one_nan, inputs)))


@given(distinct_tensors())
def test_binary_tensors_are_the_bytes_behind_the_json_in_order_and_stay_there(inputs: list[Tensor]) -> None:
    body, header_length = reference.binary_request(Request(inputs=tuple(inputs)))
    request = decode(body, header_length=header_length)
    assert request.inputs == tuple(inputs)
    for tensor in request.inputs:
        if tensor.raw:
            assert tensor.offset >= header_length


@given(tensors(as_text=True, name=st.just("a")), tensors(name=st.just("b")))
def test_json_data_and_binary_tensors_may_be_mixed(first: Tensor, second: Tensor) -> None:
    document = reference.json_request(Request(inputs=(first,)))
    document["inputs"].append(
        {
            "parameters": {"binary_data_size": len(second.raw)},
            "shape": second.shape,
            "name": "b",
            "datatype": second.datatype,
        }
    )
    text = document_text(document)
    assert decode(text + second.raw, header_length=len(text)).inputs == (with_one_nan(first), second)


def test_a_body_without_json_is_one_input_and_is_answered_in_binary() -> None:
    request = decode(b"\x01\x02", header_length=0)
    assert request.inputs == (Tensor("", "", (), b"\x01\x02"),)
    assert request.inputs[0].offset == 0
    assert request.binary_data_output


@given(
    st.floats() | st.integers(-(10**30), 10**30).map(float) | st.floats(-66000, 66000) | st.floats(-1e-7, 1e-7),
    st.sampled_from(FLOATS),
)
def test_floats_round_once_to_nearest_even(value: float, datatype: str) -> None:
    text = "null" if math.isnan(value) else repr(value).replace("inf", "1e999")
    (tensor,) = decode(one_input(datatype, f"[{text}]")).inputs
    with np.errstate(over="ignore"):
        bits = {
            "FP16": lambda: np.array(reference.round_to_bits(value, 5), "<u2"),
            "BF16": lambda: np.array(reference.round_to_bits(value, 8), "<u2"),
            "FP32": lambda: np.array(value, "f8").astype("<f4"),
            "FP64": lambda: np.array(value, "<f8"),
        }[datatype]()
    assert tensor == with_one_nan(Tensor("I", datatype, (1,), bits.tobytes()))


@given(st.integers(0, 0xFFFE), st.sampled_from(["FP16", "BF16"]), st.sampled_from([0.0, 0.25, 0.5, 0.75]))
def test_halfway_cases_of_small_floats_go_to_the_even_one(bits: int, datatype: str, way: float) -> None:
    exponent_bits = 5 if datatype == "FP16" else 8
    low = reference.float_from_bits(bits & 0x7FFF, exponent_bits)
    high = reference.float_from_bits((bits & 0x7FFF) + 1, exponent_bits)
    if not (math.isfinite(low) and math.isfinite(high)):
        return
    value = low + (high - low) * way
    (tensor,) = decode(one_input(datatype, f"[{value!r}]")).inputs
    expected = reference.round_to_bits(value, exponent_bits)
    assert int.from_bytes(tensor.raw, "little") == expected
    if datatype == "FP16":
        assert tensor.raw == np.array(value, "<f8").astype("<f2").tobytes()


@given(st.text("0123456789.eE+-", min_size=1, max_size=12), st.sampled_from(sorted(DTYPES)))
def test_a_number_is_taken_exactly_when_it_is_json_and_fits_the_datatype(text: str, datatype: str) -> None:
    body = one_input(datatype, f"[{text}]")
    try:
        expected = reference.decode_json(body, model="m")
    except ValueError:
        with pytest.raises(RefusedError):
            decode(body)
    else:
        assert decode(body) == Request("m", inputs=tuple(map(with_one_nan, expected.inputs)))


@pytest.mark.parametrize(
    "text",
    ["1e00000000000000000000000000002", "1e-00000000000000000000000000400", "0e99999999999999999999999", "-0", "-0.0"]
    + ["1e9999999999999999999", "1e-9999999999999999999", "-1e400", "123456789012345678901234567890", "1" + "0" * 400]
    + ["0." + "0" * 400 + "1e400", "2.2250738585072011e-308", "9007199254740993", "1.7976931348623159e308"]
    + ["0.99999999999999999999", "-0.18446744073709551616", "0.1000000000000000055511151231257827", "0.5" + "0" * 30]
    + ["0." + "0" * 400 + "1", "0." + "0" * 400 + "1e+5", "-1" + "0" * 400 + "e-5", "1" + "0" * 400 + ".5e-99"],
)
@pytest.mark.parametrize("datatype", FLOATS)
def test_unusual_spellings_of_numbers_are_read_right(text: str, datatype: str) -> None:
    body = one_input(datatype, f"[{text},1]", "[2]")
    assert decode(body).inputs == reference.decode_json(body).inputs


@pytest.mark.parametrize("datatype", [name for name, dtype in DTYPES.items() if dtype.kind in "iu" and name != "BF16"])
def test_integers_are_held_to_the_range_of_their_datatype(datatype: str) -> None:
    limits = np.iinfo(DTYPES[datatype].str)
    low, high = int(limits.min), int(limits.max)
    (tensor,) = decode(one_input(datatype, f"[{low},{high},-0]", "[3]")).inputs
    assert tensor.to_numpy().tolist() == [low, high, 0]
    for beyond in (low - 1, high + 1, 10**30, -(10**30)):
        with pytest.raises(RefusedError, match=f"holds {beyond}, which is out of range for datatype {datatype}"):
            decode(one_input(datatype, f"[{beyond}]"))


def test_an_integral_float_is_no_integer() -> None:
    with pytest.raises(RefusedError, match=r"holds 1\.0, which is not an integer, as required by datatype INT32"):
        decode(one_input("INT32", "[1.0]"))


@given(st.lists(st.text(), max_size=5))
def test_strings_come_through_with_their_escapes(texts: list[str]) -> None:
    texts = [text.encode("utf-16", "surrogatepass").decode("utf-16", "replace") for text in texts]
    for ascii_only in (True, False):
        body = document_text(
            {"inputs": [{"name": "I", "datatype": "BYTES", "shape": [len(texts)], "data": texts}]},
            ensure_ascii=ascii_only,
        )
        assert decode(body).inputs[0].raw == pack_bytes(text.encode() for text in texts)


def test_every_escape_is_known_in_names_and_in_data() -> None:
    text = r"\"\\\/\b\f\n\r\té😀 long enough to be past the first sixteen bytes \u0000"
    body = f'{{"id":"{text}","inputs":[{{"name":"{text}","datatype":"BYTES","shape":[1],"data":["{text}"]}}]}}'
    request = decode(body.encode())
    expected = json.loads(f'"{text}"')
    assert (request.id, request.inputs[0].name) == (expected, expected)
    assert request.inputs[0].raw == pack_bytes([expected.encode()])


@pytest.mark.parametrize("text", [r"\ud800", r"\udc00x", r"\ud800A", r"\x41", r"\u12g4", r"\u12"])
def test_escapes_that_are_none_are_refused(text: str) -> None:
    for body in (one_input("BYTES", f'["{text}"]'), f'{{"inputs":[],"other":"{text}"}}'.encode()):
        with pytest.raises(RefusedError, match="Invalid escape"):
            decode(body)


def test_a_single_value_may_stand_without_brackets() -> None:
    assert decode(one_input("INT16", "7", "[1,1]")).inputs[0].raw == b"\x07\x00"
    assert decode(one_input("FP32", "0.5", "[]")).inputs[0].shape == ()


def test_parameters_are_understood() -> None:
    document = {
        "id": "",
        "parameters": {
            "priority": 1,
            "timeout": 2500,
            "binary_data_output": True,
            "sequence_id": 0,
            "sequence_start": False,
            "sequence_end": False,
            "triton_enable_empty_final_response": True,
            "temperature": 0.5,
            "stop": [1, 2],
        },
        "inputs": [],
        "outputs": [
            {"name": "A"},
            {"name": "B", "parameters": {"binary_data": True, "classification": 3}},
            {"name": "C", "parameters": {"binary_data": False, "other": {}}},
        ],
    }
    request = decode(document)
    assert request == Request(
        "m",
        id="",
        outputs=(RequestedOutput("A"), RequestedOutput("B", 3, True), RequestedOutput("C", 0, False)),
        priority=1,
        timeout_us=2500,
        binary_data_output=True,
    )


def test_null_stands_for_absent() -> None:
    assert decode({"id": None, "parameters": None, "outputs": None, "inputs": []}) == Request("m")


@pytest.mark.parametrize("shape", [(2, 3), (2, 1, 3), (2, 0, 3), (0, 2)])
def test_nesting_must_be_that_of_the_shape(shape: tuple[int, ...]) -> None:
    elements = list(range(math.prod(shape)))
    good = {"name": "I", "datatype": "INT32", "shape": shape, "data": nested(elements, shape)}
    assert decode({"inputs": [good]}).inputs[0].to_numpy().tolist() == good["data"]


@pytest.mark.parametrize("data", ["[[1,2],[3,4],[5,6]]", "[[1,2,3],[4,5]]", "[[1,2,3],4,5,6]", "[1,[2,3],4,5,6]"])
def test_other_nesting_is_refused(data: str) -> None:
    with pytest.raises(RefusedError, match="Shape does not match true shape of 'data' field"):
        decode(one_input("INT32", data, "[2,3]"))


def test_a_recycled_request_decodes_like_a_new_one() -> None:
    body = one_input("BYTES", r'["a\n","b"]', "[2]")
    assert decode(body, repeat=3) == decode(body)
