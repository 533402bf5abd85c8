"""The servers that are measured against each other: how each is started, where it listens, how it is paused.

All serve the same ONNX file. While one is measured the others are stopped by SIGSTOP, so that none steals time.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).parent
SERVER_START_SECONDS = 60.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Side:
    """One running server. `http` and `grpc` are ports, 0 where it has none."""

    name: str
    process: subprocess.Popen[bytes]
    http: int
    grpc: int = 0
    http_path: str = "/v2/models/tabular/infer"
    ready_path: str = "/v2/health/ready"
    notes: dict[str, str] = field(default_factory=dict)

    def signal(self, number: int) -> None:
        os.killpg(self.process.pid, number)

    def pause(self) -> None:
        self.signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.signal(signal.SIGCONT)

    def stop(self) -> None:
        """Ends it; of one that has ended by itself, what it left running."""
        if self.process.poll() is not None:
            with contextlib.suppress(ProcessLookupError):
                self.signal(signal.SIGKILL)
            return
        self.resume()
        self.signal(signal.SIGTERM)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.signal(signal.SIGKILL)
            self.process.wait()

    def wait_ready(self) -> None:
        """Raises RuntimeError when it ends or does not answer in time."""
        until = time.monotonic() + SERVER_START_SECONDS
        while time.monotonic() < until:
            if self.process.poll() is not None:
                raise RuntimeError(f"{self.name} ended with status {self.process.returncode}; see its log")
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.http}{self.ready_path}", timeout=1) as answer:
                    if answer.status == 200:
                        return
            except (OSError, urllib.error.URLError):
                time.sleep(0.1)
        raise RuntimeError(f"{self.name} did not become ready in {SERVER_START_SECONDS:.0f} s")


def _spawn(command: list[str], log: Path, **environment: str) -> subprocess.Popen[bytes]:
    with log.open("wb") as out:
        return subprocess.Popen(
            command, stdout=out, stderr=subprocess.STDOUT, start_new_session=True, env={**os.environ, **environment}
        )


def start_sluice(repository: Path | None, work: Path, *extra: str) -> Side:
    """Without a repository it serves the registry in its data folder, `work / "sluice-data"`."""
    http, grpc = free_port(), free_port()
    command = [
        sys.executable, "-m", "gateway", "serve", "--http-port", str(http), "--grpc-port", str(grpc),
        "--admin-port", "0", "--data-dir", str(work / "sluice-data"), *extra,
    ]  # fmt: skip
    if repository is not None:
        command += ["--model-repository", str(repository)]
    return Side("Sluice", _spawn(command, work / "sluice.log"), http, grpc)


def start_triton(model: Path, work: Path, python: Path) -> Side:
    """`python` is an interpreter with nvidia-pytriton, numpy 1.26 and onnxruntime installed. The wheel carries the python
    backend only. Its stub looks for numpy beside its own utilities first: a link there decides which one it gets."""
    (site,) = (python.parent.parent / "lib").glob("python3*/site-packages")
    wheel = site / "pytriton" / "tritonserver"
    backend = work / "triton-backends" / "python"
    shutil.copytree(wheel / "backends" / "python", backend, dirs_exist_ok=True)
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    # The stub finds its CUDA runtime relative to itself.
    stub = backend / "triton_python_backend_stub"
    stub.unlink(missing_ok=True)
    shutil.copy(wheel / "python_backend_stubs" / version / "triton_python_backend_stub", stub)
    for name in site.iterdir():
        link = backend / name.name
        if not link.exists() and name.name != "triton_python_backend_utils.py":
            link.symlink_to(name)
    repository = work / "triton-repository"
    target = repository / "tabular"
    (target / "1").mkdir(parents=True, exist_ok=True)
    shutil.copy(HERE / "peers" / "triton_model.py", target / "1" / "model.py")
    shutil.copy(model, target / "tabular.onnx")
    (target / "config.pbtxt").write_text(
        'backend: "python"\nmax_batch_size: 128\ndynamic_batching {}\n'
        'input [{ name: "features" data_type: TYPE_FP32 dims: [30] }]\n'
        'output [{ name: "scores" data_type: TYPE_FP32 dims: [2] }]\n'
        "instance_group [{ kind: KIND_CPU count: 1 }]\n"
    )
    http, grpc = free_port(), free_port()
    command = [
        str(wheel / "bin" / "tritonserver"), "--model-repository", str(repository), "--backend-directory",
        str(backend.parent), "--http-port", str(http), "--grpc-port", str(grpc), "--allow-metrics", "false",
        "--http-address", "127.0.0.1", "--grpc-address", "127.0.0.1",
    ]  # fmt: skip
    libraries = f"{site / 'nvidia_pytriton.libs'}:{wheel / 'external_libs'}:{os.environ.get('LD_LIBRARY_PATH', '')}"
    return Side("Triton", _spawn(command, work / "triton.log", LD_LIBRARY_PATH=libraries), http, grpc)


def start_mosec(model: Path, work: Path, python: Path) -> Side:
    port = free_port()
    command = [str(python), str(HERE / "peers" / "mosec_app.py"), "--port", str(port), "--address", "127.0.0.1"]
    process = _spawn(command, work / "mosec.log", TABULAR_MODEL=str(model))
    return Side("Mosec", process, port, http_path="/inference", ready_path="/")
