"""How the registry and the life cycle scale: 1,000 models with 5 versions each in one catalog, 100 of them loaded.

listing  `sluice models` over the catalog of a data folder, and over a gateway's admin API
start    from nothing to ready with a warm cache of 100 models, beside loading these models and nothing else
watch    requests to the source a minute while nothing changes, and the gateway's own work for them

Writes `results/registry-scale.md`. The artifacts are one small ONNX file: sizes are not what is measured here. Smaller
numbers by options are for trying it out, and their result is printed only.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import resource
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import onnx
from bench_peers import ROOT, commit, machine
from sides import SERVER_START_SECONDS, free_port

HERE = Path(__file__).parent
sys.path.insert(0, str(ROOT / "tests"))

LOOKS_A_MINUTE = 120
"""At the catalog, as `registry.poll_seconds` has it by default."""
SLUICE = Path(sys.executable).parent / "sluice"


@dataclass(frozen=True)
class Size:
    """How large the registry is, and how long it is watched."""

    models: int = 1000
    versions: int = 5
    loaded: int = 100
    watch_seconds: float = 30.0


def fill(data_dir: Path, size: Size) -> None:
    """A catalog in which the first `loaded` models are loaded at the start, and the others on demand."""
    import models as test_models

    from registry.artifacts import LocalArtifacts
    from registry.catalog import Catalog
    from registry.lineage import find_lineage
    from registry.policies import ModelPolicy
    from registry.publish import push

    data_dir.mkdir(parents=True)
    store = LocalArtifacts(data_dir / "artifacts")
    on_demand = ModelPolicy(load_on_demand=True)
    with contextlib.closing(Catalog(f"sqlite:///{data_dir / 'catalog.db'}")) as catalog:
        manifests = []
        for version in range(1, size.versions + 1):
            file = data_dir.parent / f"version-{version}" / "model.onnx"
            file.parent.mkdir()
            onnx.save(test_models.tabular(version), file)
            lineage = find_lineage(file, now=time.time())
            manifests.append(push(catalog, store, file, "model-0000", actor="bench", lineage=lineage).row.manifest)
        for number in range(1, size.models):
            name = f"model-{number:04}"
            for manifest in manifests:
                catalog.add_version(replace(manifest, model=name), "bench")
            if number >= size.loaded:
                catalog.set_policy(name, on_demand, "bench")


@contextlib.contextmanager
def gateway(data_dir: Path, log: Path) -> Iterator[tuple[int, int, float]]:
    """Its process, its admin port, and the seconds from its start until it was ready."""
    http, grpc, admin = free_port(), free_port(), free_port()
    command = [str(SLUICE), "serve", "--data-dir", str(data_dir), "--http-port", str(http), "--grpc-port", str(grpc)]
    command += ["--admin-port", str(admin), "--set", "workers.slot_bytes=1 MiB", "--set", "logs.level=warning"]
    started = time.monotonic()
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    try:
        while not is_ready(http):
            if process.poll() is not None or time.monotonic() - started > 10 * SERVER_START_SECONDS:
                raise RuntimeError(f"the gateway did not become ready: {log.read_text()[-2000:]}")
            time.sleep(0.02)
        yield process.pid, admin, time.monotonic() - started
    finally:
        process.terminate()
        process.wait(60)


def is_ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/health/ready", timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def timed(rounds: int, *words: str, shows: str = "") -> str:
    """The cells of a command's wall time and of its processor time: median and spread, in milliseconds. `shows` is in
    what it prints."""
    walls, cpus = [], []
    for _ in range(rounds):
        started, spent = time.perf_counter(), children_seconds()
        done = subprocess.run([str(SLUICE), *words], capture_output=True, text=True, check=True)
        walls.append(1e3 * (time.perf_counter() - started))
        cpus.append(1e3 * (children_seconds() - spent))
        assert shows in done.stdout
    return " | ".join(f"{statistics.median(times):.0f} ({min(times):.0f}-{max(times):.0f})" for times in (walls, cpus))


def children_seconds() -> float:
    """Processor time, user and system, of commands that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def loads_alone(folder: Path, size: Size) -> float:
    """Seconds to load and warm `loaded` models as the gateway does, two at a time, with nothing else to do."""
    script = (
        "import asyncio, pathlib, sys, time\n"
        "from gateway.settings import WorkersSettings\n"
        "from gateway.workers.spec import InstanceSpec\n"
        "from gateway.workers.supervisor import Supervisor\n"
        "async def main(path, count):\n"
        "    supervisor = Supervisor(WorkersSettings())\n"
        "    await supervisor.start()\n"
        "    limit = asyncio.Semaphore(2)\n"
        "    async def one(number):\n"
        "        async with limit:\n"
        "            await supervisor.describe(path, model='m', version='1')\n"
        "            spec = InstanceSpec('m', '1', path, max_batch_size=128, slot_bytes=1 << 20)\n"
        "            return await supervisor.launch(spec, lambda instance, exit: None)\n"
        "    started = time.perf_counter()\n"
        "    up = await asyncio.gather(*(one(number) for number in range(count)))\n"
        "    print(time.perf_counter() - started)\n"
        "    for instance in up:\n"
        "        await instance.stop(5.0)\n"
        "    await supervisor.stop()\n"
        "asyncio.run(main(pathlib.Path(sys.argv[1]), int(sys.argv[2])))\n"
    )
    words = [sys.executable, "-c", script, str(folder / f"version-{size.versions}" / "model.onnx"), str(size.loaded)]
    return float(subprocess.run(words, capture_output=True, text=True, check=True, cwd=ROOT).stdout.split()[-1])


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def reads(pid: int) -> int:
    """System calls that read, of the process: what polling a SQLite file costs is in them."""
    lines = Path(f"/proc/{pid}/io").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("syscr")))


