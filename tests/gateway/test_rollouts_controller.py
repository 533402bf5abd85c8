"""One gateway and its rollouts: a step is written before it takes effect, a rollback takes effect before it is written,
and no loss of anything gives a canary more traffic."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rollout_house import MODEL, PLAN, House

from gateway.admin.problems import ProblemError
from gateway.rollouts.feedback import Label
from gateway.rollouts.route import RolloutRoute
from gateway.rollouts.tolerances import Tolerance
from registry.errors import NotFound
from registry.policies import ApprovalPolicy, ModelPolicy
from registry.sources.catalog import Proposal


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    house = House(tmp_path)
    yield house
    house.close()


def actions(house: House, id: str) -> list[str]:
    return [entry.action for entry in house.catalog.rollouts.history(id)]


def test_a_good_version_goes_step_by_step_to_the_end_and_the_alias_follows(house: House) -> None:
    id = house.begin()
    weights = []
    for _ in range(60):
        house.serve(1)
        weights.append(house.gateway.plane.weight)
        assert weights == sorted(weights), "a step back"
        if house.state(id) == "terminating":
            break
    assert set(weights) >= {0.1, 0.5, 1.0}
    assert house.champion == 2
    house.turn(12)
    assert house.state(id) == "promoted"
    assert house.gateway.models.ready == {2}
    assert house.gateway.plane.routes == {}, "what is over needs no route"
    assert house.catalog.verify_audit() is None


def test_no_step_is_taken_before_it_is_written(house: House) -> None:
    id = house.begin()
    house.serve(4)
    house.is_down = True
    before = house.gateway.plane.weight
    house.serve(60)
    assert house.gateway.plane.weight == before
    house.is_down = False
    house.serve(60)
    assert house.state(id) in ("terminating", "promoted")


def test_a_rollback_takes_effect_in_the_wake_up_of_the_deciding_event(house: House) -> None:
    id = house.begin()
    house.serve(2)
    assert house.gateway.plane.weight == 0.1
    house.gateway.plane.traffic(10, failed=5)
    assert house.gateway.plane.weight == 0.0, "before any turn"
    house.turn(2)
    assert (house.state(id), house.champion) == ("rolled_back", 1)
    assert house.gateway.models.ready == {1}
    assert house.gateway.plane.routes == {}
    assert house.gateway.controller.rollbacks == {(MODEL, "failures"): 1}
    entry = house.catalog.rollouts.history(id)[-1]
    assert entry.after["evidence"]["fired"] == "failures"
    assert house.service.get(id)["canary"]["failed"] == 5, "and what it was decided on is kept"


def test_an_outage_of_both_arms_rolls_nothing_back(house: House) -> None:
    id = house.begin()
    house.serve(2)
    for _ in range(20):
        house.gateway.plane.traffic(100, failed=5, stable_failed=45)
    house.turn()
    assert house.state(id) != "rolled_back"


def test_without_traffic_nothing_moves(house: House) -> None:
    id = house.begin()
    house.turn(200)
    assert house.state(id) == "progressing"
    assert house.gateway.plane.weight == 0.1
    assert house.champion == 1


def test_a_canary_that_cannot_be_loaded_never_has_traffic(house: House) -> None:
    house.gateway.models.failing = {2: "the file is no model"}
    id = house.begin()
    assert house.state(id) == "failed"
    assert house.gateway.plane.weight == 0.0
    assert house.service.get(id)["reason"] == "the file is no model"
    assert house.champion == 1


def test_a_canary_that_is_rejected_meanwhile_is_rolled_back(house: House) -> None:
    id = house.begin()
    house.serve(2)
    house.catalog.reject(MODEL, 2, "bob", "leaks the label")
    house.gateway.source.left_out = ("version 2 of the rollout: rejected",)
    house.turn(2)
    assert house.state(id) == "rolled_back"


class TestDatabaseDown:
    def test_a_rollback_is_in_force_and_is_recorded_later(self, house: House) -> None:
        id = house.begin()
        house.serve(2)
        house.is_down = True
        house.gateway.plane.traffic(10, failed=5)
        assert house.gateway.plane.weight == 0.0
        house.turn(20)
        assert house.gateway.plane.weight == 0.0
        assert house.state(id) == "progressing"
        house.is_down = False
        house.turn(2)
        assert house.state(id) == "rolled_back"

    def test_an_abort_is_in_force_when_it_returns_and_survives_a_crash(self, house: House) -> None:
        id = house.begin()
        house.serve(2)
        house.is_down = True
        document = house.gateway.abort(id)
        assert (document["state"], document["active"], house.gateway.plane.weight) == ("rolled_back", False, 0.0)
        house.gateway.crash()
        assert house.gateway.plane.weight == 0.0
        house.turn(3)
        house.is_down = False
        house.turn(3)
        assert house.state(id) == "rolled_back"
        assert house.catalog.rollouts.history(id)[-1].actor == "ann"
        assert house.champion == 1

    def test_an_abort_wins_over_a_promotion_that_somebody_wrote_meanwhile(self, house: House) -> None:
        id = house.begin()
        house.serve(2)
        house.gateway.is_partitioned = True
        house.gateway.abort(id)
        house.service.command(id, "promote", None, "it is fine")
        assert house.champion == 2
        house.gateway.is_partitioned = False
        house.turn(3)
        assert (house.state(id), house.champion) == ("rolled_back", 1)
        assert house.catalog.verify_audit() is None

    def test_a_gateway_that_starts_alone_gives_the_canary_no_more_than_it_had(self, house: House) -> None:
        house.begin()
        house.serve(2)
        house.is_down = True
        house.gateway.crash()
        house.gateway.models.load({1, 2})
        assert house.gateway.plane.weight == 0.1
        house.serve(30)
        assert house.gateway.plane.weight == 0.1

    def test_the_last_answer_of_a_rollout_that_is_over_survives_a_crash(self, house: House) -> None:
        id = house.begin()
        house.serve(2)
        house.gateway.models.failing = {}
        house.gateway.plane.traffic(10, failed=5)
        asyncio.run(house.gateway._turn())  # recorded, and 2 is loaded still
        assert house.state(id) == "rolled_back"
        house.is_down = True
        house.gateway.crash()
        house.gateway.models.load({1, 2})
        assert house.gateway.plane.routes == {MODEL: RolloutRoute(1)}
        house.gateway.models.load({1})
        assert house.gateway.plane.routes == {}


def test_a_version_that_is_unloading_takes_no_traffic_by_being_the_newest(house: House) -> None:
    house.begin()
    house.serve(2)
    house.gateway.plane.traffic(10, failed=5)
    asyncio.run(house.gateway._turn())
    routed = []
    house.gateway.models.subscribe(lambda: routed.append(house.gateway.plane.routes.get(MODEL)))
    house.gateway.models.load({1})
    assert routed == [RolloutRoute(1), None], "first it is unloading, then it is gone"


def test_a_second_rollout_of_the_same_version_counts_from_nothing(house: House) -> None:
    house.begin()
    house.serve(4)
    house.gateway.plane.traffic(10, failed=5)
    house.turn(3)
    id = house.begin()
    house.serve(1)
    house.turn()
    assert house.service.get(id)["canary"]["requests"] == 10


class TestRestart:
    def test_goes_on_where_it_was_and_bakes_no_shorter(self, house: House) -> None:
        id = house.begin()
        house.serve(10)  # five of the ten seconds
        elapsed = house.service.get(id)["elapsed_seconds"]
        assert elapsed > 3
        house.clock.time += 1000.0
        house.gateway.crash()
        house.turn(2)
        assert house.gateway.plane.weight == 0.1
        assert house.service.get(id)["elapsed_seconds"] < elapsed + 3

    def test_keeps_what_was_seen(self, house: House) -> None:
        id = house.begin()
        house.serve(4)
        before = house.service.get(id)["canary"]["requests"]
        assert before == 40
        house.gateway.crash()
        house.turn(2)
        assert house.service.get(id)["canary"]["requests"] == before

    def test_of_the_evidence_of_failures_too(self, house: House) -> None:
        id = house.begin()
        house.gateway.plane.traffic(10, failed=1)
        house.turn()
        house.gateway.crash()
        house.turn(3)
        house.gateway.plane.traffic(10, failed=2)
        house.turn(2)
        assert house.state(id) == "rolled_back"


class TestCommands:
    def test_pause_holds_and_resume_goes_on(self, house: House) -> None:
        id = house.begin()
        house.serve(2)
        house.service.command(id, "pause", None, "lunch")
        house.serve(60)
        assert (house.state(id), house.gateway.plane.weight) == ("paused", 0.1)
        house.service.command(id, "resume", None, "")
        house.serve(100)
        assert house.champion == 2

    def test_the_guard_is_awake_while_paused(self, house: House) -> None:
        id = house.begin()
        house.serve(2)
        house.service.command(id, "pause", None, "")
        house.turn(2)
        house.gateway.plane.traffic(10, failed=5)
        house.turn()
        assert house.state(id) == "rolled_back"

    def test_promote_skips_what_is_left(self, house: House) -> None:
        id = house.begin()
        house.service.command(id, "promote", None, "sure")
        house.turn(2)
        assert (house.champion, house.gateway.plane.weight) == (2, 1.0)

    def test_what_the_state_does_not_allow_is_refused(self, house: House) -> None:
        id = house.begin()
        house.gateway.abort(id)
        house.turn(2)
        with pytest.raises(ProblemError, match="cannot promote"):
            house.service.command(id, "promote", None, "")

    def test_abort_is_idempotent_and_of_what_is_over_nothing(self, house: House) -> None:
        id = house.begin()
        house.gateway.abort(id)
        house.turn(2)
        told = actions(house, id)
        for _ in range(2):
            assert house.gateway.abort(id)["state"] == "rolled_back"
        house.turn(2)
        assert actions(house, id) == told
        with pytest.raises(NotFound):
            house.gateway.abort("0" * 12)

    def test_a_new_target_takes_the_place_of_the_old_one(self, house: House) -> None:
        first = house.begin(2)
        second = house.begin(3)
        assert (house.state(first), second != first) == ("rolled_back", True)
        house.turn(2)
        assert house.gateway.source.admitted == {MODEL: frozenset({1, 3})}

    def test_a_new_target_waits_where_the_plan_says_so(self, house: House) -> None:
        first = house.begin(2, PLAN | {"onNewTarget": "queue"})
        assert house.begin(3) == first
        house.gateway.abort(first)
        house.turn(4)
        newest, _ = house.service.of_model(MODEL)
        assert (newest["to"], newest["active"]) == (3, True)


class TestAliases:
    def test_one_that_somebody_moves_elsewhere_ends_the_rollout(self, house: House) -> None:
        id = house.begin()
        house.serve(2)
        house.catalog.move_alias(MODEL, "champion", 3, actor="bob")
        house.turn(3)
        assert (house.state(id), house.champion) == ("rolled_back", 3)

    def test_a_move_that_is_a_proposal_begins_a_rollout_once(self, house: House) -> None:
        house.catalog.set_policy(MODEL, ModelPolicy(on_alias_move="propose"), "ann")
        row = house.catalog.move_alias(MODEL, "champion", 2, actor="bob")
        house.gateway.source.moves = (Proposal(MODEL, "champion", row.generation, frozenset({1}), 2),)
        house.turn(2)
        (rollout,) = house.service.of_model(MODEL)
        assert (rollout["from"], rollout["to"], rollout["active"]) == (1, 2, True)
        house.gateway.abort(rollout["id"])
        house.turn(3)
        assert house.champion == 1, "a proposal that fails is put back"
        assert len(house.service.of_model(MODEL)) == 1

    def test_the_data_plane_knows_where_they_point(self, house: House) -> None:
        house.turn(2)
        assert house.gateway.plane.aliases == {MODEL: {"champion": 1}}


class TestMetricsOfOthers:
    PLAN = {"steps": [{"setWeight": 10}, {"analysis": {"query": "errors", "successCondition": "result < 0.1",
                                                      "interval": "1s", "count": 2}}]}  # fmt: skip

    def test_an_analysis_that_succeeds_lets_the_rollout_go_on(self, house: House) -> None:
        house.gateway.prometheus.value = 0.01
        id = house.begin(2, self.PLAN)
        house.serve(30)
        assert house.state(id) in ("terminating", "promoted")
        assert house.gateway.prometheus.asked == ["errors"] * 2

    def test_an_analysis_that_fails_rolls_back(self, house: House) -> None:
        house.gateway.prometheus.value = 0.5
        id = house.begin(2, self.PLAN)
        house.serve(30)
        assert house.state(id) == "rolled_back"


class TestFeedback:
    PLAN = PLAN | {"guards": {"labels": {}}}

    def give(self, house: House, ids: range, version: int, is_correct: bool = False) -> int:
        labels = [Label(str(id), version, is_correct, None) for id in ids]
        return asyncio.run(house.gateway.controller.give_feedback(MODEL, labels))

    def test_wrong_answers_of_the_canary_roll_it_back(self, house: House) -> None:
        id = house.begin(2, self.PLAN)
        house.serve(8)
        assert self.give(house, range(50), 1, is_correct=True) == 50
        assert self.give(house, range(100, 112), 2) == 12
        house.turn(2)
        assert house.state(id) == "rolled_back"

    def test_a_request_counts_once_and_only_for_a_version_that_takes_part(self, house: House) -> None:
        house.begin(2, self.PLAN)
        house.serve(8)
        assert self.give(house, range(5), 2) == 5
        assert self.give(house, range(5), 2) == 0
        assert self.give(house, range(10, 15), 3) == 0

    def test_without_a_rollout_nothing_counts(self, house: House) -> None:
        assert self.give(house, range(5), 1) == 0


class TestWhatIsRefused:
    def refused(self, house: House, to: int, **options: object) -> str:
        with pytest.raises(ProblemError) as error:
            house.service.start(MODEL, to, **{"alias": None, "plan": None, "reason": "", "key": ""} | options)  # type: ignore[arg-type]
        return error.value.problem.detail

    def test_a_version_that_serves_already(self, house: House) -> None:
        assert "served by version 1 already" in self.refused(house, 1)

    def test_a_model_that_no_alias_serves(self, house: House) -> None:
        house.catalog.set_policy(MODEL, ModelPolicy("latest"), "ann")
        assert "--served-by alias:champion" in self.refused(house, 2)

    def test_another_alias_than_the_one_that_serves(self, house: House) -> None:
        assert "its alias champion" in self.refused(house, 2, alias="other")

    def test_a_plan_with_an_unknown_key(self, house: House) -> None:
        assert "stepps" in self.refused(house, 2, plan={"stepps": []})

    def test_a_version_that_the_policy_does_not_let_serve(self, house: House) -> None:
        house.catalog.set_policy(MODEL, ModelPolicy(approval=ApprovalPolicy(require_approval=True)), "ann")
        assert "not approved yet" in self.refused(house, 2)

    def test_a_version_that_is_not_there(self, house: House) -> None:
        with pytest.raises(NotFound):
            house.service.start(MODEL, 9, alias=None, plan=None, reason="", key="")


SHADOWED = {
    **PLAN,
    "steps": [{"shadow": {"percent": 20, "minTime": "1s", "minRequests": 50}}, *PLAN["steps"]],
    "guards": {"disagreement": {"maxDisagreementPercent": 1}},
}


def test_a_shadow_step_ends_when_enough_answers_were_compared(house: House) -> None:
    house.begin(plan=SHADOWED)
    plane = house.gateway.plane
    plane.compared = 49
    house.turn(20)
    route = plane.routes[MODEL]
    assert route.shadow is not None
    assert (route.shadow.version, route.shadow.fraction, plane.weight) == (2, 0.2, 0.0)
    plane.compared = 50
    house.turn(3)
    assert plane.routes[MODEL].shadow is None
    assert plane.weight == 0.1


def test_the_default_plan_begins_with_a_shadow(house: House) -> None:
    house.begin(plan={})
    plane = house.gateway.plane
    assert plane.routes[MODEL].shadow is not None
    assert plane.weight == 0.0
    plane.compared = 50
    house.turn(80)
    assert plane.weight == 0.02


def test_a_shadow_that_disagrees_too_often_ends_the_rollout(house: House) -> None:
    id = house.begin(plan=SHADOWED)
    plane = house.gateway.plane
    plane.compared, plane.disagreed = 40, 20
    house.turn(2)
    assert house.state(id) == "rolled_back"
    assert house.catalog.rollouts.get(id).status["rule"] == "disagreement"
    assert plane.routes == {}


def test_what_disagreed_last_is_shown_and_survives_a_restart(house: House) -> None:
    id = house.begin(plan=SHADOWED)
    house.gateway.plane.compared, house.gateway.plane.disagreed = 2000, 2
    house.turn()
    (first, second) = house.service.get(id)["disagreements"]
    assert first == {"request_id": "r-1", "output": "scores", "difference": "1 of 2 values differ",
                     "live": "[1]", "shadow": "[2]"}  # fmt: skip
    assert second["request_id"] == "r-2"
    house.gateway.crash()
    house.turn(3)
    assert house.service.get(id)["disagreements"] == [first, second]
    house.gateway.plane.compared, house.gateway.plane.disagreed = 2000, 7
    house.turn()
    names = [one["request_id"] for one in house.service.get(id)["disagreements"]]
    assert names == ["r-2", *(f"r-{number}" for number in range(1, 8))], "the latest eight"
    assert [one["request_id"] for one in house.gateway.abort(id)["disagreements"]] == names


def test_a_rollout_shows_no_disagreements_of_the_one_before(house: House) -> None:
    first = house.begin(plan=SHADOWED)
    house.gateway.plane.compared, house.gateway.plane.disagreed = 2000, 3
    house.turn()
    house.gateway.abort(first)
    house.turn(3)
    house.gateway.plane.compared = 2001
    second = house.begin(plan=SHADOWED)
    house.turn(3)
    assert house.service.get(second)["disagreements"] == []


def test_the_plan_says_what_the_shadow_is_held_to(house: House) -> None:
    house.begin(plan={**SHADOWED, "comparison": {"outputs": {"scores": {"argmax": True}}}})
    house.turn()
    shadow = house.gateway.plane.routes[MODEL].shadow
    assert shadow is not None
    assert shadow.comparison.of("scores") == Tolerance(top_k=1)


@pytest.mark.parametrize(
    ("name", "tolerance", "reason"),
    [
        ("score", {"argmax": True}, "no such output; it has scores"),
        ("scores", {"topK": 2}, "only 2 values"),
    ],
)
def test_a_plan_for_other_outputs_than_the_version_has_is_refused(
    house: House, name: str, tolerance: dict[str, Any], reason: str
) -> None:
    plan = {**PLAN, "comparison": {"outputs": {name: tolerance}}}
    with pytest.raises(ProblemError, match=reason) as refused:
        house.service.start(MODEL, 2, alias=None, plan=plan, reason="", key="")
    assert refused.value.problem.facts["field"] == f"comparison.outputs.{name}"


def test_a_look_that_goes_wrong_is_told_and_the_next_one_goes_on(
    house: House, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    controller = house.gateway.controller
    looks = 0

    async def turn() -> None:
        nonlocal looks
        looks += 1
        if looks == 1:
            raise ValueError("nobody expected this")
        raise asyncio.CancelledError

    monkeypatch.setattr(controller, "turn", turn)
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(controller.run())
    assert looks == 2
    assert "nobody expected this" in caplog.text
