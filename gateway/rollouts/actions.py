"""What goes into a rollout's decision, and what comes out of it to be done. Values only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from gateway.rollouts.analysis import Analysis
from gateway.rollouts.guards import Verdict
from gateway.rollouts.plan import HeaderMatch
from gateway.rollouts.status import Status

CommandKind = Literal["pause", "resume", "promote", "abort", "target", "complete"]


@dataclass(frozen=True)
class Command:
    """What an operator wants. `version` of a new target, and the `plan` (None: the default) and request `key` that it
    was asked for with; `by` and `reason` end up in the status. `complete` ends the wait after a promotion, for whoever
    sees that it is void."""

    kind: CommandKind
    by: str = ""
    reason: str = ""
    version: int | None = None
    plan: Mapping[str, Any] | None = None
    key: str = ""


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
