"""Whether the canary is ready at every gateway that follows a rollout, as far as each has written it down. Values and
times come from outside."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gateway.rollouts.actions import Facts

Doc = dict[str, Any]


class Readiness:
    """One gateway's word, and what it has heard of the others."""

    def __init__(self) -> None:
        self._looks = 0
        # Of the others, by replica: what it said last, and since when that is known here.
        self._heard: dict[str, tuple[Mapping[str, Any], float]] = {}

    def say(self, facts: Facts) -> Doc:
        """What this gateway writes down. As long as it is not ready it says something else each time, so that whoever
        hears it knows that it is still there."""
        if facts.is_ready:
            return {"ready": True}
        self._looks += 1
        return {"ready": False, "failure": facts.failure, "look": self._looks}

    def hear(self, others: Mapping[str, Mapping[str, Any]], now: float) -> None:
        """What the other replicas have written down, by replica."""
        for replica, said in others.items():
            if replica not in self._heard or self._heard[replica][0] != said:
                self._heard[replica] = said, now

    def together(self, mine: Facts, now: float, patience: float) -> Facts:
        """As `mine`, but not ready as long as another is not, and failed when another has. One that is not ready and
        has said nothing new for `patience` seconds is gone, and not waited for."""
        missing = [said for said, since in self._heard.values() if not said["ready"] and now - since <= patience]
        failures = [str(said["failure"]) for said in missing if said["failure"]]
        if not mine.is_ready or not missing:
            return mine
        return Facts(False, f"at another gateway: {failures[0]}" if failures else "")
