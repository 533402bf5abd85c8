"""What a person types becomes a tensor that the model takes, or a sentence that says why not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gateway.cli.failure import CommandFailed
from gateway.cli.tensors import NUMPY_TYPES, from_raw, read_value, to_array, to_json, to_raw


def test_a_value_is_a_file_or_json_or_text(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.arange(3))
    (tmp_path / "a.json").write_text("[[1, 2]]")
    assert read_value(str(tmp_path / "a.npy")).tolist() == [0, 1, 2]
    assert read_value(str(tmp_path / "a.json")) == [[1, 2]]
    assert read_value("[1.5, 2]") == [1.5, 2]
    assert read_value("7") == 7
    assert read_value("some words") == "some words"


@pytest.mark.parametrize(("text", "problem"), [("absent.npy", "there is no file"), ("[1, 2", "this is not JSON")])
def test_what_cannot_be_read_is_told(text: str, problem: str) -> None:
    with pytest.raises(CommandFailed, match=problem):
        read_value(text)


def test_a_npy_file_with_pickled_objects_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "evil.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(CommandFailed, match="cannot be read"):
        read_value(str(tmp_path / "evil.npy"))


@pytest.mark.parametrize(
    ("value", "wanted", "shape"),
    [
        ([[1, 2], [3, 4]], (-1, 2), (2, 2)),
        ([1, 2], (-1, 2), (1, 2)),
        ([1, 2, 3, 4], (-1, 2), (2, 2)),
        (7, (-1, 1), (1, 1)),
        (7, (-1, -1, 1), (1, 1, 1)),
        (7, (), ()),
        ([1, 2, 3, 4], (2, 2), (2, 2)),
        ([[]], (-1, -1), (1, 0)),
    ],
)
def test_a_shape_is_completed_where_only_one_is_meant(
    value: Any, wanted: tuple[int, ...], shape: tuple[int, ...]
) -> None:
    assert to_array("x", value, "FP32", wanted).shape == shape


@pytest.mark.parametrize(("value", "wanted"), [([1, 2, 3], (-1, 2)), ([1, 2], (3,)), ([[1, 2]], (-1, -1, 3))])
def test_a_shape_that_cannot_be_meant_is_told_with_what_the_model_takes(value: Any, wanted: tuple[int, ...]) -> None:
    with pytest.raises(CommandFailed, match="input x: the model takes the shape"):
        to_array("x", value, "FP32", wanted)


@pytest.mark.parametrize(
    ("value", "datatype"), [(300, "UINT8"), (-1, "UINT32"), (1.5, "INT32"), ("word", "FP32"), ([[1], [2, 3]], "FP32")]
)
def test_a_number_that_does_not_fit_is_refused(value: Any, datatype: str) -> None:
    with pytest.raises(CommandFailed, match=f"does not fit {datatype}"):
        to_array("x", value, datatype, (-1,))


def test_words_become_bytes_elements() -> None:
    array = to_array("x", ["né", ""], "BYTES", (-1,))
    assert to_raw(array, "BYTES") == b"\x03\x00\x00\x00n\xc3\xa9\x00\x00\x00\x00"
    assert to_json(from_raw(to_raw(array, "BYTES"), "BYTES", (2,))) == ["né", ""]


@pytest.mark.parametrize("datatype", [name for name in NUMPY_TYPES if name not in ("BYTES", "BF16")])
def test_every_datatype_survives_the_wire(datatype: str) -> None:
    @given(hnp.arrays(np.dtype(NUMPY_TYPES[datatype]), hnp.array_shapes(min_dims=0, min_side=0)))
    def check(array: Any) -> None:
        assert from_raw(to_raw(array, datatype), datatype, array.shape).tobytes() == array.tobytes()

    check()


@given(st.lists(st.binary(max_size=9), max_size=9))
def test_any_bytes_survive_the_wire(items: list[bytes]) -> None:
    array = np.empty(len(items), object)
    array[:] = items
    assert from_raw(to_raw(array, "BYTES"), "BYTES", (len(items),)).tolist() == items


def test_bf16_keeps_the_upper_half_of_a_float() -> None:
    raw = to_raw(np.array([1.0, -2.5], np.float32), "BF16")
    assert raw == b"\x80\x3f\x20\xc0"
    assert from_raw(raw, "BF16", (2,)).tolist() == [1.0, -2.5]


def test_an_answer_can_always_be_printed_as_json() -> None:
    array = np.empty(1, object)
    array[:] = [b"\xff\xfe"]
    assert json.dumps(to_json(array)) == '["\\\\xff\\\\xfe"]'
