"""The real queue on a simulated clock: against a closed form, against brute force, and under overload."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.batching import BatchQueue
from kernels.manual_queue import ManualQueue, Request
from loadtests.simulate_batching import (
    AGE_TIMER,
    CPU_LIKE,
    EARLY_DROP,
    GPU_LIKE,
    GREEDY,
    LAZY_DROP,
    Model,
    Outcome,
    Policy,
    poisson,
    simulate,
)

MODELS = pytest.mark.parametrize("model", [GPU_LIKE, CPU_LIKE], ids=lambda model: model.name)


def run(model: Model, policy: Policy, load: float, seed: int = 1, count: int = 6_000) -> Outcome:
    return simulate(model, policy, list(poisson(load * model.capacity, count, seed)))


def inoue_bound(rate: float, alpha: float, tau: float) -> float:
    """Mean latency of taking all that waits whenever idle, under Poisson arrivals (Inoue, arXiv 1912.06322)."""
    load = rate * alpha
    busy = 1.5 * tau / (1 - load) + alpha / 2 * (load + 2) / (1 - load**2)
    idle = (alpha + tau) / (2 * (1 - load)) * (1 + 2 * rate * tau + (1 - rate * tau) / (1 + load))
    return min(busy, idle)


@pytest.mark.parametrize("load", [0.2, 0.5, 0.8])
def test_mean_latency_without_a_size_limit_keeps_the_bound_and_comes_near_it(load: float) -> None:
    model = Model("unlimited", 0.5e-3, 5e-3, 1_000_000, 10.0)
    rate = load / model.alpha
    outcome = simulate(model, GREEDY, list(poisson(rate, 40_000, seed=3)))
    bound = inoue_bound(rate, model.alpha, model.tau)
    assert outcome.in_time == 40_000
    assert 0.93 * bound <= outcome.mean_latency <= 1.03 * bound


@MODELS
@pytest.mark.parametrize("load", [0.95, 1.1, 1.5])
def test_early_drop_beats_lazy_drop_and_lazy_drop_is_no_worse_than_none(model: Model, load: float) -> None:
    early, lazy, greedy = (run(model, policy, load).attainment for policy in (EARLY_DROP, LAZY_DROP, GREEDY))
    assert early > lazy >= greedy


@MODELS
@pytest.mark.parametrize(("load", "least"), [(0.5, 0.999), (0.8, 0.99), (0.95, 0.93), (1.1, 0.8), (1.5, 0.6)])
def test_early_drop_keeps_most_in_time_at_any_load(model: Model, load: float, least: float) -> None:
    assert run(model, EARLY_DROP, load).attainment >= least


@MODELS
@pytest.mark.parametrize("seed", range(4))
def test_at_three_times_capacity_goodput_stays_near_capacity(model: Model, seed: int) -> None:
    assert run(model, EARLY_DROP, 3.0, seed).attainment * 3 >= 0.93


@MODELS
def test_nobody_who_was_admitted_and_ran_is_late_while_service_times_are_exact(model: Model) -> None:
    outcome = run(model, EARLY_DROP, 1.3)
    assert outcome.late == 0
    assert outcome.in_time + outcome.refused + outcome.dropped == outcome.offered


@MODELS
def test_noisy_service_times_cost_little(model: Model) -> None:
    source = random.Random(7)
    arrivals = list(poisson(1.1 * model.capacity, 6_000, seed=1))
    outcome = simulate(model, EARLY_DROP, arrivals, noise=lambda: source.choice((0.9, 0.9, 1.0, 1.2)))
    assert outcome.attainment >= 0.6


@MODELS
def test_holding_batches_back_gains_nothing_for_one_worker(model: Model) -> None:
    assert run(model, AGE_TIMER, 0.8).attainment <= run(model, GREEDY, 0.8).attainment


@MODELS
def test_a_run_is_repeatable(model: Model) -> None:
    assert run(model, EARLY_DROP, 1.1) == run(model, EARLY_DROP, 1.1)


# Brute force on short traces: one group, one worker, everything in milliseconds.

jobs = st.lists(st.tuples(st.integers(1, 3), st.integers(0, 30)), min_size=1, max_size=8)
fits = st.sampled_from([(1, 2), (2, 0), (0, 6), (1, 8)])


def queue_of(fit: tuple[int, int], max_batch_size: int = 8) -> ManualQueue:
    queue = ManualQueue(BatchQueue(max_batch_size=max_batch_size))
    for rows in (1, 8, 2, 4) * 60:
        queue.queue.service_time.add(rows, fit[0] * rows + fit[1])
    return queue


def is_in_time(members: list[Request], now: float, queue: ManualQueue) -> bool:
    finish = now + queue.queue.service_time.estimate_cautiously(rows_of(members)) if members else now
    return all(not request.deadline or finish <= request.deadline for request in members)


def rows_of(members: list[Request]) -> int:
    return sum(member.rows for member in members)


def largest(members: list[Request], holds: Callable[[list[Request]], bool]) -> list[Request]:
    """The longest prefix of which `holds` is true."""
    return next(prefix for size in range(len(members), -1, -1) if holds(prefix := members[:size]))


@settings(deadline=None, max_examples=400)
@given(jobs, fits, st.integers(0, 12))
def test_a_batch_is_the_longest_prefix_in_time_and_every_drop_is_justified(
    trace: list[tuple[int, int]], fit: tuple[int, int], waited: int
) -> None:
    queue = queue_of(fit)
    estimate = queue.queue.service_time.estimate_cautiously
    waiting = []
    for rows, patience in trace:
        request = Request(rows, deadline=1000.0 + patience if patience else 0.0)
        if queue.offer(request, 1000.0) == 0:
            waiting.append(request)
    now = 1000.0 + waited
    batch = queue.take(now)
    dropped = queue.take_dropped()
    left = list(waiting)
    for request in dropped:
        possible = [member for member in left if is_in_time([member], now, queue)]
        if request in possible:
            # The largest batch that could save it makes the next one late, with the queue as long then as it is now.
            first_batch = largest(possible, lambda prefix: rows_of(prefix) <= 8)
            saving = largest(first_batch, lambda prefix: is_in_time(prefix, now, queue))
            behind = possible[len(saving)]
            assert behind.deadline
            assert now + estimate(rows_of(saving)) + estimate(rows_of(first_batch)) > behind.deadline
        left.remove(request)
    assert batch == largest(left, lambda prefix: rows_of(prefix) <= 8 and is_in_time(prefix, now, queue))
    assert batch or not left


@settings(deadline=None, max_examples=150)
@given(st.lists(st.integers(0, 20), min_size=1, max_size=7), fits, st.integers(8, 30))
def test_a_short_burst_never_beats_the_best_possible_schedule_and_somebody_with_time_is_served(
    gaps: list[int], fit: tuple[int, int], patience: int
) -> None:
    """Equal deadlines, one row each. The best schedule knows the future, so it only bounds from above."""
    queue = queue_of(fit, max_batch_size=4)
    estimate = queue.queue.service_time.estimate
    arrivals = [1000.0 + sum(gaps[: i + 1]) for i in range(len(gaps))]

    def best(kept: tuple[float, ...]) -> bool:
        """Whether all of `kept` can be in time, served in order."""
        states = {(0, 0.0)}
        while states:
            if any(done == len(kept) for done, _ in states):
                return True
            states = {
                (done + size, finish)
                for done, free in states
                for size in range(1, min(4, len(kept) - done) + 1)
                for finish in [max(free, kept[done + size - 1]) + estimate(size)]
                if finish <= kept[done] + patience
            }
        return False

    optimum = next(
        count for count in range(len(arrivals), -1, -1) if any(best(kept) for kept in combinations(arrivals, count))
    )
    model = Model("short", float(fit[0]), float(fit[1]), 4, float(patience))
    outcome = simulate(model, EARLY_DROP, arrivals)
    assert outcome.in_time <= optimum
    assert outcome.late == 0
    if patience >= 1.2 * estimate(1):
        assert outcome.in_time >= 1
