"""The guards' tests are exact, add up over replicas, and say nothing where there is nothing to say."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.special import logsumexp

from gateway.rollouts.absolute import upper_rate
from gateway.rollouts.evidence import Event, Evidence, Thresholds, summed
from gateway.rollouts.guards import RATIOS, is_shown, judge, label_test, ratio_interval
from gateway.rollouts.plan import (
    AbsoluteGuard,
    DisagreementGuard,
    Guards,
    LabelGuard,
    Plan,
    Promotion,
    SetWeight,
)
from gateway.rollouts.tally import MAX_UNITS, Tally

ONLY_FAILURES = Plan((SetWeight(0.05),), guards=Guards(latency=None, absolute=None), alpha=0.01)

weights = st.sampled_from([0.01, 0.05, 0.1, 0.5, 1.0])
events = st.builds(Event, st.sampled_from(["failed", "slow", "label"]), st.booleans(), weights, level=st.integers(1, 3))


def tallied(found: list[Event], *, canary: int = 0, stable: int = 0, weight: float = 0.05) -> Evidence:
    tally = Tally(AbsoluteGuard())
    tally.count(weight, canary=canary, stable=stable)
    for event in found:
        tally.add(event)
    return tally.evidence


def failures(weight: float, canary: int, stable: int) -> Evidence:
    return Evidence(canary=canary, stable=stable, failed={weight: (canary, stable)})


@given(st.lists(st.tuples(weights.filter(lambda weight: weight < 1), st.booleans()), max_size=30), st.floats(1, 3))
def test_the_label_test_is_the_formula_event_by_event(found: list[tuple[float, bool]], tolerated: float) -> None:
    logs = np.zeros(len(RATIOS))
    for weight, is_canary in found:
        ratios = tolerated * np.array([1.0, *RATIOS])
        shares = weight * ratios / (weight * ratios + 1 - weight)
        logs += np.log(shares[1:] / shares[0]) if is_canary else np.log((1 - shares[1:]) / (1 - shares[0]))
    evidence = tallied([Event("failed", is_canary, weight) for weight, is_canary in found])
    expected = logsumexp(logs, b=list(RATIOS.values()))
    assert label_test(evidence.failed, tolerated) == pytest.approx(expected, abs=1e-9)


@given(st.sampled_from([0.01, 0.05, 0.3, 0.7]), st.floats(0, 1), st.integers(0, 12), st.integers(0, 12))
def test_no_event_is_expected_to_add_evidence_when_the_canary_is_no_worse(
    weight: float, ratio: float, canary: int, stable: int
) -> None:
    """What makes it valid however often one looks: after any history, the mean over the next event's label, drawn with
    the probability of a canary that has `ratio` <= 1 times stable's rate, is no more than before."""
    share = weight * ratio / (weight * ratio + 1 - weight)
    now = math.exp(label_test({weight: (canary, stable)}, 1.0))
    next_canary = math.exp(label_test({weight: (canary + 1, stable)}, 1.0))
    next_stable = math.exp(label_test({weight: (canary, stable + 1)}, 1.0))
    assert share * next_canary + (1 - share) * next_stable <= now * (1 + 1e-9)


@given(st.lists(events, max_size=30), st.lists(events, max_size=30), st.integers(0, 9), st.integers(0, 9))
def test_the_evidence_of_two_replicas_is_that_of_one_who_saw_it_all(
    first: list[Event], second: list[Event], canary: int, stable: int
) -> None:
    parts = tallied(first, canary=canary, stable=stable), tallied(second, stable=7)
    together = tallied(first + second, canary=canary, stable=stable + 7)
    for whole in (parts[0] + parts[1], parts[1] + parts[0], summed(parts)):
        assert whole.absolute == pytest.approx(np.add(parts[0].absolute, parts[1].absolute))
        assert {**whole.to_plain(), "absolute": 0} == {**together.to_plain(), "absolute": 0}


