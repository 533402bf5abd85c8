"""Gateways of one registry, and an operator who rolls versions out on them by the command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from bench_peers import ROOT
from sides import HERE, free_port
from timed_gateway import FILE, Times, read

from registry.artifacts import LocalArtifacts
from registry.catalog import Catalog
from registry.publish import push

READY_SECONDS = 120.0


@dataclass(frozen=True)
class Gateway:
    """One that runs."""

    process: subprocess.Popen[bytes]
    http: int
    grpc: int
    admin: int
    log: Path
    notes: Path

    def port(self, protocol: str) -> int:
        return self.http if protocol == "HTTP" else self.grpc

    def times(self) -> Times:
        return read(self.notes)

    def decisions(self) -> list[dict[str, Any]]:
        """The log's lines about decisions of rollouts."""
        lines = [json.loads(text) for text in self.log.read_text().splitlines() if text.startswith("{")]
        flat = [line | line.get("sluice", {}) | line.get("labels", {}) for line in lines]
        return [line for line in flat if line.get("event.action", line.get("action")) == "rollout-decision"]


class Fleet:
    """Running gateways and their catalog. `model` is what is rolled out."""

    def __init__(self, model: str, gateways: Sequence[Gateway], catalog: Catalog, folder: Path) -> None:
        self.model, self.gateways, self._catalog, self._folder = model, gateways, catalog, folder

    def publish(self, version: onnx.ModelProto) -> int:
        return publish(self._catalog, self._folder, self.model, version)

    @property
    def admin_url(self) -> str:
        return f"http://127.0.0.1:{self.gateways[0].admin}"

    def start_command(self, version: int, plan: dict[str, Any]) -> list[str]:
        """Ends when the rollout is over."""
        file = self._folder / "plan.json"
        file.write_text(json.dumps(plan))
        return self._command("start", "--to", str(version), "--plan", str(file))

    def start(self, version: int, plan: dict[str, Any]) -> None:
        subprocess.run(self.start_command(version, plan), check=True, stdout=subprocess.DEVNULL)

    def abort(self) -> None:
        subprocess.run(self._command("abort"), check=True, stdout=subprocess.DEVNULL)

    def status(self) -> dict[str, Any]:
        done = subprocess.run(self._command("status", "--json"), check=True, stdout=subprocess.PIPE)
        return dict(json.loads(done.stdout))

    def until(self, is_so: Callable[[dict[str, Any]], bool], seconds: float = 60.0) -> None:
        end = time.monotonic() + seconds
        while not is_so(status := self.status()):
            if time.monotonic() > end:
                raise RuntimeError(f"not so in {seconds:.0f} s: {status}")

    def _command(self, verb: str, *more: str) -> list[str]:
        return [sys.executable, "-m", "gateway", "rollout", verb, self.model, *more, "--admin-url", self.admin_url]


@contextmanager
def fleet(
    folder: Path, model: str, versions: Sequence[onnx.ModelProto], *, count: int = 1, settings: dict[str, str] | None = None
) -> Iterator[Fleet]:
    """Gateways that serve version 1; several share a catalog in PostgreSQL. All note their times."""
    artifacts = folder / "artifacts"
    with ExitStack() as stack:
        url = f"sqlite:///{folder}/catalog.db" if count == 1 else stack.enter_context(_postgresql())
        catalog = Catalog(url)
        stack.callback(catalog.close)
        for number, version in enumerate(versions):
            publish(catalog, folder, model, version, alias="champion" if number == 0 else None)
        wanted = {"registry.database_url": url, "registry.artifacts_url": str(artifacts), **(settings or {})}
        gateways = [stack.enter_context(_gateway(folder / f"gateway-{number}", wanted)) for number in range(count)]
        for gateway in gateways:
            _wait_ready(gateway, model)
        yield Fleet(model, gateways, catalog, folder)


def publish(catalog: Catalog, folder: Path, model: str, version: onnx.ModelProto, alias: str | None = None) -> int:
    onnx.save(version, folder / "model.onnx")
    store = LocalArtifacts(folder / "artifacts")
    return push(catalog, store, folder / "model.onnx", model, actor="bench", alias=alias).version


@contextmanager
def _postgresql() -> Iterator[str]:
    sys.path.insert(0, str(ROOT / "tests"))
    from postgresql_server import postgresql_server

    with postgresql_server() as server:
        yield server.database_url()


@contextmanager
def _gateway(folder: Path, settings: dict[str, str]) -> Iterator[Gateway]:
    folder.mkdir(parents=True)
    http, grpc, admin = free_port(), free_port(), free_port()
    words = [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
    command = [
        sys.executable, str(HERE / "timed_gateway.py"), "serve", "--data-dir", str(folder), "--http-port", str(http),
        "--grpc-port", str(grpc), "--admin-port", str(admin), *words,
    ]  # fmt: skip
    log, notes = folder / "log", folder / "times"
    notes.touch()
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, env={**os.environ, FILE: str(notes)})
    try:
        yield Gateway(process, http, grpc, admin, log, notes)
    finally:
        process.terminate()
        try:
            process.wait(40)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_ready(gateway: Gateway, model: str) -> None:
    until = time.monotonic() + READY_SECONDS
    while time.monotonic() < until and gateway.process.poll() is None:
        try:
            url = f"http://127.0.0.1:{gateway.http}/v2/models/{model}/ready"
            with urllib.request.urlopen(url, timeout=1) as answer:
                if answer.status == 200:
                    return
        except (OSError, urllib.error.URLError):
            time.sleep(0.1)
    raise RuntimeError(f"not ready in {READY_SECONDS:.0f} s:\n{gateway.log.read_text()}")
