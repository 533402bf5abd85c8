"""Reads a plan from YAML, JSON or a mapping: every key known, every value in its range, a fault named by its path."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, get_args

import yaml

from gateway.rollouts.analysis import Analysis, Condition, read_condition
from gateway.rollouts.errors import InvalidPlan
from gateway.rollouts.node import Node
from gateway.rollouts.plan import (
    AbsoluteGuard,
    AnalysisStep,
    Bake,
    DisagreementGuard,
    Guards,
    HeaderMatch,
    HeaderRoute,
    LabelGuard,
    LatencyGuard,
    MatchKind,
    OnInconclusive,
    OnNewTarget,
    Pause,
    Plan,
    Promotion,
    SetWeight,
    ShadowStep,
    Step,
    Stickiness,
    StickyKind,
    Strategy,
    default_plan,
    steps_of,
)
from gateway.rollouts.tolerances import Comparison, Distance, Tolerance

MAX_PLAN_BYTES = 1 << 18
MAX_STEPS = 100
MAX_SECONDS = 30 * 86_400.0
MAX_REQUESTS = 10**12
MAX_OUTPUTS = 100
MAX_TOP = 1_000_000


def read_plan(source: str | Mapping[str, Any]) -> Plan:
    """A document without a key is the default plan.

    Raises:
        InvalidPlan: with the path of the first thing that is wrong.
    """
    root = Node(_parse(source) if isinstance(source, str) else source, "")
    keys = root.keys(
        "strategy",
        "steps",
        "guards",
        "promotion",
        "comparison",
        "alpha",
        "onInconclusive",
        "maxDuration",
        "terminationWait",
        "rollbackWindow",
        "onNewTarget",
        "stickiness",
        "retry",
    )
    retry = keys["retry"].flag() if "retry" in keys else True
    plan = default_plan(is_idempotent=retry)
    if "strategy" in keys:
        strategy: Strategy = keys["strategy"].choice(get_args(Strategy))
        steps = plan.steps if strategy == "canary" else steps_of(strategy)
        plan = replace(plan, strategy=strategy, steps=steps)
    if "steps" in keys:
        if plan.strategy != "canary":
            raise InvalidPlan("steps", f"strategy {plan.strategy} has its own")
        plan = replace(plan, steps=tuple(map(_step, keys["steps"].items(1, MAX_STEPS))))
    if "alpha" in keys:
        plan = replace(plan, alpha=keys["alpha"].number(1e-9, 0.5))
    if "guards" in keys:
        plan = replace(plan, guards=_guards(keys["guards"]))
    if "promotion" in keys:
        plan = replace(plan, promotion=_promotion(keys["promotion"]))
    if "comparison" in keys:
        plan = replace(plan, comparison=_comparison(keys["comparison"]))
    if "onInconclusive" in keys:
        plan = replace(plan, on_inconclusive=keys["onInconclusive"].choice(get_args(OnInconclusive)))
    if "maxDuration" in keys:
        plan = replace(plan, max_duration=keys["maxDuration"].duration(1, MAX_SECONDS))
    if "terminationWait" in keys:
        plan = replace(plan, termination_wait=keys["terminationWait"].duration(0, MAX_SECONDS))
    elif plan.strategy == "allAtOnce":
        plan = replace(plan, termination_wait=0.0)
    if "rollbackWindow" in keys:
        revisions = keys["rollbackWindow"].keys("revisions", required=("revisions",))["revisions"]
        plan = replace(plan, rollback_window=revisions.integer(0, 1000))
    if "onNewTarget" in keys:
        plan = replace(plan, on_new_target=keys["onNewTarget"].choice(get_args(OnNewTarget)))
    if "stickiness" in keys:
        kind, name = keys["stickiness"].one_of(*get_args(StickyKind))
        plan = replace(plan, stickiness=Stickiness(kind, name.text()))
    return plan


def _parse(text: str) -> object:
    if len(text) > MAX_PLAN_BYTES:
        raise InvalidPlan("", f"longer than {MAX_PLAN_BYTES} characters")
    try:
        tree = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InvalidPlan("", f"not YAML: {' '.join(str(error).split())}") from None
    return {} if tree is None else tree


def _step(node: Node) -> Step:
    kind, value = node.one_of("setWeight", "bake", "pause", "shadow", "headerRoute", "analysis")
    match kind:
        case "setWeight":
            return SetWeight(value.percent())
        case "bake":
            keys = value.keys("minTime", "minRequests", "maxTime")
            return Bake(*_waits(keys))
        case "pause":
            keys = value.keys("duration")
            return Pause(keys["duration"].duration(0, MAX_SECONDS) if "duration" in keys else None)
        case "shadow":
            keys = value.keys("percent", "minTime", "minRequests", "maxTime", required=("percent",))
            return ShadowStep(keys["percent"].percent(), *_waits(keys))
        case "headerRoute":
            return _header_route(value)
        case _:
            return AnalysisStep(_analysis(value, "analysis"))


def _waits(keys: Mapping[str, Node]) -> tuple[float, int, float | None]:
    """Least time, least requests, most time."""
    least = keys["minTime"].duration(0, MAX_SECONDS) if "minTime" in keys else 0.0
    requests = keys["minRequests"].integer(1, MAX_REQUESTS) if "minRequests" in keys else 1
    most = keys["maxTime"].duration(max(least, 1.0), MAX_SECONDS) if "maxTime" in keys else None
    return least, requests, most


def _header_route(node: Node) -> HeaderRoute:
    keys = node.keys("name", "match", required=("name",))
    matches = []
    for item in keys["match"].items(0, 100) if "match" in keys else ():
        of = item.keys("headerName", "headerValue", required=("headerName", "headerValue"))
        kind, value = of["headerValue"].one_of(*get_args(MatchKind))
        text = value.pattern() if kind == "regex" else value.text()
        matches.append(HeaderMatch(of["headerName"].text().lower(), kind, text))
    return HeaderRoute(keys["name"].text(), tuple(matches))


def _analysis(node: Node, name: str) -> Analysis:
    keys = node.keys(
        "name",
        "query",
        "successCondition",
        "failureCondition",
        "interval",
        "count",
        "failureLimit",
        "inconclusiveLimit",
        "consecutiveErrorLimit",
        required=("query",),
    )
    if "successCondition" not in keys and "failureCondition" not in keys:
        raise InvalidPlan(node.path, "needs successCondition or failureCondition")
    default = Analysis("", "")

    def limit(key: str, value: int, least: int) -> int:
        return keys[key].integer(least, 1_000_000) if key in keys else value

    return Analysis(
        name=keys["name"].text() if "name" in keys else name,
        query=keys["query"].text(),
        success=_condition(keys.get("successCondition")),
        failure=_condition(keys.get("failureCondition")),
        interval=keys["interval"].duration(1, MAX_SECONDS) if "interval" in keys else default.interval,
        count=limit("count", default.count, 1),
        failure_limit=limit("failureLimit", default.failure_limit, 0),
        inconclusive_limit=limit("inconclusiveLimit", default.inconclusive_limit, 0),
        consecutive_error_limit=limit("consecutiveErrorLimit", default.consecutive_error_limit, 0),
    )


def _condition(node: Node | None) -> Condition | None:
    if node is None:
        return None
    try:
        return read_condition(node.text())
    except ValueError as error:
        raise InvalidPlan(node.path, f"needs {error}") from None


def _guards(node: Node) -> Guards:
    """What is not named keeps its default; `false` turns a guard off, `true` or `{}` on."""
    keys = node.keys("failures", "latency", "absolute", "disagreement", "labels", "metrics")
    guards = Guards()
    if "failures" in keys:
        guards = replace(guards, failures=_label_guard(keys["failures"], guards.failures or LabelGuard()))
    if "labels" in keys:
        guards = replace(guards, labels=_label_guard(keys["labels"], LabelGuard()))
    if "latency" in keys:
        guards = replace(guards, latency=_latency_guard(keys["latency"], guards.latency or LatencyGuard()))
    if "absolute" in keys:
        guards = replace(guards, absolute=_absolute_guard(keys["absolute"], guards.absolute or AbsoluteGuard()))
    if "disagreement" in keys:
        guards = replace(guards, disagreement=_disagreement_guard(keys["disagreement"]))
    if "metrics" in keys:
        metrics = [_analysis(item, f"metrics[{index}]") for index, item in enumerate(keys["metrics"].items(0, 20))]
        if len({analysis.name for analysis in metrics}) < len(metrics):
            raise InvalidPlan(keys["metrics"].path, "two of one name")
        guards = replace(guards, metrics=tuple(metrics))
    return guards


def _label_guard(node: Node, before: LabelGuard) -> LabelGuard | None:
    if (keys := node.switch("maxRatio", "share")) is None:
        return None
    return LabelGuard(_ratio(keys, before.max_ratio), _share(keys, before.share))


def _latency_guard(node: Node, before: LatencyGuard) -> LatencyGuard | None:
    if (keys := node.switch("maxRatio", "tolerancePercent", "share")) is None:
        return None
    tolerance = keys["tolerancePercent"].number(0, 1000) / 100 if "tolerancePercent" in keys else before.tolerance
    return LatencyGuard(_ratio(keys, before.max_ratio), tolerance, _share(keys, before.share))


def _absolute_guard(node: Node, before: AbsoluteGuard) -> AbsoluteGuard | None:
    if (keys := node.switch("maxFailurePercent", "fromWeight", "share")) is None:
        return None
    rate = _rate(keys, "maxFailurePercent", before.max_rate, below=99)
    start = keys["fromWeight"].percent() if "fromWeight" in keys else before.from_weight
    return AbsoluteGuard(rate, start, _share(keys, before.share))


def _disagreement_guard(node: Node) -> DisagreementGuard | None:
    if (keys := node.switch("maxDisagreementPercent", "share")) is None:
        return None
    default = DisagreementGuard()
    return DisagreementGuard(
        _rate(keys, "maxDisagreementPercent", default.max_rate, below=99), _share(keys, default.share)
    )


def _promotion(node: Node) -> Promotion:
    keys = node.keys("maxFailurePercent", "maxRatio", "beta")
    default = Promotion()
    return Promotion(
        max_rate=_rate(keys, "maxFailurePercent", default.max_rate, below=100),
        max_ratio=keys["maxRatio"].number(1.01, 1000) if "maxRatio" in keys else default.max_ratio,
        beta=keys["beta"].number(1e-9, 0.5) if "beta" in keys else default.beta,
    )


def _comparison(node: Node) -> Comparison:
    keys = node.keys("default", "outputs")
    outputs = keys["outputs"].entries(MAX_OUTPUTS) if "outputs" in keys else {}
    return Comparison(
        _tolerance(keys["default"]) if "default" in keys else Tolerance(),
        tuple((name, _tolerance(one)) for name, one in outputs.items()),
    )


def _tolerance(node: Node) -> Tolerance:
    keys = node.keys("rtol", "atol", "argmax", "topK", "distance")
    rtol, atol = (keys[name].number(0, 1e12) if name in keys else None for name in ("rtol", "atol"))
    top = keys["topK"].integer(1, MAX_TOP) if "topK" in keys else None
    if "argmax" in keys and keys["argmax"].flag():
        if top is not None:
            keys["argmax"].refuse("is topK: 1; name one of them")
        top = 1
    if "distance" not in keys:
        return Tolerance(rtol, atol, top)
    name, most = keys["distance"].one_of(*get_args(Distance))
    return Tolerance(rtol, atol, top, (name, most.number(0, 1)))


def _ratio(keys: Mapping[str, Node], default: float) -> float:
    return keys["maxRatio"].number(1, 1000) if "maxRatio" in keys else default


def _share(keys: Mapping[str, Node], default: float) -> float:
    return keys["share"].number(1e-6, 1e6) if "share" in keys else default


def _rate(keys: Mapping[str, Node], key: str, default: float, *, below: float) -> float:
    """Percent, above 0."""
    if key not in keys:
        return default
    percent = keys[key].number(1e-6, 100)
    if percent >= below:
        raise InvalidPlan(keys[key].path, f"must be below {below:g}, not {percent:g}")
    return percent / 100
