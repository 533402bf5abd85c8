"""Whatever the bytes are, decoding them gives a value or a RefusedError, and a value is always a consistent one."""

from __future__ import annotations

import json
import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from wire_messages import TYPED_DATATYPES, proto_message

from kernels import reference, reference_proto, wire
from kernels.tensors import RefusedError, Request, Tensor, pack_bytes, unpack_bytes

INPUTS = (
    Tensor.from_numpy("floats", np.array([[0.5, -1e9, 3.25], [0, 1, 2]], dtype="f4"), "FP32"),
    Tensor.from_numpy("halves", np.array([0.5, 65504.0], dtype="f2"), "FP16"),
    Tensor.from_numpy("numbers", np.array([[1], [-128]], dtype="i1"), "INT8"),
    Tensor.from_numpy("flags", np.array([True, False]), "BOOL"),
    Tensor("texts", "BYTES", (2,), pack_bytes(["né".encode(), b""])),
)
TYPED = tuple(tensor for tensor in INPUTS if tensor.datatype in TYPED_DATATYPES)


def messages() -> dict[str, tuple[bytes, Any, int]]:
    request = Request(id="a1", inputs=INPUTS)
    document = reference.json_request(request)
    document["parameters"] = {"priority": 1, "custom": [1.5, {"a": None}], "timeout": 3}
    document["outputs"] = [{"name": "O\n", "parameters": {"binary_data": True, "classification": 2}}]
    backwards = {**document, "inputs": [dict(reversed(entry.items())) for entry in document["inputs"]]}
    binary, header_length = reference.binary_request(request)
    raw = proto_message(INPUTS, is_raw=True)
    typed = proto_message(TYPED, is_raw=False)
    for message in (raw, typed):
        message.parameters["priority"].int64_param = 1
        message.outputs.add(name="O").parameters["classification"].int64_param = 2
    return {
        "JSON": (json.dumps(document).encode(), "json", -1),
        "JSON with data first": (json.dumps(backwards, ensure_ascii=False).encode(), "json", -1),
        "binary tensors": (binary, "json", header_length),
        "raw protobuf": (raw.SerializeToString(), "proto", -1),
        "typed protobuf": (typed.SerializeToString(), "proto", -1),
    }


MESSAGES = messages()
every_message = pytest.mark.parametrize(("message", "encoding", "header_length"), MESSAGES.values(), ids=MESSAGES)


def try_decode(body: bytes, encoding: Any, header_length: int = -1) -> Request | None:
    try:
        request = wire.decode_request(body, encoding, header_length=header_length)
    except RefusedError as refused:
        assert refused.code == 3
        assert 0 < len(refused.message) < 1000
        return None
    for tensor in request.inputs:
        if tensor.datatype:
            reference.checked(tensor)
    return request


@every_message
def test_a_message_cut_anywhere_is_a_value_or_refused(message: bytes, encoding: Any, header_length: int) -> None:
    assert try_decode(message, encoding, header_length) is not None
    for end in range(len(message)):
        request = try_decode(message[:end], encoding, min(header_length, end))
        if encoding == "json" and end > 0:
            assert request is None


@every_message
def test_a_message_with_random_damage_is_a_value_or_refused(message: bytes, encoding: Any, header_length: int) -> None:
    dice = random.Random(11)
    for _ in range(4000):
        damaged = bytearray(message)
        for _ in range(dice.choice([1, 1, 2, 5])):
            at = dice.randrange(len(damaged))
            kind = dice.randrange(4)
            if kind == 0:
                damaged[at] = dice.choice(b'{}[]:,"\\0-e.nt \x00\x7f\x80\xff')
            elif kind == 1:
                damaged[at] ^= 1 << dice.randrange(8)
            elif kind == 2:
                del damaged[at : at + dice.randrange(1, 9)]
            else:
                source = dice.randrange(len(message))
                damaged[at:at] = message[source : source + dice.randrange(1, 40)]
            damaged = damaged or bytearray(b"x")
        length = header_length if header_length < 0 else dice.choice([header_length, dice.randrange(len(damaged) + 2)])
        try_decode(bytes(damaged), encoding, length)


