from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from manifests import manifest

from registry.catalog_rows import CheckRow, VersionRow
from registry.errors import InvalidPolicy
from registry.manifest import Manifest
from registry.policies import (
    GOLDEN,
    ApprovalPolicy,
    ByAlias,
    GoldenSet,
    ModelPolicy,
    choose,
    golden_subject,
    may_publish,
    may_serve,
    parse_served_by,
)
from registry.policy import All, Latest, Specific

SET = GoldenSet("5" * 64, 100)


def row(
    stage: str = "pending", signatures: tuple[str, ...] = (), checks: tuple[CheckRow, ...] = (), **fields: Any
) -> VersionRow:
    value = manifest(**fields)
    return VersionRow("fraud", 1, value.digest, stage, "", "ada", value.to_json(), signatures, checks)  # type: ignore[arg-type]


def by_name(_manifest: Manifest, signature: str, key: str) -> bool:
    """Signatures of tests are called like their keys."""
    return signature == key


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        ("default", ByAlias("champion", or_latest=True)),
        ("alias:blue", ByAlias("blue")),
        ("latest", Latest(1)),
        ("latest:3", Latest(3)),
        ("all", All()),
        ("versions:2", Specific(frozenset({2}))),
        ("versions:1,30", Specific(frozenset({1, 30}))),
    ],
)
def test_what_is_served_is_written_in_a_word(text: str, policy: object) -> None:
    assert parse_served_by(text) == policy
    assert ModelPolicy(text).served_by == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Latest",
        "latest:0",
        "latest:",
        "latest:-1",
        "alias:",
        "alias:7",
        "alias:a/b",
        "versions:",
        "versions:0",
        "versions:1,",
        "versions:1, 2",
        "newest",
        "latest:9999999999",
    ],
)
def test_another_word_is_refused(text: str) -> None:
    with pytest.raises(InvalidPolicy) as error:
        ModelPolicy(text)
    assert error.value.field == "served_by"


@pytest.mark.parametrize(
    ("text", "aliases", "chosen"),
    [
        ("default", {}, {5}),
        ("default", {"champion": 2}, {2}),
        ("default", {"candidate": 2}, {5}),
        ("alias:blue", {}, set()),
        ("alias:blue", {"blue": 3}, {3}),
        ("alias:blue", {"blue": 4}, set()),
        ("latest:2", {"champion": 1}, {3, 5}),
        ("all", {}, {1, 2, 3, 5}),
        ("versions:1,4,5", {}, {1, 5}),
    ],
)
def test_versions_are_chosen_by_policy_and_aliases(text: str, aliases: dict[str, int], chosen: set[int]) -> None:
    assert choose(parse_served_by(text), [1, 2, 3, 5], aliases) == chosen


