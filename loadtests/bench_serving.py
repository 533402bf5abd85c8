"""What the gateway itself promises, each claim with its measurement; `all` runs them one after the other.

open-loop  20,000 requests a second on a Poisson schedule: latency from the moment a request was due
compute    a ResNet-50 through the gateway beside a bare session.run loop on the same core
copies     bytes copied in the gateway's memory for each 602,112-byte image, over binary HTTP and gRPC
overload   three times what the gateway can do, each request with a deadline: goodput, statuses, memory
load       another model's large version loads under load: p99 beside that of steady load
swap       new versions that take over under load: failures, and p99 beside that of steady load
alias      the alias champion moved back and forth under load, by the registry: the same two
memory     resident size at idle, under load and with 10,000 idle connections, and what those do to p99
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import heavy_models
import numpy as np
import onnx
import tools
from bench_peers import ROOT, commit, machine
from sides import Side, start_sluice

HERE = Path(__file__).parent
sys.path.insert(0, str(ROOT / "tests"))


def build(source: str, out: Path, *flags: str) -> Path:
    compiler = "g++" if source.endswith(".cpp") else "gcc"
    subprocess.run([compiler, "-O2", str(HERE / source), "-o", str(out), *flags], check=True)
    return out


@contextmanager
def gateway(work: Path, name: str, model: onnx.ModelProto, *flags: str, **environment: str) -> Iterator[Side]:
    version = work / f"repository-{name}" / name / "1"
    version.mkdir(parents=True, exist_ok=True)
    if not (version / "model.onnx").exists():
        onnx.save(model, version / "model.onnx")
    before = dict(os.environ)
    os.environ.update(environment)
    try:
        side = start_sluice(version.parent.parent, work, *flags)
    finally:
        os.environ.clear()
        os.environ.update(before)
    with running(side):
        yield side


@contextmanager
def running(side: Side) -> Iterator[Side]:
    try:
        side.wait_ready()
        yield side
    finally:
        side.stop()


def children(pid: int) -> list[int]:
    """The process and all below it."""
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(below for child in listed for below in children(int(child)))]


def resident(pid: int) -> int:
    """Bytes, memory shared with siblings counted in proportion."""
    for line in Path(f"/proc/{pid}/smaps_rollup").open():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return 0


def load(generator: Path, work: Path, port: int, path: str, body: bytes, rate: float, seconds: float, connections: int,
         *headers: str) -> dict[str, Any]:  # fmt: skip
    file = work / "body"
    file.write_bytes(body)
    words = [port, path, file, rate, seconds, connections, 1, *headers]
    done = subprocess.run([str(generator), *map(str, words)], capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout))


def open_loop(work: Path, rounds: int) -> list[str]:
    import models

    generator = build("open_loop.cpp", work / "open_loop", "-std=c++20")
    lines = [
        "| offered/s | answered | p50 ms | p90 ms | p99 ms | p99.9 ms | max ms | generator late p99 ms |",
        "|--:" * 8 + "|",
    ]
    with gateway(work, "tabular", models.tabular()) as side:
        load(generator, work, side.http, side.http_path, tools.json_body(), 5000, 2, 64)
        for rate in (5_000, 10_000, 20_000, 30_000):
            runs = [
                load(generator, work, side.http, side.http_path, tools.json_body(), rate, 5, 256) for _ in range(rounds)
            ]
            ms = {key: statistics.median(run["latency"][key] for run in runs) * 1e3 for key in runs[0]["latency"]}
            answered = sum(run["statuses"].get("200", 0) for run in runs) / sum(run["sent"] for run in runs)
            late = statistics.median(run["lateness_p99"] for run in runs) * 1e3
            lines.append(
                f"| {rate:,} | {answered:.2%} | {ms['p50']:.3f} | {ms['p90']:.3f} | {ms['p99']:.3f} | {ms['p999']:.3f} |"
                f" {ms['max']:.3f} | {late:.3f} |"
            )
    return [f"Medians of {rounds} runs of 5 s over 256 connections, JSON, one row each.", "", *lines]


def compute(work: Path, rounds: int) -> list[str]:
    """Both on core 1, interleaved; the gateway's loop and the client are on core 0."""
    import onnxruntime
    from tritonclient import grpc

    model = work / "repository-resnet50" / "resnet50" / "1" / "model.onnx"
    batch = 4
    image = np.random.default_rng(3).standard_normal((batch, 3, 224, 224)).astype(np.float32)
    with gateway(work, "resnet50", heavy_models.resnet50(), "--set", "workers.slot_bytes=64 MiB") as side:
        worker = [pid for pid in children(side.process.pid) if "zygote" in Path(f"/proc/{pid}/cmdline").read_text()][-1]
        for task in Path(f"/proc/{worker}/task").iterdir():
            os.sched_setaffinity(int(task.name), {1})
        os.sched_setaffinity(side.process.pid, {0})
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        session = onnxruntime.InferenceSession(model, options)

        def bare(seconds: float) -> float:
            os.sched_setaffinity(0, {1})
            end, count, start = time.perf_counter() + seconds, 0, time.perf_counter()
            while time.perf_counter() < end:
                session.run(None, {"image": image})
                count += batch
            took = time.perf_counter() - start
            os.sched_setaffinity(0, {0})
            return count / took

        def served(seconds: float) -> float:
            count = [0]
            end, start = time.perf_counter() + seconds, time.perf_counter()

            def client() -> None:
                with grpc.InferenceServerClient(f"127.0.0.1:{side.grpc}") as caller:
                    tensor = grpc.InferInput("image", image.shape, "FP32")
                    tensor.set_data_from_numpy(image)
                    while time.perf_counter() < end:
                        caller.infer("resnet50", [tensor])
                        count[0] += batch

            threads = [threading.Thread(target=client) for _ in range(3)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            return count[0] / (time.perf_counter() - start)

        bare(2), served(3)
        pairs = [(bare(12), served(12)) for _ in range(rounds)]
    ratios = sorted(ours / theirs for theirs, ours in pairs)
    return [
        f"Batches of {batch} images, 3 callers with one batch each; bare loop and worker on the same core in turn.", "",
        "| bare session.run, images/s | through the gateway | ratio (spread) |", "|--:|--:|--:|",
        f"| {statistics.median(p[0] for p in pairs):.2f} | {statistics.median(p[1] for p in pairs):.2f} |"
        f" {statistics.median(ratios):.1%} ({ratios[0]:.1%}-{ratios[-1]:.1%}) |",
    ]  # fmt: skip


def copies(work: Path, rounds: int) -> list[str]:
    import models
    from tritonclient import grpc, http

    shim = build("count_copies.c", work / "count_copies.so", "-shared", "-fPIC", "-ldl", "-fno-builtin")
    counts = work / "copies"
    image = np.zeros((1, 3, 224, 224), np.float32)
    lines = ["| way | bytes of the tensor | bytes copied for each request | copies |", "|---|--:|--:|--:|"]
    expected = {"HTTP binary": "body to batch slot", "gRPC": "receive buffer to body, body to batch slot"}
    environment = {"LD_PRELOAD": str(shim), "COPIES_FILE": str(counts)}
    model = models.identity("FP32", ("N", 3, 224, 224))
    with gateway(work, "identity", model, "--set", "workers.slot_bytes=8 MiB", **environment) as side:

        def total() -> int:
            counts.unlink(missing_ok=True)
            os.kill(side.process.pid, signal.SIGUSR2)
            while not counts.exists() or not counts.read_text().endswith("\n"):
                time.sleep(0.01)
            return int(counts.read_text())

        for name, module, port in (("HTTP binary", http, side.http), ("gRPC", grpc, side.grpc)):
            caller = module.InferenceServerClient(f"127.0.0.1:{port}")
            tensor = module.InferInput("x", image.shape, "FP32")
            tensor.set_data_from_numpy(image)
            # The answer is one class, so that only the way in is counted.
            wanted = [module.InferRequestedOutput("y", class_count=1)]
            caller.infer("identity", [tensor], outputs=wanted)
            before = total()
            for _ in range(20):
                caller.infer("identity", [tensor], outputs=wanted)
            each = (total() - before) / 20
            lines.append(f"| {name} ({expected[name]}) | {image.nbytes:,} | {each:,.0f} | {each / image.nbytes:.2f} |")
            caller.close()
    return lines


def overload(work: Path, rounds: int) -> list[str]:
    generator = build("open_loop.cpp", work / "open_loop", "-std=c++20")
    lines = [
        "| load | offered/s | good/s | share of capacity | statuses | p99 of the good, ms | resident MB |",
        "|---|--:|--:|--:|---|--:|--:|",
    ]
    with gateway(work, "dense", heavy_models.dense(1536, 6)) as side:
        path, body = "/v2/models/dense/infer", tools.json_body()
        for _ in range(2):
            capacity = tools.wrk(side.http, path, body, connections=64, seconds=4).rate
        lines.append(f"| closed loop, 64 callers | | {capacity:,.0f} | 100% | | | {memory_of(side):.0f} |")
        for factor in (0.5, 1.0, 3.0, 3.0, 3.0):
            run = load(generator, work, side.http, path, body, factor * capacity, 8, 2048, "request-timeout: 0.1")
            good = run["statuses"].get("200", 0) / run["seconds"]
            statuses = ", ".join(f"{status}: {n:,}" for status, n in run["statuses"].items())
            lines.append(
                f"| {factor:g} x capacity, deadline 100 ms | {run['offered']:,.0f} | {good:,.0f} | {good / capacity:.0%} | "
                f"{statuses}; unanswered {run['unanswered']} | {run['latency']['p99'] * 1e3:.1f} | {memory_of(side):.0f} |"
            )
    return lines


def memory_of(side: Side) -> float:
    return sum(resident(pid) for pid in children(side.process.pid)) / 1e6


def memory(work: Path, rounds: int) -> list[str]:
    import models

    generator = build("open_loop.cpp", work / "open_loop", "-std=c++20")
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(20_000, resource.getrlimit(resource.RLIMIT_NOFILE)[1]),) * 2)
    lines = ["| state | gateway MB | zygote and worker MB | p99 at 5,000/s, ms |", "|---|--:|--:|--:|"]
    with gateway(work, "tabular", models.tabular(), "--set", "http.idle_timeout_seconds=600", "--set", "grpc.header_timeout_seconds=600") as side:  # fmt: skip
        body = tools.json_body()

        def row(name: str, p99: str) -> None:
            gateway_pid, *others = children(side.process.pid)
            lines.append(
                f"| {name} | {resident(gateway_pid) / 1e6:.1f} | {sum(map(resident, others)) / 1e6:.1f} | {p99} |"
            )

        def steady() -> str:
            runs = [load(generator, work, side.http, side.http_path, body, 5000, 4, 64) for _ in range(rounds)]
            return f"{statistics.median(run['latency']['p99'] for run in runs) * 1e3:.3f}"

        row("idle, fresh", "")
        steady()
        row("after load", steady())
        tools.wrk(side.http, side.http_path, body, connections=128, seconds=4)
        row("after 128 busy connections", "")
        request = (f"POST {side.http_path} HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n\r\n").encode() + body
        idle = []
        for _ in range(10_000):
            connection = socket.create_connection(("127.0.0.1", side.http))
            connection.sendall(request)
            connection.recv(65536)
            idle.append(connection)
        row("10,000 idle HTTP connections more, each used once", steady())
        for connection in idle:
            connection.close()
        row("these closed", steady())
    return lines


