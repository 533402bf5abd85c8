"""Rates, quantiles and demand from samples of counters."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.activity import Activity, Recent, Sample, quantile

BOUNDS = (0.001, 0.01, 0.1)


def sample(
    now: float,
    requests: int = 0,
    *,
    seconds_each: float = 0.005,
    failures: int = 0,
    shed: int = 0,
    in_flight: int = 0,
    executions: int = 0,
    rows: int = 0,
) -> Sample:
    succeeded = requests - failures
    return Sample(
        now=now,
        requests=requests,
        failures=failures,
        succeeded=succeeded,
        succeeded_seconds=succeeded * seconds_each,
        shed=shed,
        executions=executions,
        rows=rows,
        in_flight=in_flight,
        bounds=BOUNDS,
        cumulative=(0, requests, requests, requests),
    )


def after(*samples: Sample) -> Activity:
    recent = Recent(window=30.0)
    for one in samples:
        recent.record(one)
    return recent.activity()


def test_nothing_recorded_is_idle() -> None:
    assert Recent().activity() == Activity()


def test_one_sample_has_demand_and_no_rates() -> None:
    activity = after(sample(5.0, 100, in_flight=7))
    assert (activity.demand, activity.request_rate, activity.p50_seconds) == (7.0, 0.0, None)


def test_rates_are_over_the_time_between_the_first_and_last_sample() -> None:
    activity = after(sample(0.0), sample(10.0, 100, failures=20, shed=10, executions=25, rows=100))
    assert (activity.request_rate, activity.failure_rate, activity.shed_rate) == (10.0, 2.0, 1.0)
    assert activity.mean_batch_size == 4.0


def test_what_is_older_than_the_window_is_forgotten() -> None:
    samples = [sample(float(second), 1000) for second in range(1, 100)]
    assert after(sample(0.0), *samples).request_rate == 0.0


def test_a_counter_that_began_anew_starts_a_new_window() -> None:
    assert after(sample(0.0, 500), sample(1.0, 10), sample(2.0, 20)).request_rate == 10.0


def test_quantiles_come_from_what_the_window_added() -> None:
    activity = after(sample(0.0, 1_000_000), sample(1.0, 1_000_100))
    assert activity.p50_seconds == pytest.approx(0.0055)
    assert activity.p99_seconds == pytest.approx(0.00991)


def test_demand_without_shedding_is_what_is_in_flight() -> None:
    assert after(*(sample(float(n), n * 100, in_flight=n % 3) for n in range(30))).demand == pytest.approx(1.0)


def test_what_is_shed_counts_as_it_would_have_been_in_flight() -> None:
    """100 a second shed, each of which would have stayed for 50 ms, are 5 more in flight."""
    samples = [
        sample(float(n), n * 200, failures=n * 100, shed=n * 100, seconds_each=0.05, in_flight=5) for n in range(10)
    ]
    assert after(*samples).demand == pytest.approx(10.0)


def test_demand_is_known_when_everything_is_shed() -> None:
    earlier = [sample(0.0, 10, seconds_each=0.2)]
    shedding = [sample(float(n), 10 + n * 10, failures=n * 10, shed=n * 10, seconds_each=0.2) for n in range(1, 5)]
    assert after(*earlier, *shedding).demand == pytest.approx(10 * 0.2)
    assert after(*(sample(float(n), n * 10, failures=n * 10, shed=n * 10) for n in range(5))).demand == pytest.approx(
        10.0
    )


@given(st.floats(0.1, 50.0), st.floats(0.0, 0.95))
def test_demand_is_linear_in_the_offered_load_on_both_sides_of_saturation(load: float, shed_share: float) -> None:
    """`load` requests would be in flight; the gateway sheds a share of them and serves the rest in the same time."""
    seconds, rate = 0.1, load / 0.1
    samples = [
        Sample(
            now=float(n),
            requests=round(n * rate * 1e6),
            failures=0,
            succeeded=round(n * rate * (1 - shed_share) * 1e6),
            succeeded_seconds=n * rate * (1 - shed_share) * 1e6 * seconds,
            shed=round(n * rate * shed_share * 1e6),
            executions=0,
            rows=0,
            in_flight=round(load * (1 - shed_share) * 1e6),
            bounds=BOUNDS,
            cumulative=(0, 0, 0, 0),
        )
        for n in range(20)
    ]
    assert after(*samples).demand == pytest.approx(load * 1e6, rel=1e-3)


@pytest.mark.parametrize(
    ("q", "cumulative", "expected"),
    [
        (0.5, (0, 0, 0, 0), None),
        (0.5, (10, 10, 10, 10), 0.0005),
        (0.5, (0, 10, 10, 10), 0.0055),
        (0.99, (0, 0, 0, 5), 0.1),
        (1.0, (1, 2, 2, 2), 0.01),
        (0.0, (0, 4, 4, 4), 0.001),
    ],
)
def test_quantile_interpolates_within_its_bucket(q: float, cumulative: tuple[int, ...], expected: float | None) -> None:
    assert quantile(q, BOUNDS, cumulative) == (None if expected is None else pytest.approx(expected))


@given(st.lists(st.integers(0, 50), min_size=4, max_size=4), st.floats(0, 1), st.floats(0, 1))
def test_quantiles_rise_with_q_and_stay_within_the_bounds(counts: list[int], a: float, b: float) -> None:
    cumulative = [sum(counts[: i + 1]) for i in range(4)]
    low, high = quantile(min(a, b), BOUNDS, cumulative), quantile(max(a, b), BOUNDS, cumulative)
    if sum(counts) == 0:
        assert (low, high) == (None, None)
    else:
        assert low is not None
        assert high is not None
        assert 0.0 <= low <= high <= BOUNDS[-1]
