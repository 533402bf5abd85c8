"""From a rollout's status to the route that the data plane takes: pure."""

from __future__ import annotations

import hashlib

from gateway.rollouts.machine import route
from gateway.rollouts.plan import Plan
from gateway.rollouts.route import Arm, HeaderRule, RolloutRoute, Shadow, Stickiness
from gateway.rollouts.status import Status


def route_of(id: str, plan: Plan, status: Status) -> RolloutRoute:
    """All replicas make the same of it: the salt is the rollout's, so a unit meets the same version everywhere."""
    wanted = route(plan, status)
    sticky = plan.stickiness
    return RolloutRoute(
        stable=wanted.stable,
        arms=(Arm(wanted.canary, wanted.weight),) if wanted.weight > 0 else (),
        shadow=Shadow(wanted.canary, wanted.shadow, comparison=plan.comparison) if wanted.shadow > 0 else None,
        rules=tuple(HeaderRule(rule.header, rule.kind, rule.value, wanted.canary) for rule in wanted.rules),
        stickiness=None if sticky is None else Stickiness(sticky.kind, sticky.name),
        retry=plan.retry,
        salt=hashlib.blake2b(id.encode(), digest_size=16).digest(),
        thresholds=status.thresholds,
    )


def route_to(version: int) -> RolloutRoute:
    """Everything to one version, while another may still be loaded."""
    return RolloutRoute(version)
