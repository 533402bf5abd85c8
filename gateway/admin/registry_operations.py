"""The operations of the registry's API: their paths, scopes and schemas. `registry_api` carries them out."""

from __future__ import annotations

from typing import Any

from gateway.admin.openapi import Operation, operation_of

ROOT = "/api/v1/registry"
MAX_PAGE = 1000
BINARY, JSON_LINES = "application/octet-stream", "application/jsonl"
_VERSION = {"type": "integer", "minimum": 1, "maximum": 2**53 - 1}


_change = operation_of("registry", ROOT, "required")


def _get(id: str, path: str, summary: str, schema: str, **more: Any) -> Operation:
    return _change(id, "GET", path, "read", summary, {200: schema}, **{"condition": "cached", **more})


_MODEL, _ALIAS = "/models/{model}", "/models/{model}/aliases/{alias}"
_ONE_VERSION = "/models/{model}/versions/{version}"
_PAGE = {
    "after": {"type": "integer", "minimum": 0, "maximum": 2**53 - 1, "default": 0},
    "limit": {"type": "integer", "minimum": 1, "maximum": MAX_PAGE, "default": 100},
}

OPERATIONS: tuple[Operation, ...] = (
    _get("list_models", "/models", "Every model: how many versions, the latest, aliases, policy", "Models"),
    _get("list_versions", f"{_MODEL}/versions", "Every version of a model, the oldest first", "Versions"),
    _get("get_version", _ONE_VERSION, "All about one version, and whether it may be served", "Version"),
    _get("get_manifest", f"{_ONE_VERSION}/manifest", "The manifest as it was published", "Manifest"),
    _get(
        "diff_versions",
        f"{_MODEL}/diff",
        "What changed from one version to another",
        "Diff",
        query={"before": _VERSION, "after": _VERSION},
        required_query=frozenset({"before", "after"}),
    ),
    _get("list_aliases", f"{_MODEL}/aliases", "Where the aliases of a model point", "Aliases"),
    _get("get_alias", _ALIAS, "Where an alias points", "Alias"),
    _get("get_alias_history", f"{_ALIAS}/history", "Where an alias pointed, the newest move first", "AliasHistory"),
    _get("get_policy", f"{_MODEL}/policy", "How versions are served, and what is asked of them", "Policy"),
    _get("get_audit", "/audit", "Entries of the audit log behind a number", "Audit", query=_PAGE),
    _get(
        "verify_audit",
        "/audit/verification",
        "Check the whole chain",
        "AuditVerification",
        condition="",
        query={"anchor": {"type": "string", "pattern": "^[1-9][0-9]{0,15}:[0-9a-f]{64}$"}},
    ),
    _get("list_sources", "/sources", "Where versions come from, and how that is doing", "Sources", condition=""),
    _get("get_cache", "/cache", "What the cache of pulled versions holds", "Cache", condition=""),
    _change(
        "has_object",
        "HEAD",
        "/objects/{sha256}",
        "publish",
        "Whether a file is stored already",
        {200: ""},
        condition="",
    ),
    _change(
        "put_object",
        "PUT",
        "/objects/{sha256}",
        "publish",
        "Store a file under its digest, before it is published",
        {200: "Stored", 201: "Stored"},
        BINARY,
        condition="",
    ),
    _change(
        "publish_version",
        "POST",
        f"{_MODEL}/versions",
        "publish",
        "Publish stored files as the next version; the same files again are none",
        {200: "Published", 201: "Published"},
        "Publication",
        condition="",
    ),
    _change("move_alias", "PUT", _ALIAS, "operate", "Point an alias at a version", {200: "Alias"}, "AliasMove"),
    _change(
        "delete_alias",
        "DELETE",
        _ALIAS,
        "operate",
        "Remove an alias",
        {200: "Alias"},
        query={"reason": {"type": "string", "maxLength": 1000}},
    ),
    _change(
        "set_policy",
        "PUT",
        f"{_MODEL}/policy",
        "operate",
        "Replace the policy of a model",
        {200: "Policy"},
        "PolicyChange",
    ),
    _change(
        "decide_version",
        "PUT",
        f"{_ONE_VERSION}/approval",
        "approve",
        "Approve or reject a version",
        {200: "Version"},
        "Decision",
    ),
    _change(
        "verify_version",
        "POST",
        f"{_ONE_VERSION}/verification",
        "operate",
        "Read the stored files again: a line of JSON for each, and for progress",
        {200: JSON_LINES},
        condition="",
    ),
    _change(
        "collect",
        "POST",
        "/gc",
        "operate",
        "Delete stored files that nothing refers to",
        {200: "Collected"},
        "Collect",
        condition="",
    ),
)
