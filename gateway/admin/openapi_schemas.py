"""JSON Schemas (2020-12) of what the admin API takes and gives."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

_TEXT = {"type": "string"}
_COUNT = {"type": "integer", "minimum": 0}
_VERSION = {"type": "integer", "minimum": 1, "maximum": 2**53 - 1}
_SHA256 = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
_MOMENT = {"type": "string"}
_STAGE = {"enum": ["pending", "approved", "rejected"]}
_REASON = {"type": "string", "maxLength": 1000, "description": "Kept in the audit log. No control characters."}
_TAGS = {"type": "object", "additionalProperties": _TEXT}
_LINEAGE = {
    "git_commit": _TEXT,
    "git_dirty": {"type": "boolean"},
    "data_ref": _TEXT,
    "run": _TEXT,
    "author": _TEXT,
    "host": _TEXT,
    "created_at": _TEXT,
    "source": _TEXT,
    "source_sha256": _TEXT,
    "converter": _TEXT,
}

PATH_PARAMETERS: Mapping[str, dict[str, Any]] = MappingProxyType(
    {
        "model": {"type": "string", "pattern": "^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$"},
        "alias": {"type": "string", "pattern": "^(?![0-9]+$)[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$"},
        "version": _VERSION,
        "sha256": _SHA256,
        "rollout": {"type": "string", "pattern": "^[0-9a-f]{12}$"},
    }
)


def ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


def list_of(items: Any) -> dict[str, Any]:
    return {"type": "array", "items": items}


def object_of(required: Mapping[str, Any], optional: Mapping[str, Any] | None = None) -> dict[str, Any]:
    properties = {**required, **(optional or {})}
    return {"type": "object", "required": list(required), "properties": properties}


def closed(required: Mapping[str, Any], optional: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Of what callers send: unknown members are refused."""
    return {**object_of(required, optional), "additionalProperties": False}


_SUMMARY = {
    "model": _TEXT,
    "version": _VERSION,
    "stage": _STAGE,
    "digest": _SHA256,
    "author": _TEXT,
    "created_at": _MOMENT,
    "size": _COUNT,
    "aliases": list_of(_TEXT),
    "tags": _TAGS,
    "metrics": {"type": "object", "additionalProperties": {"type": "number"}},
    "lineage": ref("Lineage"),
}
_ALIAS = {
    "model": _TEXT,
    "alias": _TEXT,
    "version": {"anyOf": [_VERSION, {"type": "null"}]},
    "generation": _COUNT,
}
_FILE = {"path": _TEXT, "sha256": _SHA256, "size": _COUNT}

