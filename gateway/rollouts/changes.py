"""From what the machine decides to what the catalog keeps: pure."""

from __future__ import annotations

from gateway.rollouts.actions import Decision, MoveAlias, Notify
from gateway.rollouts.status import State, Status
from registry.rollouts import AliasEnd, Change, RolloutRow

GONE_BACK = frozenset({State.ROLLED_BACK, State.FAILED})


def change_of(row: RolloutRow, decision: Decision, action: str = "") -> Change:
    """What a decision makes of a rollout. `action`: the command that it answers; else what the machine tells of it."""
    status = decision.status
    told = [one.event for one in decision.actions if isinstance(one, Notify)]
    return Change(
        action=action or (told[0] if told else "change"),
        state=status.state.value,
        is_active=not status.is_ended,
        status=status.to_plain(),
        reason=status.reason,
        facts={
            "rule": status.rule,
            "weight": status.weight,
            "step": status.step,
            "p_value": status.p_value,
            "evidence": decision.verdict.to_plain(),
        },
        alias=_alias_end(row, decision),
    )


def _alias_end(row: RolloutRow, decision: Decision) -> AliasEnd:
    """A promotion that is taken back puts the alias back, and so does a proposal that is refused."""
    if is_gone_back(decision.status):
        return "restore" if row.is_proposal or row.state == State.TERMINATING.value else ""
    return "promote" if any(isinstance(one, MoveAlias) for one in decision.actions) else ""


def is_gone_back(status: Status) -> bool:
    """Whether it ended at the stable version."""
    return status.state in GONE_BACK
