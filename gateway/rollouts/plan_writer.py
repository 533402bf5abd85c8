"""Writes a plan as JSON values, whole, in the words that `plan_reader` reads."""

from __future__ import annotations

from typing import Any

from gateway.rollouts.analysis import Analysis
from gateway.rollouts.plan import (
    AnalysisStep,
    Bake,
    Guards,
    HeaderRoute,
    LabelGuard,
    Pause,
    Plan,
    SetWeight,
    ShadowStep,
    Step,
)
from gateway.rollouts.tolerances import Tolerance


def to_plain(plan: Plan) -> dict[str, Any]:
    """The whole plan; `read_plan` reads it to an equal one."""
    plain: dict[str, Any] = {
        "strategy": plan.strategy,
        "guards": _guards(plan.guards),
        "promotion": {
            "maxFailurePercent": _percent(plan.promotion.max_rate),
            "maxRatio": plan.promotion.max_ratio,
            "beta": plan.promotion.beta,
        },
        "comparison": {
            "default": _tolerance(plan.comparison.default),
            "outputs": {name: _tolerance(one) for name, one in plan.comparison.outputs},
        },
        "alpha": plan.alpha,
        "onInconclusive": plan.on_inconclusive,
        "maxDuration": plan.max_duration,
        "terminationWait": plan.termination_wait,
        "rollbackWindow": {"revisions": plan.rollback_window},
        "onNewTarget": plan.on_new_target,
        "retry": plan.retry,
    }
    if plan.strategy == "canary":
        plain["steps"] = [_step(step) for step in plan.steps]
    if plan.stickiness is not None:
        plain["stickiness"] = {plan.stickiness.kind: plan.stickiness.name}
    return plain


def _percent(ratio: float) -> float:
    """Rounded so that 7 percent, read as a ratio, is 7 again."""
    return round(ratio * 100, 10)


def _step(step: Step) -> dict[str, Any]:
    match step:
        case SetWeight():
            return {"setWeight": _percent(step.weight)}
        case Bake():
            return {"bake": _waits(step)}
        case Pause():
            return {"pause": {} if step.duration is None else {"duration": step.duration}}
        case ShadowStep():
            return {"shadow": {"percent": _percent(step.fraction), **_waits(step)}}
        case HeaderRoute():
            match = [{"headerName": one.header, "headerValue": {one.kind: one.value}} for one in step.match]
            return {"headerRoute": {"name": step.name, "match": match}}
        case AnalysisStep():
            return {"analysis": _analysis(step.analysis)}


def _waits(step: Bake | ShadowStep) -> dict[str, Any]:
    most = {} if step.max_time is None else {"maxTime": step.max_time}
    return {"minTime": step.min_time, "minRequests": step.min_requests, **most}


def _analysis(analysis: Analysis) -> dict[str, Any]:
    plain: dict[str, Any] = {
        "name": analysis.name,
        "query": analysis.query,
        "interval": analysis.interval,
        "count": analysis.count,
        "failureLimit": analysis.failure_limit,
        "inconclusiveLimit": analysis.inconclusive_limit,
        "consecutiveErrorLimit": analysis.consecutive_error_limit,
    }
    if analysis.success is not None:
        plain["successCondition"] = str(analysis.success)
    if analysis.failure is not None:
        plain["failureCondition"] = str(analysis.failure)
    return plain


def _guards(guards: Guards) -> dict[str, Any]:
    latency, absolute, disagreement = guards.latency, guards.absolute, guards.disagreement
    return {
        "failures": _label_guard(guards.failures),
        "latency": latency is not None
        and {
            "maxRatio": latency.max_ratio,
            "tolerancePercent": _percent(latency.tolerance),
            "share": latency.share,
        },
        "absolute": absolute is not None
        and {
            "maxFailurePercent": _percent(absolute.max_rate),
            "fromWeight": _percent(absolute.from_weight),
            "share": absolute.share,
        },
        "disagreement": disagreement is not None
        and {"maxDisagreementPercent": _percent(disagreement.max_rate), "share": disagreement.share},
        "labels": _label_guard(guards.labels),
        "metrics": [_analysis(analysis) for analysis in guards.metrics],
    }


def _tolerance(tolerance: Tolerance) -> dict[str, Any]:
    plain: dict[str, Any] = {"rtol": tolerance.rtol, "atol": tolerance.atol, "topK": tolerance.top_k}
    if tolerance.distance is not None:
        plain["distance"] = dict([tolerance.distance])
    return {name: value for name, value in plain.items() if value is not None}


def _label_guard(guard: LabelGuard | None) -> dict[str, Any] | bool:
    return guard is not None and {"maxRatio": guard.max_ratio, "share": guard.share}
