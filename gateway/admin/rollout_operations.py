"""The operations of rollouts: their paths, scopes and schemas. `rollout_api` carries them out."""

from __future__ import annotations

from gateway.admin.openapi import Operation, operation_of

ROOT = "/api/v1"
MAX_LISTED = 1000
COMMANDS = ("pause", "resume", "promote", "abort")
_OF_MODEL, _ONE = "/models/{model}/rollouts", "/rollouts/{rollout}"
_LIMIT = {"limit": {"type": "integer", "minimum": 1, "maximum": MAX_LISTED, "default": 100}}


_operation = operation_of("rollouts", ROOT, "")


def _command(verb: str, summary: str) -> Operation:
    # An abort always wins: whoever asks for it need not have seen the latest.
    condition = "" if verb == "abort" else "required"
    path, answers = f"{_ONE}:{verb}", {200: "Rollout"}
    return _operation(
        f"{verb}_rollout", "POST", path, "operate", summary, answers, "RolloutCommand", condition=condition
    )


OPERATIONS: tuple[Operation, ...] = (
    _operation(
        "list_rollouts",
        "GET",
        _OF_MODEL,
        "read",
        "The rollouts of a model, the newest first",
        {200: "Rollouts"},
        query=_LIMIT,
    ),
    _operation(
        "start_rollout",
        "POST",
        _OF_MODEL,
        "operate",
        "Begin to move traffic to a version; the same Idempotency-Key again begins no second one",
        {200: "Rollout", 201: "Rollout"},
        "RolloutStart",
    ),
    _operation("get_rollout", "GET", _ONE, "read", "One rollout: where it is, and its evidence", {200: "Rollout"}),
    _operation(
        "get_rollout_history",
        "GET",
        f"{_ONE}/history",
        "read",
        "Every decision and command, the oldest first, with its evidence",
        {200: "RolloutHistory"},
    ),
    _command("pause", "Stay at the present weight until resumed; the guard goes on watching"),
    _command("resume", "Go on after a pause, or after an inconclusive step"),
    _command("promote", "Give the version all traffic now, and move the alias"),
    _command("abort", "Give all traffic back to the stable version now; works without the database"),
    _operation(
        "give_feedback",
        "POST",
        "/feedback",
        "operate",
        "Say which answers were right and which were wrong, once that is known",
        {202: "FeedbackTaken"},
        "Feedback",
    ),
)