def disturbed(side: Side, work: Path, rounds: int, name: str, disturb: Callable[[int], None]) -> list[str]:
    """A table of steady load beside the same load while `disturb` runs, in turn, and the ratio of their p99."""
    generator = build("open_loop.cpp", work / "open_loop", "-std=c++20")
    lines = ["| 2,000 requests/s | answered | p50 ms | p99 ms | max ms |", "|---|--:|--:|--:|--:|"]

    def run(name: str) -> float:
        figures = load(generator, work, side.http, side.http_path, tools.json_body(), 2000, 10, 64)
        latency = {key: seconds * 1e3 for key, seconds in figures["latency"].items()}
        answered = figures["statuses"].get("200", 0) / figures["sent"]
        lines.append(
            f"| {name} | {answered:.3%} | {latency['p50']:.3f} | {latency['p99']:.3f} | {latency['max']:.3f} |"
        )
        return float(latency["p99"])

    run("warm-up")
    lines.pop()
    ratios = []
    with ThreadPoolExecutor(1) as pool:
        for number in range(rounds):
            steady = run("steady")
            disturbance = pool.submit(disturb, number)
            ratios.append(run(name) / steady)
            disturbance.result()
    spread = f"{min(ratios):.2f}-{max(ratios):.2f}"
    return [*lines, "", f"p99 disturbed / p99 steady: {statistics.median(ratios):.2f} ({spread})."]


