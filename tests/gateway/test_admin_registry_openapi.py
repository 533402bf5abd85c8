"""The OpenAPI document: valid, and true of whatever is asked. Requests and answers are checked by schemathesis."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import models
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from live_plane import LivePlane
from openapi_spec_validator import OpenAPIV31SpecValidator
from schemathesis.specs.openapi.checks import positive_data_acceptance

from gateway import __version__
from gateway.admin import openapi
from gateway.admin.plane import OPERATIONS
from gateway.admin.registry_operations import OPERATIONS as REGISTRY_OPERATIONS
from gateway.admin.rollout_operations import OPERATIONS as ROLLOUT_OPERATIONS
from gateway.admin.tokens import SCOPES
from gateway.admin.webhook import OPERATION as WEBHOOK_OPERATION

SERVED = (*OPERATIONS, *REGISTRY_OPERATIONS, *ROLLOUT_OPERATIONS)
DOCUMENT = openapi.document(SERVED, __version__)
WHOLE_DOCUMENT = openapi.document((*SERVED, WEBHOOK_OPERATION), __version__)
"""With what only some gateways have."""
ROOT = "/api/v1/registry"
BEYOND_SCHEMAS = [positive_data_acceptance]
"""A digest has to be that of the body, a file has to be stored: no schema can say so."""
schema = schemathesis.openapi.from_dict(DOCUMENT)


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LivePlane]:
    """With a model of two versions, whose names the examples below use."""
    with LivePlane(tmp_path_factory.mktemp("plane")).running() as plane:
        for number in (1, 2):
            content = models.version_of(number).SerializeToString()
            sha256 = hashlib.sha256(content).hexdigest()
            plane.ask("PUT", f"{ROOT}/objects/{sha256}", body=content)
            document = {
                "files": [{"path": "model.onnx", "sha256": sha256, "size": len(content)}],
                "alias": "champion",
                "metrics": {"auc": number / 4},
            }
            assert plane.ask("POST", f"{ROOT}/models/fraud/versions", document)[0] == 201
        yield plane


@pytest.fixture(scope="module")
def bearer(plane: LivePlane) -> dict[str, str]:
    return {"Authorization": f"Bearer {plane.token(*SCOPES)}"}


def test_the_document_is_valid_openapi() -> None:
    OpenAPIV31SpecValidator(WHOLE_DOCUMENT).validate()


def test_the_document_names_every_schema_that_it_uses_and_no_other() -> None:
    text = str(WHOLE_DOCUMENT)
    for name in WHOLE_DOCUMENT["components"]["schemas"]:
        assert f"#/components/schemas/{name}'" in text, f"{name} is used nowhere"


@schema.parametrize()
@settings(
    max_examples=8,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
def test_whatever_is_asked_the_answer_is_one_that_was_announced(
    case: Any, plane: LivePlane, bearer: dict[str, str]
) -> None:
    answer = case.call(base_url=plane.url, headers=bearer)
    case.validate_response(answer, excluded_checks=BEYOND_SCHEMAS)
    assert answer.status_code < 500


KNOWN = {"model": "fraud", "version": "1", "alias": "champion"}


@pytest.mark.parametrize(
    "operation", [one for one in REGISTRY_OPERATIONS if one.method == "GET"], ids=lambda operation: operation.id
)
def test_answers_about_what_is_there_are_as_announced(
    plane: LivePlane, bearer: dict[str, str], operation: openapi.Operation
) -> None:
    case = schema[operation.path]["GET"].Case(
        path_parameters={name: KNOWN[name] for name in operation.parameters},
        query={name: number for number, name in enumerate(sorted(operation.required_query, reverse=True), 1)},
    )
    answer = case.call(base_url=plane.url, headers=bearer)
    assert answer.status_code == 200, answer.text
    case.validate_response(answer)
