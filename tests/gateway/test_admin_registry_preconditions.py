"""What a caller has to say about what it changes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.admin.preconditions import etag_of, is_not_modified, require_match
from gateway.admin.problems import ProblemError


def refused(if_match: str | None, if_none_match: str | None, current: str | None) -> int:
    try:
        require_match(if_match, if_none_match, current)
    except ProblemError as error:
        return error.problem.status
    return 0


@pytest.mark.parametrize(
    ("if_match", "if_none_match", "current", "status"),
    [
        (None, None, '"1"', 428),
        ('"1"', None, '"1"', 0),
        ('"0", "1"', None, '"1"', 0),
        ('"2"', None, '"1"', 412),
        ('W/"1"', None, '"1"', 412),
        ("*", None, '"1"', 0),
        ("*", None, None, 412),
        ('"1"', None, None, 412),
        (None, "*", None, 0),
        (None, "*", '"1"', 412),
        (None, '"1"', '"1"', 412),
        (None, '"2"', '"1"', 0),
        ('"1"', '"1"', '"1"', 412),
        ("1", None, '"1"', 400),
        ('"1" "2"', None, '"1"', 400),
    ],
)
def test_a_change_passes_when_the_caller_knows_what_it_changes(
    if_match: str | None, if_none_match: str | None, current: str | None, status: int
) -> None:
    assert refused(if_match, if_none_match, current) == status


def test_who_has_it_already_is_told_so() -> None:
    assert is_not_modified('"1"', '"1"')
    assert is_not_modified('W/"1"', '"1"')
    assert is_not_modified("*", '"1"')
    assert not is_not_modified('"2"', '"1"')
    assert not is_not_modified("nonsense", '"1"')
    assert not is_not_modified(None, '"1"')


@given(st.dictionaries(st.text(), st.integers() | st.text() | st.none()))
def test_equal_documents_have_equal_tags_in_any_order(document: dict[str, object]) -> None:
    turned = dict(reversed(document.items()))
    assert etag_of(document) == etag_of(turned)
    assert refused(etag_of(document), None, etag_of(turned)) == 0
    assert etag_of({**document, "one": "more"}) != etag_of({**document, "one": "less"})


@given(st.text(max_size=50), st.text(max_size=50))
def test_any_header_is_answered(if_match: str, if_none_match: str) -> None:
    assert refused(if_match, if_none_match, '"1"') in (0, 400, 412)
