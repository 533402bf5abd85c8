"""What changed between two versions, and whether callers have to care."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.diff import SECTIONS, diff, is_compatible
from registry.manifest import FileEntry, Lineage, Manifest, TensorSpec

ROWS = TensorSpec("rows", "FP32", (-1, 30))
SCORES = TensorSpec("scores", "FP32", (-1, 2))
LABEL = TensorSpec("label", "INT64", (-1,))
BEFORE = Manifest(
    model="fraud",
    files=(FileEntry("model.onnx", "a" * 64, 100),),
    inputs=(ROWS,),
    outputs=(SCORES,),
    operators={"Gemm": 3},
    opset=17,
    metrics={"auc": 0.5},
    lineage=Lineage(git_commit="1" * 40),
)


def items(**changes: Any) -> list[tuple[str, str, Any, Any]]:
    found = diff(BEFORE, replace(BEFORE, **changes)).changes
    return [(one.section, one.item, one.before, one.after) for one in found]


def test_equal_manifests_have_no_difference() -> None:
    assert diff(BEFORE, BEFORE).changes == ()
    assert diff(BEFORE, BEFORE).is_compatible


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"operators": {"Gemm": 2, "Relu": 1}}, [("operators", "Gemm", 3, 2), ("operators", "Relu", None, 1)]),
        ({"opset": 18}, [("format", "opset", 17, 18)]),
        ({"metrics": {}}, [("metrics", "auc", 0.5, None)]),
        ({"tags": {"team": "risk"}}, [("tags", "team", None, "risk")]),
        ({"card": {"owner": "ann"}}, [("card", "owner", None, "ann")]),
        ({"config_text": "x"}, [("config", "config.pbtxt", None, "x")]),
        ({"lineage": Lineage(git_commit="2" * 40)}, [("lineage", "git_commit", "1" * 40, "2" * 40)]),
        (
            {"files": (FileEntry("model.onnx", "b" * 64, 70),)},
            [("size", "bytes", 100, 70), ("files", "model.onnx", "a" * 64, "b" * 64)],
        ),
        (
            {"inputs": (TensorSpec("rows", "FP64", (-1, 30)),)},
            [("signature", "input rows", "FP32 [-1, 30]", "FP64 [-1, 30]")],
        ),
    ],
)
def test_each_change_is_one_item(changes: dict[str, Any], found: list[tuple[str, str, Any, Any]]) -> None:
    assert items(**changes) == found


@pytest.mark.parametrize(
    ("inputs", "outputs", "compatible"),
    [
        ((ROWS,), (SCORES,), True),
        ((ROWS,), (SCORES, LABEL), True),  # one more output: nobody has to look at it
        ((ROWS,), (LABEL,), False),
        ((ROWS, LABEL), (SCORES,), False),  # one more input: nobody sends it
        ((), (SCORES,), False),
        ((TensorSpec("rows", "FP32", (-1, -1)),), (SCORES,), True),  # takes more than before
        ((TensorSpec("rows", "FP32", (8, 30)),), (SCORES,), False),
        ((TensorSpec("rows", "FP32", (-1, 31)),), (SCORES,), False),
        ((ROWS,), (TensorSpec("scores", "FP32", (-1, -1)),), False),  # promises less than before
        ((ROWS,), (TensorSpec("scores", "FP32", (8, 2)),), True),
        ((ROWS,), (TensorSpec("scores", "FP32", (-1, 2, 1)),), False),
    ],
)
def test_callers_can_go_on_when_they_lose_nothing(
    inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...], compatible: bool
) -> None:
    assert is_compatible(BEFORE, replace(BEFORE, inputs=inputs, outputs=outputs)) is compatible


WORDS = st.text("abc", min_size=1, max_size=2)
MANIFESTS = st.builds(
    lambda operators, metrics, tags: replace(BEFORE, operators=operators, metrics=metrics, tags=tags),
    st.dictionaries(WORDS, st.integers(0, 3)),
    st.dictionaries(WORDS, st.floats(0, 1)),
    st.dictionaries(WORDS, WORDS),
)


@given(MANIFESTS, MANIFESTS)
def test_a_difference_read_backwards_is_the_difference_the_other_way(one: Manifest, other: Manifest) -> None:
    there = {(c.section, c.item, c.before, c.after) for c in diff(one, other).changes}
    back = {(c.section, c.item, c.after, c.before) for c in diff(other, one).changes}
    assert there == back
    order = [SECTIONS.index(c.section) for c in diff(one, other).changes]
    assert order == sorted(order)
