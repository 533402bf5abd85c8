"""The admin API as data: operations with their scopes, and the OpenAPI 3.1 document made from them.

The server routes and guards by the same table that the document is made from, so neither can say what the other does
not do. Nothing here knows how an operation is carried out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from gateway.admin import problems, rollout_schemas
from gateway.admin.access import Scope
from gateway.admin.openapi_schemas import PATH_PARAMETERS, SCHEMAS

Condition = Literal["", "cached", "required"]
"""Nothing; an answer with an ETag, and 304 for who has it already; a change that needs If-Match or If-None-Match."""


@dataclass(frozen=True)
class Operation:
    """One method of one path."""

    id: str
    method: str
    path: str
    """Below the root of the server, parameters in braces."""
    scope: Scope
    summary: str
    answers: Mapping[int, str]
    """By status, the schema of the answer; empty for none, or the content type for what is not JSON."""
    tag: str
    body: str = ""
    """The schema of what is sent; a content type for what is not JSON."""
    query: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: MappingProxyType({}))
    required_query: frozenset[str] = frozenset()
    condition: Condition = ""
    is_signed: bool = False
    """No token is asked for: the caller signs what it sends."""

    @property
    def parameters(self) -> list[str]:
        return re.findall(r"{(\w+)}", self.path)

    @property
    def refusals(self) -> list[int]:
        """Statuses of the problems that may come back."""
        found = {401, 403}
        if self.tag not in ("gateway", "document"):
            found |= {404, 503}
        if self.body or self.query or self.parameters:
            found.add(400)
        if self.tag == "rollouts":
            found |= {409}
        if self.condition == "required":
            found |= {412, 428}
        if self.body:
            found |= {409, 413, 415, 422}
        if self.is_signed:
            return [400, 403, 409, 413, 429]
        if self.body == "application/octet-stream":
            found |= {408, 411, 507}
        return sorted(found)


def operation_of(tag: str, root: str, default: Condition) -> Callable[..., Operation]:
    """Makes the operations of one part of the API: id, method, path below `root`, scope, summary, answers, body; what
    else an `Operation` has by name. Those that say nothing of a condition have `default`."""

    def make(
        id: str,
        method: str,
        path: str,
        scope: Scope,
        summary: str,
        answers: Mapping[int, str],
        body: str = "",
        **more: Any,
    ) -> Operation:
        more = {"condition": default, **more}
        return Operation(id, method, root + path, scope, summary, answers, tag, body, **more)

    return make


def document(operations: Iterable[Operation], version: str) -> dict[str, Any]:
    """The whole document."""
    paths: dict[str, dict[str, Any]] = {}
    for one in operations:
        paths.setdefault(one.path, {})[one.method.lower()] = _operation(one)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Sluice admin API",
            "version": version,
            "summary": "What is served, the registry that it comes from, and how traffic moves to a version.",
        },
        "servers": [{"url": "/"}],
        "security": [{"token": []}],
        "paths": paths,
        "components": {
            "schemas": SCHEMAS | rollout_schemas.SCHEMAS,
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer", "description": "Made by `sluice token create`."}
            },
        },
    }


def _operation(one: Operation) -> dict[str, Any]:
    made: dict[str, Any] = {
        "operationId": one.id,
        "summary": one.summary,
        "description": f"Scope: {one.scope}.",
        "tags": [one.tag],
        "responses": _answers(one) | {str(status): _problem(one, status) for status in one.refusals},
    }
    if one.is_signed:
        made |= {"security": [], "description": "Signed by its sender."}
    if parameters := [*_path_parameters(one), *_query(one), *_conditions(one)]:
        made["parameters"] = parameters
    if one.body:
        made["requestBody"] = {"required": True, "content": _content(one.body)}
    return made


def _answers(one: Operation) -> dict[str, Any]:
    answers: dict[str, Any] = {}
    for status, schema in one.answers.items():
        answer: dict[str, Any] = {"description": _DESCRIPTIONS[status]}
        if schema:
            answer["content"] = _content(schema)
        if one.condition and status < 300:
            answer["headers"] = {"ETag": {"schema": {"type": "string"}, "description": "What is there now."}}
        answers[str(status)] = answer
    if one.condition == "cached":
        answers["304"] = {"description": "The caller has it already."}
    return answers


def _content(schema: str) -> dict[str, Any]:
    if "/" in schema:
        return {schema: {}}
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}


def _problem(one: Operation, status: int) -> dict[str, Any]:
    if one.method == "HEAD":
        return {"description": _DESCRIPTIONS[status]}
    schema = {"$ref": "#/components/schemas/Problem"}
    return {"description": _DESCRIPTIONS[status], "content": {problems.CONTENT_TYPE: {"schema": schema}}}


def _path_parameters(one: Operation) -> list[dict[str, Any]]:
    return [{"name": name, "in": "path", "required": True, "schema": PATH_PARAMETERS[name]} for name in one.parameters]


def _query(one: Operation) -> list[dict[str, Any]]:
    return [
        {"name": name, "in": "query", "required": name in one.required_query, "schema": dict(schema)}
        for name, schema in one.query.items()
    ]


def _conditions(one: Operation) -> list[dict[str, Any]]:
    names = {"": (), "cached": ("If-None-Match",), "required": ("If-Match", "If-None-Match")}[one.condition]
    return [{"name": name, "in": "header", "required": False, "schema": {"type": "string"}} for name in names]


_DESCRIPTIONS: Mapping[int, str] = MappingProxyType(
    {
        200: "Done.",
        201: "Made.",
        202: "Begun.",
        204: "Done; there is nothing to say.",
        400: "The request makes no sense.",
        401: "A token is needed.",
        403: "The token has not the scope, or the rules of the registry forbid it.",
        404: "There is no such thing.",
        408: "The upload made no progress.",
        409: "Not possible as things are.",
        411: "An upload says its length first.",
        412: "It has changed since.",
        413: "Larger than allowed.",
        415: "Of a type that is not taken.",
        422: "Well formed, and refused.",
        428: "A change says what it changes.",
        429: "Too many at this time.",
        503: "The registry cannot be reached now.",
        507: "There is no room left.",
    }
)