class TestApprovalMatrix:
    @pytest.mark.parametrize(
        ("required", "stage", "is_served"),
        [
            (False, "pending", True),
            (False, "approved", True),
            (False, "rejected", False),
            (True, "pending", False),
            (True, "approved", True),
            (True, "rejected", False),
        ],
    )
    def test_approval(self, required: bool, stage: str, is_served: bool) -> None:
        assert (may_serve(row(stage), ApprovalPolicy(required), by_name) == []) is is_served

    @pytest.mark.parametrize(
        ("keys", "signatures", "is_served"),
        [
            ((), (), True),
            ((), ("mallory",), True),
            (("ada",), (), False),
            (("ada",), ("mallory",), False),
            (("ada",), ("ada",), True),
            (("ada", "bob"), ("mallory", "bob"), True),
        ],
    )
    def test_signature(self, keys: tuple[str, ...], signatures: tuple[str, ...], is_served: bool) -> None:
        found = may_serve(row(signatures=signatures), ApprovalPolicy(signed_by=keys), by_name)
        assert (found == []) is is_served

    @pytest.mark.parametrize(
        ("card", "is_served"),
        [
            ({}, False),
            ({"owner": "ada"}, False),
            ({"owner": "ada", "licence": ""}, False),
            ({"owner": "ada", "licence": None}, False),
            ({"owner": "ada", "licence": "MIT"}, True),
            ({"owner": 0, "licence": False}, True),
        ],
    )
    def test_card_fields(self, card: dict[str, Any], is_served: bool) -> None:
        policy = ApprovalPolicy(card_fields=("owner", "licence"))
        assert (may_serve(row(card=card), policy, by_name) == []) is is_served
        assert (may_publish("onnx", card, policy) == []) is is_served

    def test_format(self) -> None:
        assert may_publish("onnx", {}, ApprovalPolicy(formats=("pt2",))) == ["format onnx is not allowed"]

    @pytest.mark.parametrize(
        ("checks", "reasons"),
        [
            ((), ["not checked against the golden set yet"]),
            ((CheckRow(GOLDEN, golden_subject(SET), True),), []),
            ((CheckRow(GOLDEN, golden_subject(SET), False),), ["its outputs differ from the golden set's"]),
            ((CheckRow(GOLDEN, golden_subject(SET), False), CheckRow(GOLDEN, golden_subject(SET), True)), []),
            ((CheckRow("other", golden_subject(SET), True),), ["not checked against the golden set yet"]),
            (
                (CheckRow(GOLDEN, golden_subject(replace(SET, relative_tolerance=1.0)), True),),
                ["not checked against the golden set yet"],
            ),
        ],
    )
    def test_golden_set(self, checks: tuple[CheckRow, ...], reasons: list[str]) -> None:
        assert may_serve(row(checks=checks), ApprovalPolicy(golden=SET), by_name) == reasons

    def test_every_missing_thing_is_a_reason_of_its_own_and_one_is_enough(self) -> None:
        policy = ApprovalPolicy(True, ("ada",), ("onnx",), ("owner",), SET)
        for approved, signed, carded, golden in product([True, False], repeat=4):
            version = row(
                "approved" if approved else "pending",
                ("ada",) if signed else (),
                (CheckRow(GOLDEN, golden_subject(SET), True),) if golden else (),
                card={"owner": "ada"} if carded else {},
            )
            assert len(may_serve(version, policy, by_name)) == [approved, signed, carded, golden].count(False)


@given(
    st.builds(
        ModelPolicy,
        st.sampled_from(["default", "all", "latest:2", "alias:x", "versions:1,2"]),
        st.sampled_from(["swap", "propose"]),
        st.builds(
            ApprovalPolicy,
            st.booleans(),
            st.lists(st.text(min_size=1), max_size=2).map(tuple),
            st.just(("onnx",)),
            st.lists(st.text(min_size=1), max_size=2).map(tuple),
            st.none() | st.builds(GoldenSet, st.just("a" * 64), st.integers(0, 9), st.floats(0, 1), st.floats(0, 1)),
        ),
        st.booleans(),
    )
)
def test_a_policy_reads_back_as_it_was(policy: ModelPolicy) -> None:
    assert ModelPolicy.from_dict(policy.to_dict()) == policy


@pytest.mark.parametrize(
    ("plain", "field"),
    [
        ({"serve": "all"}, "serve"),
        ({"served_by": 7}, "served_by"),
        ({"on_alias_move": "jump"}, "on_alias_move"),
        ({"load_on_demand": "yes"}, "load_on_demand"),
        ({"approval": []}, "approval"),
        ({"approval": {"required": True}}, "approval.required"),
        ({"approval": {"require_approval": 1}}, "require_approval"),
        ({"approval": {"signed_by": "key"}}, "signed_by"),
        ({"approval": {"formats": [""]}}, "formats"),
        ({"approval": {"golden": {"sha256": "0" * 64}}}, "approval.golden"),
        ({"approval": {"golden": {"sha256": "x", "size": 1}}}, "golden.sha256"),
        (
            {"approval": {"golden": {"sha256": "0" * 64, "size": 1, "relative_tolerance": -1}}},
            "golden.relative_tolerance",
        ),
    ],
)
def test_a_policy_with_a_strange_field_is_refused_and_the_field_named(plain: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidPolicy) as error:
        ModelPolicy.from_dict(plain)
    assert error.value.field == field


def test_nothing_said_is_the_default() -> None:
    assert ModelPolicy.from_dict({}) == ModelPolicy()
    assert may_serve(row(), ModelPolicy().approval, by_name) == []