@given(st.binary(max_size=200), st.sampled_from(["json", "proto"]), st.integers(-1, 220))
def test_any_bytes_are_a_value_or_refused(body: bytes, encoding: str, header_length: int) -> None:
    try_decode(body, encoding, header_length)


tokens = st.sampled_from(
    ["{", "}", "[", "]", ",", ":", '"', '"a"', '"inputs"', '"name"', '"data"', '"shape"', '"datatype"', '"INT8"', "1"]
    + ["-", "1.5", "true", "null", " ", "\\", '"parameters"', '"outputs"', '{"inputs":[', '{"name":"a",', "]}", "\n"]
)


@given(st.lists(tokens, max_size=40).map("".join), st.text(']}[{",:1', max_size=3))
def test_any_row_of_json_tokens_is_a_value_or_refused_whatever_lies_behind(text: str, tail: str) -> None:
    try_decode(text.encode(), "json")
    try_decode((text + tail).encode(), "json", max(1, len(text.encode())))


@given(st.lists(tokens, max_size=30).map("".join))
def test_unknown_values_are_checked_as_strictly_as_known_ones(text: str) -> None:
    body = f'{{"inputs":[],"unknown":{text}}}'.encode()
    try:
        document = json.loads(body)
    except ValueError:
        assert try_decode(body, "json") is None
    else:
        if list(document) == ["inputs", "unknown"] and "{" not in text:
            assert try_decode(body, "json") is not None


@pytest.mark.parametrize("size", [15, 16, 17, 63, 64, 65, 127, 128])
def test_strings_and_documents_of_every_size_around_a_block_are_whole(size: int) -> None:
    for escape in ("", "\\n", '\\"', "\\\\"):
        text = "x" * size + escape
        body = f'{{"inputs":[{{"name":"{text}","datatype":"BYTES","shape":[1],"data":["{text}"]}}]}}'.encode()
        (tensor,) = wire.decode_request(body, "json").inputs
        assert tensor.name == json.loads(f'"{text}"')
        assert unpack_bytes(tensor.raw) == [tensor.name.encode()]


def test_a_document_of_brackets_alone_is_refused_at_any_length() -> None:
    for count in (1, 63, 64, 65, 1000, 16_384, 40_000):
        for text in ("[" * count, "{" * count, "]" * count, '{"a":' * count, '{"inputs":[' + "[" * count):
            assert try_decode(text.encode(), "json") is None


def test_deeply_nested_groups_are_refused_without_recursing_far() -> None:
    assert try_decode(b"\x0b" * 1_000_000, "proto") is None
    assert try_decode(b"\x43" * 100 + b"\x44" * 100, "proto") is not None


def test_many_tensors_are_refused_at_the_first_too_many() -> None:
    entry = reference_proto.chunk(5, reference_proto.text(1, "x"))
    assert try_decode(entry * 100_000, "proto") is None
    assert try_decode(b'{"inputs":[' + b"{}," * 100_000, "json") is None


@pytest.mark.parametrize(
    ("skip", "count", "found"),
    [(0, 0, b""), (0, 1, b"\x01\x00\x00\x00a"), (1, 1, b"\x00" * 4), (2, 1, None), (3, 0, None)],
)
def test_bytes_tensors_are_split_by_elements(skip: int, count: int, found: bytes | None) -> None:
    assert wire.split_bytes_tensor(pack_bytes([b"a", b""]), skip, count) == found


@given(st.binary(max_size=40), st.integers(0, 5), st.integers(0, 5))
def test_splitting_never_leaves_the_bytes(raw: bytes, skip: int, count: int) -> None:
    part = wire.split_bytes_tensor(raw, skip, count)
    assert part is None or (part in raw and len(unpack_bytes(part)) == count)
