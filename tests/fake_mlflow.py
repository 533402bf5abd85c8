"""The calls of MLflow's REST API that serving makes, over HTTP, from memory. It starts in no time; that it answers as
the real server does is what the tests that run over both say."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import onnx
from live_gateway import free_ports

API, ARTIFACTS = "/api/2.0/mlflow", "/api/2.0/mlflow-artifacts/artifacts"


@dataclass
class Registered:
    """One registered model: where its versions lie, and its aliases."""

    roots: dict[int, str] = field(default_factory=dict)
    aliases: dict[str, int] = field(default_factory=dict)
    last: int = 0


class FakeMlflow:
    """Has the face of `MlflowServer`. What is set while it is stopped is there when it starts."""

    def __init__(self) -> None:
        (self.port,) = free_ports(1)
        self.url = f"http://127.0.0.1:{self.port}"
        self.root = ""
        self.models: dict[str, Registered] = {}
        self.artifacts: dict[str, bytes] = {}
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None
        self._runs = 0

    def start(self) -> None:
        self._server = _Server(("127.0.0.1", self.port), _Handler)
        self._server.fake = self
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), name="fake MLflow")
        self._thread.start()

    def stop(self) -> None:
        if self._server is not None and self._thread is not None:
            self._server.shutdown()
            self._thread.join()
            self._server.server_close()
            self._server = None

    # What a data scientist does

    def register(self, name: str, files: Mapping[str, bytes | onnx.ModelProto]) -> int:
        """The files of a model are its next version; returns its number."""
        self._runs += 1
        self.root = f"0/{self._runs}/artifacts/model"
        for path, made in files.items():
            self.upload(f"{self.root}/{path}", made if isinstance(made, bytes) else made.SerializeToString())
        model = self.models.setdefault(name, Registered())
        model.last += 1
        model.roots[model.last] = self.root
        return model.last

    def upload(self, path: str, data: bytes) -> None:
        self.artifacts[path] = data

    def alias(self, name: str, alias: str, version: int | None) -> None:
        self.models[name].aliases.pop(alias, None)
        if version is not None:
            self.models[name].aliases[alias] = version

    def delete_model(self, name: str) -> None:
        self.models.pop(name, None)

    def delete_version(self, name: str, version: int) -> None:
        del self.models[name].roots[version]

    # What it answers

    def answer(self, path: str, query: Mapping[str, str]) -> dict[str, Any] | bytes:
        """Raises KeyError for what there is not, ValueError for an alias that there is not."""
        match path.removeprefix(API):
            case "/registered-models/alias":
                model = self.models[query["name"]]
                if query["alias"] not in model.aliases:
                    raise ValueError("Registered model alias not found")
                return {"model_version": self._version(query["name"], model.aliases[query["alias"]])}
            case "/model-versions/get":
                return {"model_version": self._version(query["name"], int(query["version"]))}
            case "/model-versions/search":
                name = query["filter"].removeprefix("name='").removesuffix("'")
                numbers = sorted(self.models[name].roots, reverse=True) if name in self.models else []
                return {"model_versions": [self._version(name, number) for number in numbers]}
            case "/model-versions/get-download-uri":
                root = self.models[query["name"]].roots[int(query["version"])]
                return {"artifact_uri": f"mlflow-artifacts:/{root}"}
        if path == ARTIFACTS:
            return {"files": list(self._listed(query["path"]))}
        return self.artifacts[unquote(path.removeprefix(f"{ARTIFACTS}/"))]

    def _version(self, name: str, number: int) -> dict[str, Any]:
        root = self.models[name].roots[number]
        source = {"source": f"mlflow-artifacts:/{root}", "run_id": root.split("/")[1]}
        return {"name": name, "version": str(number), "creation_timestamp": number, "status": "READY", **source}

    def _listed(self, folder: str) -> Iterator[dict[str, Any]]:
        folders = set()
        for path, data in self.artifacts.items():
            inside = path.removeprefix(f"{folder}/")
            if inside == path:
                continue
            first, slash, _ = inside.partition("/")
            if not slash:
                yield {"path": inside, "is_dir": False, "file_size": len(data)}
            elif first not in folders:
                folders.add(first)
                yield {"path": first, "is_dir": True}


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    fake: FakeMlflow


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        try:
            self._send(200, self.server.fake.answer(parts.path, query))
        except KeyError as error:
            self._send(404, {"error_code": "RESOURCE_DOES_NOT_EXIST", "message": f"no {error}"})
        except ValueError as error:
            self._send(400, {"error_code": "INVALID_PARAMETER_VALUE", "message": str(error)})

    def _send(self, status: int, answer: dict[str, Any] | bytes) -> None:
        body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        if (ranged := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))) and status == 200:
            status, body = 206, body[int(ranged[1]) :]
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def fake_mlflow() -> Iterator[FakeMlflow]:
    server = FakeMlflow()
    server.start()
    try:
        yield server
    finally:
        server.stop()
