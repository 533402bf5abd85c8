"""Labels that come later: which answers were right, said by whoever asked, with the version that each answer named.

A wrong answer is an event as a failed one is, under the weight of the moment when it was served; the rollout's history
says which that was. Nothing of this costs anything while requests are served.
"""

from __future__ import annotations

import bisect
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from gateway.rollouts.evidence import Event
from registry.audit import AuditEntry
from registry.rollouts import RolloutRow

SETTLE_SECONDS = 2.0
"""After a step, until every gateway routes by it: labels of answers from between count under no weight."""
MAX_REMEMBERED = 100_000


@dataclass(frozen=True)
class Label:
    """What came of one answer."""

    request_id: str
    version: int
    is_correct: bool
    served_at: float | None
    """Seconds since the epoch; None: just now."""


class Timeline:
    """The canary's weight at any moment of a rollout."""

    def __init__(self, history: Iterable[AuditEntry]) -> None:
        changes = [(_seconds(entry.at), float(entry.after.get("weight", 0.0))) for entry in history]
        self._times, self._weights = [at for at, _ in changes], [weight for _, weight in changes]

    def weight_at(self, moment: float) -> float | None:
        """None before it began, and while gateways may differ."""
        at = bisect.bisect_right(self._times, moment) - 1
        if at < 0:
            return None
        is_new = at > 0 and self._weights[at] != self._weights[at - 1]
        return None if is_new and moment < self._times[at] + SETTLE_SECONDS else self._weights[at]


class Labels:
    """Which labels were counted already, the newest of them."""

    def __init__(self) -> None:
        self._seen: OrderedDict[tuple[str, str], None] = OrderedDict()

    def take(
        self, row: RolloutRow, timeline: Timeline, labels: Sequence[Label], now: float
    ) -> tuple[int, list[Event]]:
        """How many of the labels count, and the events among them: the wrong ones. A label counts when it is the first
        of its request, of an answer of one of the two versions, from a moment when both had traffic."""
        counted, events = 0, []
        for label in labels:
            weight = timeline.weight_at(now if label.served_at is None else label.served_at)
            key = (row.id, label.request_id)
            if weight is None or not 0 < weight < 1 or label.version not in (row.stable, row.canary):
                continue
            if key in self._seen:
                continue
            self._seen[key] = None
            counted += 1
            if not label.is_correct:
                events.append(Event("label", label.version == row.canary, weight))
        while len(self._seen) > MAX_REMEMBERED:
            self._seen.popitem(last=False)
        return counted, events


def _seconds(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp()
