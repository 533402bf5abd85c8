"""Rollouts over HTTP: starting once, commands for who knows what they change, labels, and plain refusals."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from live_plane import FakeController, LivePlane
from manifests import manifest

from registry.policies import ModelPolicy

ROLLOUTS = "/api/v1/models/fraud/rollouts"
QUICK = {"steps": [{"setWeight": 10}, {"bake": {"minTime": "1s", "minRequests": 10}}]}


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[LivePlane]:
    """With three versions of a model, the first of which is the champion."""
    plane = LivePlane(tmp_path)
    catalog = plane.catalog()
    for words in ("one", "two", "three"):
        catalog.add_version(manifest(words), "ann")
    catalog.move_alias("fraud", "champion", 1, actor="ann")
    catalog.close()
    with plane.running():
        yield plane


def start(plane: LivePlane, to: int = 2, **more: Any) -> Any:
    status, document, _ = plane.ask("POST", ROLLOUTS, {"to": to, "plan": QUICK, **more})
    assert status == 201, document
    return document


def kind(document: Any) -> str:
    return str(document["type"]).removeprefix("urn:sluice:problem:")


def test_a_rollout_starts_and_is_found(plane: LivePlane) -> None:
    begun = start(plane, reason="better")
    assert (begun["from"], begun["to"], begun["alias"], begun["state"]) == (1, 2, "champion", "waiting")
    status, found, headers = plane.ask("GET", f"/api/v1/rollouts/{begun['id']}")
    assert (status, found, headers["etag"]) == (200, begun, '"1"')
    assert plane.ask("GET", ROLLOUTS)[1] == {"rollouts": [begun]}
    assert plane.ask("GET", f"{ROLLOUTS}?limit=1")[1] == {"rollouts": [begun]}
    _, history, _ = plane.ask("GET", f"/api/v1/rollouts/{begun['id']}/history")
    assert [(one["action"], one["reason"]) for one in history["history"]] == [("rollout.start", "better")]
    assert isinstance(plane.rollouts, FakeController)
    assert plane.rollouts.woken == 1, "the gateway looks at once"


def test_the_same_key_begins_no_second_one(plane: LivePlane) -> None:
    document = {"to": 2, "plan": QUICK}
    status, first, _ = plane.ask("POST", ROLLOUTS, document, Idempotency_Key="build-7")
    assert status == 201
    assert plane.ask("POST", ROLLOUTS, document, Idempotency_Key="build-7")[1]["id"] == first["id"]
    status, problem, _ = plane.ask("POST", ROLLOUTS, {"to": 3, "plan": QUICK}, Idempotency_Key="build-7")
    assert (status, kind(problem)) == (409, "request-key-reused")
    status, problem, _ = plane.ask("POST", ROLLOUTS, document, Idempotency_Key="build-8")
    assert (status, kind(problem), problem["id"]) == (409, "rollout-under-way", first["id"])


def test_a_command_needs_to_know_what_it_changes_and_an_abort_does_not(plane: LivePlane) -> None:
    path = f"/api/v1/rollouts/{start(plane)['id']}"
    assert kind(plane.ask("POST", f"{path}:promote", {})[1]) == "precondition-required"
    status, problem, _ = plane.ask("POST", f"{path}:promote", {}, If_Match='"7"')
    assert (status, kind(problem), problem["etag"]) == (412, "precondition-failed", '"1"')
    status, problem, _ = plane.ask("POST", f"{path}:promote", {}, If_Match="*")
    assert (status, kind(problem)) == (409, "rollout-refused"), "it is not loaded yet"
    status, aborted, headers = plane.ask("POST", f"{path}:abort", {"reason": "enough"})
    assert (status, aborted["outcome"], aborted["reason"], headers["etag"]) == (200, "rolled-back", "enough", '"2"')
    assert plane.ask("POST", f"{path}:abort", {})[:2] == (200, aborted)


@pytest.mark.parametrize(
    ("document", "status", "problem"),
    [
        ({}, 400, "invalid-request"),
        ({"to": 2, "oops": 1}, 400, "invalid-request"),
        ({"to": 9}, 404, "not-found"),
        ({"to": 1}, 409, "rollout-refused"),
        ({"to": 2, "alias": "other"}, 409, "rollout-refused"),
        ({"to": 2, "plan": {"steps": [{"setWeight": 200}]}}, 422, "invalid-plan"),
        ({"to": 2, "plan": {"stepps": []}}, 422, "invalid-plan"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(plane: LivePlane, document: Any, status: int, problem: str) -> None:
    answer = plane.ask("POST", ROLLOUTS, document)
    assert (answer[0], kind(answer[1])) == (status, problem), answer[1]
    assert plane.ask("GET", ROLLOUTS)[1] == {"rollouts": []}


def test_a_plan_is_refused_with_the_path_of_what_is_wrong(plane: LivePlane) -> None:
    steps = [{"setWeight": 1}, {"bake": {"minTime": "soon"}}]
    assert plane.ask("POST", ROLLOUTS, {"to": 2, "plan": {"steps": steps}})[1]["field"] == "steps[1].bake.minTime"


def test_a_model_that_no_alias_serves_is_told_how_to_have_one(plane: LivePlane) -> None:
    catalog = plane.catalog()
    catalog.set_policy("fraud", ModelPolicy("latest"), "ann")
    catalog.close()
    assert "--served-by alias:champion" in plane.ask("POST", ROLLOUTS, {"to": 2})[1]["detail"]


def test_labels_are_handed_on_one_by_one(plane: LivePlane) -> None:
    labels = [
        {"request_id": "a", "version": 2, "correct": False, "served_at": 1700000000.5},
        {"request_id": "b", "version": 1, "correct": True},
    ]
    status, taken, _ = plane.ask("POST", "/api/v1/feedback", {"model": "fraud", "labels": labels})
    assert (status, taken) == (202, {"counted": 1, "ignored": 1})
    assert isinstance(plane.rollouts, FakeController)
    (_, first), (_, second) = plane.rollouts.labels
    assert (first.request_id, first.version, first.is_correct, first.served_at) == ("a", 2, False, 1700000000.5)
    assert second.served_at is None
    for wrong in ([], [{"request_id": "", "version": 1, "correct": True}], [{"request_id": "a", "version": 1}], [7]):
        assert plane.ask("POST", "/api/v1/feedback", {"model": "fraud", "labels": wrong})[0] == 400, wrong


def test_a_gateway_that_does_not_serve_the_catalog_says_so(tmp_path: Path) -> None:
    plane = LivePlane(tmp_path)
    plane.rollouts = None
    with plane.running():
        for method, path, document in (
            ("GET", ROLLOUTS, None),
            ("POST", ROLLOUTS, {"to": 2}),
            ("POST", f"/api/v1/rollouts/{'0' * 12}:abort", {}),
        ):
            status, problem, _ = plane.ask(method, path, document)
            assert (status, kind(problem)) == (409, "no-catalog")
