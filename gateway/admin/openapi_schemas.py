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

PATH_PARAMETERS: Mapping[str, dict[str, Any]] = MappingProxyType(
    {
        "model": {"type": "string", "pattern": "^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$"},
        "alias": {"type": "string", "pattern": "^(?![0-9]+$)[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$"},
        "version": _VERSION,
        "sha256": _SHA256,
    }
)


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


def _list(items: Any) -> dict[str, Any]:
    return {"type": "array", "items": items}


def _object(required: Mapping[str, Any], optional: Mapping[str, Any] | None = None) -> dict[str, Any]:
    properties = {**required, **(optional or {})}
    return {"type": "object", "required": list(required), "properties": properties}


def _closed(required: Mapping[str, Any], optional: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Of what callers send: unknown members are refused."""
    return {**_object(required, optional), "additionalProperties": False}


_SUMMARY = {
    "model": _TEXT,
    "version": _VERSION,
    "stage": _STAGE,
    "digest": _SHA256,
    "author": _TEXT,
    "created_at": _MOMENT,
    "size": _COUNT,
    "aliases": _list(_TEXT),
    "tags": _TAGS,
    "metrics": {"type": "object", "additionalProperties": {"type": "number"}},
    "lineage": _ref("Lineage"),
}
_ALIAS = {
    "model": _TEXT,
    "alias": _TEXT,
    "version": {"anyOf": [_VERSION, {"type": "null"}]},
    "generation": _COUNT,
}
_FILE = {"path": _TEXT, "sha256": _SHA256, "size": _COUNT}

SCHEMAS: dict[str, Any] = {
    "Problem": _object({"type": _TEXT, "title": _TEXT, "status": {"type": "integer"}, "detail": _TEXT}),
    "Health": _object(
        {
            "name": _TEXT,
            "version": _TEXT,
            "live": {"type": "boolean"},
            "ready": {"type": "boolean"},
            "uptime_seconds": {"type": "number", "minimum": 0},
        }
    ),
    "Served": _object({"models": _list(_object({"name": _TEXT, "versions": _list({"type": "object"})}))}),
    "Draining": _object({"draining": {"type": "boolean"}}),
    "Looking": _object({"looking": {"type": "boolean"}}),
    "File": _object(_FILE),
    "Tensor": _object({"name": _TEXT, "datatype": _TEXT, "shape": _list({"type": "integer", "minimum": -1})}),
    "Lineage": _object(
        {},
        {
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
        },
    ),
    "Model": _object(
        {"name": _TEXT, "versions": _COUNT, "latest": {"type": ["integer", "null"]}, "served_by": _TEXT},
        {"aliases": {"type": "object", "additionalProperties": _VERSION}},
    ),
    "Models": _object({"models": _list(_ref("Model"))}),
    "VersionSummary": _object(_SUMMARY),
    "Versions": _object({"versions": _list(_ref("VersionSummary"))}),
    "Version": _object(
        {
            **_SUMMARY,
            "format": _TEXT,
            "opset": _COUNT,
            "files": _list(_ref("File")),
            "inputs": _list(_ref("Tensor")),
            "outputs": _list(_ref("Tensor")),
            "operators": {"type": "object", "additionalProperties": _COUNT},
            "card": {"type": "object"},
            "config_text": {"type": ["string", "null"]},
            "checks": _list(
                _object({"name": _TEXT, "subject": _TEXT, "is_passed": {"type": "boolean"}, "detail": _TEXT})
            ),
            "may_serve": {"type": "boolean"},
            "reasons": _list(_TEXT),
        }
    ),
    "Manifest": _object({"model": _TEXT, "files": _list(_ref("File"))}),
    "Alias": _object(_ALIAS),
    "Aliases": _object({"aliases": _list(_ref("Alias"))}),
    "AliasHistory": _object(
        {"history": _list(_object({"version": _ALIAS["version"], "at": _MOMENT, "actor": _TEXT, "reason": _TEXT}))}
    ),
    "Policy": _object({"model": _TEXT, "policy": {"type": "object"}, "digest": _SHA256}),
    "PolicyChange": _closed({"policy": {"type": "object"}}, {"reason": _REASON}),
    "AliasMove": _closed({"version": _VERSION}, {"reason": _REASON}),
    "Decision": _closed({"decision": {"enum": ["approved", "rejected"]}, "reason": {**_REASON, "minLength": 1}}),
    "Publication": _closed(
        {"files": {**_list(_closed(_FILE)), "minItems": 1, "maxItems": 4096}},
        {
            "alias": {"anyOf": [PATH_PARAMETERS["alias"], {"type": "null"}]},
            "tags": _TAGS,
            "card": {"type": "object"},
            "metrics": {"type": "object", "additionalProperties": {"type": "number"}},
            "lineage": _closed(
                {},
                {
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
                },
            ),
            "signatures": {**_list(_TEXT), "maxItems": 16},
            "config_text": {"type": ["string", "null"]},
            "reason": _REASON,
        },
    ),
    "Published": _object(
        {"model": _TEXT, "version": _VERSION, "is_new": {"type": "boolean"}, "digest": _SHA256, "stage": _STAGE},
        {"golden": _object({"is_passed": {"type": "boolean"}, "detail": _TEXT})},
    ),
    "Diff": _object(
        {
            "model": _TEXT,
            "before": _VERSION,
            "after": _VERSION,
            "compatible": {"type": "boolean"},
            "changes": _list(_object({"section": _TEXT, "item": _TEXT, "before": True, "after": True})),
        }
    ),
    "AuditEntry": _object(
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
    "Audit": _object({"entries": _list(_ref("AuditEntry"))}),
    "AuditVerification": _object(
        {
            "ok": {"type": "boolean"},
            "entries": _COUNT,
            "head": _SHA256,
            "first_bad": {"anyOf": [_object({"seq": _VERSION, "reason": _TEXT}), {"type": "null"}]},
        }
    ),
    "Collect": _closed({}, {"dry_run": {"type": "boolean"}, "grace_seconds": {"type": "number", "minimum": 0}}),
    "Collected": _object(
        {
            "dry_run": {"type": "boolean"},
            "bytes": _COUNT,
            "objects": _list(_object({"sha256": _SHA256, "size": _COUNT})),
        }
    ),
    "Stored": _object({"sha256": _SHA256, "size": _COUNT, "is_new": {"type": "boolean"}}),
    "Sources": _object({"sources": _list(_object({"name": _TEXT, "healthy": {"type": "boolean"}}))}),
    "Cache": _object({"cache": {"type": ["object", "null"]}}),
}
