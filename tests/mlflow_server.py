"""A real MLflow tracking server, in an environment of its own: MLflow and its dependencies are not ours."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import urllib.error
import urllib.request
import venv
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx
from interop_install import CACHE, install
from live_gateway import free_ports, wait_until

ENVIRONMENT = CACHE / "mlflow"
START_SECONDS = 100
ONNX_MLMODEL = (
    "flavors:\n  onnx:\n    data: {data}\n    code: null\n  python_function:\n    loader_module: mlflow.onnx\n"
)
PICKLE_MLMODEL = "flavors:\n  sklearn:\n    pickled_model: model.pkl\n  python_function:\n    loader_module: x\n"


class MlflowServer:
    """One server with its database and artifacts. It can be stopped and started again."""

    def __init__(self, folder: Path, *, environment: Mapping[str, str] | None = None, options: tuple[str, ...] = ()):
        self.folder = folder
        (self.port,) = free_ports(1)
        self.url = f"http://127.0.0.1:{self.port}"
        self.headers: dict[str, str] = {}
        self._environment, self._options = (
            {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", **(environment or {})},
            options,
        )
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [ENVIRONMENT / "bin" / "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--backend-store-uri", f"sqlite:///{self.folder}/mlflow.db", "--workers", "1"]
        command += ["--artifacts-destination", str(self.folder / "artifacts"), *self._options]
        with (self.folder / "log").open("ab") as log:
            # When this process ends, however it does, the pipe closes, and the server's whole group goes with it.
            self._process = subprocess.Popen(
                ["sh", "-c", '"$@" & read -r _; kill -9 0', "sh", *command], stdin=subprocess.PIPE, stdout=log,
                stderr=subprocess.STDOUT, cwd=self.folder, start_new_session=True, env=os.environ | self._environment,
            )  # fmt: skip
        wait_until(self._is_up, START_SECONDS, lambda: (self.folder / "log").read_text())

    def stop(self) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, 9)
            self._process.wait()
            if self._process.stdin is not None:
                self._process.stdin.close()
            self._process = None

    def _is_up(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=5) as response:
                return bool(response.status == 200)
        except OSError:
            return False

    # What a data scientist does

    def call(self, method: str, route: str, **body: Any) -> dict[str, Any]:
        return self._send(method, f"/api/2.0/mlflow/{route}", json.dumps(body).encode(), "application/json")

    def register(self, name: str, files: Mapping[str, bytes | onnx.ModelProto], *, source: str = "") -> int:
        """Uploads the files of a model and registers them as its next version; returns its number."""
        with contextlib.suppress(urllib.error.HTTPError):
            self.call("POST", "registered-models/create", name=name)
        run = self.call("POST", "runs/create", experiment_id="0")["run"]["info"]
        root = f"{run['artifact_uri'].removeprefix('mlflow-artifacts:/')}/model"
        for path, made in files.items():
            data = made if isinstance(made, bytes) else made.SerializeToString()
            self.upload(f"{root}/{path}", data)
        where = {"source": source} if source else {"source": f"mlflow-artifacts:/{root}", "run_id": run["run_id"]}
        answer = self.call("POST", "model-versions/create", name=name, **where)
        self.root = root
        return int(answer["model_version"]["version"])

    def upload(self, path: str, data: bytes) -> None:
        self._send("PUT", f"/api/2.0/mlflow-artifacts/artifacts/{path}", data, "application/octet-stream")

    def alias(self, name: str, alias: str, version: int | None) -> None:
        if version is None:
            self.call("DELETE", "registered-models/alias", name=name, alias=alias)
        else:
            self.call("POST", "registered-models/alias", name=name, alias=alias, version=str(version))

    def delete_model(self, name: str) -> None:
        with contextlib.suppress(urllib.error.HTTPError):  # where there is none
            self.call("DELETE", "registered-models/delete", name=name)

    def delete_version(self, name: str, version: int) -> None:
        self.call("DELETE", "model-versions/delete", name=name, version=str(version))

    def _send(self, method: str, route: str, data: bytes, content_type: str) -> dict[str, Any]:
        headers = {"Content-Type": content_type, **self.headers}
        request = urllib.request.Request(self.url + route, data, headers, method=method)
        with urllib.request.urlopen(request, timeout=30) as response:
            return dict(json.loads(response.read() or b"{}"))


@contextmanager
def mlflow_server(folder: Path, **options: Any) -> Iterator[MlflowServer]:
    """Skips the test where MLflow cannot be installed."""
    stamp = ENVIRONMENT / ".installed-3"
    if not stamp.exists():
        venv.create(ENVIRONMENT, with_pip=True)
    install(stamp, [ENVIRONMENT / "bin" / "python", "-m", "pip", "install", "-q", "mlflow[auth]>=3.3,<4"])
    server = MlflowServer(folder, **options)
    server.start()
    try:
        yield server
    finally:
        server.stop()
