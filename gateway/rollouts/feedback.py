"""Labels that come later: which answers were right, said by whoever asked, with the version that each answer named.

A wrong answer is an event as a failed one is, under the weight of the moment when it was served; the rollout's history
says which that was. Nothing of this costs anything while requests are served.
"""

from __future__ import annotations

import bisect
from collections import OrderedDict
from collections.abc import Collection, Iterable, Sequence
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


@dataclass(frozen=True)
class Counted:
    """A label that counts, unless somebody else was told the same."""

    request_id: str
    event: Event | None
    """Of a wrong answer."""


class Labels:
    """Which labels this gateway has counted already, the newest of them."""

    def __init__(self) -> None:
        self._seen: OrderedDict[tuple[str, str], None] = OrderedDict()

    def sort_out(self, row: RolloutRow, timeline: Timeline, labels: Sequence[Label], now: float) -> list[Counted]:
        """Those that count: a label does when it is the first of its request, of an answer of one of the two versions,
        from a moment when both had traffic."""
        found: dict[str, Counted] = {}
        for label in labels:
            weight = timeline.weight_at(now if label.served_at is None else label.served_at)
            if weight is None or not 0 < weight < 1 or label.version not in (row.stable, row.canary):
                continue
            if label.request_id not in found and (row.id, label.request_id) not in self._seen:
                event = None if label.is_correct else Event("label", label.version == row.canary, weight)
                found[label.request_id] = Counted(label.request_id, event)
        return list(found.values())

    def take(self, row: RolloutRow, found: Sequence[Counted], wrong: Collection[str]) -> tuple[int, list[Event]]:
        """How many count, and the events among them. `wrong`: the requests with a wrong answer that nobody else was
        told of."""
        taken = [one for one in found if one.event is None or one.request_id in wrong]
        self._seen.update(dict.fromkeys((row.id, one.request_id) for one in found))
        while len(self._seen) > MAX_REMEMBERED:
            self._seen.popitem(last=False)
        return len(taken), [one.event for one in taken if one.event is not None]


def _seconds(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp()
