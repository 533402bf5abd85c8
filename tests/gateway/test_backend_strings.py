"""BYTES tensors keep every byte on the way to Python and back, and lengths that lie are found out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.backends import strings


@given(st.lists(st.binary(max_size=40), max_size=20))
def test_elements_survive_the_way_there_and_back(elements: list[bytes]) -> None:
    raw = np.frombuffer(strings.to_raw(elements), np.uint8)
    assert strings.from_raw(raw, (len(elements),)).tolist() == elements


@given(st.lists(st.text(max_size=20), max_size=12))
def test_text_is_utf8(elements: list[str]) -> None:
    decoded = strings.from_raw(strings.to_raw(elements), (len(elements),))
    assert strings.to_text(decoded).tolist() == elements


def test_elements_take_the_shape_they_are_given() -> None:
    array = strings.from_raw(strings.to_raw(["a", "b", "c", "d"]), (2, 2))
    assert array.tolist() == [[b"a", b"b"], [b"c", b"d"]]
    assert strings.from_raw(b"", (0, 3)).shape == (0, 3)


@pytest.mark.parametrize(
    ("raw", "count"),
    [(b"", 1), (b"\1\0\0", 1), (b"\2\0\0\0a", 1), (b"\1\0\0\0a", 2), (b"\1\0\0\0a\0", 1), (b"\xff\xff\xff\xffa", 1)],
)
def test_lengths_that_do_not_add_up_are_refused(raw: bytes, count: int) -> None:
    with pytest.raises(ValueError):
        strings.from_raw(raw, (count,))


@given(st.binary(max_size=60), st.integers(0, 8))
def test_any_bytes_are_either_exactly_the_elements_or_refused(raw: bytes, count: int) -> None:
    try:
        elements = strings.from_raw(raw, (count,))
    except ValueError:
        return
    assert strings.to_raw(elements.flat) == raw
