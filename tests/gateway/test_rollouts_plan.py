"""Plans are read strictly: what is wrong is refused with its path, what is left out has its default."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.rollouts.analysis import Analysis, AnalysisRun, read_condition
from gateway.rollouts.errors import InvalidPlan
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
    Pause,
    Plan,
    Promotion,
    SetWeight,
    ShadowStep,
    Stickiness,
    default_plan,
)
from gateway.rollouts.plan_reader import read_plan
from gateway.rollouts.plan_writer import to_plain
from gateway.rollouts.tolerances import Comparison, Tolerance, fault

DOCS = Path(__file__).parents[2] / "docs"


def test_nothing_written_is_the_default_plan() -> None:
    assert read_plan("") == read_plan("{}") == read_plan({}) == default_plan()


def test_the_default_plan_shadows_only_what_may_be_run_twice() -> None:
    assert isinstance(default_plan().steps[0], ShadowStep)
    assert isinstance(default_plan(is_idempotent=False).steps[0], SetWeight)
    assert read_plan("retry: false") == default_plan(is_idempotent=False)


def test_every_key_is_read() -> None:
    plan = read_plan(
        """
        steps:
          - shadow: {percent: 20, minTime: 10s, minRequests: 30}
          - headerRoute: {name: staff, match: [{headerName: X-Staff, headerValue: {exact: "yes"}}]}
          - setWeight: 5
          - bake: {minTime: 30s, minRequests: 200, maxTime: 1h}
          - analysis: {query: up, successCondition: result >= 0.95, interval: 10, count: 3, failureLimit: 1}
          - pause: {duration: 5m}
          - pause: {}
        guards:
          failures: {maxRatio: 1.5, share: 2}
          latency: {maxRatio: 1.2, tolerancePercent: 25}
          absolute: {maxFailurePercent: 2, fromWeight: 90}
          disagreement: {maxDisagreementPercent: 3}
          labels: true
          metrics: [{name: cpu, query: cpu, failureCondition: "> 0.9"}]
        promotion: {maxFailurePercent: 1, maxRatio: 3, beta: 0.1}
        comparison:
          default: {rtol: 0.01}
          outputs:
            label: {argmax: true}
            scores: {topK: 3, atol: 0.5, distance: {totalVariation: 0.1}}
            text: {argmax: false}
        alpha: 0.03
        onInconclusive: rollback
        maxDuration: 2h
        terminationWait: 90
        rollbackWindow: {revisions: 3}
        onNewTarget: queue
        stickiness: {cookie: session}
        retry: false
        """
    )
    assert plan == Plan(
        steps=(
            ShadowStep(0.2, 10.0, 30),
            HeaderRoute("staff", (HeaderMatch("x-staff", "exact", "yes"),)),
            SetWeight(0.05),
            Bake(30.0, 200, 3600.0),
            AnalysisStep(
                Analysis("analysis", "up", success=read_condition(">= 0.95"), interval=10.0, count=3, failure_limit=1)
            ),
            Pause(300.0),
            Pause(),
        ),
        guards=Guards(
            failures=LabelGuard(1.5, 2.0),
            latency=LatencyGuard(1.2, 0.25, 9.0),
            absolute=AbsoluteGuard(0.02, 0.9),
            disagreement=DisagreementGuard(0.03),
            labels=LabelGuard(),
            metrics=(Analysis("cpu", "cpu", failure=read_condition("> 0.9")),),
        ),
        promotion=Promotion(0.01, 3.0, 0.1),
        comparison=Comparison(
            Tolerance(rtol=0.01),
            (
                ("label", Tolerance(top_k=1)),
                ("scores", Tolerance(None, 0.5, 3, ("totalVariation", 0.1))),
                ("text", Tolerance()),
            ),
        ),
        alpha=0.03,
        on_inconclusive="rollback",
        max_duration=7200.0,
        termination_wait=90.0,
        rollback_window=3,
        on_new_target="queue",
        stickiness=Stickiness("cookie", "session"),
        retry=False,
    )
    assert read_plan(json.loads(json.dumps(to_plain(plan)))) == plan


def test_blue_green_and_all_at_once_are_plans() -> None:
    assert read_plan("strategy: blueGreen").steps[0] == SetWeight(1.0)
    assert isinstance(read_plan("strategy: blueGreen").steps[1], Bake)
    at_once = read_plan("strategy: allAtOnce")
    assert (at_once.steps, at_once.termination_wait) == ((SetWeight(1.0),), 0.0)
    for plan in (read_plan("strategy: blueGreen"), at_once):
        assert read_plan(to_plain(plan)) == plan


def test_a_guard_is_turned_off_by_false() -> None:
    guards = read_plan("guards: {latency: false, absolute: false}").guards
    assert (guards.latency, guards.absolute) == (None, None)
    assert guards.failures == Guards().failures


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("stepz: []", "stepz"),
        ("steps: []", "steps"),
        ("steps: {}", "steps"),
        ("steps: [{setWeight: 101}]", "steps[0].setWeight"),
        ("steps: [{setWeight: -1}]", "steps[0].setWeight"),
        ("steps: [{setWeight: true}]", "steps[0].setWeight"),
        ("steps: [{setWeight: .nan}]", "steps[0].setWeight"),
        ("steps: [{setWeight: 5, bake: {}}]", "steps[0]"),
        ("steps: [{}]", "steps[0]"),
        ("steps: [{sleep: 5}]", "steps[0].sleep"),
        ("steps: [{setWeight: 5}, {pause: {}}, {bake: {minTimes: 3}}]", "steps[2].bake.minTimes"),
        ("steps: [{bake: {minTime: soon}}]", "steps[0].bake.minTime"),
        ("steps: [{bake: {minTime: -3}}]", "steps[0].bake.minTime"),
        ("steps: [{bake: {minRequests: 0}}]", "steps[0].bake.minRequests"),
        ("steps: [{bake: {minRequests: 1.5}}]", "steps[0].bake.minRequests"),
        ("steps: [{bake: {minTime: 5m, maxTime: 1m}}]", "steps[0].bake.maxTime"),
        ("steps: [{shadow: {minTime: 1}}]", "steps[0].shadow.percent"),
        ("comparison: {scores: {rtol: 1}}", "comparison.scores"),
        ("comparison: {default: {tolerance: 1}}", "comparison.default.tolerance"),
        ("comparison: {default: {rtol: -1}}", "comparison.default.rtol"),
        ("comparison: {default: {atol: .nan}}", "comparison.default.atol"),
        ("comparison: {outputs: {a: {topK: 0}}}", "comparison.outputs.a.topK"),
        ("comparison: {outputs: {a: {topK: 2, argmax: true}}}", "comparison.outputs.a.argmax"),
        ("comparison: {outputs: {a: {distance: {euclid: 1}}}}", "comparison.outputs.a.distance.euclid"),
        ("comparison: {outputs: {a: {distance: {totalVariation: 2}}}}",
         "comparison.outputs.a.distance.totalVariation"),
        ("comparison: {outputs: {7: {}}}", "comparison.outputs.7"),
        ("comparison: {outputs: []}", "comparison.outputs"),
        ("steps: [{headerRoute: {match: []}}]", "steps[0].headerRoute.name"),
        (
            "steps: [{headerRoute: {name: a, match: [{headerName: h, headerValue: {regex: '('}}]}}]",
            "steps[0].headerRoute.match[0].headerValue.regex",
        ),
        (
            r"steps: [{headerRoute: {name: a, match: [{headerName: h, headerValue: {regex: '(a)\1'}}]}}]",
            "steps[0].headerRoute.match[0].headerValue.regex",
        ),
        (
            "steps: [{headerRoute: {name: a, match: [{headerName: h, headerValue: {regex: '(?=a)b'}}]}}]",
            "steps[0].headerRoute.match[0].headerValue.regex",
        ),
        ("steps: [{analysis: {query: up}}]", "steps[0].analysis"),
        ("steps: [{analysis: {query: up, successCondition: len(x)}}]", "steps[0].analysis.successCondition"),
        ("guards: {failurs: {}}", "guards.failurs"),
        ("guards: {failures: {maxRatio: 0.5}}", "guards.failures.maxRatio"),
        ("guards: {latency: {p99: 3}}", "guards.latency.p99"),
        ("guards: {metrics: [{query: a, failureCondition: '> 1', limit: 3}]}", "guards.metrics[0].limit"),
        ("guards: {absolute: {maxFailurePercent: 99}}", "guards.absolute.maxFailurePercent"),
        ("alpha: 0", "alpha"),
        ("alpha: 0.01x", "alpha"),
        ("onInconclusive: wait", "onInconclusive"),
        ("maxDuration: 0", "maxDuration"),
        ("rollbackWindow: {}", "rollbackWindow.revisions"),
        ("stickiness: {header: a, cookie: b}", "stickiness"),
        ("strategy: rolling", "strategy"),
        ("{strategy: allAtOnce, steps: [{setWeight: 5}]}", "steps"),
        ("retry: 1", "retry"),
        ("[1]", ""),
        ("a: [", ""),
    ],
)
def test_what_is_wrong_is_named_by_its_path(text: str, path: str) -> None:
    with pytest.raises(InvalidPlan) as refused:
        read_plan(text)
    assert refused.value.field == path
    assert refused.value.reason


@pytest.mark.parametrize(
    ("text", "seconds"), [("30s", 30), ("5m", 300), ("1h", 3600), ("250ms", 0.25), ("7", 7), ("1.5h", 5400)]
)
def test_durations_have_units_and_a_bare_number_is_seconds(text: str, seconds: float) -> None:
    assert read_plan({"steps": [{"pause": {"duration": text}}]}).steps == (Pause(seconds),)


percents = st.floats(0, 100).map(lambda value: round(value, 3))
seconds = st.integers(0, 10_000).map(float)
steps = st.one_of(
    st.builds(lambda weight: {"setWeight": weight}, percents),
    st.builds(lambda time, count: {"bake": {"minTime": time, "minRequests": count}}, seconds, st.integers(1, 10_000)),
    st.builds(lambda time: {"pause": {"duration": time}}, seconds),
    st.builds(lambda percent: {"shadow": {"percent": percent}}, percents),
    st.just({"pause": {}}),
    st.just({"headerRoute": {"name": "a"}}),
)


@given(st.lists(steps, min_size=1, max_size=8), st.floats(1e-6, 0.5), st.sampled_from(["hold", "extend", "promote"]))
def test_a_plan_that_is_written_and_read_is_the_same(found: list[Any], alpha: float, policy: str) -> None:
    plan = read_plan({"steps": found, "alpha": alpha, "onInconclusive": policy})
    assert read_plan(json.loads(json.dumps(to_plain(plan)))) == plan


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["steps", "bake", "guards", "failures", "setWeight", "x"]), inner)
        ),
        max_leaves=10,
    )
)
def test_whatever_is_written_is_a_plan_or_refused(document: Any) -> None:
    try:
        read_plan(document)
    except InvalidPlan as refused:
        assert refused.reason


@pytest.mark.parametrize(
    ("success", "failure", "result", "outcome"),
    [
        (">= 0.95", None, 0.95, "successful"),
        (">= 0.95", None, 0.9, "failed"),
        (None, "> 1", 0.5, "successful"),
        (None, "> 1", 2.0, "failed"),
        (">= 0.95", "< 0.9", 0.92, "inconclusive"),
        (">= 0.95", None, None, "inconclusive"),
        (">= 0.95", None, float("nan"), "inconclusive"),
    ],
)
def test_a_measurement_is_what_the_conditions_say(
    success: str | None, failure: str | None, result: float | None, outcome: str
) -> None:
    analysis = Analysis("a", "q", success and read_condition(success), failure and read_condition(failure))
    assert analysis.outcome(result) == outcome


def test_limits_on_measurements_decide_an_analysis() -> None:
    analysis = Analysis("a", "q", count=3, failure_limit=1, inconclusive_limit=1, consecutive_error_limit=2)
    run = AnalysisRun().after("failed").after("error").after("error")
    assert run.verdict(analysis) is None
    assert run.after("error").verdict(analysis) == "error"
    assert run.after("successful").errors == 0
    assert run.after("failed").verdict(analysis) == "failed"
    assert run.after("inconclusive").after("successful").verdict(analysis) == "successful"
    assert run.after("inconclusive").after("inconclusive").verdict(analysis) == "inconclusive"


@pytest.mark.parametrize(
    ("tolerance", "datatype", "shape", "is_sound"),
    [
        (Tolerance(top_k=2), "FP32", (-1, 3), True),
        (Tolerance(top_k=3), "FP32", (-1, 3), False),
        (Tolerance(top_k=3), "FP32", (-1, -1), True),
        (Tolerance(top_k=1), "FP32", (), False),
        (Tolerance(top_k=1), "BYTES", (-1, 3), False),
        (Tolerance(), "BYTES", (-1, 3), True),
    ],
)
def test_a_tolerance_that_can_never_or_always_hold_is_a_fault(
    tolerance: Tolerance, datatype: str, shape: tuple[int, ...], is_sound: bool
) -> None:
    assert (fault(tolerance, datatype, shape) == "") is is_sound


def test_the_examples_of_the_documentation_are_plans() -> None:
    examples = re.findall(r"```yaml\n(.*?)```", (DOCS / "rollouts-plan.md").read_text("utf-8"), re.DOTALL)
    assert len(examples) >= 3
    for example in examples:
        assert read_plan(example).steps


def test_the_documentation_names_every_key() -> None:
    text = (DOCS / "rollouts-plan.md").read_text("utf-8")
    plain = to_plain(default_plan())
    keys = {*plain, *plain["guards"], "stickiness", "headerRoute", "analysis", "shadow", "bake", "pause", "setWeight"}
    assert {key for key in keys if not re.search(rf"`{key}\b", text)} == set()
