"""How a remote source is doing, for people and metrics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace


@dataclass(frozen=True)
class SourceHealth:
    """Figures of one moment, and counts since the start."""

    kind: str
    place: str
    """Without secrets."""
    is_reachable: bool = False
    reason: str = "not asked yet"
    """Why it is not reachable."""
    answered_at: float | None = None
    """Monotonic seconds."""
    looks: int = 0
    pending: int = 0
    """Versions on their way here."""
    failing: Mapping[tuple[str, int], str] = field(default_factory=dict)
    """Versions that could not be brought here, and why."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """Pulls by outcome: `pulled`, `failed`, `refused`; and `lies`: other contents than were pinned."""

    def reached(self, now: float) -> SourceHealth:
        return replace(self, is_reachable=True, reason="", answered_at=now, looks=self.looks + 1)

    def unreached(self, reason: str) -> SourceHealth:
        return replace(self, is_reachable=False, reason=reason, looks=self.looks + 1)
