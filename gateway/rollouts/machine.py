"""The rollout as a machine: what happened goes in, what to do comes out. It opens no socket and reads no clock.

`decide` is the only way from one status to the next. A controller keeps the new status before it applies the actions
(but for a rollback, which it applies first), and calls `resume` after a start: actions say what should be so, not what
to change, so that doing them twice does nothing more.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from gateway.rollouts.actions import (
    Action,
    Begin,
    Command,
    CommandKind,
    Decision,
    Facts,
    Measured,
    MoveAlias,
    Notify,
    Query,
    SetRoute,
    Unload,
)
from gateway.rollouts.errors import CommandRefused
from gateway.rollouts.evidence import Evidence
from gateway.rollouts.guards import Verdict, judge
from gateway.rollouts.plan import HeaderRoute, Plan, ShadowStep
from gateway.rollouts.status import State, Status
from gateway.rollouts.steps import ask, note, progress
from gateway.rollouts.transitions import UNDER_WAY, current_step, enter, hold, promote, roll_back, steps_of

MAX_TICK_SECONDS = 5.0
"""Two looks at the clock further apart are a jump, and no time passes between them; a controller looks every second."""
ALLOWED: Mapping[State, frozenset[CommandKind]] = MappingProxyType({
    State.WAITING: frozenset({"abort", "target"}),
    State.PROGRESSING: frozenset({"pause", "promote", "abort", "target"}),
    State.PAUSED: frozenset({"pause", "resume", "promote", "abort", "target"}),
    State.TERMINATING: frozenset({"abort", "target", "complete"}),
    State.PROMOTED: frozenset({"abort"}),
    State.ROLLED_BACK: frozenset({"abort"}),
    State.FAILED: frozenset({"abort"}),
})  # fmt: skip
"""What an operator may ask for; an abort of what has ended does nothing."""


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
    if status.state is State.PROMOTED:
        return SetRoute(status.canary, status.canary, 1.0)
    if status.state is State.TERMINATING:
        return SetRoute(status.stable, status.canary, 1.0)
    if status.state not in UNDER_WAY:
        return SetRoute(status.stable, status.canary, 0.0)
    current = current_step(plan, status)
    begun = steps_of(plan, status)[: status.step + 1]
    rules = {step.name: step.match for step in begun if isinstance(step, HeaderRoute)}
    return SetRoute(
        status.stable,
        status.canary,
        status.weight,
        shadow=current.fraction if isinstance(current, ShadowStep) else 0.0,
        rules=tuple(match for matches in rules.values() for match in matches),
    )


def resume(plan: Plan, status: Status) -> tuple[Action, ...]:
    """What a controller does with a status that it finds: all that should be so."""
    return (route(plan, status), *_ends(status))


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
    verdict = judge(plan, evidence)
    if command is not None and command.kind not in ALLOWED[status.state]:
        raise CommandRefused(command.kind, status.state.value)
    if status.is_ended:
        return Decision(status, (), verdict, is_changed=False)
    after = _tick(status, facts, now)
    after = replace(after, p_value=min(after.p_value, verdict.p_value))
    ended = _ended(after, evidence, facts, verdict, command)
    queries: tuple[Query, ...] = ()
    if ended is not None:
        after = ended
    else:
        if command is not None:
            after = _obey(plan, after, evidence, facts, command)
        if measured is not None:
            after = note(plan, after, measured)
        after = progress(plan, after, evidence, facts)
        after, queries = ask(plan, after)
    is_changed = _lasting(after) != _lasting(status)
    if is_changed:
        after = replace(after, generation=status.generation + 1)
    return Decision(after, (*_changes(plan, status, after), *queries), verdict, is_changed)


def _tick(status: Status, facts: Facts, now: float) -> Status:
    """Lets time pass, unless the clock jumped. A step's time passes while the canary serves."""
    passed = 0.0 if status.clock is None else now - status.clock
    if not 0.0 <= passed <= MAX_TICK_SECONDS:
        passed = 0.0
    counts = (status.state is State.PROGRESSING and facts.is_ready) or status.state is State.TERMINATING
    return replace(
        status,
        clock=now,
        elapsed=status.elapsed + passed,
        step_elapsed=status.step_elapsed + (passed if counts else 0.0),
        runs={name: replace(run, due_in=run.due_in - passed) for name, run in status.runs.items()},
    )


