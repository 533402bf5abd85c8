"""Counters and histograms: what is counted, where it lands, and what spoils nothing."""

from bisect import bisect_left
from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernels.meters import BATCH_SIZE_BOUNDS, DURATION_BOUNDS, CountAndTime, Histogram, Meters

HTTP, GRPC = 0, 1

ascending_bounds = st.lists(st.floats(-1e6, 1e6, allow_nan=False), min_size=1, max_size=40, unique=True).map(sorted)


@given(ascending_bounds, st.lists(st.tuples(st.floats(allow_nan=False, allow_infinity=False), st.integers(0, 1000))))
def test_a_value_lands_in_the_first_bucket_whose_bound_is_not_below_it(
    bounds: list[float], values: list[tuple[float, int]]
) -> None:
    histogram = Histogram(bounds)
    expected = [0] * (len(bounds) + 1)
    for value, n in values:
        histogram.add(value, n)
        expected[bisect_left(bounds, value)] += n
    snapshot = histogram.snapshot()
    assert snapshot.bounds == tuple(bounds)
    assert snapshot.cumulative == tuple(accumulate(expected))


@pytest.mark.parametrize("bound", DURATION_BOUNDS)
def test_bounds_are_inclusive(bound: float) -> None:
    histogram = Histogram()
    histogram.add(bound)
    at = DURATION_BOUNDS.index(bound)
    assert histogram.snapshot().cumulative[at] == 1
    assert sum(histogram.snapshot().cumulative[:at]) == 0


def test_the_sum_weighs_each_value_by_its_count() -> None:
    histogram = Histogram([1.0])
    histogram.add(0.25, 4)
    histogram.add(3.0)
    assert histogram.snapshot() == ((1.0,), (4, 5), 4.0)


def test_nan_is_ignored() -> None:
    histogram = Histogram()
    histogram.add(float("nan"))
    assert histogram.snapshot().cumulative[-1] == 0
    assert histogram.snapshot().sum == 0.0


@pytest.mark.parametrize("bounds", [[], [1.0, 1.0], [2.0, 1.0], [float("nan")], [1.0, float("inf")]])
def test_bounds_that_are_not_finite_and_ascending_are_refused(bounds: list[float]) -> None:
    with pytest.raises(ValueError, match="bounds"):
        Histogram(bounds)


def test_the_default_duration_bounds_reach_below_a_millisecond() -> None:
    assert DURATION_BOUNDS[0] == 25e-6
    assert DURATION_BOUNDS[-1] == 10.0
    assert sum(bound < 1e-3 for bound in DURATION_BOUNDS) == 5


def test_everything_is_zero_from_the_start() -> None:
    meters = Meters()
    for protocol in (HTTP, GRPC):
        assert meters.requests(protocol) == (0,) * 17
        assert meters.duration(protocol).cumulative == (0,) * (len(DURATION_BOUNDS) + 1)
    assert meters.shed_counts() == (0,) * 5
    assert meters.failure_counts() == (0,) * 4
    assert set(meters.statistics()) == {CountAndTime(0, 0)}
    assert meters.batch_statistics() == []
    assert (meters.inference_count, meters.execution_count, meters.last_inference) == (0, 0, 0)


def test_answers_are_counted_by_protocol_and_code() -> None:
    meters = Meters()
    meters.record_answered(HTTP, 0, 0.002)
    meters.record_answered(GRPC, 8, 0.2)
    meters.record_answered(GRPC, 8, 0.3)
    assert meters.requests(HTTP)[0] == 1
    assert sum(meters.requests(HTTP)) == 1
    assert meters.requests(GRPC)[8] == 2
    assert sum(meters.requests(GRPC)) == 2
    assert meters.duration(HTTP).sum == 0.002
    assert meters.duration(GRPC).sum == 0.5


@pytest.mark.parametrize("code", [-1, 17, 1000])
def test_a_code_that_grpc_does_not_know_counts_as_unknown(code: int) -> None:
    meters = Meters()
    meters.record_answered(HTTP, code, 0.0)
    assert meters.requests(HTTP)[2] == 1


def test_a_request_that_succeeds_adds_its_rows_and_its_times() -> None:
    meters = Meters()
    meters.record_succeeded(3, 5e-3, 1e-3, 2e-4, 3e-3, 1e-4)
    meters.record_succeeded(1, 5e-3, 2e-3, 2e-4, 3e-3, 1e-4)
    assert meters.inference_count == 4
    assert meters.statistics() == (
        CountAndTime(2, 10_000_000),
        CountAndTime(0, 0),
        CountAndTime(2, 3_000_000),
        CountAndTime(2, 400_000),
        CountAndTime(2, 6_000_000),
        CountAndTime(2, 200_000),
    )
    assert meters.queue.snapshot().cumulative[-1] == 2


def test_times_that_run_backwards_count_as_zero() -> None:
    meters = Meters()
    meters.record_succeeded(1, -1.0, -1.0, float("nan"), float("inf"), -0.0)
    meters.record_answered(HTTP, 0, -1.0)
    assert all(cost.ns == 0 for cost in meters.statistics())
    assert meters.queue.snapshot().sum == 0.0
    assert meters.duration(HTTP).sum == 0.0


def test_failures_are_counted_by_reason_and_an_unknown_reason_is_other() -> None:
    meters = Meters()
    for reason in (0, 1, 1, 2, 3, 9, -1):
        meters.record_failed(reason, 1e-3)
    assert meters.failure_counts() == (1, 2, 1, 3)
    assert meters.statistics().fail == CountAndTime(7, 7_000_000)


def test_shed_requests_are_counted_by_reason_and_a_wrong_index_changes_nothing() -> None:
    meters = Meters()
    for reason in (1, 3, 3, 5, -1):
        meters.record_shed(reason)
    assert meters.shed_counts() == (0, 1, 0, 2, 0)


def test_a_batch_is_counted_once_under_its_size() -> None:
    meters = Meters()
    meters.record_executed(8, 1e-4, 2e-3, 1e-4, 1_700_000_000_000)
    meters.record_executed(2, 1e-4, 1e-3, 1e-4, 1_700_000_000_001)
    meters.record_executed(8, 1e-4, 3e-3, 1e-4, 1_700_000_000_002)
    assert meters.execution_count == 3
    assert meters.last_inference == 1_700_000_000_002
    assert [(b.batch_size, b.compute_infer) for b in meters.batch_statistics()] == [
        (2, CountAndTime(1, 1_000_000)),
        (8, CountAndTime(2, 5_000_000)),
    ]
    assert meters.batch_size.snapshot().cumulative[BATCH_SIZE_BOUNDS.index(2.0)] == 1
    assert meters.batch_size.snapshot().sum == 18.0
    assert meters.compute.snapshot().cumulative[-1] == 3
