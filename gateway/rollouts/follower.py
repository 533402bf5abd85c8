"""One rollout as one gateway sees it: what the catalog says, what happened here, and what follows. No I/O, no clock.

The status in the catalog is the one that counts, but for one thing: a rollback takes effect here before it is written
there, and is owed to the catalog until it is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from gateway.rollouts.actions import Command, Decision, Facts, Measured, SetRoute
from gateway.rollouts.changes import change_of, is_gone_back
from gateway.rollouts.documents import disagreements_of, evidence_of
from gateway.rollouts.evidence import Event, Evidence, summed
from gateway.rollouts.guards import Verdict, judge
from gateway.rollouts.machine import decide, route
from gateway.rollouts.plan import Plan
from gateway.rollouts.plan_reader import read_plan
from gateway.rollouts.readiness import Readiness
from gateway.rollouts.status import State, Status
from gateway.rollouts.tally import Tally
from gateway.rollouts.tolerances import MAX_SAMPLES, Disagreement
from registry.rollouts import Change, RolloutRow

_UNREADY = Facts(is_ready=False)
_READY = Facts(is_ready=True)


@dataclass(frozen=True)
class Owed:
    """A decision that has taken effect here and is not in the catalog yet."""

    status: Status
    action: str
    actor: str
    reason: str
    """What to abort with, when the catalog has gone on meanwhile."""
    change: Change
    generation: int
    """What the rollout was when this was decided: it fits no other."""


class Follower:
    """One rollout under way."""

    def __init__(self, row: RolloutRow) -> None:
        # Replaced together by `adopt` alone.
        self.row = row
        self.plan: Plan = read_plan(row.plan)
        self._status = Status.from_plain(row.status)
        self.tally = Tally(self.plan.guards.absolute)
        # What the other replicas have seen, as they wrote it down last.
        self._others: tuple[Evidence, ...] = ()
        # The latest that were seen here.
        self.disagreements: deque[Disagreement] = deque(maxlen=MAX_SAMPLES)
        self.readiness = Readiness()
        self.owed: Owed | None = None
        self.is_leading = False

    @property
    def status(self) -> Status:
        """The one in force here."""
        return self.owed.status if self.owed else self._status

    @property
    def seen_row(self) -> RolloutRow:
        """As it is here: what is owed has happened."""
        status = self.status
        return replace(
            self.row, status=status.to_plain(), state=status.state.value, is_active=not status.is_ended
        )

    @property
    def wants_thresholds(self) -> bool:
        is_before = self._status.state is State.WAITING and self._status.thresholds is None
        return is_before and self.plan.guards.latency is not None

    @property
    def is_over(self) -> bool:
        return self.status.is_ended

    @property
    def answering(self) -> int:
        """The version that answers when the rollout is over, however it ended."""
        is_promoted = self.status.is_promoted and not is_gone_back(self.status)
        return self.row.canary if is_promoted else self.row.stable

    @property
    def evidence(self) -> Evidence:
        """Of all replicas."""
        return summed((self.tally.evidence, *self._others))

    @property
    def verdict(self) -> Verdict:
        return judge(self.plan, self.evidence)

    def route(self) -> SetRoute:
        return route(self.plan, self.status)

    def adopt(self, row: RolloutRow) -> None:
        """The catalog has gone on. What is owed stays so, unless the rollout is over there."""
        if row.generation > self.row.generation or not self.is_leading:
            # The time that passed here since the last look still counts, unless another has counted it.
            clock = self._status.clock if self.is_leading else None
            self._status = replace(Status.from_plain(row.status), clock=clock)
            self.row = row
        if not row.is_active:
            self.owed = None

    def freeze(self, thresholds: tuple[float, float, float]) -> None:
        """What is slow, by the stable version as it is before the canary has any traffic."""
        self._status = replace(self._status, thresholds=thresholds)

    def passed(self, decision: Decision) -> None:
        """Only time has passed."""
        self._status = decision.status

    def recall(self, seen: Mapping[str, Any]) -> None:
        """Adds what this gateway had seen before it was started again, by `documents.to_seen`."""
        (before,) = evidence_of([seen])
        self.tally = Tally(self.plan.guards.absolute, before + self.tally.evidence)
        kept = [Disagreement(**one) for one in disagreements_of([seen])]
        self.disagreements = deque([*kept, *self.disagreements], maxlen=MAX_SAMPLES)

    def hear(self, others: Mapping[str, Mapping[str, Any]], now: float) -> None:
        """What the other replicas have written down, by `documents.to_seen`."""
        self._others = tuple(evidence_of(others.values()))
        # A gateway of an earlier release says nothing of it.
        self.readiness.hear({name: one["readiness"] for name, one in others.items() if "readiness" in one}, now)

    def count(self, canary: int, stable: int, weight: float) -> None:
        """Further requests that were routed under this weight."""
        self.tally.count(weight, canary=canary, stable=stable)

    def compare(self, compared: int, disagreed: int, samples: Iterable[Disagreement]) -> None:
        """Further answers of the shadow that were compared, how many of these differed, and the latest that did."""
        self.tally.compare(compared, disagreed)
        self.disagreements.extend(samples)

    def see(self, events: Iterable[Event]) -> None:
        for event in events:
            self.tally.add(event)

    # What follows

    def look(self, facts: Facts, now: float, *, measured: Measured | None = None) -> Decision:
        """What the one who leads does next."""
        return decide(self.plan, self._status, self.evidence, facts, now, measured=measured)

    def guard(self, now: float) -> Decision | None:
        """A rollback that the evidence asks for; anybody may see to it."""
        if self.is_over or self._status.state is State.WAITING or not self.verdict.fired:
            return None
        decision = decide(self.plan, self._status, self.evidence, _READY, now)
        return decision if is_gone_back(decision.status) else None

    def abort(self, actor: str, reason: str, now: float) -> Decision:
        """Of whatever the catalog says now."""
        return self.obey(Command("abort", actor, reason), now)

    def give_way(self, version: int, actor: str, now: float) -> Decision:
        """Somebody has moved the alias to another version: where the promotion was done it is over, else it fails."""
        if self._status.state is not State.TERMINATING:
            return self.abort(actor, f"{self.row.alias} was moved to version {version}", now)
        return self.complete(actor, f"{self.row.alias} was moved to version {version}", now)

    def complete(self, actor: str, reason: str, now: float) -> Decision:
        """Of one that is promoted: nobody waits for the old version any longer."""
        return self.obey(Command("complete", actor, reason), now)

    def obey(self, command: Command, now: float) -> Decision:
        return decide(self.plan, self._status, self.evidence, _UNREADY, now, command=command)

    def owe(self, decision: Decision, actor: str, action: str = "", reason: str = "") -> None:
        """From here on the decision is in force here, whatever the catalog says, until it says so too."""
        change = change_of(self.row, decision, action)
        reason = reason or decision.status.reason
        self.owed = Owed(decision.status, change.action, actor, reason, change, self.row.generation)

    def owe_again(self, now: float) -> None:
        """What is owed, decided anew on what the catalog says by now; nothing when there is nothing left to undo."""
        before = self.owed
        if before is None:
            return
        decision = self.abort(before.actor, before.reason, now)
        self.owed = None
        if decision.is_changed:
            status = replace(decision.status, rule=before.status.rule, reason=before.status.reason)
            self.owe(replace(decision, status=status), before.actor, before.action, before.reason)
