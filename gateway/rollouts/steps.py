"""How a rollout gets on: what each kind of step waits for, and what the analyses beside them say."""

from __future__ import annotations

from dataclasses import replace

from gateway.rollouts.actions import Facts, Measured, Query
from gateway.rollouts.analysis import Analysis, AnalysisRun
from gateway.rollouts.evidence import Evidence
from gateway.rollouts.guards import is_shown
from gateway.rollouts.plan import AnalysisStep, Bake, HeaderRoute, Pause, Plan, SetWeight, ShadowStep, Step
from gateway.rollouts.status import STEP_RUN, State, Status
from gateway.rollouts.transitions import UNDER_WAY, current_step, enter, give_up, hold, promote, roll_back, steps_of


def note(plan: Plan, status: Status, measured: Measured) -> Status:
    analysis = _analyses(plan, status).get(measured.name)
    run = status.runs.get(measured.name)
    if analysis is None or run is None:
        return status  # Of a step that is over.
    outcome = "error" if measured.error else analysis.outcome(measured.result)
    return replace(status, runs={**status.runs, measured.name: run.after(outcome)})


def _analyses(plan: Plan, status: Status) -> dict[str, Analysis]:
    """Those that are to be measured now, by name."""
    if status.state not in UNDER_WAY:
        return {}
    step = current_step(plan, status)
    own = {STEP_RUN: step.analysis} if isinstance(step, AnalysisStep) and status.state is State.PROGRESSING else {}
    guards = {analysis.name: analysis for analysis in plan.guards.metrics} if status.weight > 0 else {}
    return {**guards, **own}


def ask(plan: Plan, status: Status) -> tuple[Status, tuple[Query, ...]]:
    """Which measurements are due. A guard's first comes an interval after the canary got traffic, a step's at once."""
    analyses = _analyses(plan, status)
    if status.state in UNDER_WAY:
        runs = {
            name: status.runs.get(name, AnalysisRun(due_in=0.0 if name == STEP_RUN else analysis.interval))
            for name, analysis in analyses.items()
        }
    else:
        runs = {}
    due = [name for name, run in runs.items() if run.due_in <= 0]
    for name in due:
        runs[name] = replace(runs[name], due_in=analyses[name].interval)
    return replace(status, runs=runs), tuple(Query(name, analyses[name]) for name in due)


def progress(plan: Plan, status: Status, evidence: Evidence, facts: Facts) -> Status:
    """As far as it goes now: any number of steps that are done, and no further than the first that is not."""
    if status.state is State.WAITING and facts.is_ready:
        status = enter(replace(status, state=State.PROGRESSING), 0, evidence)
    if status.state is State.TERMINATING and status.step_elapsed >= plan.termination_wait:
        return replace(status, state=State.PROMOTED)
    if status.state is State.WAITING and status.elapsed >= plan.max_duration:
        return replace(status, state=State.FAILED, rule="maxDuration", reason="the canary was not ready in time")
    status = _watch(plan, status)
    steps = steps_of(plan, status)
    while status.state is State.PROGRESSING and facts.is_ready:
        if status.step >= len(steps):
            return promote(plan, status, "", "all steps done")
        before = status
        status = _look(plan, steps[status.step], status, evidence)
        if status is before:
            break
    if status.state is State.PROGRESSING and status.elapsed >= plan.max_duration:
        return give_up(plan, status, evidence, "maxDuration")
    return status


def _watch(plan: Plan, status: Status) -> Status:
    """The metric guards: a failed one rolls back, and one that cannot tell holds."""
    for analysis in plan.guards.metrics:
        run = status.runs.get(analysis.name)
        verdict = run.verdict(analysis) if run is not None else None
        if verdict == "failed":
            return roll_back(status, "metrics", f"{analysis.name} failed")
        if verdict in ("error", "inconclusive") and status.state is State.PROGRESSING:
            runs = {name: run for name, run in status.runs.items() if name != analysis.name}
            return hold(replace(status, runs=runs), "inconclusive", "metrics", f"{analysis.name}: {verdict}")
    return status


def _look(plan: Plan, step: Step, status: Status, evidence: Evidence) -> Status:
    """At one step: the same object when it takes longer."""
    match step:
        case SetWeight(weight):
            return enter(replace(status, weight=weight), status.step + 1, evidence)
        case HeaderRoute():
            return enter(status, status.step + 1, evidence)
        case Pause():
            if step.duration is None:
                return hold(status, "step", "", "until it is resumed")
            return enter(status, status.step + 1, evidence) if status.step_elapsed >= step.duration else status
        case Bake():
            seen = evidence.canary - status.requests_before
            is_done = seen >= step.min_requests and is_shown(plan.promotion, evidence)
        case ShadowStep():
            is_done = evidence.compared - status.compared_before >= step.min_requests
        case AnalysisStep():
            return _look_at_analysis(plan, step.analysis, status, evidence)
    if is_done and status.step_elapsed >= step.min_time:
        return enter(status, status.step + 1, evidence)
    if step.max_time is not None and status.step_elapsed >= step.max_time:
        return give_up(plan, status, evidence, "inconclusive")
    return status


def _look_at_analysis(plan: Plan, analysis: Analysis, status: Status, evidence: Evidence) -> Status:
    run = status.runs.get(STEP_RUN)
    match run.verdict(analysis) if run is not None else None:
        case "successful":
            return enter(status, status.step + 1, evidence)
        case "failed":
            return roll_back(status, "analysis", f"{analysis.name} failed")
        case "error":
            return roll_back(status, "analysis", f"{analysis.name} could not be measured")
        case "inconclusive":
            return give_up(plan, status, evidence, "inconclusive")
        case _:
            return status