def swap(work: Path, rounds: int) -> list[str]:
    import models

    repository = work / "repository-tabular" / "tabular"

    def publish(number: int) -> None:
        for version in range(10 * number + 2, 10 * number + 6):
            time.sleep(2)
            staged = work / "next" / str(version)
            staged.mkdir(parents=True)
            onnx.save(models.tabular(version), staged / "model.onnx")
            staged.rename(repository / str(version))

    with gateway(work, "tabular", models.tabular(), "--set", "models.poll_seconds=0.2") as side:
        return disturbed(side, work, rounds, "with four new versions taking over in turn", publish)


def alias(work: Path, rounds: int) -> list[str]:
    import models

    from registry.artifacts import LocalArtifacts
    from registry.catalog import Catalog
    from registry.publish import push

    data = work / "sluice-data"
    data.mkdir()
    catalog, store = Catalog(f"sqlite:///{data}/catalog.db"), LocalArtifacts(data / "artifacts")
    for version in (1, 2):
        onnx.save(models.tabular(version), work / "model.onnx")
        push(catalog, store, work / "model.onnx", "tabular", actor="bench", alias="champion")
    with running(start_sluice(None, work)) as side:

        def move(_: int) -> None:
            for version in (1, 2, 1, 2):
                time.sleep(2)
                catalog.move_alias("tabular", "champion", version, actor="bench")
                until = time.monotonic() + 2
                while answering(side) != str(version):
                    assert time.monotonic() < until, f"version {version} was not served within 2 s"
                    time.sleep(0.05)

        return disturbed(side, work, rounds, "with the alias moved four times", move)


