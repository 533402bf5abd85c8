"""A rollout as the admin API shows it and the command line prints it: from what the catalog keeps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from gateway.rollouts.evidence import Evidence, summed
from gateway.rollouts.guards import judge
from gateway.rollouts.plan import Plan
from gateway.rollouts.plan_reader import read_plan
from gateway.rollouts.status import State, Status
from gateway.rollouts.tolerances import Disagreement
from registry.audit import AuditEntry
from registry.rollouts import RolloutRow

Doc = dict[str, Any]
MAX_DISAGREEMENTS = 64
"""That are shown of all replicas; each keeps its latest few."""
_OUTCOMES = {
    State.PROMOTED: "promoted",
    State.TERMINATING: "promoted",
    State.ROLLED_BACK: "rolled-back",
    State.FAILED: "rolled-back",
}


def to_document(row: RolloutRow, seen: Mapping[str, Mapping[str, Any]]) -> Doc:
    """`seen`: by replica, what each wrote down by `to_seen`."""
    plan, status = read_plan(row.plan), Status.from_plain(row.status)
    evidence = summed(evidence_of(seen.values()))
    canary_failed, stable_failed = evidence.failures
    return {
        "id": row.id,
        "model": row.model,
        "from": row.stable,
        "to": row.canary,
        "alias": row.alias,
        "state": status.state.value,
        "hold": status.hold,
        "active": row.is_active,
        "outcome": outcome_of(status),
        "reason": status.reason,
        "rule": status.rule,
        "weight": status.weight,
        "step": min(status.step + 1, len(plan.steps)),
        "steps": len(plan.steps),
        "elapsed_seconds": round(status.elapsed, 3),
        "generation": row.generation,
        "leader": row.leader,
        "stable": _arm(row.stable, 1 - status.weight, evidence.stable, stable_failed, seen, "stable"),
        "canary": _arm(row.canary, status.weight, evidence.canary, canary_failed, seen, "canary"),
        "guards": guards_of(plan, evidence),
        "disagreements": disagreements_of(seen.values()),
        "plan": dict(row.plan),
        "created_at": row.created_at,
        "created_by": row.created_by,
    }


def to_seen(
    evidence: Evidence,
    latencies: Mapping[str, tuple[float | None, float | None]],
    readiness: Mapping[str, Any],
    disagreements: Iterable[Disagreement] = (),
) -> Doc:
    """What a replica writes down: its evidence, whether the canary is ready there, and for people the median and p99 of
    `stable` and `canary` lately, and the answers of the shadow that disagreed last."""
    return {
        "evidence": evidence.to_plain(),
        "latencies": {arm: list(pair) for arm, pair in latencies.items()},
        "readiness": dict(readiness),
        "disagreements": [one.to_plain() for one in disagreements],
    }


def disagreements_of(seen: Iterable[Mapping[str, Any]]) -> list[Doc]:
    """Those of each replica, its newest last. Gateways of before they were kept have written none."""
    return [one for each in seen for one in each.get("disagreements", ())][:MAX_DISAGREEMENTS]


def evidence_of(seen: Iterable[Mapping[str, Any]]) -> Iterable[Evidence]:
    return (Evidence.from_plain(one["evidence"]) for one in seen)


def outcome_of(status: Status) -> str:
    """Of a hold for want of evidence: inconclusive, though an operator may still decide."""
    if status.state is State.PAUSED and status.hold == "inconclusive":
        return "inconclusive"
    return _OUTCOMES.get(status.state, "")


def guards_of(plan: Plan, evidence: Evidence) -> list[Doc]:
    """Each guard by itself, against the threshold that would be reached by it alone; `fired` is the one that weighed
    most when all together reached theirs."""
    verdict = judge(plan, evidence, intervals=True)
    return [
        {
            "name": guard.name,
            "evidence": guard.e_value,
            "threshold": verdict.threshold / guard.share,
            "fired": guard.name == verdict.fired,
            "canary_events": guard.canary_events,
            "stable_events": guard.stable_events,
            "ratio_interval": None if guard.interval is None else [_finite(bound) for bound in guard.interval],
        }
        for guard in verdict.guards
    ]


def to_history(entry: AuditEntry) -> Doc:
    names = ("seq", "at", "actor", "action", "reason", "before", "after")
    return {name: value for name, value in asdict(entry).items() if name in names}


def _arm(
    version: int, weight: float, requests: int, failed: int, seen: Mapping[str, Mapping[str, Any]], name: str
) -> Doc:
    """Latencies of several replicas: the worst."""
    pairs = [one["latencies"][name] for one in seen.values() if name in one["latencies"]]
    p50, p99 = (max((pair[at] for pair in pairs if pair[at] is not None), default=None) for at in (0, 1))
    return {
        "version": version,
        "weight": weight,
        "requests": requests,
        "failed": failed,
        "p50_seconds": p50,
        "p99_seconds": p99,
    }


def _finite(bound: float) -> float | None:
    return None if bound == float("inf") else bound