@given(st.lists(events, max_size=30), st.integers(0, 1000))
def test_evidence_that_is_written_and_read_is_the_same(found: list[Event], canary: int) -> None:
    evidence = tallied(found, canary=canary)
    assert Evidence.from_plain(json.loads(json.dumps(evidence.to_plain()))) == evidence


@given(st.lists(events, max_size=20), st.lists(events, max_size=20))
def test_a_replica_that_is_started_again_goes_on_where_it_was(before: list[Event], after: list[Event]) -> None:
    whole = tallied(before + after)
    again = Tally(AbsoluteGuard(), Evidence.from_plain(tallied(before).to_plain()))
    for event in after:
        again.add(event)
    assert again.evidence.failed == whole.failed
    assert again.evidence.slow == whole.slow
    assert again.evidence.absolute == pytest.approx(whole.absolute)


def test_nothing_seen_is_no_evidence_and_shows_nothing() -> None:
    verdict = judge(Plan((SetWeight(0.05),)), Evidence())
    assert (verdict.e_value, verdict.p_value, verdict.fired) == (pytest.approx(1.0), pytest.approx(1.0), "")
    assert not is_shown(Promotion(), Evidence())
    assert not is_shown(Promotion(), Evidence(stable=10_000))


def test_two_failures_at_five_percent_are_enough() -> None:
    assert judge(ONLY_FAILURES, failures(0.05, 1, 0)).fired == ""
    verdict = judge(ONLY_FAILURES, failures(0.05, 2, 0))
    assert verdict.fired == "failures"
    assert verdict.e_value >= verdict.threshold == 100


def test_a_common_outage_is_no_evidence() -> None:
    assert judge(ONLY_FAILURES, failures(0.05, 500, 9500)).e_value < 1


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_whose_event_it_was_says_nothing_where_all_traffic_goes_one_way(weight: float) -> None:
    assert label_test({weight: (50, 50)}, 1.0) == 0.0


def test_evidence_is_carried_over_a_change_of_weight() -> None:
    both = Evidence(failed={0.05: (1, 0), 0.1: (2, 0)})
    assert label_test(both.failed, 1.0) > label_test({0.1: (2, 0)}, 1.0)


def test_a_tolerated_ratio_needs_more_failures() -> None:
    tolerant = Plan((SetWeight(0.05),), guards=Guards(LabelGuard(max_ratio=3.0), latency=None, absolute=None))
    assert judge(tolerant, failures(0.05, 2, 0)).fired == ""
    assert judge(tolerant, failures(0.05, 4, 0)).fired == "failures"


def test_a_failed_request_is_slow_at_every_threshold_and_a_slow_one_at_those_it_was_above() -> None:
    evidence = tallied([Event("failed", True, 0.05), Event("slow", False, 0.05, level=2)])
    assert evidence.slow == ({0.05: (1, 1)}, {0.05: (1, 1)}, {0.05: (1, 0)})
    assert evidence.failures == (1, 0)


def test_answers_above_more_thresholds_have_a_higher_level() -> None:
    thresholds = Thresholds.frozen(0.010, 0.020, 0.050, tolerance=0.1)
    assert thresholds.seconds == pytest.approx((0.011, 0.022, 0.055))
    assert [thresholds.level(seconds) for seconds in (0.0109, 0.012, 0.03, 1.0)] == [0, 1, 2, 3]


def test_only_the_first_event_of_a_unit_counts() -> None:
    found = [Event("failed", True, 0.05, unit=7)] * 5 + [Event("label", True, 0.05, unit=7)]
    evidence = tallied(found)
    assert (evidence.failures, evidence.labels) == ((1, 0), {0.05: (1, 0)})


sticky = st.builds(
    Event, st.sampled_from(["failed", "slow"]), st.just(True), st.just(0.05), level=st.just(2), unit=st.integers(0, 4)
)