def asked(log: Path) -> dict[str, int]:
    """Statements of the gateway's polls while nothing changes, counted in this process by the same source."""
    from registry.cache import CacheLimits, ContentCache
    from registry.catalog import Catalog
    from registry.ledger import Ledger
    from registry.sources.catalog import CatalogSource

    statements: list[str] = []
    url = f"sqlite:///{log}"

    def connect() -> Catalog:
        from sqlalchemy import event

        catalog = Catalog(url)
        engine = catalog._database._engine  # the bench's own look inside
        event.listen(engine, "before_cursor_execute", lambda *words: statements.append(str(words[2])))
        return catalog

    cache = ContentCache(log.parent / "counting", CacheLimits())
    ledger = Ledger(cache.root / "ledger.sqlite", "bench")
    from registry.artifacts import LocalArtifacts

    source = CatalogSource(
        "bench", connect, lambda: LocalArtifacts(log.parent / "artifacts"), cache, ledger,
        lambda *_: False, patience=None, answer_seconds=60.0,
    )  # fmt: skip
    source.open()
    try:
        source.scan()
        first = len(statements)
        started = time.perf_counter()
        for _ in range(LOOKS_A_MINUTE):
            source.scan()
        return {
            "first": first,
            "minute": len(statements) - first,
            "us": round((time.perf_counter() - started) / LOOKS_A_MINUTE * 1e6),
        }
    finally:
        source.close()


def measure(work: Path, rounds: int, size: Size) -> list[str]:
    data_dir = work / "data"
    fill(data_dir, size)
    rows = sqlite3.connect(data_dir / "catalog.db").execute("SELECT count(*) FROM versions").fetchone()[0]
    last = f"model-{size.models - 1:04}"
    local = ["models", "--data-dir", str(data_dir)]
    table = [
        ("`sluice --version` (starting Python and the command line)", timed(rounds, "--version")),
        ("`sluice models --data-dir`", timed(rounds, *local, shows=last)),
        ("the same `--json`", timed(rounds, *local, "--json", shows=last)),
    ]
    with gateway(data_dir, work / "log"):
        pass  # fills the cache
    alone = loads_alone(work, size)
    with gateway(data_dir, work / "log") as (pid, admin, seconds):
        remote = ["--admin-url", f"http://127.0.0.1:{admin}"]
        table += [
            ("`sluice models --registered --admin-url`", timed(rounds, "models", "--registered", *remote, shows=last)),
            ("`sluice models --admin-url` (what is served)", timed(rounds, "models", *remote, shows="model-0000")),
        ]
        before = cpu_seconds(pid), reads(pid)
        time.sleep(size.watch_seconds)
        spent, called = cpu_seconds(pid) - before[0], reads(pid) - before[1]
    counted = asked(data_dir / "catalog.db")
    return [
        f"- {size.models:,} models, {rows:,} versions, {size.loaded} of the models loaded at the start, the others on demand.",
        "",
        "| command | wall ms, median (spread) | processor ms, median (spread) |",
        "|---|--:|--:|",
        *(f"| {command} | {cells} |" for command, cells in table),
        "",
        f"- Start with a warm cache, to ready: {seconds:.1f} s; loading these {size.loaded} models and nothing else:"
        f" {alone:.1f} s ({seconds / alone:.2f}).",
        f"- At rest: {counted['minute']} requests a minute to the source, {LOOKS_A_MINUTE} looks of"
        f" {counted['us']:,} us ({counted['first']} requests at the first look, whatever changed since); the whole gateway"
        f" uses {spent / size.watch_seconds:.1%} of a core and makes {60 * called / size.watch_seconds:,.0f} reading system"
        " calls a minute.",
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--models", type=int, default=Size.models)
    parser.add_argument("--versions", type=int, default=Size.versions)
    parser.add_argument("--loaded", type=int, default=Size.loaded)
    parser.add_argument("--watch-seconds", type=float, default=Size.watch_seconds)
    parser.add_argument("--keep", type=Path, help="folder to work in, emptied first")
    options = parser.parse_args()
    size = Size(options.models, options.versions, options.loaded, options.watch_seconds)
    if options.keep:
        shutil.rmtree(options.keep, ignore_errors=True)
        options.keep.mkdir(parents=True)
    with contextlib.ExitStack() as stack:
        work = options.keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        lines = measure(work, options.rounds, size)
    text = "\n".join(["# Registry at scale", "", f"- {commit()}, {machine()}", *lines]) + "\n"
    if size == Size():
        (HERE / "results" / "registry-scale.md").write_text(text)
    print(text, flush=True)


if __name__ == "__main__":
    main()
