"""What rollouts cost, under real traffic: each part below writes its section of results/rollouts.md.

faults      canaries that are bad in eight ways, over both protocols, on one gateway
replicas    the same on three gateways that share one PostgreSQL
good        a good version under a steady open loop: promoted without a failure, p99 beside that of steady load
throughput  closed loops without and with a rollout held at 10 %, in turn
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import tools
from bench_peers import ROOT, commit, machine
from bench_serving import build, children, load
from faulty_models import Fault, faulty
from rollout_callers import MODEL, Answer, call
from rollout_fleet import Fleet, fleet
from timed_gateway import deciding_event

RESULTS = Path(__file__).parent / "results"
PLAN = {
    "steps": [
        {"setWeight": 5},
        {"bake": {"minTime": "5s", "minRequests": 100}},
        {"setWeight": 50},
        {"bake": {"minTime": "5s", "minRequests": 300}},
    ],
    "terminationWait": "1s",
    "maxDuration": "5m",
}
FAULTS = {
    "fails all requests": Fault(fails=1.0),
    "fails 20 %": Fault(fails=0.2),
    "fails 5 %": Fault(fails=0.05),
    "2x slower": Fault(slower=2.0),
    "crashes its worker": Fault(crashes=1.0),
    "hangs": Fault(hangs=1.0),
    "answers NaN": Fault(is_nan=True),
    "gives too few rows": Fault(is_short=True),
    "none: a good version": Fault(),
}
HUNG_SECONDS = 0.5
PROTOCOLS = ("HTTP", "gRPC")


@dataclass(frozen=True)
class Outcome:
    """How one rollout went. Of a rollback: seconds from the deciding event to weight 0 in the first gateway and in the
    last, and to the last request that was sent and answered by the canary; None where no guard decided."""

    exit_code: int
    rule: str
    failed: int
    requests: int
    errors: int
    calls: int
    seconds: float
    first: float | None = None
    last: float | None = None
    answered: float | None = None


async def roll_out(gateways: Fleet, protocol: str, rate: float, warm_seconds: float) -> tuple[int, float, list[Answer]]:
    """Exit code and seconds of `sluice rollout start --wait`, and every answer that callers got meanwhile."""
    until, answers = asyncio.Event(), list[Answer]()
    ports = [gateway.port(protocol) for gateway in gateways.gateways]
    traffic = asyncio.create_task(call(protocol, ports, rate, until, answers))
    await asyncio.sleep(warm_seconds)  # what stable's latency is
    began = time.monotonic()
    command = [*gateways.start_command(2, PLAN), "--wait"]
    operator = await asyncio.create_subprocess_exec(
        *command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=ROOT
    )
    exit_code = await operator.wait()
    seconds = time.monotonic() - began
    await asyncio.sleep(1.0)  # a canary that is still asked would show
    until.set()
    await traffic
    return exit_code, seconds, answers


def measure(folder: Path, protocol: str, fault: Fault, rate: float, warm_seconds: float, count: int) -> Outcome:
    settings = {"workers.batch_timeout_seconds": str(HUNG_SECONDS)}
    versions = [faulty(), faulty(fault, seed=2)]
    with fleet(folder, MODEL, versions, count=count, settings=settings) as gateways:
        exit_code, seconds, answers = asyncio.run(roll_out(gateways, protocol, rate, warm_seconds))
        times = [gateway.times() for gateway in gateways.gateways]
        lines = [line for gateway in gateways.gateways for line in gateway.decisions()]
    ends = sorted((line for line in lines if float(line["weight"]) == 0), key=lambda line: line["@timestamp"])
    line = (ends or lines or [{}])[0] if exit_code == 2 else (lines or [{}])[-1]
    errors = sum(not answer.is_good for answer in answers)
    outcome = Outcome(
        exit_code, str(line.get("rule", "")), int(line.get("canary_failed", 0)), int(line.get("canary_requests", 0)),
        errors, len(answers), seconds,
    )  # fmt: skip
    decided = deciding_event(times, PLAN)
    closed = [one.closed for one in times if one.closed is not None]
    if exit_code != 2 or decided is None or not closed:
        return outcome
    sent = [answer.sent for answer in answers if answer.version == "2"]
    return replace(
        outcome,
        first=min(closed) - decided,
        last=max(closed) - decided,
        answered=max(sent) - decided if sent else None,
    )


def milliseconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{max(seconds, 0.0) * 1e3:.1f}"


def faults(options: argparse.Namespace, count: int = 1) -> list[str]:
    lines = [
        f"- {options.rate:.0f} requests a second on a schedule, one row each; a canary at 5 %, then 50 %, retry on; a batch"
        f" that runs for {HUNG_SECONDS} s is hung.",
        "- Exit codes of `sluice rollout start --wait`: 0 promoted, 2 rolled back. `failed`: the canary's failed requests"
        " before the decision, of those that it was asked; a crash and a hung batch are one each.",
        "- The deciding event is the first at which all events so far, put through the classes that decide, are enough; its"
        " time is the data plane's own, at which the request was found to have gone wrong. Weight 0 is when the route table"
        " has been swapped, so that no request is routed to the canary any more"
        + ("." if count == 1 else ": in the first gateway, and in the last.")
        + " `last sent`: the last request that callers sent and the canary answered; 0.0: before the event, empty: it answered none.",
        "",
        "| canary | protocol | exit | rule | failed / asked | calls that saw an error | seconds |"
        + (" event to weight 0, ms |" if count == 1 else " event to first weight 0, ms | to weight 0 everywhere, ms |")
        + " to last sent, ms |",
        "|---|---|--:|---|--:|--:|--:|--:|" + "--:|" * (1 if count == 1 else 2),
    ]
    for name, fault in FAULTS.items():
        for protocol in PROTOCOLS:
            if options.only and options.only not in name:
                continue
            with tempfile.TemporaryDirectory() as folder:
                outcome = measure(Path(folder), protocol, fault, options.rate, options.warm, count)
            everywhere = "" if count == 1 else f" {milliseconds(outcome.last)} |"
            lines.append(
                f"| {name} | {protocol} | {outcome.exit_code} | {outcome.rule} | {outcome.failed} / {outcome.requests} "
                f"| {outcome.errors} of {outcome.calls:,} | {outcome.seconds:.1f} | {milliseconds(outcome.first)} |"
                f"{everywhere} {milliseconds(outcome.answered)} |"
            )
            print(lines[-1], flush=True)
    return lines


def replicas(options: argparse.Namespace) -> list[str]:
    return faults(options, count=3)


# A good version


@dataclass(frozen=True)
class Window:
    p99: float
    sent: int
    failed: int


def good(options: argparse.Namespace) -> list[str]:
    import models

    rate, length = options.open_rate, options.window
    plan = {
        "steps": [
            step
            for weight in (5, 25, 50)
            for step in ({"setWeight": weight}, {"bake": {"minTime": f"{1.6 * length:g}s", "minRequests": 200}})
        ],
        "terminationWait": "1s",
    }
    lines = [
        f"- {rate:,} requests a second by an open loop over HTTP, one row each, in windows of {length:g} s; latency counts"
        " from the moment a request was due. A rollout of the default guards through 5, 25 and 50 %; nobody looks.",
        "- Each round: steady windows before, windows while the rollout runs (loading included), steady windows after.",
        "",
        "| round | exit | seconds | sent | failed | steady p99, ms | p99 during, ms (worst) | ratio |",
        "|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    ratios, failed, sent = [], 0, 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        generator = build("open_loop.cpp", folder / "open_loop", "-std=c++20")
        with fleet(folder, "tabular", [models.tabular(1)]) as gateways:

            def window() -> Window:
                port, path = gateways.gateways[0].http, "/v2/models/tabular/infer"
                figures = load(generator, folder, port, path, tools.json_body(), rate, length, 64)
                answered = figures["statuses"].get("200", 0)
                return Window(figures["latency"]["p99"] * 1e3, figures["sent"], figures["sent"] - answered)

            window()
            for number in range(1, options.rounds + 1):
                version = gateways.publish(models.tabular(number + 1))
                steady = [window() for _ in range(2)]
                command = [*gateways.start_command(version, plan), "--wait"]
                began = time.monotonic()
                operator = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=ROOT)
                during = []
                while operator.poll() is None:
                    during.append(window())
                seconds = time.monotonic() - began
                steady += [window() for _ in range(2)]
                p99, p99_steady = (statistics.median(one.p99 for one in part) for part in (during, steady))
                ratios.append(p99 / p99_steady)
                failed += (round_failed := sum(one.failed for one in (*steady, *during)))
                sent += (round_sent := sum(one.sent for one in (*steady, *during)))
                lines.append(
                    f"| {number} | {operator.returncode} | {seconds:.0f} | {round_sent:,} | {round_failed} "
                    f"| {p99_steady:.3f} | {p99:.3f} ({max(one.p99 for one in during):.3f}) | {ratios[-1]:.2f} |"
                )
                print(lines[-1], flush=True)
    spread = f"{min(ratios):.2f}-{max(ratios):.2f}"
    return [
        *lines, "", f"p99 during / p99 steady: {statistics.median(ratios):.2f} ({spread}); {failed} of {sent:,} failed."
    ]  # fmt: skip


# The hot path


@dataclass(frozen=True)
class Cost:
    """One window: what the load generator saw, and processor time by answer, in microseconds: of the gateway's own
    process, where requests are read, routed and answered, and of its workers with it."""

    figures: tools.Figures
    own: float
    all: float


def cost(pid: int, run: Callable[[], tools.Figures], seconds: float) -> Cost:
    before = processor_seconds(pid)
    figures = run()
    answers = figures.rate * seconds
    own, workers = (after - was for after, was in zip(processor_seconds(pid), before, strict=True))
    return Cost(figures, own / answers * 1e6, (own + workers) / answers * 1e6)


def processor_seconds(pid: int) -> tuple[float, float]:
    """Of the process, and of all below it."""
    own, *below = (
        sum(map(int, Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()[11:13])) for each in children(pid)
    )
    return own / os.sysconf("SC_CLK_TCK"), sum(below) / os.sysconf("SC_CLK_TCK")


def throughput(options: argparse.Namespace) -> list[str]:
    import models

    plan = {"steps": [{"setWeight": 10}, {"pause": {}}]}
    body, message = tools.json_body(), tools.grpc_message()
    loads: dict[str, Callable[[Fleet], tools.Figures]] = {
        "HTTP JSON, wrk, 128 connections": lambda gateways: tools.wrk(
            gateways.gateways[0].http, "/v2/models/tabular/infer", body, connections=128, seconds=options.window
        ),
        "gRPC, h2load, 8 connections x 16 streams": lambda gateways: tools.h2load(
            gateways.gateways[0].grpc, message, clients=8, streams=16, seconds=options.window
        ),
    }
    costs: dict[tuple[str, bool], list[Cost]] = {(name, is_active): [] for name in loads for is_active in (False, True)}
    with tempfile.TemporaryDirectory() as folder, fleet(
        Path(folder), "tabular", [models.tabular(1), models.tabular(2)]
    ) as gateways:
        pid = gateways.gateways[0].process.pid
        for run in loads.values():
            run(gateways)
        for number in range(options.pairs):
            for is_active in (number % 2 == 1, number % 2 == 0):
                if is_active:
                    gateways.start(2, plan)
                    gateways.until(lambda status: status["weight"] == 0.1)
                for name, run in loads.items():
                    costs[name, is_active].append(cost(pid, partial(run, gateways), options.window))
                if is_active:
                    status = gateways.status()
                    if status["weight"] != 0.1:
                        raise RuntimeError(f"the rollout went on by itself: {status}")
                    gateways.abort()
                    gateways.until(lambda status: status["state"] == "rolled_back")
                    time.sleep(1)  # the canary's worker ends
            print(f"pair {number + 1} of {options.pairs}", flush=True)
    return [
        f"{options.pairs} pairs of {options.window:g} s on one gateway, in turn and in changing order: version 1 alone, and"
        " with version 2 held at 10 % by a rollout with the default guards and retry. The load generators run on the same"
        " cores. Processor time is that of the gateway's own process by answer, and with the workers'; ratios are medians"
        " over the pairs, with their spread.",
        "",
        "| load | without, answers/s | with, answers/s | with / without | own processor time, µs | ratio | with workers', µs"
        " | ratio | failed |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|",
        *(compared(name, costs[name, False], costs[name, True]) for name in loads),
    ]


def compared(name: str, without: list[Cost], active: list[Cost]) -> str:
    def medians(of: Callable[[Cost], float]) -> tuple[float, float, str]:
        ratios = sorted(of(b) / of(a) for a, b in zip(without, active, strict=True))
        spread = f"{statistics.median(ratios):.1%} ({ratios[0]:.1%}-{ratios[-1]:.1%})"
        return statistics.median(map(of, without)), statistics.median(map(of, active)), spread

    rate, rate_active, rates = medians(lambda one: one.figures.rate)
    own, own_active, owns = medians(lambda one: one.own)
    whole, whole_active, wholes = medians(lambda one: one.all)
    failed = sum(one.figures.failed for one in (*without, *active))
    return (
        f"| {name} | {rate:,.0f} | {rate_active:,.0f} | {rates} | {own:.1f} → {own_active:.1f} | {owns} "
        f"| {whole:.1f} → {whole_active:.1f} | {wholes} | {failed} |"
    )


PARTS: dict[str, tuple[str, Callable[[argparse.Namespace], list[str]]]] = {
    "faults": ("What a bad version costs", faults),
    "replicas": ("The same over three gateways on one PostgreSQL", replicas),
    "good": ("A good version under a steady open loop", good),
    "throughput": ("The hot path during a rollout", throughput),
}


def write(file: Path, title: str, lines: list[str]) -> None:
    """Puts the section in place of the one of that title; the others stay, in the order of the parts."""
    sections = {}
    if file.exists():
        for section in file.read_text().split("\n## ")[1:]:
            sections[section.partition("\n")[0]] = section.rstrip("\n")
    head = f"- {datetime.now(UTC):%Y-%m-%d}, commit {commit()}, {machine()}; load included."
    sections[title] = "\n".join([title, "", head, *lines])
    ordered = [sections[name] for name, _ in PARTS.values() if name in sections]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("# Rollouts under traffic\n" + "".join(f"\n## {section}\n" for section in ordered))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=[*PARTS, "all"], nargs="?", default="all")
    parser.add_argument("--rate", type=float, default=150.0, help="faults, replicas: requests a second")
    parser.add_argument("--warm", type=float, default=3.0, help="faults, replicas: seconds of traffic before the rollout")
    parser.add_argument("--only", help="faults, replicas: those whose names contain this")
    parser.add_argument("--open-rate", type=int, default=2000, help="good: requests a second")
    parser.add_argument("--rounds", type=int, default=5, help="good: rollouts")
    parser.add_argument("--pairs", type=int, default=11, help="throughput: pairs of windows")
    parser.add_argument("--window", type=float, default=5.0, help="good, throughput: seconds of one window")
    parser.add_argument("--out", type=Path, default=RESULTS / "rollouts.md")
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT / "tests"))
    for name, (title, run) in PARTS.items():
        if options.part in (name, "all"):
            lines = run(options)
            write(options.out, title, lines)
            print(f"\n## {title}\n\n" + "\n".join(lines) + "\n", flush=True)


if __name__ == "__main__":
    os.chdir(ROOT)
    main()
