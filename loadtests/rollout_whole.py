"""A whole rollout by the default plan, second by second, through `decide`."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from gateway.rollouts.actions import Facts
from gateway.rollouts.evidence import Event, Thresholds
from gateway.rollouts.machine import begin, decide
from gateway.rollouts.plan import default_plan
from gateway.rollouts.status import State
from gateway.rollouts.tally import Tally
from loadtests.rollout_rules import least_events
from loadtests.rollout_traffic import make, thresholds

REQUESTS_A_SECOND = 50
MAX_SECONDS = 7200
PLAN = replace(default_plan(is_idempotent=False), termination_wait=0.0)


@dataclass(frozen=True)
class Case:
    canary_rate: float = 0.001
    slower: float = 1.0


STABLE_RATE = 0.001
CASES = {
    "the same": Case(),
    "fails 100 %": Case(1.0),
    "fails 20 %": Case(0.2),
    "fails 5 %": Case(0.05),
    "fails 1 %": Case(0.01),
    "2 × slower": Case(slower=2.0),
    "1.5 × slower": Case(slower=1.5),
}


@dataclass(frozen=True)
class Outcome:
    """`weight`: the highest that the canary had; `failed`: its failed requests; `seconds`: of the rollout."""

    state: str
    weight: float
    failed: int
    seconds: float


def whole_rollout(source: np.random.Generator, case: Case) -> Outcome:
    """Until it ends or is held. A decision is made each second, and at each event of the canary that could tip one."""
    guard = PLAN.guards.latency
    assert guard is not None
    slow = Thresholds(thresholds(guard.tolerance))
    status = begin(1, 2, plan=PLAN, thresholds=slow.seconds)
    tally = Tally(PLAN.guards.absolute)
    ready = Facts(is_ready=True)
    highest = now = 0.0
    while not status.is_ended and status.state is not State.PAUSED and now < MAX_SECONDS:
        now += 1.0
        weight = status.weight
        highest = max(highest, weight)
        if weight > 0:
            count = int(source.poisson(REQUESTS_A_SECOND))
            traffic = make(
                source, count, weight, stable_rate=STABLE_RATE, canary_rate=case.canary_rate, slower=case.slower
            )
            asked = int(np.count_nonzero(traffic.is_canary))
            tally.count(weight, canary=asked, stable=count - asked)
            to_wait = 0
            for arm, failed, seconds in zip(traffic.is_canary, traffic.failed, traffic.seconds, strict=True):
                level = slow.level(seconds)
                if not failed and level == 0:
                    continue
                tally.add(Event("failed" if failed else "slow", bool(arm), weight, level))
                to_wait -= int(arm)
                if arm and (failed or to_wait <= 0):
                    decision = decide(PLAN, status, tally.evidence, ready, now)
                    status = decision.status
                    to_wait = least_events(decision.verdict.e_value, decision.verdict.threshold, weight)
                if status.is_ended:
                    break
        status = decide(PLAN, status, tally.evidence, ready, now).status
    return Outcome(status.state.value, highest, tally.evidence.failures[0], now)
