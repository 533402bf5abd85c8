"""What `make rollout-sim` shows in full, on fewer runs: good versions stay, bad ones go as soon as published."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from gateway.rollouts.plan import Plan
from loadtests.rollout_exact import failures_alone
from loadtests.rollout_rules import ALL, FAILURES, LATENCY, all_guards, sluice
from loadtests.rollout_runs import EQUAL, failures_until, false_rollback, repeated, slower_until
from loadtests.rollout_traffic import BATCH, Traffic, make
from loadtests.rollout_whole import CASES, whole_rollout
from loadtests.simulate_rollouts import (
    ALPHA,
    REFERENCE_FAILURES,
    REFERENCE_LATENCY,
    SHIFTS,
    SLOWER,
    Detection,
    main,
)


@pytest.mark.parametrize("weight", [0.05, 0.5])
def test_equal_versions_are_rolled_back_no_more_often_than_alpha(weight: float) -> None:
    source = np.random.default_rng(3)
    found = sum(sum(repeated(source, 60, false_rollback, name, weight, all_guards)) for name in EQUAL)
    assert found <= stats.binom.ppf(0.9999, 60 * len(EQUAL), ALPHA)


@pytest.mark.parametrize("weight", REFERENCE_FAILURES)
def test_failing_canaries_are_found_as_soon_as_published(weight: float) -> None:
    for (stable, canary), published in zip(SHIFTS, REFERENCE_FAILURES[weight], strict=True):
        figures, _, share = published.partition(" ")
        found = failures_alone(weight, stable, canary)
        assert round(found.share, 2) >= int(share.strip("( %)") or 90) / 100, (stable, canary)
        if figures != "weak":
            median, most = map(int, figures.split("/"))
            assert (found.quantile(0.5) <= median, found.quantile(0.95) <= most) == (True, True), (stable, canary)


def test_what_is_computed_of_the_failures_guard_is_what_is_simulated() -> None:
    source = np.random.default_rng(11)
    simulated = repeated(source, 300, failures_until, failures_only, 0.1, 0.001, 0.05, 3000)
    computed = failures_alone(0.1, 0.001, 0.05).chances
    early = sum(one is not None and one <= 3 for one in simulated)
    assert stats.binomtest(early, 300, computed[:4].sum()).pvalue > 1e-4


def failures_only(traffic: Traffic, weight: float) -> int | None:
    return sluice(FAILURES, traffic, weight)


@pytest.mark.parametrize(("weight", "requests"), [(0.05, 600), (0.25, 200), (0.5, 100)])
def test_the_default_plan_finds_a_canary_that_always_fails_as_soon_as_published(weight: float, requests: int) -> None:
    source = np.random.default_rng(9)
    detection = Detection(repeated(source, 100, failures_until, all_guards, weight, 0.001, 1.0, requests))
    assert detection.quantile(0.5) <= int(REFERENCE_FAILURES[weight][0].split("/")[0])


@pytest.mark.parametrize("plan", [LATENCY, ALL], ids=["alone", "default"])
@pytest.mark.parametrize("weight", REFERENCE_LATENCY)
def test_slower_canaries_are_found_as_soon_as_published(weight: float, plan: Plan) -> None:
    source = np.random.default_rng(5)
    for factor, published in zip(SLOWER, REFERENCE_LATENCY[weight], strict=True):
        found = Detection(repeated(source, 60, slower_until, plan, weight, factor)).quantile(0.5)
        assert found <= published * 1.25, factor  # What the median of so few runs may be off.


@pytest.mark.parametrize("name", ["fails 100 %", "fails 20 %", "2 × slower"])
def test_a_whole_rollout_of_a_bad_canary_ends_at_its_first_weight(name: str) -> None:
    outcome = whole_rollout(np.random.default_rng(6), CASES[name])
    assert (outcome.state, outcome.weight) == ("rolled_back", 0.02)
    assert outcome.failed <= 6


def test_a_whole_rollout_of_an_equal_version_is_promoted() -> None:
    assert whole_rollout(np.random.default_rng(7), CASES["the same"]).state == "promoted"


def test_a_failed_request_takes_the_batch_of_its_version_with_it() -> None:
    traffic = make(np.random.default_rng(8), 2000, 0.3, stable_rate=0.002, batches=True)
    assert np.all(traffic.raw[traffic.failed])
    for arm in (True, False):
        of_arm = traffic.is_canary == arm
        batches = -(-int(of_arm.sum()) // BATCH)
        raw = np.pad(traffic.raw[of_arm], (0, batches * BATCH - int(of_arm.sum())), mode="edge").reshape(-1, BATCH)
        assert set(raw.mean(axis=1).tolist()) <= {0.0, 1.0}


def test_the_report_and_its_picture_are_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["--quick", "--out", str(tmp_path)])
    report = (tmp_path / "rollout-sim.md").read_text("utf-8")
    assert report in capsys.readouterr().out
    assert report.count("\n| --- ") == 6
    assert (tmp_path / "rollout-sim.svg").stat().st_size < 300_000
