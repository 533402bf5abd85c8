"""Single simulated rollouts, by what is asked of them, and the means to make thousands on all processors.

Each run takes a source of randomness first. What comes out depends on the seed alone, not on how many processes work.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from gateway.rollouts.plan import Plan
from loadtests.rollout_rules import ALL, Rule, sluice
from loadtests.rollout_traffic import Traffic, bursts, drift, make, outage, steady

T = TypeVar("T")

REQUESTS = 3000
"""Of a rollout of equal versions."""
PART = 20
"""Runs that one process makes at a time, with a seed of their own."""

EQUAL: dict[str, Callable[[np.random.Generator, int, float], Traffic]] = {
    "steady, 1 % fail": lambda source, count, weight: make(source, count, weight, shape=steady),
    "a shared outage": lambda source, count, weight: make(source, count, weight, shape=outage, slows=True),
    "drift": lambda source, count, weight: make(source, count, weight, shape=drift, slows=True),
    "bursts": lambda source, count, weight: make(source, count, weight, shape=bursts, slows=True),
    "failures take their batch along": lambda source, count, weight: make(source, count, weight, batches=True),
}


def false_rollback(source: np.random.Generator, name: str, weight: float, rule: Rule) -> bool:
    """Whether equal versions are told apart."""
    return rule(EQUAL[name](source, REQUESTS, weight), weight) is not None


def counted_wrong(traffic: Traffic, weight: float) -> int | None:
    """All guards, were each answer of a failed batch an event."""
    return sluice(ALL, traffic, weight, counts_raw=True)


def failures_until(
    source: np.random.Generator, rule: Rule, weight: float, stable: float, canary: float, count: int
) -> int | None:
    """Failed requests of the canary until the rule rolls back, within so many requests to both."""
    traffic = make(source, count, weight, stable_rate=stable, canary_rate=canary)
    at = rule(traffic, weight)
    return None if at is None else int(np.count_nonzero((traffic.failed & traffic.is_canary)[: at + 1]))


def slower_until(source: np.random.Generator, plan: Plan, weight: float, factor: float) -> int | None:
    """Requests of a slower canary until it is rolled back."""
    traffic = make(source, int(300 / weight), weight, stable_rate=0.0, slower=factor)
    at = sluice(plan, traffic, weight)
    return None if at is None else int(np.count_nonzero(traffic.is_canary[: at + 1]))


def repeated(source: np.random.Generator, count: int, run: Callable[..., T], *arguments: Any) -> tuple[T, ...]:
    return tuple(run(source, *arguments) for _ in range(count))


class Runs(Generic[T]):
    """The results of one run made many times, once they are there."""

    def __init__(self, parts: list[Future[tuple[T, ...]]]) -> None:
        self._parts = parts

    def results(self) -> tuple[T, ...]:
        return tuple(result for part in self._parts for result in part.result())


class Simulations:
    """Makes runs in the background. Closed by `simulations`."""

    def __init__(self, seed: int, pool: ProcessPoolExecutor, progress: Progress) -> None:
        self._seeds, self._pool, self._progress = np.random.SeedSequence(seed), pool, progress
        self._task = progress.add_task("simulated rollouts", total=0)
        self._asked = 0

    def ask(self, count: int, run: Callable[..., T], *arguments: Any) -> Runs[T]:
        """Begins to make so many runs."""
        self._asked += count
        self._progress.update(self._task, total=self._asked)
        sizes = [min(PART, count - begin) for begin in range(0, count, PART)]
        return Runs([self._submit(size, run, arguments) for size in sizes])

    def _submit(self, size: int, run: Callable[..., T], arguments: tuple[Any, ...]) -> Future[tuple[T, ...]]:
        (seed,) = self._seeds.spawn(1)
        part = self._pool.submit(_seeded, seed, size, run, arguments)
        part.add_done_callback(lambda _: self._progress.advance(self._task, size))
        return part


def _seeded(
    seed: np.random.SeedSequence, count: int, run: Callable[..., T], arguments: tuple[Any, ...]
) -> tuple[T, ...]:
    return repeated(np.random.default_rng(seed), count, run, *arguments)


@contextmanager
def simulations(seed: int) -> Iterator[Simulations]:
    """On all processors, with a bar on the terminal."""
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    context = multiprocessing.get_context("spawn")
    with (
        Progress(*columns, console=Console(stderr=True), transient=True) as progress,
        ProcessPoolExecutor(len(os.sched_getaffinity(0)), mp_context=context) as pool,
    ):
        yield Simulations(seed, pool, progress)
