"""Where a rollout stands: what a controller keeps in the catalog, and all that a restart needs.

Time is counted here in seconds of the rollout's own, which pass only between two looks at the same monotonic clock that
are close together; so no jump of a clock, no pause of the machine and no restart ever makes a bake shorter.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from enum import Enum
from typing import Any, Literal

from gateway.rollouts.analysis import AnalysisRun


class State(Enum):
    """Of a rollout."""

    WAITING = "waiting"
    """The canary is being loaded and warmed up; all traffic is on stable."""
    PROGRESSING = "progressing"
    """At one of its steps."""
    PAUSED = "paused"
    """At one of its steps, until an operator says more (`hold` says why). The guards stay awake."""
    TERMINATING = "terminating"
    """Promoted: all traffic and the alias are the canary's; the old version is still loaded."""
    PROMOTED = "promoted"
    """Ended."""
    ROLLED_BACK = "rolled_back"
    """Ended: all traffic is on stable."""
    FAILED = "failed"
    """Ended: the canary could not be loaded; no traffic ever moved."""


ENDED = frozenset({State.PROMOTED, State.ROLLED_BACK, State.FAILED})

STEP_RUN = ""
"""The name of the analysis of the step that is under way."""

Hold = Literal["", "operator", "step", "inconclusive"]


@dataclass(frozen=True)
class Status:
    """Immutable. `clock` is the monotonic clock's last reading, and no part of what is kept."""

    stable: int
    canary: int
    alias: str | None = None
    """What the promotion moves; None: nothing."""
    is_return: bool = False
    """Back to a version that was promoted lately: no steps."""
    thresholds: tuple[float, float, float] | None = None
    """Seconds above which an answer is slow; None: the latency guard has nothing to go by."""
    state: State = State.WAITING
    hold: Hold = ""
    step: int = 0
    """Index of the step that is under way; their number when all are done."""
    weight: float = 0.0
    """The canary's share of the traffic, 0 to 1."""
    is_promoted: bool = False
    """The alias was moved to the canary, and moves back if it is rolled back now."""
    elapsed: float = 0.0
    """Seconds since the start, or since it was resumed after `max_duration`."""
    step_elapsed: float = 0.0
    """Seconds in this step, or in the termination wait."""
    requests_before: int = 0
    """The canary's counted requests when this step began."""
    compared_before: int = 0
    runs: Mapping[str, AnalysisRun] = field(default_factory=dict)
    """Analyses under way, by name; the step's own is named by STEP_RUN."""
    queued: int | None = None
    """The version to roll out next."""
    queued_plan: Mapping[str, Any] | None = None
    """By which plan, as somebody wrote it; None: the default."""
    queued_key: str = ""
    """The request key of whoever asked for it."""
    reason: str = ""
    """Of the state: in words, for people."""
    rule: str = ""
    """What ended or held it: a guard's name, `operator`, `inconclusive`, `maxDuration`, `superseded`, `unavailable`."""
    p_value: float = 1.0
    """The least 1/E so far, at most 1."""
    generation: int = 0
    """One more with each change but the passing of time."""
    clock: float | None = field(default=None, compare=False)

    @property
    def is_ended(self) -> bool:
        return self.state in ENDED

    def to_plain(self) -> dict[str, Any]:
        """JSON values; `from_plain` gives an equal object."""
        plain = {item.name: getattr(self, item.name) for item in fields(self) if item.name != "clock"}
        plain["state"] = self.state.value
        plain["thresholds"] = None if self.thresholds is None else list(self.thresholds)
        plain["runs"] = {name: asdict(run) for name, run in self.runs.items()}
        return plain

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Status:
        """Reads what `to_plain` wrote. Raises KeyError, TypeError or ValueError for anything else."""
        values = dict(plain)
        values["state"] = State(values["state"])
        if values["thresholds"] is not None:
            first, second, third = map(float, values["thresholds"])
            values["thresholds"] = (first, second, third)
        values["runs"] = {name: AnalysisRun(**run) for name, run in values["runs"].items()}
        return cls(**values)
