"""How often good versions are rolled back, and how soon bad ones are, on made-up traffic.

Drives the classes that serve (`Tally`, `judge`, `decide`), beside the rules of Argo Rollouts, Flagger and a watched z-test
on the same requests. A run is repeatable and takes a minute or two, with --quick seconds:

    python -m loadtests.simulate_rollouts
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gateway.rollouts.plan import Plan
from loadtests.rollout_rules import ALL, FAILURES, LATENCY, RULES, all_guards, sluice
from loadtests.rollout_traffic import Traffic, bursts, drift, make, outage, steady
from loadtests.rollout_whole import CASES, Outcome, whole_rollout

RESULTS = Path(__file__).parent / "results"
WEIGHTS = (0.01, 0.05, 0.10, 0.25, 0.50)
ALPHA = ALL.alpha
REQUESTS = 3000

EQUAL: dict[str, Callable[[np.random.Generator, int, float], Traffic]] = {
    "steady, 1 % fail": lambda source, count, weight: make(source, count, weight, shape=steady),
    "a shared outage": lambda source, count, weight: make(source, count, weight, shape=outage, slows=True),
    "drift": lambda source, count, weight: make(source, count, weight, shape=drift, slows=True),
    "bursts": lambda source, count, weight: make(source, count, weight, shape=bursts, slows=True),
    "failures take their batch along": lambda source, count, weight: make(source, count, weight, batches=True),
}

SHIFTS = ((0.001, 1.0), (0.001, 0.2), (0.001, 0.05), (0.001, 0.01), (0.01, 0.05), (0.01, 0.02))
# Median and 95th percentile of failed canary requests, by weight and in the order of SHIFTS, as published for this test.
REFERENCE_FAILURES = {
    0.01: ("2/2", "2/3", "3/4", "5/7", "8/12", "weak"),
    0.05: ("2/2", "2/3", "2/4", "5/8", "8/14", "24/36"),
    0.10: ("3/3", "3/4", "3/5", "6/9", "9/15", "32/57"),
    0.25: ("4/4", "4/6", "4/8", "6/12", "11/20", "40/86"),
    0.50: ("8/8", "8/8", "8/13", "13/20", "18/34", "63/134"),
}
MAX_EVENTS = 400
MAX_REQUESTS = 45_000

SLOWER = (1.5, 2.0, 4.0)
# Median requests of the canary, by weight and in the order of SLOWER.
REFERENCE_LATENCY = {0.05: (38, 13, 5), 0.20: (51, 19, 7), 0.50: (102, 34, 14)}

BAD_FOR_PICTURE = (1.0, 0.5, 0.2, 0.1, 0.05, 0.03)
PICTURE_WEIGHT = 0.05


@dataclass(frozen=True)
class Size:
    """How many simulated rollouts behind each figure."""

    equal: int = 1000
    shifts: int = 1000
    together: int = 100
    whole: int = 100
    peers: int = 200


QUICK = Size(equal=4, shifts=40, together=4, whole=1, peers=4)


@dataclass(frozen=True)
class Detection:
    """What it took, in failed (or all) requests of the canary; None where it was not found."""

    found: tuple[int | None, ...]

    @property
    def share(self) -> float:
        return sum(one is not None for one in self.found) / len(self.found)

    def quantile(self, part: float) -> float:
        """Of all runs; infinite where those that found nothing reach into it."""
        ordered = np.sort([np.inf if one is None else one for one in self.found])
        return float(ordered[min(int(part * len(ordered)), len(ordered) - 1)])

    def __str__(self) -> str:
        if self.share == 0:
            return "none"
        if self.share < 0.96:
            seen = Detection(tuple(one for one in self.found if one is not None))
            return f"{seen.quantile(0.5):g}/{seen.quantile(0.95):g} ({self.share:.0%})"
        return f"{self.quantile(0.5):g}/{self.quantile(0.95):g}"


def false_rollbacks(
    source: np.random.Generator, rule: Callable[[Traffic, float], int | None], name: str, weight: float, runs: int
) -> int:
    """How many of the runs with equal versions are rolled back."""
    return sum(rule(EQUAL[name](source, REQUESTS, weight), weight) is not None for _ in range(runs))


def failures_alone(source: np.random.Generator, weight: float, stable: float, canary: float, runs: int) -> Detection:
    """With the failures guard alone, in failed requests of the canary. All but the failed requests are left out, which
    that guard never hears of."""
    share = weight * canary / (weight * canary + (1 - weight) * stable)
    found: list[int | None] = []
    for _ in range(runs):
        is_canary = source.random(MAX_EVENTS) < share
        all_of_them = np.ones(MAX_EVENTS, np.bool_)
        traffic = Traffic(is_canary, all_of_them, all_of_them, np.zeros(MAX_EVENTS))
        at = sluice(FAILURES, traffic, weight)
        found.append(None if at is None else int(np.count_nonzero(is_canary[: at + 1])))
    return Detection(tuple(found))


def failures_together(
    source: np.random.Generator, weight: float, stable: float, canary: float, runs: int
) -> Detection | None:
    """With all guards of the default plan under one alpha; None where it would take too many requests to simulate."""
    count = int((20 + 30 * weight + 1000 * stable) / (weight * canary)) + 100
    if count > MAX_REQUESTS or canary < 3 * stable:
        return None
    return _failed(all_guards, source, weight, stable, canary, count, runs)


def _failed(
    rule: Callable[[Traffic, float], int | None],
    source: np.random.Generator,
    weight: float,
    stable: float,
    canary: float,
    count: int,
    runs: int,
) -> Detection:
    found: list[int | None] = []
    for _ in range(runs):
        traffic = make(source, count, weight, stable_rate=stable, canary_rate=canary)
        at = rule(traffic, weight)
        found.append(None if at is None else int(np.count_nonzero((traffic.failed & traffic.is_canary)[: at + 1])))
    return Detection(tuple(found))


def slower(source: np.random.Generator, plan: Plan, weight: float, factor: float, runs: int) -> Detection:
    """In requests of the canary."""
    found: list[int | None] = []
    for _ in range(runs):
        traffic = make(source, int(300 / weight), weight, stable_rate=0.0, slower=factor)
        at = sluice(plan, traffic, weight)
        found.append(None if at is None else int(np.count_nonzero(traffic.is_canary[: at + 1])))
    return Detection(tuple(found))


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def percent(part: float) -> str:
    return f"{part * 100:.3g} %"


def report_equal(source: np.random.Generator, size: Size) -> str:
    rows = []
    for name in EQUAL:
        rates = [false_rollbacks(source, all_guards, name, weight, size.equal) / size.equal for weight in WEIGHTS]
        rows.append([name, *map(percent, rates)])
    name = "failures take their batch along"

    def counted_wrong(traffic: Traffic, weight: float) -> int | None:
        return sluice(ALL, traffic, weight, counts_raw=True)

    rates = [false_rollbacks(source, counted_wrong, name, weight, size.equal) / size.equal for weight in WEIGHTS]
    rows.append(["the same, were each answer of a batch an event", *map(percent, rates)])
    return table(["canary's weight", *map(percent, WEIGHTS)], rows)


def report_failures(source: np.random.Generator, size: Size) -> str:
    rows = []
    for weight in WEIGHTS:
        for index, (stable, canary) in enumerate(SHIFTS):
            together = failures_together(source, weight, stable, canary, size.together)
            rows.append([
                percent(weight),
                f"{percent(stable)} → {percent(canary)}",
                REFERENCE_FAILURES[weight][index],
                failures_alone(source, weight, stable, canary, size.shifts),
                "" if together is None else together,
            ])  # fmt: skip
    return table(["weight", "stable → canary fails", "published", "failures guard alone", "default plan"], rows)


def report_latency(source: np.random.Generator, size: Size) -> str:
    rows = []
    for weight, published in REFERENCE_LATENCY.items():
        for factor, reference in zip(SLOWER, published, strict=True):
            alone = slower(source, LATENCY, weight, factor, size.shifts // 2)
            together = slower(source, ALL, weight, factor, size.together)
            rows.append([percent(weight), f"× {factor:g}", reference, alone, together])
    return table(["weight", "slower", "published (median)", "latency guard alone", "default plan"], rows)


def report_whole(source: np.random.Generator, size: Size) -> str:
    rows = []
    for name, case in CASES.items():
        ends = [whole_rollout(source, case) for _ in range(size.whole)]
        rows.append([name, *_outcomes(ends)])
    head = ["canary", "promoted", "rolled back", "held", "at weight", "its failed requests", "seconds at weight > 0"]
    return table(head, rows)


def _outcomes(ends: list[Outcome]) -> list[str]:
    def median(values: Iterable[float]) -> str:
        return f"{np.median(list(values)):g}"

    states = [end.state for end in ends]
    held = len(states) - states.count("promoted") - states.count("rolled_back")
    return [
        percent(states.count("promoted") / len(states)),
        percent(states.count("rolled_back") / len(states)),
        percent(held / len(states)),
        percent(float(np.median([end.weight for end in ends]))),
        median(end.failed for end in ends),
        median(end.seconds for end in ends),
    ]


@dataclass(frozen=True)
class Peers:
    """Of each rule: false rollbacks of equal versions by weight, and detection by the canary's rate of failures."""

    false: dict[str, list[float]]
    found: dict[str, list[Detection]]


