"""JSON Schemas (2020-12) of what the admin API takes and gives about rollouts."""

from __future__ import annotations

from typing import Any

from gateway.admin.openapi_schemas import closed, list_of, object_of, ref

MAX_LABELS = 1000
_TEXT = {"type": "string"}
_COUNT = {"type": "integer", "minimum": 0}
_NUMBER = {"type": "number"}
_VERSION = {"type": "integer", "minimum": 1, "maximum": 2**53 - 1}
_WEIGHT = {"type": "number", "minimum": 0, "maximum": 1}
_REASON = {"type": "string", "maxLength": 1000, "description": "Kept in the audit log. No control characters."}
_NAME = {"type": "string", "pattern": "^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$"}
_ALIAS = {"type": "string", "pattern": "^(?![0-9]+$)[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$"}
_SECONDS = {"type": ["number", "null"], "minimum": 0}

SCHEMAS: dict[str, Any] = {
    "RolloutStart": closed(
        {"to": {**_VERSION, "description": "The version that is to take over."}},
        {
            "alias": {"anyOf": [_ALIAS, {"type": "null"}], "description": "Moved when it is promoted [champion]."},
            "plan": {"type": ["object", "null"], "description": "docs/rollouts.md says what it may hold."},
            "reason": _REASON,
        },
    ),
    "RolloutCommand": closed({}, {"reason": _REASON}),
    "RolloutArm": object_of(
        {"version": _VERSION, "weight": _WEIGHT, "requests": _COUNT, "failed": _COUNT},
        {"p50_seconds": _SECONDS, "p99_seconds": _SECONDS},
    ),
    "RolloutGuard": object_of(
        {"name": _TEXT, "evidence": _NUMBER, "threshold": _NUMBER, "fired": {"type": "boolean"}},
    ),
    "RolloutDisagreement": object_of(
        {
            "request_id": {**_TEXT, "description": "Of the request, where its caller gave it one."},
            "output": {**_TEXT, "description": "Empty when the canary failed the request."},
            "difference": _TEXT,
            "live": {**_TEXT, "description": "Some of what the stable version answered, shortened."},
            "shadow": _TEXT,
        },
    ),
    "Rollout": object_of(
        {
            "id": _TEXT,
            "model": _TEXT,
            "from": _VERSION,
            "to": _VERSION,
            "alias": _TEXT,
            "state": _TEXT,
            "active": {"type": "boolean"},
            "outcome": {"enum": ["", "promoted", "rolled-back", "inconclusive"]},
            "reason": _TEXT,
            "weight": _WEIGHT,
            "step": _COUNT,
            "steps": _COUNT,
            "generation": _VERSION,
            "stable": ref("RolloutArm"),
            "canary": ref("RolloutArm"),
            "guards": list_of(ref("RolloutGuard")),
            "disagreements": list_of(ref("RolloutDisagreement")),
            "plan": {"type": "object"},
            "created_at": _TEXT,
            "created_by": _TEXT,
        },
        {"leader": _TEXT},
    ),
    "Rollouts": object_of({"rollouts": list_of(ref("Rollout"))}),
    "RolloutHistory": object_of(
        {
            "history": list_of(
                object_of(
                    {
                        "seq": _VERSION,
                        "at": _TEXT,
                        "actor": _TEXT,
                        "action": _TEXT,
                        "reason": _TEXT,
                        "before": True,
                        "after": True,
                    }
                )
            )
        }
    ),
    "FeedbackLabel": closed(
        {
            "request_id": {"type": "string", "minLength": 1, "maxLength": 256},
            "version": {**_VERSION, "description": "That answered: `sluice-model-version` of the answer."},
            "correct": {"type": "boolean"},
        },
        {"served_at": {**_SECONDS, "description": "When, in seconds since the epoch [now]."}},
    ),
    "Feedback": closed(
        {"model": _NAME, "labels": {**list_of(ref("FeedbackLabel")), "minItems": 1, "maxItems": MAX_LABELS}}
    ),
    "FeedbackTaken": object_of({"counted": _COUNT, "ignored": _COUNT}),
}
