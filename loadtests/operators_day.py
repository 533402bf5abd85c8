"""An operator's day: steady traffic by locust, a good release, a bad release, and a rollback by hand.

Version 1 serves; version 2 is as good and must be promoted without anyone looking; version 3 fails most of its requests
and must be gone before a caller sees an error; then the operator goes back to version 1. Writes a report with every
phase's requests, failures and latencies, and a plot of the day.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import gevent
import numpy as np
import onnx
from bench_peers import ROOT, commit, machine
from locust import FastHttpUser, constant_throughput, task
from locust.env import Environment
from onnx import TensorProto, helper, numpy_helper
from sides import free_port
from tools import json_body

VERSION_HEADER = "sluice-model-version"
SLUICE = Path(sys.executable).parent / "sluice"
PLAN = """\
steps:
  - setWeight: 5
  - bake: {minTime: 10s, minRequests: 200}
  - setWeight: 50
  - bake: {minTime: 10s, minRequests: 1000}
terminationWait: 5s
"""


def scores(seed: int, *, is_bad: bool = False) -> onnx.ModelProto:
    """FP32 features [N,30] -> scores [N,2]; a bad one fails for the four rows of five whose first feature is above a
    limit, as a model does that was trained with other categories than it meets."""
    random = np.random.default_rng(seed)
    weights = numpy_helper.from_array(random.standard_normal((30, 2)).astype(np.float32), "weights")
    nodes = [helper.make_node("MatMul", ["features", "weights"], ["all" if is_bad else "scores"])]
    constants = [weights]
    if is_bad:
        constants += [
            numpy_helper.from_array(np.array([0, 1000], np.int64), "places"),
            numpy_helper.from_array(np.array([0], np.int64), "first"),
            numpy_helper.from_array(np.array(0.2, np.float32), "limit"),
        ]
        nodes += [
            helper.make_node("Gather", ["features", "first"], ["feature"], axis=1),
            helper.make_node("Greater", ["feature", "limit"], ["is_above"]),
            helper.make_node("Cast", ["is_above"], ["place"], to=TensorProto.INT64),
            helper.make_node("Gather", ["places", "place"], ["wanted"]),  # 0, or 1000 of two columns
            helper.make_node("GatherElements", ["all", "wanted"], ["one"], axis=1),
            helper.make_node("Add", ["all", "one"], ["scores"]),
        ]
    graph = helper.make_graph(
        nodes,
        "scores",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["N", 30])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 2])],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


@dataclass
class Second:
    """What callers saw in one second of the day."""

    latencies: list[float] = field(default_factory=list)
    failed: int = 0
    versions: Counter[str] = field(default_factory=Counter)


class Day:
    """Every answer, by the second in which it came; and when what was done."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.seconds: list[Second] = []
        self.marks: list[tuple[float, str]] = []

    @property
    def now(self) -> float:
        return time.monotonic() - self.began

    def answer(self, *, response_time: float, response: Any, exception: BaseException | None, **_: Any) -> None:
        while len(self.seconds) <= self.now:
            self.seconds.append(Second())
        second = self.seconds[int(self.now)]
        second.latencies.append(response_time)
        second.failed += exception is not None
        if response is not None and exception is None:
            second.versions[response.headers.get(VERSION_HEADER, "?")] += 1

    def mark(self, what: str) -> float:
        self.marks.append((self.now, what))
        return self.now


@dataclass(frozen=True)
class Phase:
    """One part of the day, with the exit code of the command that it was about (None: it was about none)."""

    name: str
    start: float
    end: float
    exit_code: int | None


def caller(body: bytes, rate: float) -> type[FastHttpUser]:
    random = np.random.default_rng(1)

    class Caller(FastHttpUser):
        wait_time = constant_throughput(rate)

        @task
        def predict(self) -> None:
            first = f"{random.uniform(0, 1):.4f}"
            self.client.post("/v2/models/scores/infer", data=body.replace(b"FIRST", first.encode()))

    return Caller


def play(day: Day, work: Path, admin: str, steady_seconds: float) -> list[Phase]:
    """The operator: one thing after the other, each awaited. Runs beside the traffic, in a thread."""
    phases = []

    def phase(name: str, act: Callable[[], int | None]) -> None:
        start = day.mark(name)
        code = act()
        phases.append(Phase(name, start, day.now, code))

    def steady() -> None:
        time.sleep(steady_seconds)

    def roll_out(version: int) -> int:
        command = [SLUICE, "rollout", "start", "scores", "--to", str(version), "--plan", work / "plan.yaml", "--wait"]
        output = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        return subprocess.run([*command, "--admin-url", admin], **output).returncode

    phase("steady", steady)
    phase("good release: 2", lambda: roll_out(2))
    phase("steady on 2", steady)
    phase("bad release: 3", lambda: roll_out(3))
    phase("steady after 3", steady)
    phase("back to 1", lambda: roll_out(1))
    phase("steady on 1", steady)
    return phases


