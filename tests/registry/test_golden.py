"""Golden sets: what is read, and what counts as the same answer."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.errors import InvalidGoldenSet
from registry.golden import MAX_GOLDEN_BYTES, Tensor, differences, read_golden_set, read_tensors


def tensor(datatype: str = "FP32", shape: list[int] | None = None, data: Any = None, name: str = "y") -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape or [2], "data": [1, 2] if data is None else data}


def compare(expected: dict[str, Any], found: dict[str, Any], rtol: float = 1e-4, atol: float = 1e-6) -> str:
    return differences(read_tensors("outputs", [expected]), read_tensors("outputs", [found]), rtol, atol)


@pytest.mark.parametrize(
    ("expected", "found", "said"),
    [
        (tensor(), tensor(), ""),
        (tensor(data=[1.0, 2.0]), tensor(data=[1.00005, 2.0]), ""),
        (tensor(data=[0.0, 2.0]), tensor(data=[5e-7, 2.0]), ""),
        (tensor(data=[math.nan, math.inf]), tensor(data=[math.nan, math.inf]), ""),
        (tensor(shape=[1, 2]), tensor(shape=[1, 2], data=[[1, 2]]), ""),
        (tensor("BYTES", data=["a", "b"]), tensor("BYTES", data=["a", "b"]), ""),
        (tensor(data=[1.0, 2.0]), tensor(data=[1.001, 2.0]), "1 of 2 values differ, such as 1.001 in place of 1 at 0"),
        (tensor(data=[1.0, 2.0]), tensor(data=[1.0, math.nan]), "such as nan in place of 2 at 1"),
        (tensor(), tensor("FP64"), "y is FP64, not FP32"),
        (tensor(), tensor(shape=[1, 2]), "y has the shape [1, 2], not [2]"),
        (tensor(), tensor(name="z"), "there is no output y"),
        (tensor("INT64", data=[1 << 60, 2]), tensor("INT64", data=[(1 << 60) + 1, 2]), "y: 1 of 2 values differ"),
        (tensor("BYTES", data=["a", "b"]), tensor("BYTES", data=["a", "c"]), "such as 'c' in place of 'b' at 1"),
        (tensor("BOOL", data=[True, False]), tensor("BOOL", data=[True, True]), "y: 1 of 2 values differ"),
    ],
)
def test_answers_are_the_same_within_tolerance(expected: dict[str, Any], found: dict[str, Any], said: str) -> None:
    result = compare(expected, found)
    assert said in result
    assert bool(result) == bool(said)


@given(
    st.lists(st.floats(allow_nan=False, width=32), min_size=1, max_size=8),
    st.floats(0, 1, allow_nan=False),
    st.floats(0, 1, allow_nan=False),
)
def test_every_answer_is_its_own_golden_set(values: list[float], rtol: float, atol: float) -> None:
    one = tensor(shape=[len(values)], data=values)
    assert compare(one, json.loads(json.dumps(one)), rtol, atol) == ""
    assert compare(one, Tensor("y", "FP32", np.array(values, np.float32)).to_dict(), 0, 0) == ""


def test_outputs_that_the_set_does_not_name_may_be_anything() -> None:
    found = read_tensors("outputs", [tensor(), tensor(name="more")])
    assert differences(read_tensors("outputs", [tensor()]), found, 0, 0) == ""


@pytest.mark.parametrize(
    ("document", "field"),
    [
        ([], ""),
        ({}, "inputs"),
        ({"inputs": []}, "inputs"),
        ({"inputs": [1]}, "inputs[0]"),
        ({"inputs": [tensor(), tensor()]}, "inputs"),
        ({"inputs": [tensor()]}, "outputs"),
        ({"inputs": [tensor() | {"name": ""}]}, "inputs[0].name"),
        ({"inputs": [tensor("BF16")]}, "inputs[0].datatype"),
        ({"inputs": [tensor() | {"datatype": ["FP32"]}]}, "inputs[0].datatype"),
        ({"inputs": [tensor(shape=[-1])]}, "inputs[0].shape"),
        ({"inputs": [tensor(shape=[1] * 17)]}, "inputs[0].shape"),
        ({"inputs": [tensor(shape=[3])]}, "inputs[0].data"),
        ({"inputs": [tensor(data="ab")]}, "inputs[0].data"),
        ({"inputs": [tensor(data=["a", "b"])]}, "inputs[0].data"),
        ({"inputs": [tensor("INT64", data=[1.5, 2])]}, "inputs[0].data"),
        ({"inputs": [tensor("UINT8", data=[300, 2])]}, "inputs[0].data"),
        ({"inputs": [tensor("BOOL", data=[1, 0])]}, "inputs[0].data"),
        ({"inputs": [tensor("FP32", data=[True, 0])]}, "inputs[0].data"),
    ],
)
def test_a_set_that_makes_no_sense_is_refused_by_the_name_of_its_field(document: object, field: str) -> None:
    with pytest.raises(InvalidGoldenSet) as refused:
        read_golden_set(json.dumps(document).encode())
    assert refused.value.field == field


@pytest.mark.parametrize("text", [b"", b"{", b"[" * 100_000, b"\xff", b" " * (MAX_GOLDEN_BYTES + 1)])
def test_what_is_no_json_or_too_large_is_refused(text: bytes) -> None:
    with pytest.raises(InvalidGoldenSet):
        read_golden_set(text)
