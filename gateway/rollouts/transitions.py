"""The ways from one status of a rollout to another, each in one place. When to take them is decided elsewhere."""

from __future__ import annotations

from dataclasses import replace

from gateway.rollouts.analysis import AnalysisRun
from gateway.rollouts.evidence import Evidence
from gateway.rollouts.plan import Plan, Step
from gateway.rollouts.status import STEP_RUN, Hold, State, Status

UNDER_WAY = frozenset({State.PROGRESSING, State.PAUSED})
"""At one of the steps."""


def steps_of(plan: Plan, status: Status) -> tuple[Step, ...]:
    return () if status.is_return else plan.steps


def current_step(plan: Plan, status: Status) -> Step | None:
    """The one under way; None when it has not begun, or all are done."""
    steps = steps_of(plan, status)
    return steps[status.step] if status.state in UNDER_WAY and status.step < len(steps) else None


def enter(status: Status, step: int, evidence: Evidence) -> Status:
    return replace(
        status,
        step=step,
        step_elapsed=0.0,
        requests_before=evidence.canary,
        compared_before=evidence.compared,
        runs=_without_own(status),
    )


def _without_own(status: Status) -> dict[str, AnalysisRun]:
    return {name: run for name, run in status.runs.items() if name != STEP_RUN}


def hold(status: Status, why: Hold, rule: str, reason: str) -> Status:
    return replace(status, state=State.PAUSED, hold=why, rule=rule, reason=reason)


def promote(plan: Plan, status: Status, rule: str, reason: str) -> Status:
    return replace(
        status,
        state=State.TERMINATING if plan.termination_wait > 0 else State.PROMOTED,
        hold="",
        step=len(steps_of(plan, status)),
        step_elapsed=0.0,
        weight=1.0,
        is_promoted=True,
        rule=rule,
        reason=reason,
    )


def roll_back(status: Status, rule: str, reason: str) -> Status:
    return replace(status, state=State.ROLLED_BACK, hold="", weight=0.0, rule=rule, reason=reason)


def give_up(plan: Plan, status: Status, evidence: Evidence, rule: str) -> Status:
    """No answer in time: what the plan says. What cannot be extended is held."""
    requests = evidence.canary - status.requests_before
    text = f"no answer in step {status.step} after {requests} requests of the canary"
    match plan.on_inconclusive:
        case "rollback":
            return roll_back(status, rule, text)
        case "promote":
            return enter(status, status.step + 1, evidence)
        case "extend" if rule != "maxDuration":
            return replace(status, step_elapsed=0.0, runs=_without_own(status))
        case _:
            return hold(status, "inconclusive", rule, text)
