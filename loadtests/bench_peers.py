"""Sluice beside its peers: the same model, the same machine, the load generators included, one run.

Rounds are interleaved (every side once, then again), figures are medians over the rounds, ratios are of medians with the
spread of the per-round ratios. Latencies here are of closed loops: what callers see who wait for each answer. For open
loops see `open_loop.py`.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import tools
from sides import Side, start_mosec, start_sluice, start_triton

ROOT = Path(__file__).parent.parent

HTTP_CONNECTIONS = (1, 32, 128)
GRPC_SHAPES = ((1, 1), (32, 1), (8, 16), (16, 32))

Run = Callable[[Side], tools.Figures]


def scenarios(seconds: float) -> dict[str, Run]:
    body, message = tools.json_body(), tools.grpc_message()

    def http(connections: int) -> Run:
        return lambda side: tools.wrk(side.http, side.http_path, body, connections=connections, seconds=seconds)

    def grpc(clients: int, streams: int) -> Run:
        return lambda side: tools.h2load(side.grpc, message, clients=clients, streams=streams, seconds=seconds)

    table = {f"HTTP JSON, {n} connections": http(n) for n in HTTP_CONNECTIONS}
    return table | {f"gRPC, {c} connections x {m} streams": grpc(c, m) for c, m in GRPC_SHAPES}


@dataclass
class Entry:
    """A side of the race: how to start it, the running server, and how often it had to be started again."""

    start: Callable[[], Side]
    side: Side
    restarts: int = 0

    @classmethod
    def begin(cls, start: Callable[[], Side]) -> Entry:
        side = start()
        side.wait_ready()
        side.pause()
        return cls(start, side)

    def run(self, load: Run) -> tools.Figures:
        """One measurement. A server that has died is started again, and the measurement taken once more."""
        for _ in range(3):
            self.side.resume()
            time.sleep(0.2)
            try:
                figures = load(self.side)
            except RuntimeError:
                if self.side.process.poll() is None:
                    raise
            else:
                if self.side.process.poll() is None and figures.rate:
                    self.side.pause()
                    return figures
            self.side.stop()
            self.side = self.start()
            self.side.wait_ready()
            self.restarts += 1
        raise RuntimeError(f"{self.side.name} died three times under the same load")


def measure(entries: list[Entry], rounds: int, seconds: float) -> dict[str, dict[str, list[tools.Figures]]]:
    results: dict[str, dict[str, list[tools.Figures]]] = {}
    for name, run in scenarios(seconds).items():
        rows = results[name] = {}
        for number in range(rounds):
            for entry in entries:
                side = entry.side
                if name.startswith("gRPC") and not side.grpc:
                    continue
                figures = entry.run(run)
                rows.setdefault(side.name, []).append(figures)
                print(
                    f"{name:34} round {number + 1} {side.name:8} {figures.rate:10,.0f}/s  p50 {figures.p50 * 1e3:7.3f} ms"
                    f"  p99 {figures.p99 * 1e3:7.3f} ms  failed {figures.failed}",
                    flush=True,
                )
    return results


def report(results: dict[str, dict[str, list[tools.Figures]]], notes: list[str]) -> str:
    lines = [f"- {note}" for note in notes]
    lines += ["", "| load | server | answers/s | p50 ms | p99 ms | Sluice is faster by (spread) | p50 ratio | failed |"]
    lines += ["|---|---|--:|--:|--:|--:|--:|--:|"]
    for name, rows in results.items():
        ours = rows["Sluice"]
        for side, runs in rows.items():
            mid = tools.median(runs)
            factor = ratio = ""
            if side != "Sluice":
                each = [a.rate / b.rate for a, b in zip(ours, runs, strict=True)]
                factor = f"{tools.median(ours).rate / mid.rate:.1f}x ({min(each):.1f}-{max(each):.1f})"
                ratio = f"{tools.median(ours).p50 / mid.p50:.2f}"
            lines.append(
                f"| {name} | {side} | {mid.rate:,.0f} | {mid.p50 * 1e3:.3f} | {mid.p99 * 1e3:.3f} | {factor} | {ratio} |"
                f" {mid.failed} |"
            )
    return "\n".join(lines) + "\n"


def put_into_readme(text: str) -> None:
    """Between the two markers."""
    readme = ROOT / "README.md"
    before, _, rest = readme.read_text().partition("<!-- bench -->")
    after = rest.partition("<!-- /bench -->")[2]
    readme.write_text(f"{before}<!-- bench -->\n{text}<!-- /bench -->{after}")


def machine() -> str:
    model = next((line.split(":", 1)[1].strip() for line in Path("/proc/cpuinfo").open() if "model name" in line), "?")
    cores = os.cpu_count()
    return f"{model}, {cores} cores, Linux {platform.release()}, Python {platform.python_version()}"


def commit() -> str:
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or "unknown"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers-python", type=lambda given: Path(given).absolute(), required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--out", type=Path, default=ROOT / "loadtests" / "results" / "peers.md")
    parser.add_argument("--readme", action="store_true", help="put the table into the README as well")
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT / "tests"))
    import models
    import onnx

    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        version = work / "repository" / "tabular" / "1"
        version.mkdir(parents=True)
        onnx.save(models.tabular(), version / "model.onnx")
        model, entries = version / "model.onnx", list[Entry]()
        try:
            entries.append(Entry.begin(lambda: start_sluice(work / "repository", work)))
            entries.append(Entry.begin(lambda: start_triton(model, work, options.peers_python)))
            entries.append(Entry.begin(lambda: start_mosec(model, work, options.peers_python)))
            results = measure(entries, options.rounds, options.seconds)
        finally:
            for entry in entries:
                entry.side.stop()
        restarts = [f"{entry.side.name} {entry.restarts}" for entry in entries if entry.restarts]
    notes = [
        f"{datetime.now(UTC):%Y-%m-%d}, commit {commit()}, {machine()}; the load generators run on the same cores.",
        f"Medians of {options.rounds} interleaved rounds of {options.seconds:g} s; one request is one row of 30 floats.",
        "Triton 2.51 with its python backend, the one that PyPI's wheel carries, around the same ONNX Runtime session; "
        "its native ONNX backend is about twice as fast.",
    ]
    if restarts:
        notes.append(f"Died under load and were started again, the measurement repeated: {', '.join(restarts)}.")
    text = report(results, notes)
    options.out.write_text("# Sluice beside its peers\n\n" + text)
    if options.readme:
        put_into_readme(text)
    print("\n" + text)


if __name__ == "__main__":
    main()
