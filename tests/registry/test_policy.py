"""Version policies."""

import pytest

from registry.errors import InvalidPolicy
from registry.policy import All, Latest, Specific


def test_latest_takes_the_highest():
    assert Latest().choose([2, 10, 9]) == {10}
    assert Latest(2).choose([2, 10, 9]) == {9, 10}
    assert Latest(5).choose([2, 10, 9]) == {2, 9, 10}
    assert Latest(5).choose([]) == frozenset()


def test_all_takes_all():
    assert All().choose([3, 1]) == {1, 3}


def test_specific_takes_those_that_exist_and_names_those_that_do_not():
    policy = Specific(frozenset({1, 4}))
    assert policy.choose([1, 2]) == {1}
    assert policy.missing([1, 2]) == {4}
    assert Latest().missing([1]) == All().missing([1]) == frozenset()


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: Latest(0), "count"),
        (lambda: Specific(frozenset()), "versions"),
        (lambda: Specific(frozenset({0})), "versions"),
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(make, field: str):
    with pytest.raises(InvalidPolicy) as refusal:
        make()
    assert refusal.value.field == field