@given(st.lists(sticky, max_size=12), st.lists(sticky, max_size=12), st.lists(sticky, max_size=12))
def test_a_unit_that_fails_at_every_replica_counts_once(
    first: list[Event], second: list[Event], third: list[Event]
) -> None:
    parts = [tallied(found) for found in (first, second, third)]
    together = tallied(first + second + third)
    for whole in (summed(parts), summed(reversed(parts)), parts[0] + (parts[1] + parts[2])):
        assert (whole.failed, whole.slow, whole.units) == (together.failed, together.slow, together.units)


def test_of_a_unit_that_was_moved_between_two_replicas_the_event_of_the_lower_weight_counts() -> None:
    early = tallied([Event("failed", False, 0.02, unit=7)])
    late = tallied([Event("failed", True, 0.1, unit=7), Event("failed", True, 0.1, unit=8)])
    assert (early + late).failed == (late + early).failed == {0.02: (0, 1), 0.1: (1, 0)}


def test_a_unit_that_failed_before_a_restart_is_not_counted_again() -> None:
    before = tallied([Event("failed", True, 0.05, unit=2**63 + 7)])
    again = Tally(AbsoluteGuard(), Evidence.from_plain(json.loads(json.dumps(before.to_plain()))))
    again.add(Event("failed", True, 0.05, unit=2**63 + 7))
    again.add(Event("failed", True, 0.05, unit=9))
    assert again.evidence.failures == (2, 0)


def test_many_units_that_are_slow_keep_no_failure_from_being_counted() -> None:
    slow = [Event("slow", False, 0.05, level=1, unit=unit) for unit in range(MAX_UNITS + 10)]
    evidence = tallied([*slow, Event("failed", True, 0.05, unit=1), Event("failed", True, 0.05, unit=2)])
    assert evidence.failures == (2, 0)
    assert judge(ONLY_FAILURES, evidence).fired == "failures"


def test_units_are_remembered_to_a_limit_and_others_are_not_counted() -> None:
    tally = Tally()
    for unit in range(MAX_UNITS + 10):
        tally.add(Event("failed", True, 0.05, unit=unit))
    assert tally.evidence.failures == (MAX_UNITS, 0)


def test_labels_that_come_late_keep_the_weight_of_their_request() -> None:
    plan = Plan((SetWeight(0.05),), guards=Guards(None, None, None, labels=LabelGuard()))
    evidence = tallied([Event("label", True, 0.05)] * 2, weight=0.5)
    assert judge(plan, evidence).fired == "labels"


def test_all_guards_share_one_alpha() -> None:
    plan = Plan(
        (SetWeight(0.05),),
        guards=Guards(LabelGuard(share=3), latency=None, absolute=None, labels=LabelGuard(share=1)),
    )
    evidence = failures(0.05, 2, 0)
    verdict = judge(plan, evidence)
    alone = math.exp(label_test(evidence.failed, 1.0))
    assert [guard.share for guard in verdict.guards] == [0.75, 0.25]
    assert verdict.e_value == pytest.approx(0.75 * alone + 0.25)


def test_at_full_weight_the_absolute_guard_fires_after_a_few_failures() -> None:
    plan = Plan((SetWeight(1.0),), guards=Guards(None, None, AbsoluteGuard()))
    for failed, requests in ((2, 5), (3, 15), (4, 30)):
        found = [Event("failed", True, 1.0)] * failed
        assert judge(plan, tallied(found, canary=requests, weight=1.0)).fired == "absolute"
    assert judge(plan, tallied([Event("failed", True, 1.0)], canary=30, weight=1.0)).fired == ""


def test_the_absolute_guard_takes_what_stable_fails_lately_for_granted() -> None:
    plan = Plan((SetWeight(0.9),), guards=Guards(None, None, AbsoluteGuard(from_weight=0.9)))
    tally = Tally(AbsoluteGuard(from_weight=0.9))
    tally.count(0.9, stable=200)
    for _ in range(100):
        tally.add(Event("failed", False, 0.9))
    tally.count(0.9, canary=100)
    for _ in range(50):
        tally.add(Event("failed", True, 0.9))
    assert judge(plan, tally.evidence).e_value < 1


