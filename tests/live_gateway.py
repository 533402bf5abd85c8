"""A real gateway for tests: `sluice serve` as a process of its own, on free ports, over a model repository made for it.
The fixtures are in `conftest.py`."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import models
import onnx

START_SECONDS = 60.0
STOP_SECONDS = 30.0
ROOT = Path(__file__).resolve().parent.parent

Models = Mapping[str, Mapping[int, onnx.ModelProto | bytes]]


@dataclass
class Gateway:
    """A running `sluice serve`."""

    process: subprocess.Popen[bytes]
    http_port: int
    grpc_port: int
    admin_port: int
    repository: Path
    log_file: Path
    host: str = "127.0.0.1"
    context: ssl.SSLContext | None = None
    """How `get` connects when the inference ports have TLS."""
    exit_code: int | None = field(default=None, init=False)

    @property
    def http_url(self) -> str:
        return f"{self.host}:{self.http_port}"

    @property
    def grpc_url(self) -> str:
        return f"{self.host}:{self.grpc_port}"

    @property
    def admin_url(self) -> str:
        return f"{self.host}:{self.admin_port}"

    def get(self, path: str, *, admin: bool = False) -> tuple[int, bytes]:
        """One GET on a connection of its own: status and body."""
        connection = http.client.HTTPConnection(self.admin_url if admin else self.http_url, timeout=10)
        if self.context is not None and not admin:
            connection = http.client.HTTPSConnection(self.http_url, timeout=10, context=self.context)
        with contextlib.closing(connection):
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read()

    def is_ready(self) -> bool:
        try:
            return self.get("/v2/health/ready")[0] == 200
        except OSError:
            return False

    def wait_ready(self, seconds: float = START_SECONDS) -> None:
        wait_until(lambda: self.process.poll() is not None or self.is_ready(), seconds, self.log_text)
        self.exit_code = self.process.poll()
        assert self.exit_code is None, f"the gateway ended:\n{self.log_text()}"

    def log_text(self) -> str:
        return self.log_file.read_text(errors="replace")

    def logs(self) -> list[dict[str, Any]]:
        """The JSON lines logged so far."""
        return [json.loads(line) for line in self.log_text().splitlines() if line.startswith("{")]

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def wait_stopped(self, seconds: float = STOP_SECONDS) -> int:
        try:
            self.exit_code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"the gateway did not stop in {seconds} s:\n{self.log_text()}") from None
        return self.exit_code

    def stop(self) -> int:
        """SIGTERM, and the exit code."""
        if self.process.poll() is None:
            self.terminate()
        return self.wait_stopped()

    def kill(self) -> None:
        self.process.kill()
        self.exit_code = self.process.wait()


StartGateway = Callable[..., Gateway]


def wait_until(is_true: Callable[[], bool], seconds: float = 30.0, why_not: Callable[[], str] = lambda: "") -> None:
    """Polls until it is true; an AssertionError after `seconds`."""
    end = time.monotonic() + seconds
    while not is_true():
        assert time.monotonic() < end, f"not within {seconds} s\n{why_not()}"
        time.sleep(0.02)


def free_ports(count: int) -> list[int]:
    """Ports that nobody had a moment ago."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


@contextlib.contextmanager
def gateways(folder: Path) -> Iterator[StartGateway]:
    """Gives a function that starts gateways, each in a folder of its own below `folder`. At the end all are stopped,
    and those that no test stopped or killed must exit with 0."""
    started: list[Gateway] = []

    def start(
        models_: Models | None = None,
        configs: Mapping[str, str] | None = None,
        *,
        repository: Path | None = None,
        data_dir: Path | None = None,
        settings: Mapping[str, Any] | None = None,
        wait: bool = True,
        environment: Mapping[str, str] | None = None,
        program: Sequence[str] = ("-m", "gateway"),
    ) -> Gateway:
        home = folder / f"gateway-{len(started)}"
        home.mkdir(parents=True)
        # With a data folder of its own, a gateway serves from the registry that its settings name.
        root = data_dir or repository or models.repository(home / "models", models_ or {}, configs)
        root.mkdir(parents=True, exist_ok=True)
        http_port, grpc_port, admin_port = free_ports(3)
        command = [sys.executable, *program, "serve"]
        command += [] if data_dir else ["--model-repository", str(root)]
        command += ["--data-dir", str(data_dir or home / "data"), "--http-port", str(http_port)]
        command += ["--grpc-port", str(grpc_port), "--admin-port", str(admin_port)]
        for key, value in (settings or {}).items():
            command += ["--set", f"{key}={value}"]
        variables = {name: value for name, value in os.environ.items() if not name.startswith("SLUICE_")}
        log_file = home / "log"
        with log_file.open("wb") as log:
            process = subprocess.Popen(
                command, cwd=ROOT, env=variables | dict(environment or {}), stdout=log, stderr=subprocess.STDOUT
            )
        gateway = Gateway(process, http_port, grpc_port, admin_port, root, log_file)
        started.append(gateway)
        if wait:
            gateway.wait_ready()
        return gateway

    try:
        yield start
    finally:
        running = [each for each in started if each.exit_code is None]
        for gateway in running:
            if gateway.process.poll() is None:
                gateway.terminate()
        failures = []
        for gateway in running:
            with contextlib.suppress(AssertionError):
                gateway.wait_stopped()
            if gateway.exit_code != 0:
                failures.append(f"exit code {gateway.exit_code}:\n{gateway.log_text()}")
        assert not failures, "\n".join(failures)


NUMBERS = tuple(each for each in models.DATATYPES if each != "BYTES")
"""The datatypes of the model `datatypes`. ONNX Runtime takes no strings beside BF16 from Python; `text` has them."""

LABELLED_CONFIG = """
max_batch_size: 8
input { name: "x" data_type: TYPE_FP32 dims: [4] }
output { name: "y" data_type: TYPE_FP32 dims: [4] label_filename: "labels.txt" }
"""


def shared_repository(root: Path) -> Path:
    """One model for each behaviour that tests of the shared gateway need."""
    models.repository(
        root,
        {
            "tabular": {1: models.tabular(1), 2: models.tabular(2)},
            "which": {1: models.version_of(1), 2: models.version_of(2), 10: models.version_of(10)},
            "datatypes": {1: models.identities(NUMBERS)},
            "arithmetic": {1: models.arithmetic()},
            "unbatched": {1: models.unbatched()},
            "wide": {1: models.wide()},
            "labelled": {3: models.identity("FP32", ("N", 4))},
            "text": {1: models.identity("BYTES", ("N", "M"))},
            "spinning": {1: models.spinning()},
            "free": {1: models.identity("FP32", ("N", "M"))},
            "café au lait": {1: models.version_of(1)},
        },
        {
            "which": "version_policy { all {} }",
            "labelled": LABELLED_CONFIG,
            "arithmetic": "max_batch_size: 8",
            "spinning": "max_batch_size: 4",
        },
    )
    (root / "labelled" / "labels.txt").write_text("zero\none\ntwo\n")
    return root
