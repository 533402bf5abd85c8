"""Every route with every scope, and the OpenAPI document against what is really answered."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from live_plane import LivePlane

from gateway.admin.access import Scope
from gateway.admin.openapi import Operation
from gateway.admin.plane import OPENAPI_PATH, OPERATIONS
from gateway.admin.registry_operations import OPERATIONS as REGISTRY_OPERATIONS
from gateway.admin.rollout_operations import OPERATIONS as ROLLOUT_OPERATIONS
from gateway.admin.tokens import SCOPES

EVERY = (*OPERATIONS, *REGISTRY_OPERATIONS, *ROLLOUT_OPERATIONS)
EXAMPLES = {"model": "fraud", "version": "1", "alias": "champion", "sha256": "a" * 64, "rollout": "0" * 12}


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LivePlane]:
    with LivePlane(tmp_path_factory.mktemp("plane")).running() as plane:
        yield plane


@pytest.fixture(scope="module")
def tokens(plane: LivePlane) -> dict[str, str]:
    return {scope: plane.token(scope, name=scope) for scope in SCOPES}


def target(operation: Operation) -> str:
    return re.sub(r"{(\w+)}", lambda match: EXAMPLES[match[1]], operation.path)


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("operation", EVERY, ids=lambda operation: operation.id)
def test_a_route_opens_to_its_scope_and_to_no_other(
    plane: LivePlane, tokens: dict[str, str], operation: Operation, scope: Scope
) -> None:
    status, document, headers = plane.ask(operation.method, target(operation), token=tokens[scope])
    if operation.scope in (scope, "read"):
        assert status not in (401, 403), "what is missing is the rest of the request, not the right"
    else:
        assert status == 403
        if operation.method != "HEAD":
            assert document["scope"] == operation.scope
            assert headers["content-type"].startswith("application/problem+json")


@pytest.mark.parametrize("operation", EVERY, ids=lambda operation: operation.id)
def test_no_route_opens_without_a_token_once_there_is_one(
    plane: LivePlane, tokens: dict[str, str], operation: Operation
) -> None:
    status, _, headers = plane.ask(operation.method, target(operation))
    assert status == 401
    assert headers["www-authenticate"].startswith("Bearer")
    assert plane.ask(operation.method, target(operation), token="slt_00000000_" + "A" * 43)[0] == 401


@pytest.mark.parametrize("operation", EVERY, ids=lambda operation: operation.id)
def test_no_route_opens_to_a_page_of_another_origin(
    plane: LivePlane, tokens: dict[str, str], operation: Operation
) -> None:
    for headers in ({"Origin": "https://evil.example"}, {"Host": "rebound.example"}):
        assert plane.ask(operation.method, target(operation), token=tokens["operate"], **headers)[0] == 403


def test_every_route_of_the_api_is_in_the_table(plane: LivePlane, tokens: dict[str, str]) -> None:
    _, document, _ = plane.ask("GET", OPENAPI_PATH, token=tokens["read"])
    listed = {(path, method.upper()) for path, methods in document["paths"].items() for method in methods}
    assert listed == {(operation.path, operation.method) for operation in EVERY}
    assert len({operation.id for operation in EVERY}) == len(EVERY)


def test_whoever_changes_something_says_what_or_sends_it_whole() -> None:
    exempt = {"drain", "put_object", "publish_version", "verify_version", "collect"}
    exempt |= {"start_rollout", "abort_rollout", "give_feedback"}  # new, always right, and only ever more
    for operation in EVERY:
        if operation.method in ("PUT", "POST", "DELETE", "PATCH") and operation.id not in exempt:
            assert operation.condition == "required", operation.id
            assert {412, 428} <= set(operation.refusals)


def test_an_unknown_path_needs_a_token_too(plane: LivePlane, tokens: dict[str, str]) -> None:
    assert plane.ask("GET", "/api/v1/registry/secrets")[0] == 401
    assert plane.ask("GET", "/api/v1/registry/secrets", token=tokens["read"])[0] == 404
    status, _, headers = plane.ask("PATCH", "/api/v1/registry/models/fraud/policy", token=tokens["operate"])
    assert status == 405
    assert "PUT" in headers["allow"]