def test_the_absolute_guard_is_silent_below_its_weight() -> None:
    evidence = tallied([Event("failed", True, 0.5)] * 50, canary=50, weight=0.5)
    assert set(evidence.absolute) == {0.0}


@given(st.integers(0, 200), st.integers(1, 200))
def test_the_bound_on_a_rate_is_that_of_clopper_and_pearson(failed: int, requests: int) -> None:
    failed = min(failed, requests)
    expected = 1.0 if failed == requests else stats.beta.ppf(0.99, failed + 1, requests - failed)
    assert upper_rate(failed, requests) == pytest.approx(expected, abs=1e-6)


def test_disagreement_of_the_shadow_is_tested_against_what_is_tolerated() -> None:
    plan = Plan((SetWeight(0.05),), guards=Guards(None, None, None, DisagreementGuard(0.05)))
    assert judge(plan, Evidence(compared=200, disagreed=10)).fired == ""
    assert judge(plan, Evidence(compared=50, disagreed=15)).fired == "disagreement"


def test_the_documented_number_of_requests_without_a_failure_shows_enough() -> None:
    for rate, requests in ((0.05, 89), (0.01, 451)):
        promotion = Promotion(max_rate=rate)
        assert [is_shown(promotion, Evidence(canary=count)) for count in (requests - 1, requests)] == [False, True]


@pytest.mark.parametrize(("rate", "requests"), [(0.01, 299), (0.05, 59), (0.1, 29)])
def test_so_many_requests_without_a_failure_show_enough(rate: float, requests: int) -> None:
    """The least by any test at these levels, and what it costs to allow for a few failures as well."""
    promotion = Promotion(max_rate=rate, max_ratio=1000.0)
    assert not is_shown(promotion, Evidence(canary=requests - 1))
    assert is_shown(promotion, Evidence(canary=math.ceil(requests * 1.6)))


def test_a_canary_that_is_as_bad_as_may_not_be_is_hardly_ever_shown_to_be_better() -> None:
    """Five percent of its requests fail, and twice as many as stable's; looked at all along."""
    source = np.random.default_rng(1)
    shown = 0
    for _ in range(300):
        is_canary = source.random((60, 100)) < 0.5
        failed = source.random((60, 100)) < np.where(is_canary, 0.05, 0.025)
        canary, stable = (np.cumsum((failed & arm).sum(axis=1)) for arm in (is_canary, ~is_canary))
        asked = np.cumsum(is_canary.sum(axis=1))
        shown += any(
            is_shown(Promotion(0.05, 2.0, 0.05), Evidence(canary=int(n), failed={0.5: (int(k), int(m))}))
            for n, k, m in zip(asked, canary, stable, strict=True)
        )
    assert shown <= stats.binom.ppf(0.999, 300, 0.05)


def test_failures_at_the_same_rate_on_both_sides_show_enough_in_the_end() -> None:
    promotion = Promotion(max_rate=0.01, max_ratio=2.0)
    evidence = Evidence(canary=1000, stable=1000, failed={0.5: (100, 100)})
    assert is_shown(promotion, evidence)
    assert not is_shown(promotion, Evidence(canary=1000, stable=1000, failed={0.5: (200, 100)}))


def test_an_interval_holds_the_ratio_and_narrows() -> None:
    assert ratio_interval({}, 0.01) == (0.0, math.inf)
    low, high = ratio_interval({0.5: (200, 100)}, 0.01)
    assert 1.0 <= low < 2.0 < high < 5.0


def test_a_report_has_all_numbers_and_no_infinity_in_its_evidence() -> None:
    plain = judge(ONLY_FAILURES, failures(0.01, 5000, 0), intervals=True).to_plain()
    assert math.isfinite(plain["e_value"])
    assert plain["fired"] == "failures"
    assert plain["guards"][0]["canary_events"] == 5000
    json.dumps(plain, allow_nan=False)