SCHEMAS: dict[str, Any] = {
    "Problem": object_of({"type": _TEXT, "title": _TEXT, "status": {"type": "integer"}, "detail": _TEXT}),
    "Health": object_of(
        {
            "name": _TEXT,
            "version": _TEXT,
            "live": {"type": "boolean"},
            "ready": {"type": "boolean"},
            "uptime_seconds": {"type": "number", "minimum": 0},
        }
    ),
    "Served": object_of({"models": list_of(object_of({"name": _TEXT, "versions": list_of({"type": "object"})}))}),
    "Draining": object_of({"draining": {"type": "boolean"}}),
    "Looking": object_of({"looking": {"type": "boolean"}}),
    "File": object_of(_FILE),
    "Tensor": object_of({"name": _TEXT, "datatype": _TEXT, "shape": list_of({"type": "integer", "minimum": -1})}),
    "Lineage": object_of({}, _LINEAGE),
    "Model": object_of(
        {"name": _TEXT, "versions": _COUNT, "latest": {"type": ["integer", "null"]}, "served_by": _TEXT},
        {"aliases": {"type": "object", "additionalProperties": _VERSION}},
    ),
    "Models": object_of({"models": list_of(ref("Model"))}),
    "VersionSummary": object_of(_SUMMARY),
    "Versions": object_of({"versions": list_of(ref("VersionSummary"))}),
    "Version": object_of(
        {
            **_SUMMARY,
            "format": _TEXT,
            "opset": _COUNT,
            "files": list_of(ref("File")),
            "inputs": list_of(ref("Tensor")),
            "outputs": list_of(ref("Tensor")),
            "operators": {"type": "object", "additionalProperties": _COUNT},
            "card": {"type": "object"},
            "config_text": {"type": ["string", "null"]},
            "checks": list_of(
                object_of({"name": _TEXT, "subject": _TEXT, "is_passed": {"type": "boolean"}, "detail": _TEXT})
            ),
            "may_serve": {"type": "boolean"},
            "reasons": list_of(_TEXT),
        }
    ),
    "Manifest": object_of({"model": _TEXT, "files": list_of(ref("File"))}),
    "Alias": object_of(_ALIAS),
    "Aliases": object_of({"aliases": list_of(ref("Alias"))}),
    "AliasHistory": object_of(
        {"history": list_of(object_of({"version": _ALIAS["version"], "at": _MOMENT, "actor": _TEXT, "reason": _TEXT}))}
    ),
    "Policy": object_of({"model": _TEXT, "policy": {"type": "object"}, "digest": _SHA256}),
    "PolicyChange": closed({"policy": {"type": "object"}}, {"reason": _REASON}),
    "AliasMove": closed({"version": _VERSION}, {"reason": _REASON}),
    "Decision": closed({"decision": {"enum": ["approved", "rejected"]}, "reason": {**_REASON, "minLength": 1}}),
    "Publication": closed(
        {"files": {**list_of(closed(_FILE)), "minItems": 1, "maxItems": 4096}},
        {
            "alias": {"anyOf": [PATH_PARAMETERS["alias"], {"type": "null"}]},
            "tags": _TAGS,
            "card": {"type": "object"},
            "metrics": {"type": "object", "additionalProperties": {"type": "number"}},
            "lineage": closed({}, _LINEAGE),
            "signatures": {**list_of(_TEXT), "maxItems": 16},
            "config_text": {"type": ["string", "null"]},
            "reason": _REASON,
        },
    ),
    "Published": object_of(
        {"model": _TEXT, "version": _VERSION, "is_new": {"type": "boolean"}, "digest": _SHA256, "stage": _STAGE},
        {"golden": object_of({"is_passed": {"type": "boolean"}, "detail": _TEXT})},
    ),
    "Diff": object_of(
        {
            "model": _TEXT,
            "before": _VERSION,
            "after": _VERSION,
            "compatible": {"type": "boolean"},
            "changes": list_of(object_of({"section": _TEXT, "item": _TEXT, "before": True, "after": True})),
        }
    ),
    "AuditEntry": object_of(
        {
            "seq": _VERSION,
            "at": _MOMENT,
            "actor": _TEXT,
            "action": _TEXT,
            "target": _TEXT,
            "before": True,
            "after": True,
            "reason": _TEXT,
            "previous": _SHA256,
            "hash": _SHA256,
        }
    ),
    "Audit": object_of({"entries": list_of(ref("AuditEntry"))}),
    "AuditVerification": object_of(
        {
            "ok": {"type": "boolean"},
            "entries": _COUNT,
            "head": _SHA256,
            "first_bad": {"anyOf": [object_of({"seq": _VERSION, "reason": _TEXT}), {"type": "null"}]},
        }
    ),
    "Collect": closed({}, {"dry_run": {"type": "boolean"}, "grace_seconds": {"type": "number", "minimum": 0}}),
    "Collected": object_of(
        {
            "dry_run": {"type": "boolean"},
            "bytes": _COUNT,
            "objects": list_of(object_of({"sha256": _SHA256, "size": _COUNT})),
        }
    ),
    "Stored": object_of({"sha256": _SHA256, "size": _COUNT, "is_new": {"type": "boolean"}}),
    "Sources": object_of({"sources": list_of(object_of({"name": _TEXT, "healthy": {"type": "boolean"}}))}),
    "Cache": object_of({"cache": {"type": ["object", "null"]}}),
}