def _ended(
    status: Status, evidence: Evidence, facts: Facts, verdict: Verdict, command: Command | None
) -> Status | None:
    """The ends that win over everything: first the operator's, then the guards', then the canary's own."""
    if command is not None and command.kind == "abort":
        return roll_back(status, "operator", command.reason or f"aborted by {command.by or 'an operator'}")
    if verdict.fired and status.state is not State.WAITING:
        canary, stable = evidence.failures
        text = f"evidence {verdict.e_value:.4g} of {verdict.threshold:.4g}; failed: canary {canary}, stable {stable}"
        return roll_back(status, verdict.fired, text)
    if facts.failure and status.state is State.WAITING:
        return replace(status, state=State.FAILED, rule="unavailable", reason=facts.failure)
    if facts.failure:
        return roll_back(status, "unavailable", facts.failure)
    return None


def _obey(plan: Plan, status: Status, evidence: Evidence, facts: Facts, command: Command) -> Status:
    by = command.by or "an operator"
    match command.kind:
        case "pause" if status.state is State.PROGRESSING:
            return hold(status, "operator", "operator", command.reason or f"paused by {by}")
        case "resume":
            goes_on = status.hold == "step"
            status = replace(status, state=State.PROGRESSING, hold="", rule="", reason=f"resumed by {by}")
            if status.elapsed >= plan.max_duration:
                status = replace(status, elapsed=0.0)
            return enter(status, status.step + goes_on, evidence)
        case "promote":
            if not facts.is_ready:
                raise CommandRefused("promote", "not ready")
            return promote(plan, status, "operator", command.reason or f"promoted by {by}")
        case "complete":
            return replace(status, state=State.PROMOTED, reason=command.reason)
        case "target":
            return _retarget(plan, status, command, by)
        case _:
            return status


def _retarget(plan: Plan, status: Status, command: Command, by: str) -> Status:
    assert command.version is not None
    if command.version == status.canary and status.queued is None:
        return status
    serves = status.canary if status.is_promoted else status.stable
    nothing = replace(status, queued=None, queued_plan=None, queued_key="")
    if command.version == status.canary:
        return nothing
    if plan.on_new_target == "queue":
        waits = replace(status, queued=command.version, queued_plan=command.plan, queued_key=command.key)
        return nothing if command.version == serves else waits
    status = nothing  # whoever asks for it begins it
    if status.state is State.TERMINATING:
        return replace(status, state=State.PROMOTED)
    return roll_back(status, "superseded", f"version {command.version} asked for by {by}")


def _lasting(status: Status) -> Status:
    """Without what only time and evidence change."""
    runs = {name: replace(run, due_in=0.0) for name, run in status.runs.items()}
    return replace(status, elapsed=0.0, step_elapsed=0.0, p_value=1.0, generation=0, runs=runs)


def _ends(status: Status) -> tuple[Action, ...]:
    """What is so besides the route when traffic has moved for good, or back."""
    actions: list[Action] = []
    if status.alias is not None and status.is_promoted:
        is_back = status.state is State.ROLLED_BACK
        actions.append(MoveAlias(status.alias, status.stable if is_back else status.canary))
    if status.is_ended:
        actions.append(Unload(status.stable if status.state is State.PROMOTED else status.canary))
        if status.queued is not None:
            actions.append(Begin(status.queued))
    return tuple(actions)


def _changes(plan: Plan, before: Status, after: Status) -> tuple[Action, ...]:
    """What makes the one so where the other was."""
    actions: list[Action] = []
    if route(plan, after) != route(plan, before):
        actions.append(route(plan, after))
    if after.state is not before.state:
        was = _ends(before)
        actions += [action for action in _ends(after) if action not in was]
    if event := _event(before, after):
        actions.append(Notify(event, after.reason))
    return tuple(actions)


def _event(before: Status, after: Status) -> str:
    if after.state is before.state:
        return "step" if after.step != before.step else ""
    match after.state:
        case State.PROGRESSING:
            return "started" if before.state is State.WAITING else "resumed"
        case State.PAUSED:
            return "paused"
        case State.TERMINATING:
            return "promoted"
        case State.PROMOTED:
            return "completed" if before.state is State.TERMINATING else "promoted"
        case _:
            return str(after.state.value)