def compare(source: np.random.Generator, size: Size) -> Peers:
    false, found = {}, {}
    for name, rule in RULES.items():
        false[name] = [
            false_rollbacks(source, rule, "steady, 1 % fail", weight, size.peers) / size.peers for weight in WEIGHTS
        ]
        found[name] = [
            _failed(rule, source, PICTURE_WEIGHT, 0.001, canary, 12_000, size.peers // 4) for canary in BAD_FOR_PICTURE
        ]
    return Peers(false, found)


def report_peers(peers: Peers) -> str:
    false = table(
        ["false rollbacks, equal versions, 1 % fail", *map(percent, WEIGHTS)],
        [[name, *map(percent, rates)] for name, rates in peers.false.items()],
    )
    found = table(
        ["failed canary requests until the rollback, at 5 %", *map(percent, BAD_FOR_PICTURE)],
        [[name, *detections] for name, detections in peers.found.items()],
    )
    return f"{false}\n\n{found}"


def draw(peers: Peers, path: Path) -> None:
    """Both tables of the peers as one picture."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "sluice"
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    places = [100 * weight for weight in WEIGHTS]
    for name, rates in peers.false.items():
        left.plot(places, [max(100 * rate, 0.05) for rate in rates], marker="o", label=name)
    left.axhline(100 * ALPHA, color="black", linestyle=":", label="alpha")
    left.set(xscale="log", yscale="log", xlabel="canary's weight, %", ylabel="rolled back, %")
    left.set_title("Equal versions, 1 % fail, 3,000 requests: false rollbacks", fontsize=10)
    left.legend(fontsize=8)
    for name, detections in peers.found.items():
        medians = [one.quantile(0.5) for one in detections]
        right.plot([100 * rate for rate in BAD_FOR_PICTURE], medians, marker="o", label=name)
    right.set(xscale="log", yscale="log", xlabel="the canary fails, %", ylabel="failed canary requests, median")
    right.set_title("Stable fails 0.1 %, weight 5 %: failures until the rollback", fontsize=10)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few runs, for a look")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, help="a folder for the report and the picture (default: where they belong)")
    options = parser.parse_args(arguments)
    size = QUICK if options.quick else Size()
    folder = options.out or (None if options.quick else RESULTS)
    source = np.random.default_rng(options.seed)
    began = time.perf_counter()
    peers = compare(source, size)
    text = REPORT.format(
        seed=options.seed,
        alpha=percent(ALPHA),
        requests=f"{REQUESTS:,}",
        most=percent((size.equal * ALPHA + 3 * math.sqrt(size.equal * ALPHA * (1 - ALPHA))) / size.equal),
        max_events=MAX_EVENTS,
        size=size,
        equal=report_equal(source, size),
        failures=report_failures(source, size),
        latency=report_latency(source, size),
        whole=report_whole(source, size),
        peers=report_peers(peers),
    )
    print(text)
    print(f"{time.perf_counter() - began:.0f} s")
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "rollout-sim.md").write_text(text, "utf-8")
        draw(peers, folder / "rollout-sim.svg")


REPORT = """# Rollouts, simulated

`make rollout-sim`, seed {seed}. Every decision is made by the classes that serve (`gateway/rollouts`), with the guards
of the default plan under one alpha of {alpha} unless a column says otherwise. Nothing here
depends on the machine.

![False rollbacks and detection, beside the rules of others](rollout-sim.svg)

## Equal versions that are rolled back all the same

{size.equal} rollouts of {requests} requests for each figure; the bound is {alpha} for ever, whatever both versions suffer
together. So many runs of a test that errs in just {alpha} would show up to {most}.

{equal}

## A canary that fails more

Failed requests of the canary until it is rolled back, median/95th percentile (and how many were found within {max_events}
failed requests, where not all). "Published" are the figures that were to be reached, by one guard with all of alpha.
The default plan divides alpha between its guards, which costs about one failure. Empty: too many requests to simulate.

{failures}

## A canary that is slower

Requests of the canary until it is rolled back, median/95th percentile; times are lognormal, sigma 0.5. A quarter of
alpha, which is what the default plan gives this guard, costs about a third more requests than all of it.

{latency}

## Whole rollouts

The default plan without its shadow, 50 requests a second, one look a second and at each event; {size.whole} rollouts a
row, medians. Stable fails 0.1 %.

{whole}

## Beside the rules of others, on the same traffic

{peers}

- Argo: `successCondition: result >= 0.95` over each 20 requests of the canary, `failureLimit: 0`.
- Flagger: `request-success-rate` at least 99 % in each interval of 300 requests (an interval without requests of the
  canary is a failed check), `threshold: 5`.
- z-test: two proportions, one-sided at 1 %, looked at after each request from the hundredth on.

Windows and limits were chosen as a small service would; wider ones trade false rollbacks for later true ones, and none
of them has a bound that does not depend on the traffic.
"""

if __name__ == "__main__":
    main()
