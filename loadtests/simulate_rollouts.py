"""How often good versions are rolled back, and how soon bad ones are, on made-up traffic.

Drives the classes that serve (`Tally`, `judge`, `decide`), beside the rules of Argo Rollouts, Flagger and a watched z-test
on the same requests. A run is repeatable, uses all processors and takes minutes, with --quick seconds:

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

from loadtests.rollout_exact import MAX_EVENTS, failures_alone
from loadtests.rollout_rules import ALL, FAILURES, LATENCY, RULES, all_guards
from loadtests.rollout_runs import (
    EQUAL,
    REQUESTS,
    Runs,
    Simulations,
    counted_wrong,
    failures_until,
    false_rollback,
    simulations,
    slower_until,
)
from loadtests.rollout_whole import CASES, Outcome, whole_rollout

RESULTS = Path(__file__).parent / "results"
WEIGHTS = (0.01, 0.05, 0.10, 0.25, 0.50)
ALPHA = ALL.alpha

SHIFTS = ((0.001, 1.0), (0.001, 0.2), (0.001, 0.05), (0.001, 0.01), (0.01, 0.05), (0.01, 0.02))
# Median and 95th percentile of failed canary requests, by weight and in the order of SHIFTS, as published for this test.
REFERENCE_FAILURES = {
    0.01: ("2/2", "2/3", "3/4", "5/7", "8/12", "weak (10%)"),
    0.05: ("2/2", "2/3", "2/4", "5/8", "8/14", "24/36 (65%)"),
    0.10: ("3/3", "3/4", "3/5", "6/9", "9/15", "32/57"),
    0.25: ("4/4", "4/6", "4/8", "6/12", "11/20", "40/86"),
    0.50: ("8/8", "8/8", "8/13", "13/20", "18/34", "63/134"),
}
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
    together: int = 1000
    slower: int = 500
    whole: int = 100
    peers: int = 400


QUICK = Size(equal=4, together=4, slower=10, whole=1, peers=4)


@dataclass(frozen=True)
class Detection:
    """What it took, in failed (or all) requests of the canary; None where it was not found. As text: median and 95th
    percentile of those that were found, and how many, where not all."""

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
        seen = Detection(tuple(one for one in self.found if one is not None))
        rest = "" if self.share > 0.995 else f" ({self.share:.0%})"
        return f"{seen.quantile(0.5):g}/{seen.quantile(0.95):g}{rest}"


def failures_together(
    simulated: Simulations, weight: float, stable: float, canary: float, runs: int
) -> Runs[int | None] | None:
    """With all guards of the default plan under one alpha; None where it would take too many requests to simulate."""
    count = int((20 + 30 * weight + 1000 * stable) / (weight * canary)) + 100
    if count > MAX_REQUESTS or canary < 3 * stable:
        return None
    return simulated.ask(runs, failures_until, all_guards, weight, stable, canary, count)


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def percent(part: float) -> str:
    return f"{part * 100:.3g} %"


Report = Callable[[], str]
"""Written once what was asked for is there."""


def report_equal(simulated: Simulations, size: Size) -> Report:
    kinds = {name: (name, all_guards) for name in EQUAL}
    kinds["the same, were each answer of a batch an event"] = ("failures take their batch along", counted_wrong)
    asked = {
        title: [simulated.ask(size.equal, false_rollback, name, weight, rule) for weight in WEIGHTS]
        for title, (name, rule) in kinds.items()
    }
    return lambda: table(
        ["canary's weight", *map(percent, WEIGHTS)],
        [[title, *(percent(share(runs)) for runs in row)] for title, row in asked.items()],
    )


def share(runs: Runs[bool]) -> float:
    return float(np.mean(runs.results()))


def report_failures(simulated: Simulations, size: Size) -> Report:
    asked = [
        (
            percent(weight),
            f"{percent(stable)} → {percent(canary)}",
            published,
            failures_alone(weight, stable, canary),
            failures_together(simulated, weight, stable, canary, size.together),
        )
        for weight in WEIGHTS
        for (stable, canary), published in zip(SHIFTS, REFERENCE_FAILURES[weight], strict=True)
    ]
    return lambda: table(
        ["weight", "stable → canary fails", "published", "failures guard alone", "default plan"],
        [
            [*words, "" if together is None else Detection(together.results())]
            for *words, together in asked
        ],
    )


def report_latency(simulated: Simulations, size: Size) -> Report:
    asked = [
        (
            percent(weight),
            f"× {factor:g}",
            published,
            *(simulated.ask(size.slower, slower_until, plan, weight, factor) for plan in (LATENCY, ALL)),
        )
        for weight, row in REFERENCE_LATENCY.items()
        for factor, published in zip(SLOWER, row, strict=True)
    ]
    return lambda: table(
        ["weight", "slower", "published (median)", "latency guard alone", "default plan"],
        [[*words, Detection(alone.results()), Detection(together.results())] for *words, alone, together in asked],
    )


def report_whole(simulated: Simulations, size: Size) -> Report:
    asked = {name: simulated.ask(size.whole, whole_rollout, case) for name, case in CASES.items()}
    head = ["canary", "promoted", "rolled back", "held", "at weight", "its failed requests", "seconds at weight > 0"]
    return lambda: table(head, [[name, *_outcomes(runs.results())] for name, runs in asked.items()])


def _outcomes(ends: Sequence[Outcome]) -> list[str]:
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


def compare(simulated: Simulations, size: Size) -> Callable[[], Peers]:
    asked_false = {
        name: [simulated.ask(size.peers, false_rollback, "steady, 1 % fail", weight, rule) for weight in WEIGHTS]
        for name, rule in RULES.items()
    }
    asked_found = {
        name: [
            simulated.ask(size.peers // 4, failures_until, rule, PICTURE_WEIGHT, 0.001, canary, 12_000)
            for canary in BAD_FOR_PICTURE
        ]
        for name, rule in RULES.items()
    }
    return lambda: Peers(
        {name: [share(runs) for runs in row] for name, row in asked_false.items()},
        {name: [Detection(runs.results()) for runs in row] for name, row in asked_found.items()},
    )


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
    began = time.perf_counter()
    with simulations(options.seed) as simulated:
        asked = {
            "equal": report_equal(simulated, size),
            "failures": report_failures(simulated, size),
            "latency": report_latency(simulated, size),
            "whole": report_whole(simulated, size),
        }
        compared = compare(simulated, size)
        reports = {name: report() for name, report in asked.items()}
        peers = compared()
    text = REPORT.format(
        seed=options.seed,
        alpha=percent(ALPHA),
        alone=percent(FAILURES.alpha),
        requests=f"{REQUESTS:,}",
        most=percent((size.equal * ALPHA + 3 * math.sqrt(size.equal * ALPHA * (1 - ALPHA))) / size.equal),
        max_events=MAX_EVENTS,
        size=size,
        peers=report_peers(peers),
        **reports,
    )
    print(text)
    print(f"{time.perf_counter() - began:.0f} s")
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "rollout-sim.md").write_text(text, "utf-8")
        draw(peers, folder / "rollout-sim.svg")


REPORT = """# Rollouts, simulated

`make rollout-sim`, seed {seed}. Every decision is made by the classes that serve (`gateway/rollouts`), with the
guards of the default plan under one alpha of {alpha} unless a column says otherwise. Nothing here depends on the machine.

![False rollbacks and detection, beside the rules of others](rollout-sim.svg)

## Equal versions that are rolled back all the same

{size.equal} rollouts of {requests} requests for each figure; the bound is {alpha} for ever, whatever both versions suffer
together. So many runs of a test that errs in just {alpha} would show up to {most}.

{equal}

## A canary that fails more

Failed requests of the canary until it is rolled back, median/95th percentile of the rollouts that were (and how many
were within {max_events} failed requests, where not all). "Published" are the figures that were to be reached, by one
guard with an alpha of {alone}. That is the column beside; it is computed from the guard's own decisions on counts, not
simulated. The default plan has {alpha}, half of it for failures, so that this guard has {alone} there too; {size.together}
simulated rollouts a figure, with all that chance does to 95th percentiles. Empty: too many requests to simulate.

{failures}

## A canary that is slower

Requests of the canary until it is rolled back, median/95th percentile; times are lognormal, sigma 0.5.
The guard alone has an alpha of {alone}, as in what was published, and 45 % of {alpha} in the default plan.

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
