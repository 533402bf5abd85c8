"""When two versions have answered alike."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import comparison
from gateway.comparison import MAX_WALK, TOLERANCES, Difference, Incomparable
from gateway.rollouts.tolerances import Comparison, Tolerance
from kernels.tensors import DTYPES, Tensor


def difference(live, shadow, tolerance=None):
    """In one text; empty when they agree."""
    found = between(live, shadow, tolerance)
    return "" if found is None else f"{found.output}: {found.what}"


def between(live, shadow, tolerance=None):
    return comparison.difference(live, shadow, Comparison(tolerance or Tolerance()))


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
    found = between([tensor([b"a", b"b"], "BYTES")], [tensor([b"a", b"cat"], "BYTES")])
    assert found == Difference("y", "the texts differ, first at 1", "b'b'", "b'cat'")
    assert between([tensor([b"a", b"bb"], "BYTES")], [tensor([b"a", b"bb", b""], "BYTES")]) is not None
    assert difference([tensor([b"a"], "BYTES")], [tensor([b"b"], "BYTES")], Tolerance(top_k=1)) != ""


def test_texts_that_differ_after_many_others_are_not_looked_for():
    texts = [b"same"] * MAX_WALK
    found = between([tensor([*texts, b"a"], "BYTES")], [tensor([*texts, b"b"], "BYTES")])
    assert found == Difference("y", f"the texts differ, first beyond {MAX_WALK}")


def test_a_missing_output_another_shape_and_another_datatype_are_differences_and_a_further_output_is_none():
    live, other = tensor([1.0]), tensor([1.0], name="z")
    assert difference([live], [other]) == "y: there is no such output"
    assert difference([live], [other, live]) == ""
    assert difference([live], [tensor([[1.0]])]) == "y: it is FP32[1, 1], not FP32[1]"
    assert "FP64" in difference([live], [tensor([1.0], "FP64")])
    assert "FP32" in difference([tensor([1.0], "BF16")], [live])


def test_outputs_that_are_no_tensors_differ_and_those_of_the_stable_version_say_nothing():
    good, broken = tensor([1.0]), Tensor("y", "FP32", (1,), b"abc")
    assert difference([good], [broken]).startswith("y: it cannot be read")
    with pytest.raises(Incomparable):
        difference([broken], [good])


def test_a_plan_may_name_another_tolerance_and_what_it_leaves_out_is_as_usual():
    live, shadow = tensor([100.0, 0.0]), tensor([101.0, 0.0])
    assert difference([live], [shadow]) == "y: 1 of 2 values differ, first at 0"
    assert difference([live], [shadow], Tolerance(rtol=0.02)) == ""
    assert difference([live], [shadow], Tolerance(atol=1.5)) == ""
    assert difference([live], [shadow], Tolerance(rtol=0.0, atol=0.5)) != ""
    assert difference([tensor([7, 1], "INT64")], [tensor([8, 1], "INT64")], Tolerance(atol=1)) == ""


def test_what_differs_is_told_with_a_few_values_of_both():
    values = np.arange(1000, dtype=np.float32)
    other = values.copy()
    other[[10, 500]] = -1
    found = between([tensor(values)], [tensor(other)])
    assert found == Difference(
        "y", "2 of 1000 values differ, first at 10", "[10, 11, 12, 13, 14, 15, 16, 17]",
        "[-1, 11, 12, 13, 14, 15, 16, 17]",
    )  # fmt: skip


def test_large_tensors_are_compared_in_blocks(monkeypatch):
    monkeypatch.setattr(comparison, "BLOCK", 4)
    values = np.arange(30, dtype=np.float32).reshape(10, 3)
    other = values.copy()
    other[[5, 9]] = [50, 40, 30]
    assert between([tensor(values)], [tensor(other)]).what == "6 of 30 values differ, first at 15"
    found = between([tensor(values)], [tensor(other)], Tolerance(top_k=1))
    assert found == Difference("y", "argmax: 2 of 10 rows differ, first row 5", "at [2]", "at [0]")
    assert between([tensor(values)], [tensor(values + 0.5)], Tolerance(top_k=1)) is None
    found = between([tensor(values / 100)], [tensor(other / 100)], Tolerance(distance=("totalVariation", 0.3)))
    assert found.what == "totalVariation is up to 0.36 in 1 of 10 rows, first row 5"


@pytest.mark.parametrize(
    ("k", "live", "shadow", "agrees"),
    [
        (1, [0.1, 0.7, 0.2], [0.3, 0.4, 0.3], True),
        (1, [0.1, 0.7, 0.2], [0.5, 0.4, 0.1], False),
        (1, [0.5, 0.5, 0.0], [0.4, 0.6, 0.0], True),  # either of equal ones will do
        (1, [0.1, 0.7, 0.2], [0.3, 0.3, 0.3], False),  # the first of these is what its reader takes
        (2, [0.1, 0.7, 0.2], [0.0, 0.3, 0.6], True),
        (2, [0.1, 0.7, 0.2], [0.5, 0.3, 0.2], False),
        (1, [[1, 2], [2, 1]], [[1, 2], [1, 2]], False),
        (1, [np.nan, 1.0, 2.0], [np.nan, 3.0, 4.0], True),
        (1, [1.0, 2.0], [np.nan, 2.0], False),
        (1, 5.0, 7.0, True),
    ],
)
def test_the_greatest_values_may_have_to_be_in_the_same_places(k, live, shadow, agrees):
    assert (difference([tensor(live)], [tensor(shadow)], Tolerance(top_k=k)) == "") is agrees


@pytest.mark.parametrize("name", ["totalVariation", "jensenShannon"])
def test_distributions_may_have_to_be_near_each_other(name):
    live = tensor([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]])
    near, far = tensor([[0.52, 0.48, 0.0], [1.0, 0.0, 0.0]]), tensor([[0.5, 0.5, 0.0], [0.0, 0.0, 1.0]])
    assert difference([live], [near], Tolerance(distance=(name, 0.05))) == ""
    assert difference([live], [near], Tolerance(distance=(name, 0.01))) != ""
    assert "is up to 1 in 1 of 2 rows" in difference([live], [far], Tolerance(distance=(name, 0.999)))
    assert difference([live], [far], Tolerance(distance=(name, 1.0))) == ""


@pytest.mark.parametrize("name", ["totalVariation", "jensenShannon"])
@pytest.mark.parametrize("values", [[np.nan, 1.0], [np.inf, 0.0], [-0.1, 1.1]])
def test_what_is_no_distribution_is_near_to_none(name, values):
    live = tensor([0.0, 1.0])
    assert difference([live], [tensor(values)], Tolerance(distance=(name, 1.0))) != ""
    assert difference([tensor(values)], [tensor(values)], Tolerance(distance=(name, 0.0))) == ""


def test_all_that_is_named_must_hold():
    live, shadow = tensor([0.6, 0.4]), tensor([0.45, 0.55])
    near = ("totalVariation", 0.2)
    assert difference([live], [shadow], Tolerance(distance=near)) == ""
    assert difference([live], [shadow], Tolerance(top_k=1, distance=near)) != ""
    assert difference([live], [shadow], Tolerance(atol=0.1, distance=near)) != ""


def test_outputs_have_tolerances_of_their_own_and_the_others_that_of_all():
    plan = Comparison(Tolerance(atol=1.0), (("z", Tolerance(top_k=1)),))
    live = [tensor([1.0, 2.0]), tensor([1.0, 2.0], name="z")]
    assert comparison.difference(live, [tensor([1.5, 2.5]), tensor([8.0, 9.0], name="z")], plan) is None
    found = comparison.difference(live, [tensor([1.5, 2.5]), tensor([2.1, 2.0], name="z")], plan)
    assert found is not None
    assert found.output == "z"


@given(st.lists(st.floats(width=32), min_size=1, max_size=8))
def test_every_answer_agrees_with_itself(values):
    assert difference([tensor(values)], [tensor(values)]) == ""


shapes = st.lists(st.integers(0, 4), max_size=3).map(tuple)
tolerances = st.builds(
    Tolerance,
    st.none() | st.floats(0, 1),
    st.none() | st.floats(0, 1),
    st.none() | st.integers(1, 9),
    st.none() | st.tuples(st.sampled_from(["totalVariation", "jensenShannon"]), st.floats(0, 1)),
)


@st.composite
def pairs(draw):
    """Two tensors of one kind with any bytes; those of the second are not always as many as they should be."""
    datatype, shape = draw(st.sampled_from(sorted(DTYPES))), draw(shapes)
    size = DTYPES[datatype].itemsize * int(np.prod(shape, dtype=int))
    raw, other = draw(st.binary(min_size=size, max_size=size)), draw(st.binary(min_size=size, max_size=size + 3))
    return Tensor("y", datatype, shape, raw), Tensor("y", datatype, shape, other)


@given(pairs(), tolerances)
def test_whatever_a_shadow_answers_agrees_or_is_told_in_short(pair, tolerance):
    live, shadow = pair
    assert between([live], [live], tolerance) is None
    found = between([live], [shadow], tolerance)
    assert found is None or all(len(text) <= 300 for text in found)
    if found is None:
        assert len(shadow.raw) == len(live.raw)


@given(st.lists(st.binary(max_size=5), max_size=5), st.binary(max_size=40))
def test_whatever_a_shadow_answers_in_texts_is_compared(texts, raw):
    live = tensor(texts, "BYTES")
    found = between([live], [Tensor("y", "BYTES", live.shape, raw)])
    assert (found is None) == (raw == live.raw)
