"""The rollout as a machine: what happened goes in, what to do comes out. It opens no socket and reads no clock.

`decide` is the only way from one status to the next. A controller keeps the new status before it applies the actions
(but for a rollback, which it applies first), and calls `resume` after a start: actions say what should be so, not what
to change, so that doing them twice does nothing more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from gateway.rollouts.analysis import Analysis
from gateway.rollouts.evidence import Evidence
from gateway.rollouts.guards import Verdict
from gateway.rollouts.plan import HeaderMatch, Plan
from gateway.rollouts.status import Status

MAX_TICK_SECONDS = 5.0
"""Two looks at the clock further apart are a jump, and no time passes between them; a controller looks every second."""
STEP_RUN = ""
"""The name of the analysis of the step that is under way."""

CommandKind = Literal["pause", "resume", "promote", "abort", "target"]


@dataclass(frozen=True)
class Command:
    """What an operator wants. `version` of a new target; `by` and `reason` end up in the status."""

    kind: CommandKind
    by: str = ""
    reason: str = ""
    version: int | None = None


@dataclass(frozen=True)
class Measured:
    """The answer to `Query`: None for no data; `error` when there was none."""

    name: str
    result: float | None = None
    error: str = ""


@dataclass(frozen=True)
class Facts:
    """What is so now. `failure`: why the canary cannot be served (again); empty while it may come."""

    is_ready: bool
    """The canary is loaded and warm here, so that a weight takes effect."""
    failure: str = ""


@dataclass(frozen=True)
class SetRoute:
    """The route of the model from now on, whole. Weight 0 and no shadow, no rules: all is stable's."""

    stable: int
    canary: int
    weight: float
    shadow: float = 0.0
    rules: tuple[HeaderMatch, ...] = ()


@dataclass(frozen=True)
class MoveAlias:
    alias: str
    version: int


@dataclass(frozen=True)
class Unload:
    """The version is not needed for this rollout any more; let its requests in flight finish."""

    version: int


@dataclass(frozen=True)
class Query:
    """Ask the metrics provider, and give `Measured` with the same name."""

    name: str
    analysis: Analysis


@dataclass(frozen=True)
class Notify:
    """Tell those who asked for it: `event` is one of started, step, paused, resumed, promoted, rolled_back, failed,
    completed."""

    event: str
    text: str


@dataclass(frozen=True)
class Begin:
    """Start the next rollout, to this version."""

    version: int


Action = SetRoute | MoveAlias | Unload | Query | Notify | Begin


@dataclass(frozen=True)
class Decision:
    """`verdict` is what the guards said, for the log. `is_changed`: something is to be kept, with a new generation;
    otherwise only time passed."""

    status: Status
    actions: tuple[Action, ...]
    verdict: Verdict
    is_changed: bool


def begin(
    stable: int,
    canary: int,
    *,
    alias: str | None = None,
    recent: tuple[int, ...] = (),
    plan: Plan,
    thresholds: tuple[float, float, float] | None = None,
) -> Status:
    """The first status. `recent`: versions that were promoted before, newest first, `stable` left out."""
    return Status(stable, canary, alias, is_return=canary in recent[: plan.rollback_window], thresholds=thresholds)


def route(plan: Plan, status: Status) -> SetRoute:
    """What the model's route should be."""
    raise NotImplementedError


def resume(plan: Plan, status: Status) -> tuple[Action, ...]:
    """What a controller does with a status that it finds: all that should be so."""
    raise NotImplementedError


def decide(
    plan: Plan,
    status: Status,
    evidence: Evidence,
    facts: Facts,
    now: float,
    *,
    command: Command | None = None,
    measured: Measured | None = None,
) -> Decision:
    """One look. `now` is a monotonic clock's, in seconds.

    Raises:
        CommandRefused: the state does not allow the command. An abort is never refused, and nothing when it has ended.
    """
    raise NotImplementedError
