"""What the log says of a rollout's decisions, and the metrics of where it stands."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from gateway.rollouts.actions import Decision
from gateway.rollouts.changes import is_gone_back
from gateway.rollouts.follower import Follower
from gateway.rollouts.metrics import RolloutSample
from gateway.shadows import ShadowCounts
from registry.rollouts import RolloutRow

_log = logging.getLogger("sluice.rollouts")


def tell(follower: Follower, decision: Decision) -> None:
    """One line for a decision, with the evidence."""
    row, status, verdict = follower.row, decision.status, decision.verdict
    evidence = follower.evidence
    failed_canary, failed_stable = evidence.failures
    fields: Mapping[str, Any] = {
        "action": "rollout-decision",
        "rollout": row.id,
        "model": row.model,
        "version": str(row.canary),
        "state": status.state.value,
        "rule": status.rule,
        "weight": status.weight,
        "step": status.step,
        "e_value": verdict.e_value,
        "threshold": verdict.threshold,
        "canary_requests": evidence.canary,
        "stable_requests": evidence.stable,
        "canary_failed": failed_canary,
        "stable_failed": failed_stable,
        "compared": evidence.compared,
        "disagreed": evidence.disagreed,
        **{f"e_{guard.name}": guard.e_value for guard in verdict.guards},
    }
    level = logging.WARNING if is_gone_back(status) else logging.INFO
    _log.log(level, status.reason or status.state.value, extra=fields)


def complain(row: RolloutRow, action: str, text: str, **fields: str) -> None:
    """Of what somebody should look into."""
    names = {"action": action, "rollout": row.id, "model": row.model, "version": str(row.canary)}
    _log.error(text, extra=names | fields)


def sample_of(follower: Follower, shadow: ShadowCounts | None) -> RolloutSample:
    return RolloutSample(
        follower.row.model,
        str(follower.row.canary),
        follower.status.state.value,
        follower.status.weight,
        {guard.name: guard.e_value for guard in follower.verdict.guards},
        follower.is_leading,
        shadow,
    )
