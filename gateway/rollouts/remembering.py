"""Followers as JSON values, for the journal, and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from gateway.rollouts.follower import Follower, Owed
from gateway.rollouts.status import Status
from registry.rollouts import Change, RolloutRow


def to_memory(follower: Follower) -> dict[str, Any]:
    """All but evidence: that is in the catalog, and without it nothing goes forward."""
    owed = follower.owed
    return {
        "row": asdict(follower.row),
        "owed": None if owed is None else asdict(owed) | {"status": owed.status.to_plain()},
    }


def from_memory(memory: Mapping[str, Any]) -> Follower:
    """Raises KeyError, TypeError, ValueError or InvalidPlan for what `to_memory` did not write."""
    follower = Follower(RolloutRow(**memory["row"]))
    if (owed := memory["owed"]) is not None:
        status, change = Status.from_plain(owed["status"]), Change(**owed["change"])
        follower.owed = Owed(**owed | {"status": status, "change": change})
    return follower
