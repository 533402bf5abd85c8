"""Routes from what is published, and from what rollouts and aliases say of it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from dispatch_bench import Bench

from gateway.rollouts.route import Arm, HeaderRule, InvalidRoute, RolloutRoute, Shadow, Stickiness
from gateway.routing import Routing
from gateway.shadows import Shadows
from kernels.deployment import Deployment


@pytest.fixture
def versions() -> dict[int, Deployment | None]:
    bench = Bench()
    return {number: bench.deploy(str(number)) for number in (1, 2, 3)}


@pytest.fixture
def routing() -> Routing:
    return Routing(Shadows([].append, [].append, ThreadPoolExecutor(1)))


def test_calls_without_a_version_go_to_the_highest_one_until_a_rollout_says_otherwise(routing, versions):
    assert routing.table({"m": versions}, []).lookup("m")[0] is versions[3]
    routing.set_rollout("m", RolloutRoute(1, (Arm(2, 0.5),)))
    assert routing.table({"m": versions}, []).lookup("m")[0] is versions[1]
    routing.set_rollout("m", None)
    assert routing.table({"m": versions}, []).lookup("m")[0] is versions[3]


def test_a_stable_version_that_is_not_ready_is_not_replaced_by_the_arm(routing, versions):
    routing.set_rollout("m", RolloutRoute(1, (Arm(2, 0.5),)))
    assert routing.table({"m": versions | {1: None}}, []).lookup("m") == (None, "version_not_ready")


def test_an_alias_pins_its_version_and_follows_its_moves(routing, versions):
    routing.set_aliases("m", {"champion": 1})
    assert routing.table({"m": versions}, []).lookup("m", "champion")[0] is versions[1]
    routing.set_aliases("m", {"champion": 2})
    assert routing.table({"m": versions}, []).lookup("m", "champion")[0] is versions[2]
    routing.set_aliases("m", {})
    assert routing.table({"m": versions}, []).lookup("m", "champion") == (None, "unknown_version")


def test_an_alias_never_hides_a_version(routing, versions):
    routing.set_aliases("m", {"2": 1})
    assert routing.table({"m": versions}, []).lookup("m", "2")[0] is versions[2]


def test_roles_follow_the_rollout(routing):
    routing.set_rollout("m", RolloutRoute(1, (Arm(2, 0.5),), shadow=Shadow(3, 0.1)))
    assert [routing.role("m", version) for version in "1234"] == ["stable", "canary", "shadow", "stable"]
    assert routing.role("other", "2") == "stable"


def test_a_table_that_is_built_again_goes_on_with_the_division_that_there_is(routing, versions):
    routing.set_rollout("m", RolloutRoute(1, (Arm(2, 0.5),)))
    first = routing.table({"m": versions}, []).models["m"].rollout
    assert routing.table({"m": versions}, []).models["m"].rollout is first
    assert routing.table({"m": versions | {2: None}}, []).models["m"].rollout is not first


def test_counters_outlive_a_change_of_weights_and_end_with_the_rollout(routing, versions):
    for weight in (0.1, 0.25, 0.1):
        routing.set_rollout("m", RolloutRoute(1, (Arm(2, weight),)))
        routing.table({"m": versions}, [])
    assert [(count.version, count.weight) for count in routing.arm_counts("m")] == [("2", 0.1), ("2", 0.25)]
    routing.set_rollout("m", None)
    assert routing.arm_counts("m") == ()


def test_the_weight_of_evidence_is_the_share_among_the_arm_and_stable(routing, versions):
    routing.set_rollout("m", RolloutRoute(1, (Arm(2, 0.2), Arm(3, 0.2))))
    routing.table({"m": versions}, [])
    assert [count.weight for count in routing.arm_counts("m")] == [pytest.approx(0.25), pytest.approx(0.25)]


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: RolloutRoute(1, (Arm(2, 1.1),)), "arms[0].weight"),
        (lambda: RolloutRoute(1, (Arm(2, 0.6), Arm(3, 0.6))), "arms"),
        (lambda: RolloutRoute(1, (Arm(1, 0.1),)), "arms[0].version"),
        (lambda: RolloutRoute(1, shadow=Shadow(2, -0.1)), "shadow.fraction"),
        (lambda: RolloutRoute(1, rules=(HeaderRule("x", "regex", "(", 2),)), "rules[0].value"),
        (lambda: RolloutRoute(1, rules=(HeaderRule("x", "regex", "(?=a)b", 2),)), "rules[0].value"),
        (lambda: RolloutRoute(1, stickiness=Stickiness("cookie", "")), "stickiness.name"),
        (lambda: RolloutRoute(1, salt=b"short"), "salt"),
        (lambda: RolloutRoute(1, thresholds=(3.0, 2.0, 1.0)), "thresholds"),
    ],
)
def test_a_route_that_makes_no_sense_names_what_is_wrong(make, field):
    with pytest.raises(InvalidRoute) as refused:
        make()
    assert refused.value.field == field
