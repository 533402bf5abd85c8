"""When two versions have answered alike."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.comparison import TOLERANCES, difference
from kernels.tensors import DTYPES, Tensor


def tensor(values, datatype="FP32", name="y"):
    if datatype == "BF16":
        return Tensor.from_numpy(name, (np.asarray(values, "<f4").view("<u4") >> 16).astype("<u2"), "BF16")
    dtype = np.object_ if datatype == "BYTES" else DTYPES[datatype]
    return Tensor.from_numpy(name, np.asarray(values, dtype), datatype)


@pytest.mark.parametrize("datatype", TOLERANCES)
def test_floats_may_differ_within_the_tolerance_of_their_datatype(datatype):
    relative, _ = TOLERANCES[datatype]
    live = tensor([1.0, -100.0], datatype)
    assert difference([live], [tensor([1.0 + relative * 0.9, -100.0], datatype)]) == ""
    assert difference([live], [tensor([1.0, -100.0 * (1 + relative * 1.5)], datatype)]).startswith("y: 1 of 2")


@pytest.mark.parametrize("datatype", TOLERANCES)
def test_nan_and_infinity_equal_themselves_alone(datatype):
    special = tensor([np.nan, np.inf, 1.0], datatype)
    assert difference([special], [tensor([np.nan, np.inf, 1.0 + TOLERANCES[datatype][0] / 2], datatype)]) == ""
    assert difference([special], [tensor([0.0, np.inf, 1.0], datatype)]).startswith("y: 1 of 3")
    assert difference([special], [tensor([np.nan, -np.inf, 1.0], datatype)]).startswith("y: 1 of 3")


@pytest.mark.parametrize("datatype", [name for name in DTYPES if name not in TOLERANCES])
def test_whole_numbers_and_truth_values_must_be_equal(datatype):
    assert difference([tensor([1, 0], datatype)], [tensor([1, 0], datatype)]) == ""
    assert difference([tensor([1, 0], datatype)], [tensor([1, 1], datatype)]).startswith("y: 1 of 2")


def test_texts_must_be_equal():
    assert difference([tensor([b"a", b"b"], "BYTES")], [tensor([b"a", b"b"], "BYTES")]) == ""
    assert "b'b'" in difference([tensor([b"a", b"b"], "BYTES")], [tensor([b"a", b"c"], "BYTES")])


def test_a_missing_output_another_shape_and_another_datatype_are_differences_and_a_further_output_is_none():
    live, other = tensor([1.0]), tensor([1.0], name="z")
    assert difference([live], [other]) == "there is no output y"
    assert difference([live], [other, live]) == ""
    assert "shape" in difference([live], [tensor([[1.0]])])
    assert "FP64" in difference([live], [tensor([1.0], "FP64")])
    assert "FP32" in difference([tensor([1.0], "BF16")], [live])


def test_outputs_that_are_no_tensors_are_named_so():
    with pytest.raises(ValueError):
        difference([tensor([1.0])], [Tensor("y", "FP32", (1,), b"abc")])


@given(st.lists(st.floats(width=32), min_size=1, max_size=8))
def test_every_answer_agrees_with_itself(values):
    assert difference([tensor(values)], [tensor(values)]) == ""