def answering(side: Side) -> str:
    """The version that answers a request without one."""
    request = urllib.request.Request(f"http://127.0.0.1:{side.http}{side.http_path}", tools.json_body())
    with urllib.request.urlopen(request, timeout=5) as answer:
        return str(json.load(answer)["model_version"])


def large_load(work: Path, rounds: int) -> list[str]:
    """A network whose weights take seconds to read, optimise and warm up, loaded beside the one that is measured."""
    import models

    generator = build("open_loop.cpp", work / "open_loop", "-std=c++20")
    lines = ["| 2,000 requests/s | answered | p50 ms | p99 ms | max ms |", "|---|--:|--:|--:|--:|"]
    ratios, seconds = [], []
    large = work / "large.onnx"
    onnx.save(heavy_models.dense(4096, 8), large)
    with gateway(work, "tabular", models.tabular(), "--set", "models.poll_seconds=0.2") as side:
        repository = work / "repository-tabular"

        def run(name: str, length: float = 10) -> dict[str, float]:
            figures = load(generator, work, side.http, side.http_path, tools.json_body(), 2000, length, 64)
            latency = {key: value * 1e3 for key, value in figures["latency"].items()}
            answered = figures["statuses"].get("200", 0) / figures["sent"]
            lines.append(
                f"| {name} | {answered:.3%} | {latency['p50']:.3f} | {latency['p99']:.3f} | {latency['max']:.3f} |"
            )
            return latency

        def is_ready(model: str) -> bool:
            try:
                with urllib.request.urlopen(
                    f"http://127.0.0.1:{side.http}/v2/models/{model}/ready", timeout=1
                ) as answer:
                    return bool(answer.status == 200)
            except OSError:
                return False

        def stage(model: str) -> Path:
            """Not while it is measured: the publisher's copying is not the gateway's."""
            staged = work / "next" / model / "1"
            staged.mkdir(parents=True)
            shutil.copyfile(large, staged / "model.onnx")
            return staged.parent

        def publish(model: str, staged: Path) -> None:
            started = time.monotonic()
            staged.rename(repository / model)
            while not is_ready(model) and time.monotonic() - started < 60:
                time.sleep(0.05)
            seconds.append(time.monotonic() - started)

        run("warm-up")
        lines.pop()
        for number in range(rounds):
            staged = stage(f"large-{number}")
            steady = run("steady")
            publisher = threading.Thread(target=publish, args=(f"large-{number}", staged))
            publisher.start()
            loaded = run(f"while {large.stat().st_size / 1e6:,.0f} MB load")
            publisher.join()
            ratios.append(loaded["p99"] / steady["p99"])
            shutil.rmtree(repository / f"large-{number}")
            time.sleep(2)
    spread = f"{min(ratios):.2f}-{max(ratios):.2f}"
    return [
        *lines, "",
        f"p99 while loading / p99 steady: {statistics.median(ratios):.2f} ({spread}). From its files being there to READY:"
        f" {statistics.median(seconds):.1f} s.",
    ]  # fmt: skip


BENCHES: dict[str, tuple[str, Callable[[Path, int], list[str]]]] = {
    "open-loop": ("Open loop", open_loop),
    "compute": ("Compute bound", compute),
    "copies": ("Copies", copies),
    "overload": ("Overload", overload),
    "memory": ("Memory", memory),
    "load": ("Another model loads", large_load),
    "swap": ("Version swap", swap),
    "alias": ("Alias moved under load", alias),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bench", choices=[*BENCHES, "all"], nargs="?", default="all")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    for name, (title, run) in BENCHES.items():
        if options.bench not in (name, "all"):
            continue
        with tempfile.TemporaryDirectory() as folder:
            lines = run(Path(folder), options.rounds)
        head = [f"# {title}", "", f"- {datetime.now(UTC):%Y-%m-%d}, commit {commit()}, {machine()}; load included.", ""]
        text = "\n".join([*head, *lines]) + "\n"
        (HERE / "results" / f"{name}.md").write_text(text)
        print(text, flush=True)


if __name__ == "__main__":
    main()
