"""The online fit of service times: what it learns, and what does not lead it astray."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernels.service_time import ServiceTime


def fitted(observations: list[tuple[int, float]]) -> ServiceTime:
    fit = ServiceTime()
    for rows, seconds in observations:
        fit.add(rows, seconds)
    return fit


def test_nothing_is_predicted_before_the_first_observation() -> None:
    assert ServiceTime().estimate(10) == 0.0


@pytest.mark.parametrize(("alpha", "tau", "largest"), [(0.5e-3, 5e-3, 64), (3e-3, 1e-3, 16), (0.2e-6, 12e-6, 32)])
def test_an_affine_service_time_is_recovered(alpha: float, tau: float, largest: int) -> None:
    sizes = random.Random(1)
    fit = fitted([(b, alpha * b + tau) for b in (sizes.randint(1, largest) for _ in range(200))])
    for rows in (1, largest // 2, largest):
        assert fit.estimate(rows) == pytest.approx(alpha * rows + tau, rel=0.03)


def test_noise_of_a_fifth_is_averaged_out() -> None:
    source = random.Random(2)
    fit = ServiceTime()
    for _ in range(500):
        rows = source.randint(1, 64)
        fit.add(rows, (0.5e-3 * rows + 5e-3) * source.uniform(0.8, 1.2))
    assert fit.estimate(64) == pytest.approx(37e-3, rel=0.1)
    assert fit.estimate(1) == pytest.approx(5.5e-3, rel=0.4)


def test_one_distinct_size_predicts_its_mean_for_every_size() -> None:
    fit = fitted([(8, 4e-3)] * 50)
    assert [fit.estimate(rows) for rows in (1, 8, 64)] == pytest.approx([4e-3] * 3)


def test_the_slope_outlives_a_long_run_of_equal_sizes() -> None:
    fit = fitted([(b, 1e-3 * b + 1e-3) for b in (1, 16, 4, 8, 2, 12) * 10] + [(16, 17e-3)] * 2000)
    assert fit.estimate(1) == pytest.approx(2e-3, rel=0.1)
    assert fit.estimate(16) == pytest.approx(17e-3, rel=0.01)


def test_a_slow_first_batch_is_forgotten_after_a_few_more() -> None:
    fit = fitted([(1, 2.0)] + [(4, 1e-3)] * 7)
    assert fit.estimate(4) == pytest.approx(1e-3, rel=0.2)


def test_one_slow_batch_among_ordinary_ones_changes_nothing() -> None:
    ordinary = [(b, 1e-4 * b + 1e-3) for b in (1, 2, 4, 8) * 10]
    before = fitted(ordinary)
    after = fitted([*ordinary, (4, 1.0)])
    assert (after.alpha, after.tau, after.observations) == (before.alpha, before.tau, before.observations)


def test_a_lasting_slowdown_is_believed() -> None:
    fit = fitted([(8, 1e-3)] * 100 + [(8, 10e-3)] * 12)
    assert fit.estimate(8) == pytest.approx(10e-3, rel=0.2)


def test_a_lasting_speedup_is_believed() -> None:
    fit = fitted([(8, 10e-3)] * 100 + [(8, 1e-3)] * 6)
    assert fit.estimate(8) == pytest.approx(1e-3, rel=0.2)


def test_a_first_batch_of_many_rows_after_small_ones_is_no_surprise() -> None:
    fit = fitted([(1, 1e-3)] * 20 + [(64, 64e-3)] * 3)
    assert fit.observations == 23
    assert fit.estimate(64) > 30e-3


@pytest.mark.parametrize(
    ("rows", "seconds"), [(0, 1.0), (-1, 1.0), (1, 0.0), (1, -1.0), (1, float("nan")), (1, float("inf"))]
)
def test_nonsense_is_ignored(rows: int, seconds: float) -> None:
    fit = fitted([(4, 2e-3), (rows, seconds)])
    assert fit.observations == 1
    assert fit.estimate(4) == 2e-3


@given(st.lists(st.tuples(st.integers(1, 10_000), st.floats(1e-7, 1e3)), max_size=60), st.integers(1, 10_000))
def test_a_prediction_is_never_negative_and_never_falls_with_rows(
    observations: list[tuple[int, float]], rows: int
) -> None:
    fit = fitted(observations)
    assert fit.alpha >= 0
    assert fit.tau >= 0
    assert 0 <= fit.estimate(rows) <= fit.estimate(rows + 1)


@given(st.lists(st.tuples(st.integers(1, 128), st.floats(1e-4, 2e-4)), min_size=1, max_size=60))
def test_a_prediction_inside_what_was_seen_stays_near_it(observations: list[tuple[int, float]]) -> None:
    fit = fitted(observations)
    mean_rows = round(sum(rows for rows, _ in observations) / len(observations))
    assert 0.3e-4 <= fit.estimate(max(mean_rows, 1)) <= 6e-4
