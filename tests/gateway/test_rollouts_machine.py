"""The rollout's machine: what each step waits for, what ends it, and that no way through it is unsafe."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

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
from gateway.rollouts.evidence import Event, Evidence
from gateway.rollouts.machine import ALLOWED, MAX_TICK_SECONDS, begin, decide, resume, route
from gateway.rollouts.plan import Plan, SetWeight, default_plan
from gateway.rollouts.plan_reader import read_plan
from gateway.rollouts.status import State, Status
from gateway.rollouts.tally import Tally

READY = Facts(is_ready=True)
LOADING = Facts(is_ready=False)
PLAN = read_plan(
    """
    steps:
      - setWeight: 5
      - bake: {minTime: 10s, minRequests: 100, maxTime: 60s}
      - setWeight: 50
      - bake: {minTime: 10s, minRequests: 100, maxTime: 60s}
    terminationWait: 20s
    """
)
BAD = Evidence(canary=100, stable=1900, failed={0.05: (5, 0)})


class Rollout:
    """One rollout under test: a clock, evidence, and the status that decisions lead to."""

    def __init__(self, plan: Plan = PLAN, status: Status | None = None) -> None:
        self.plan = plan
        self.status = status or begin(1, 2, alias="champion", plan=plan)
        self.evidence = Evidence()
        self.facts = READY
        self.now = 1000.0
        self.last: Decision | None = None

    def look(self, command: Command | None = None, measured: Measured | None = None) -> tuple[Action, ...]:
        self.last = decide(
            self.plan, self.status, self.evidence, self.facts, self.now, command=command, measured=measured
        )
        self.status = self.last.status
        return self.last.actions

    def command(self, kind: CommandKind, version: int | None = None, **more: Any) -> tuple[Action, ...]:
        return self.look(Command(kind, by="ada", version=version, **more))

    def run(self, seconds: float) -> list[Action]:
        actions: list[Action] = []
        for _ in range(int(seconds)):
            self.now += 1.0
            actions += self.look()
        return actions

    def serve(self, canary: int = 100, stable: int = 1000) -> None:
        self.evidence += Evidence(canary=canary, stable=stable)

    def restart(self) -> None:
        self.status = Status.from_plain(json.loads(json.dumps(self.status.to_plain())))
        self.now = 5.0


def started(plan: Plan = PLAN) -> Rollout:
    rollout = Rollout(plan)
    rollout.look()
    return rollout


def in_state(state: State, plan: Plan = PLAN) -> Rollout:
    rollout = Rollout(plan)
    if state is State.WAITING:
        rollout.facts = LOADING
        rollout.look()
    elif state is State.FAILED:
        rollout.facts = Facts(False, "no such file")
        rollout.look()
    else:
        rollout.look()
    if state is State.PAUSED:
        rollout.command("pause")
    elif state is State.ROLLED_BACK:
        rollout.command("abort")
    elif state in (State.TERMINATING, State.PROMOTED):
        rollout.command("promote")
    if state is State.PROMOTED:
        rollout.run(25)
    assert rollout.status.state is state
    return rollout


def test_no_traffic_moves_before_the_canary_is_ready() -> None:
    rollout = Rollout()
    rollout.facts = LOADING
    assert rollout.look() == ()
    rollout.run(100)
    assert route(PLAN, rollout.status) == SetRoute(1, 2, 0.0)
    rollout.facts = READY
    assert SetRoute(1, 2, 0.05) in rollout.look()


def test_a_good_canary_takes_over_step_by_step_and_then_gets_the_alias() -> None:
    rollout = started()
    seen = []
    for _ in range(3):
        rollout.serve()
        seen += rollout.run(11)
    assert [action.weight for action in seen if isinstance(action, SetRoute)] == [0.5, 1.0]
    assert MoveAlias("champion", 2) in seen
    assert rollout.status.state is State.TERMINATING
    last = rollout.run(25)
    assert last[:2] == [SetRoute(2, 2, 1.0), Unload(1)]
    assert rollout.status.state is State.PROMOTED


def test_a_bake_needs_its_time() -> None:
    rollout = started()
    rollout.serve()
    rollout.run(9)
    assert rollout.status.weight == 0.05
    rollout.run(2)
    assert rollout.status.weight == 0.5


def test_a_bake_needs_its_requests_counted_from_its_beginning() -> None:
    rollout = started()
    rollout.serve(canary=99)
    rollout.run(20)
    assert rollout.status.weight == 0.05
    rollout.serve(canary=1)
    rollout.run(1)
    assert rollout.status.weight == 0.5
    rollout.run(20)
    assert rollout.status.weight == 0.5


def test_a_bake_needs_to_be_shown_that_the_canary_is_no_worse() -> None:
    rollout = started()
    rollout.evidence = Evidence(canary=100, stable=1900, failed={0.05: (3, 20)})
    rollout.run(30)
    assert (rollout.status.state, rollout.status.weight) == (State.PROGRESSING, 0.05)


def test_evidence_rolls_back_within_the_look_that_sees_it() -> None:
    rollout = started()
    rollout.evidence = BAD
    assert rollout.look() == (SetRoute(1, 2, 0.0), Unload(2), Notify("rolled_back", rollout.status.reason))
    assert (rollout.status.state, rollout.status.rule) == (State.ROLLED_BACK, "failures")
    assert rollout.status.p_value <= 0.01


@pytest.mark.parametrize("state", [State.PROGRESSING, State.PAUSED, State.TERMINATING])
def test_the_guards_are_awake_as_long_as_the_canary_may_have_traffic(state: State) -> None:
    rollout = in_state(state)
    rollout.evidence = BAD
    rollout.look()
    assert rollout.status.state is State.ROLLED_BACK


def test_a_rollback_after_the_promotion_moves_the_alias_back() -> None:
    rollout = in_state(State.TERMINATING)
    assert MoveAlias("champion", 1) in rollout.command("abort")


def test_evidence_wins_over_a_promotion_in_the_same_look() -> None:
    rollout = started()
    rollout.evidence = BAD
    rollout.command("promote")
    assert rollout.status.state is State.ROLLED_BACK


def test_a_canary_that_cannot_be_served_any_more_is_rolled_back() -> None:
    rollout = started()
    rollout.facts = Facts(False, "its workers keep dying")
    assert rollout.look()[0] == SetRoute(1, 2, 0.0)
    assert (rollout.status.rule, rollout.status.reason) == ("unavailable", "its workers keep dying")


def test_a_canary_that_cannot_be_loaded_fails_and_nothing_moves() -> None:
    rollout = in_state(State.FAILED)
    assert route(PLAN, rollout.status).weight == 0.0


@pytest.mark.parametrize("policy", ["hold", "extend", "promote", "rollback"])
def test_no_traffic_is_inconclusive_and_the_plan_says_what_then(policy: str) -> None:
    rollout = started(replace(PLAN, on_inconclusive=policy))
    rollout.run(65)
    found = (rollout.status.state, rollout.status.hold, rollout.status.weight)
    assert (
        found
        == {
            "hold": (State.PAUSED, "inconclusive", 0.05),
            "extend": (State.PROGRESSING, "", 0.05),
            "promote": (State.PROGRESSING, "", 0.5),
            "rollback": (State.ROLLED_BACK, "", 0.0),
        }[policy]
    )


def test_what_is_extended_is_held_at_the_end_of_the_whole_time() -> None:
    rollout = started(replace(PLAN, on_inconclusive="extend", max_duration=100.0))
    rollout.run(101)
    assert (rollout.status.hold, rollout.status.rule) == ("inconclusive", "maxDuration")
    rollout.command("resume")
    rollout.run(50)
    assert rollout.status.state is State.PROGRESSING


def test_a_canary_that_never_becomes_ready_fails_in_the_end() -> None:
    rollout = Rollout(replace(PLAN, max_duration=30.0))
    rollout.facts = LOADING
    rollout.run(31)
    assert (rollout.status.state, rollout.status.rule) == (State.FAILED, "maxDuration")


def test_a_pause_waits_for_its_time_or_for_an_operator() -> None:
    rollout = started(read_plan("{steps: [{setWeight: 5}, {pause: {duration: 5s}}, {pause: {}}, {setWeight: 20}]}"))
    rollout.run(4)
    assert rollout.status.step == 1
    rollout.run(2)
    assert (rollout.status.state, rollout.status.hold) == (State.PAUSED, "step")
    rollout.run(1000)
    assert rollout.status.weight == 0.05
    rollout.command("pause")
    rollout.command("resume")
    assert rollout.status.state is State.TERMINATING


def test_resuming_starts_a_bake_again() -> None:
    rollout = started()
    rollout.serve()
    rollout.run(9)
    rollout.command("pause")
    rollout.run(100)
    rollout.command("resume")
    rollout.serve()
    rollout.run(9)
    assert rollout.status.weight == 0.05
    rollout.run(2)
    assert rollout.status.weight == 0.5


def test_a_step_takes_no_time_while_the_canary_is_not_ready() -> None:
    rollout = started()
    rollout.serve()
    rollout.facts = LOADING
    rollout.run(50)
    assert (rollout.status.step_elapsed, rollout.status.weight) == (0.0, 0.05)


def test_the_shadow_lasts_one_step_and_needs_compared_answers() -> None:
    rollout = started(read_plan("{steps: [{shadow: {percent: 20, minTime: 5, minRequests: 10}}, {pause: {}}]}"))
    assert route(rollout.plan, rollout.status) == SetRoute(1, 2, 0.0, shadow=0.2)
    rollout.run(10)
    assert rollout.status.step == 0
    rollout.evidence += Evidence(compared=10)
    assert SetRoute(1, 2, 0.0) in rollout.run(1)


def test_a_header_route_lasts_until_one_of_its_name_replaces_it() -> None:
    match = "match: [{headerName: X-Staff, headerValue: {exact: 'yes'}}]"
    rollout = started(
        read_plan(f"steps: [headerRoute: {{name: a, {match}}}, pause: {{}}, headerRoute: {{name: a}}, pause: {{}}]")
    )
    assert [(rule.header, rule.value) for rule in route(rollout.plan, rollout.status).rules] == [("x-staff", "yes")]
    rollout.command("resume")
    assert route(rollout.plan, rollout.status).rules == ()


def test_an_analysis_step_asks_at_its_interval_and_goes_on_when_it_succeeds() -> None:
    rollout = Rollout(
        read_plan("steps: [analysis: {query: up, successCondition: '> 0', interval: 10, count: 2}, setWeight: 5]")
    )
    assert [type(action) for action in rollout.look()] == [Notify, Query]
    rollout.look(measured=Measured("", 1.0))
    asked = [action for action in rollout.run(15) if isinstance(action, Query)]
    assert len(asked) == 1
    rollout.look(measured=Measured("", 1.0))
    assert rollout.status.state is State.TERMINATING


def test_an_analysis_step_that_fails_rolls_back() -> None:
    rollout = started(read_plan("steps: [analysis: {query: up, successCondition: '> 0'}]"))
    rollout.look(measured=Measured("", 0.0))
    assert (rollout.status.state, rollout.status.rule) == (State.ROLLED_BACK, "analysis")


def test_a_metric_guard_runs_beside_the_steps_rolls_back_when_it_fails_and_holds_when_it_cannot_tell() -> None:
    text = "{steps: [setWeight: 5, pause: {}], guards: {metrics: [{name: m, query: q, failureCondition: '> 1'}]}}"
    rollout = started(read_plan(text))
    assert not any(isinstance(action, Query) for action in rollout.run(59))
    assert any(isinstance(action, Query) for action in rollout.run(2))
    rollout.look(measured=Measured("m", 2.0))
    assert (rollout.status.state, rollout.status.rule) == (State.ROLLED_BACK, "metrics")
    baking = read_plan(text.replace("pause: {}", "bake: {minRequests: 9}"))
    rollout = started(baking)
    rollout.run(61)
    rollout.look(measured=Measured("m", None))
    assert (rollout.status.hold, rollout.status.rule) == ("inconclusive", "metrics")


def test_a_measurement_of_a_step_that_is_over_is_ignored() -> None:
    rollout = started()
    before = rollout.status
    rollout.look(measured=Measured("", 0.0))
    assert rollout.status == before


def test_a_new_target_supersedes() -> None:
    rollout = started()
    actions = rollout.command("target", version=3)
    assert actions[0] == SetRoute(1, 2, 0.0)
    assert not any(isinstance(action, Begin) for action in actions), "whoever asks for it begins it"
    assert (rollout.status.state, rollout.status.rule) == (State.ROLLED_BACK, "superseded")


def test_a_new_target_queues_when_the_plan_says_so() -> None:
    rollout = started(replace(PLAN, on_new_target="queue"))
    assert rollout.command("target", version=3) == ()
    assert rollout.status.queued == 3
    assert Begin(3) in rollout.command("abort")


def test_what_is_queued_keeps_its_plan_and_what_serves_already_is_not_queued() -> None:
    rollout = started(replace(PLAN, on_new_target="queue"))
    plan = {"strategy": "allAtOnce"}
    rollout.command("target", version=3, plan=plan)
    assert (rollout.status.queued, rollout.status.queued_plan) == (3, plan)
    assert Status.from_plain(rollout.status.to_plain()) == rollout.status
    rollout.command("target", version=1)
    assert (rollout.status.queued, rollout.status.queued_plan) == (None, None)


def test_the_way_back_is_queued_after_a_promotion() -> None:
    rollout = in_state(State.TERMINATING, replace(PLAN, on_new_target="queue"))
    rollout.command("target", version=1)
    assert (rollout.status.state, rollout.status.queued) == (State.TERMINATING, 1)


def test_a_wait_that_is_void_ends_whatever_the_plan_says_of_new_targets() -> None:
    rollout = in_state(State.TERMINATING, replace(PLAN, on_new_target="queue"))
    rollout.command("complete", reason="moved")
    assert (rollout.status.state, rollout.status.reason) == (State.PROMOTED, "moved")


def test_a_new_target_ends_the_termination_wait() -> None:
    rollout = in_state(State.TERMINATING)
    rollout.command("target", version=3)
    assert rollout.status.state is State.PROMOTED


def test_the_target_that_is_under_way_already_is_no_new_one() -> None:
    rollout = started()
    assert rollout.command("target", version=2) == ()
    assert rollout.status.state is State.PROGRESSING


def test_back_to_a_recent_version_skips_the_steps() -> None:
    rollout = Rollout(status=begin(3, 2, alias="champion", recent=(2, 1), plan=PLAN))
    actions = rollout.look()
    assert actions[:2] == (SetRoute(3, 2, 1.0), MoveAlias("champion", 2))
    assert not begin(3, 1, recent=(2, 1), plan=PLAN).is_return


@pytest.mark.parametrize("state", list(State))
@pytest.mark.parametrize("kind", ["pause", "resume", "promote", "abort", "target", "complete"])
def test_a_command_is_obeyed_or_refused_and_then_nothing_changed(state: State, kind: CommandKind) -> None:
    rollout = in_state(state)
    before = rollout.status
    if kind in ALLOWED[state]:
        rollout.command(kind, version=9)
    else:
        with pytest.raises(CommandRefused) as refused:
            rollout.command(kind, version=9)
        assert (refused.value.command, refused.value.state) == (kind, state.value)
        assert rollout.status == before


def test_a_canary_that_is_not_ready_is_not_promoted() -> None:
    rollout = started()
    rollout.facts = LOADING
    with pytest.raises(CommandRefused):
        rollout.command("promote")


@pytest.mark.parametrize("state", list(State))
def test_abort_ends_on_stable_and_twice_does_nothing_more(state: State) -> None:
    rollout = in_state(state)
    rollout.command("abort")
    aborted = rollout.status
    expected = State.PROMOTED if state is State.PROMOTED else State.FAILED if state is State.FAILED else None
    assert aborted.state is (expected or State.ROLLED_BACK)
    assert rollout.command("abort") == ()
    assert rollout.status == aborted


@pytest.mark.parametrize("jump", [-1e9, -1.0, MAX_TICK_SECONDS + 1, 3600.0, 1e12])
def test_a_jump_of_the_clock_is_no_time(jump: float) -> None:
    rollout = started()
    rollout.serve()
    rollout.run(5)
    before = rollout.status.step_elapsed
    rollout.now += jump
    rollout.look()
    assert rollout.status.step_elapsed == before
    rollout.run(4)
    assert rollout.status.weight == 0.05


def test_the_generation_counts_changes_and_not_the_passing_of_time() -> None:
    rollout = started()
    generation = rollout.status.generation
    rollout.run(5)
    assert rollout.last is not None
    assert (rollout.status.generation, rollout.last.is_changed) == (generation, False)
    rollout.command("pause")
    assert (rollout.status.generation, rollout.last.is_changed) == (generation + 1, True)


@pytest.mark.parametrize("state", list(State))
def test_resuming_after_a_restart_says_all_that_should_be_so(state: State) -> None:
    rollout = in_state(state)
    rollout.restart()
    actions = resume(PLAN, rollout.status)
    assert actions[0] == route(PLAN, rollout.status)
    assert (MoveAlias("champion", 2) in actions) == (state in (State.TERMINATING, State.PROMOTED))
    assert any(isinstance(action, Unload) for action in actions) == rollout.status.is_ended


class Rollouts(RuleBasedStateMachine):
    """Anything may happen in any order; what must hold then, holds."""

    @initialize(
        policy=st.sampled_from(["hold", "extend", "promote", "rollback"]),
        on_target=st.sampled_from(["supersede", "queue"]),
        steps=st.lists(
            st.sampled_from([
                "setWeight: 2", "setWeight: 40", "setWeight: 100", "bake: {minTime: 3, minRequests: 20, maxTime: 8}",
                "pause: {duration: 2}", "pause: {}", "shadow: {percent: 5, minRequests: 5, maxTime: 5}",
            ]),
            min_size=1,
            max_size=6,
        ),
        wait=st.sampled_from([0, 4]),
    )  # fmt: skip
    def start(self, policy: str, on_target: str, steps: list[str], wait: int) -> None:
        items = "".join(f"\n- {step}" for step in steps)
        self.plan = read_plan(
            f"onInconclusive: {policy}\nonNewTarget: {on_target}\nterminationWait: {wait}\nmaxDuration: 60\n"
            f"steps:{items}"
        )
        self.status = begin(1, 2, alias="champion", plan=self.plan)
        self.tally = Tally(self.plan.guards.absolute)
        self.now = 100.0
        self.facts = LOADING
        self.applied: SetRoute = route(self.plan, self.status)
        self.alias = 1
        self.step_time = 0.0
        self.baking = (-1, 0)

    def look(self, command: Command | None = None, passed: float = 0.0) -> None:
        before = self.status
        decision = decide(self.plan, before, self.tally.evidence, self.facts, self.now, command=command)
        self.status = decision.status
        assert self.status.generation == before.generation + decision.is_changed
        assert self.status.p_value <= before.p_value
        for action in decision.actions:
            if isinstance(action, SetRoute):
                self.applied = action
            elif isinstance(action, MoveAlias):
                self.alias = action.version
        if self.status.state is State.PROGRESSING and command is None:
            assert self.status.step >= before.step
            if passed == 0.0 and self.plan.on_inconclusive != "promote":
                self.no_bake_was_passed(before)

    def no_bake_was_passed(self, before: Status) -> None:
        """Without time, no step that asks for some that is not there."""
        for index in range(before.step, self.status.step):
            step = self.plan.steps[index]
            needed = getattr(step, "min_time", None) or getattr(step, "duration", None) or 0.0
            assert needed <= (before.step_elapsed if index == before.step else 0.0)

    @rule(seconds=st.floats(0.0, MAX_TICK_SECONDS))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.look(passed=seconds)

    @rule(jump=st.one_of(st.floats(-1e6, -0.1), st.floats(MAX_TICK_SECONDS + 1, 1e6)))
    def the_clock_jumps(self, jump: float) -> None:
        before = self.status
        self.now += jump
        self.look()
        assert self.status.elapsed <= before.elapsed

    @rule(is_ready=st.booleans())
    def the_canary_comes_or_goes(self, is_ready: bool) -> None:
        self.facts = Facts(is_ready)
        self.look()

    @precondition(lambda self: not self.status.is_ended)
    @rule()
    def the_canary_is_gone_for_good(self) -> None:
        self.facts = Facts(False, "its workers keep dying")
        self.look()
        assert self.status.state in (State.ROLLED_BACK, State.FAILED)
        self.facts = LOADING

    @rule(canary=st.integers(0, 100), stable=st.integers(0, 1000))
    def requests_are_answered(self, canary: int, stable: int) -> None:
        if self.status.weight > 0:
            self.tally.count(self.status.weight, canary=canary, stable=stable)
        self.tally.compare(canary, 0)
        self.look()

    @rule(is_canary=st.booleans(), kind=st.sampled_from(["failed", "slow"]))
    def something_goes_wrong(self, is_canary: bool, kind: str) -> None:
        if self.status.weight > 0:
            self.tally.add(Event("failed" if kind == "failed" else "slow", is_canary, self.status.weight, level=1))
        self.look()

    @rule(kind=st.sampled_from(["pause", "resume", "promote", "target"]), version=st.integers(1, 4))
    def an_operator_commands(self, kind: CommandKind, version: int) -> None:
        before = self.status
        try:
            self.look(Command(kind, by="ada", version=version))
        except CommandRefused:
            assert self.status == before

    @rule()
    def an_operator_aborts(self) -> None:
        before = self.status
        self.look(Command("abort", by="ada"))
        assert self.status.is_ended
        if not before.is_ended:
            assert (self.applied.weight, self.applied.shadow, self.alias) == (0.0, 0.0, 1)

    @rule()
    def the_gateway_is_started_again(self) -> None:
        """With another clock, and what was kept; before or after the actions were done makes no difference."""
        before = self.status
        self.status = Status.from_plain(json.loads(json.dumps(before.to_plain())))
        assert self.status == before
        self.now = 3.0
        actions = resume(self.plan, self.status)
        assert actions[0] == self.applied == route(self.plan, self.status)
        for action in actions:
            if isinstance(action, MoveAlias):
                assert action.version == self.alias
        self.look()
        assert self.status.elapsed == before.elapsed or before.elapsed >= self.plan.max_duration

    @invariant()
    def what_is_applied_is_what_should_be(self) -> None:
        assert self.applied == route(self.plan, self.status)

    @invariant()
    def the_canary_has_a_share_that_the_plan_names_and_stable_the_rest(self) -> None:
        named = {step.weight for step in self.plan.steps if isinstance(step, SetWeight)}
        assert self.applied.weight in named | {0.0, 1.0}

    @invariant()
    def all_traffic_is_on_one_version_at_the_ends(self) -> None:
        match self.status.state:
            case State.WAITING | State.ROLLED_BACK | State.FAILED:
                assert (self.applied.stable, self.applied.weight, self.alias) == (1, 0.0, 1)
            case State.TERMINATING | State.PROMOTED:
                assert (self.applied.weight, self.alias) == (1.0, 2)


Rollouts.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestRollouts = Rollouts.TestCase


def test_from_anywhere_a_good_canary_with_traffic_is_promoted_in_the_end() -> None:
    for restart_every in (1, 7, 1000):
        rollout = Rollout(default_plan())
        for second in range(3000):
            rollout.now += 1.0
            rollout.serve(canary=20, stable=200)
            rollout.evidence += Evidence(compared=5)
            rollout.look()
            if second % restart_every == restart_every - 1 and restart_every > 1:
                rollout.restart()
        assert rollout.status.state is State.PROMOTED


def test_a_restart_at_every_second_never_gets_ahead() -> None:
    rollout = Rollout()
    for _ in range(100):
        rollout.restart()
        rollout.serve()
        rollout.look()
    assert rollout.status.weight == 0.05
    assert isinstance(PLAN.steps[0], SetWeight)
