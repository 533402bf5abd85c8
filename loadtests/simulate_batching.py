"""How many requests make their deadline, by load and by batching policy, on a simulated clock.

Drives the real `BatchQueue` with Poisson arrivals and one worker whose batches take alpha * rows + tau. Everything else
is simulated, so a run is exact, repeatable and takes seconds:

    python -m loadtests.simulate_batching
"""

from __future__ import annotations

import argparse
import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from kernels.batching import BatchQueue
from kernels.manual_queue import ManualQueue, Request


@dataclass(frozen=True)
class Model:
    """A worker: batches of b rows take alpha * b + tau seconds, and its clients wait `deadline` seconds."""

    name: str
    alpha: float
    tau: float
    max_batch_size: int
    deadline: float

    def service_time(self, rows: int) -> float:
        return self.alpha * rows + self.tau

    @property
    def capacity(self) -> float:
        """Rows a second when every batch is full."""
        return self.max_batch_size / self.service_time(self.max_batch_size)


GPU_LIKE = Model("5 + 0.5 b ms, B = 64", 0.5e-3, 5e-3, 64, 50e-3)
CPU_LIKE = Model("1 + 3 b ms, B = 16", 3e-3, 1e-3, 16, 50e-3)


@dataclass(frozen=True)
class Policy:
    """`sees_deadline`: the queue is told the deadline. `knows_time`: it is told what batches took, so that it
    refuses and drops what would be late."""

    name: str
    sees_deadline: bool
    knows_time: bool
    max_queue_delay: float = 0.0


GREEDY = Policy("greedy", sees_deadline=False, knows_time=False)
AGE_TIMER = Policy("age timer 10 ms", sees_deadline=False, knows_time=False, max_queue_delay=10e-3)
LAZY_DROP = Policy("lazy drop", sees_deadline=True, knows_time=False)
EARLY_DROP = Policy("early drop", sees_deadline=True, knows_time=True)
POLICIES = (GREEDY, AGE_TIMER, LAZY_DROP, EARLY_DROP)


@dataclass
class Outcome:
    offered: int = 0
    in_time: int = 0
    late: int = 0
    refused: int = 0
    dropped: int = 0
    batches: int = 0
    busy: float = 0.0
    latency: float = 0.0

    @property
    def attainment(self) -> float:
        """The share of requests that were answered before their deadline."""
        return self.in_time / self.offered

    @property
    def mean_batch_size(self) -> float:
        return (self.in_time + self.late) / max(self.batches, 1)

    @property
    def mean_latency(self) -> float:
        return self.latency / max(self.in_time + self.late, 1)


def poisson(rate: float, count: int, seed: int) -> Iterator[float]:
    source = random.Random(seed)
    now = 1.0
    for _ in range(count):
        now += source.expovariate(rate)
        yield now


def simulate(
    model: Model,
    policy: Policy,
    arrivals: Sequence[float],
    noise: Callable[[], float] = lambda: 1.0,
) -> Outcome:
    """One worker. It takes a batch when it is idle, and whenever the queue asks to be woken.

    `noise` is multiplied into every service time; the queue learns what the batches really took.
    """
    queue = ManualQueue(BatchQueue(max_batch_size=model.max_batch_size, max_queue_delay=policy.max_queue_delay))
    fit = queue.queue.service_time
    if policy.knows_time:
        for rows in (1, model.max_batch_size) * 50:
            fit.add(rows, model.service_time(rows))
    outcome = Outcome(offered=len(arrivals))
    free_at = now = 0.0
    position = 0
    while position < len(arrivals) or queue.queue.count:
        arrival = arrivals[position] if position < len(arrivals) else math.inf
        turn = free_at if now < free_at else queue.wake_at() or math.inf
        now = min(arrival, turn)
        if arrival <= turn:
            position += 1
            request = Request(deadline=now + model.deadline if policy.sees_deadline else 0.0)
            if queue.offer(request, now, max(free_at - now, 0.0)):
                outcome.refused += 1
        if now < free_at:
            continue
        batch = queue.take(now)
        outcome.dropped += len(queue.take_dropped())
        if batch:
            took = model.service_time(len(batch)) * noise()
            free_at = now + took
            outcome.batches += 1
            outcome.busy += took
            if policy.knows_time:
                fit.add(len(batch), took)
            for request in batch:
                outcome.latency += free_at - request.queued
                if free_at <= request.queued + model.deadline + 1e-9:
                    outcome.in_time += 1
                else:
                    outcome.late += 1
    return outcome


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=12_000)
    parser.add_argument("--loads", type=float, nargs="+", default=[0.5, 0.8, 0.95, 1.1, 1.5, 3.0])
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    for model in (GPU_LIKE, CPU_LIKE):
        print(f"\n{model.name}, deadline {model.deadline * 1e3:g} ms: % in time (mean batch size)\n")
        print("| load | " + " | ".join(policy.name for policy in POLICIES) + " |")
        print("|---" * (len(POLICIES) + 1) + "|")
        for load in options.loads:
            arrivals = list(poisson(load * model.capacity, options.requests, options.seed))
            outcomes = [simulate(model, policy, arrivals) for policy in POLICIES]
            cells = [f"{outcome.attainment:.1%} ({outcome.mean_batch_size:.1f})" for outcome in outcomes]
            print(f"| {load:g} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