def report(day: Day, phases: list[Phase], users: int, rate: float) -> str:
    lines = [
        "# An operator's day",
        "",
        f"- {datetime.now(UTC):%Y-%m-%d}, commit {commit()}, {machine()}; load included.",
        f"- {users} callers by locust, {users * rate:,.0f} requests a second in all, HTTP JSON.",
        "- Exit codes of `sluice rollout start --wait`: 0 promoted, 2 rolled back.",
        "",
        "![the day](operators-day.svg)",
        "",
        "| phase | seconds | exit | requests | failed for callers | p50 ms | p99 ms | answered by |",
        "|---|--:|--:|--:|--:|--:|--:|---|",
    ]
    for phase in phases:
        seconds = day.seconds[int(phase.start) : max(int(phase.end), int(phase.start) + 1)]
        latencies = np.array([each for second in seconds for each in second.latencies] or [np.nan])
        versions = sum((second.versions for second in seconds), Counter[str]())
        shares = ", ".join(f"{version}: {count:,}" for version, count in sorted(versions.items()))
        p50, p99 = np.percentile(latencies, [50, 99])
        code = "" if phase.exit_code is None else phase.exit_code
        failed = sum(second.failed for second in seconds)
        lines.append(
            f"| {phase.name} | {phase.end - phase.start:.0f} | {code} | {len(latencies):,} | {failed} "
            f"| {p50:.2f} | {p99:.2f} | {shares} |"
        )
    return "\n".join(lines) + "\n"


def plot(day: Day, file: Path) -> None:
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    times = np.arange(len(day.seconds))
    figure, (shares, latencies) = pyplot.subplots(2, sharex=True, figsize=(10, 6), height_ratios=(2, 1))
    versions = sorted({version for second in day.seconds for version in second.versions})
    counts = [[second.versions[version] for second in day.seconds] for version in versions]
    shares.stackplot(times, counts, labels=[f"version {version}" for version in versions], alpha=0.8)
    shares.plot(times, [second.failed for second in day.seconds], color="black", label="failed for callers")
    shares.set_ylabel("answers a second")
    shares.legend(loc="lower left")
    for name, quantile in (("p50", 50), ("p99", 99)):
        values = [np.percentile(second.latencies or [np.nan], quantile) for second in day.seconds]
        latencies.plot(times, values, label=name)
    latencies.set_ylabel("latency, ms")
    latencies.set_xlabel("seconds")
    latencies.legend(loc="upper left")
    for at, what in day.marks:
        for axes in (shares, latencies):
            axes.axvline(at, color="grey", linewidth=0.6, linestyle=":")
        shares.annotate(what, (at, 1.01), xycoords=("data", "axes fraction"), rotation=20, fontsize=8)
    figure.tight_layout()
    figure.savefig(file, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=40)
    parser.add_argument("--rate", type=float, default=10.0, help="requests a second of each")
    parser.add_argument("--steady", type=float, default=15.0, help="seconds between what is done")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        (work / "plan.yaml").write_text(PLAN)
        for version, model in enumerate((scores(1), scores(2), scores(3, is_bad=True)), 1):
            file = work / f"{version}.onnx"
            onnx.save(model, file)
            flags = ["--alias", "champion"] if version == 1 else []
            command = [SLUICE, "push", file, "--name", "scores", "--data-dir", work / "data", *flags]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        http, admin = free_port(), free_port()
        ports = ["--http-port", str(http), "--grpc-port", str(free_port()), "--admin-port", str(admin)]
        log = (work / "log").open("wb")
        with log, subprocess.Popen([SLUICE, "serve", "--data-dir", work / "data", *ports], stderr=log) as gateway:
            try:
                run(arguments, work, http, f"http://127.0.0.1:{admin}")
            finally:
                gateway.terminate()


def run(arguments: argparse.Namespace, work: Path, http: int, admin: str) -> None:
    body = json_body().replace(b"[1, 30]", b"[1,30]")
    head, _, tail = body.partition(b'"data": [')
    body = head + b'"data": [FIRST' + tail[tail.index(b",") :]
    environment = Environment(user_classes=[caller(body, arguments.rate)], host=f"http://127.0.0.1:{http}")
    day = Day()
    wait_ready(http)
    environment.events.request.add_listener(day.answer)
    runner = environment.create_local_runner()
    runner.start(arguments.users, spawn_rate=arguments.users)
    phases: list[Phase] = []
    operator = threading.Thread(target=lambda: phases.extend(play(day, work, admin, arguments.steady)))
    operator.start()
    while operator.is_alive():
        gevent.sleep(0.1)
    runner.quit()
    text = report(day, phases, arguments.users, arguments.rate)
    print(text)
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "operators-day.md").write_text(text)
    plot(day, arguments.out / "operators-day.svg")


def wait_ready(port: int, seconds: float = 60.0) -> None:
    import urllib.error
    import urllib.request

    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/health/ready", timeout=1) as answer:
                if answer.status == 200:
                    return
        except (OSError, urllib.error.URLError):
            gevent.sleep(0.1)
    raise RuntimeError(f"the gateway did not become ready in {seconds:.0f} s")


if __name__ == "__main__":
    os.chdir(ROOT)
    main()
