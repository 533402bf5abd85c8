"""Hostile artifacts in a place that a gateway serves from: they do not load, their workers may die of them, and callers
of other models notice nothing."""

from __future__ import annotations

import contextlib
import http.client
import json
from collections.abc import Callable
from pathlib import Path

import hostile
import models
import numpy as np
import onnx
from cache_house import contents
from fake_mlflow import fake_mlflow
from live_gateway import Gateway, StartGateway, wait_until
from mlflow_server import ONNX_MLMODEL
from onnx import TensorProto, helper
from traffic import Traffic

GOOD = "good"
ROW = np.ones((1, 1), np.float32)


def linked_out(folder: Path) -> None:
    (folder / "model.onnx").symlink_to("/etc/passwd")


FORGED = (
    hostile.traversal, hostile.absolute, linked_out, hostile.custom, hostile.torch_archive,
    hostile.nested_graphs, hostile.announced_length, hostile.behind_the_end, hostile.compressed,
)  # fmt: skip


def eating() -> onnx.ModelProto:
    """Asks for a tensor of four terabytes at every request."""
    return helper.make_model(
        helper.make_graph(
            [
                helper.make_node("ConstantOfShape", ["shape"], ["many"]),
                helper.make_node("ReduceSum", ["many"], ["sum"], keepdims=0),
                helper.make_node("Add", ["x", "sum"], ["y"]),
            ],
            "eating",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 1])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 1])],
            [helper.make_tensor("shape", TensorProto.INT64, [1], [1 << 40])],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )


def reported(gateway: Gateway) -> set[str]:
    """Models of which the log says that they, or a version of theirs, are not taken."""
    told = set()
    for line in gateway.logs():
        if line.get("log.level") in ("warning", "error"):
            labels = line.get("labels", {})
            told |= {str(labels.get("model", "")), str(labels.get("path", "")).split("/")[0]}
    return told


def ask_eating(gateway: Gateway) -> tuple[int, str]:
    document = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [1.0]}]}
    connection = http.client.HTTPConnection(gateway.http_url, timeout=60)
    with contextlib.closing(connection):
        connection.request("POST", "/v2/models/eating/infer", json.dumps(document))
        response = connection.getresponse()
        return response.status, response.read().decode()


def test_what_is_hostile_in_a_repository_is_refused_and_disturbs_nobody(
    start_gateway: StartGateway, tmp_path: Path
) -> None:
    root = models.repository(tmp_path / "models", {GOOD: {1: models.version_of(1)}})
    gateway = start_gateway(repository=root)
    with Traffic("http", gateway.http_port, GOOD, ROW) as traffic:
        wait_until(lambda: len(traffic.outcomes) > 20, why_not=gateway.log_text)
        owned = tmp_path / "owned"
        pickled = f"cos\nsystem\n(S'touch {owned}'\ntR.".encode()
        names = {f"m{number}": make for number, make in enumerate((*FORGED, hostile.disguised(pickled)))}
        for name, make in names.items():
            folder = root / name / "1"
            folder.mkdir(parents=True)
            make(folder)
        models.save(eating(), root / "eating" / "1" / "model.onnx")
        wait_until(lambda: names.keys() <= reported(gateway), why_not=lambda: str(names.keys() - reported(gateway)))
        wait_until(lambda: gateway.get("/v2/models/eating/ready")[0] == 200, why_not=gateway.log_text)
        for _ in range(3):
            status, answer = ask_eating(gateway)
            assert status >= 400
            assert "error" in json.loads(answer), "whoever asks for it gets an answer that says so"
        count = len(traffic.outcomes)
        wait_until(lambda: len(traffic.outcomes) > count + 100, why_not=gateway.log_text)
    assert not traffic.failures
    for name in names:
        assert gateway.get(f"/v2/models/{name}/ready")[0] != 200, name
    assert gateway.get(f"/v2/models/{GOOD}/ready")[0] == 200
    assert gateway.get("/v2/health/live")[0] == 200
    assert not owned.exists()


MLFLOW_BYTES = 1 << 20


def too_large(folder: Path) -> None:
    (folder / "model.onnx").write_bytes(models.tabular().SerializeToString() + bytes(MLFLOW_BYTES))


def beside(path: str) -> Callable[[Path], None]:
    """A good model, with a file beside it whose name a server says and no disk here should have."""

    def make(folder: Path) -> None:
        models.save(models.tabular(), folder / "model.onnx")
        (folder / "beside").write_text(path)

    return make


IN_MLFLOW: dict[str, tuple[Callable[[Path], None], str]] = {
    "escape": (hostile.traversal, "lies outside the model's folder"),
    "absolute": (hostile.absolute, "lies outside the model's folder"),
    "short": (hostile.behind_the_end, "out of bounds"),
    "custom": (hostile.custom, "evil.ops"),
    "length": (hostile.announced_length, "the file is cut short"),
    "nested": (hostile.nested_graphs, "nested too deep"),
    "large": (too_large, f"at most {MLFLOW_BYTES} are allowed"),
    "up": (beside("../../up"), "UnsafePath"),
    "hidden": (beside(".ssh"), "UnsafePath"),
    "backslash": (beside("a\\b"), "UnsafePath"),
}
"""Models that somebody has put into a registry by hand, and what is said of each."""


def whole(folder: Path) -> None:
    models.save(models.version_of(1), folder / "model.onnx")


def logged(folder: Path) -> dict[str, bytes]:
    files = contents(folder)
    if (path := files.pop("beside", b"").decode()) != "":
        files[path] = b"owned"
    return {"MLmodel": ONNX_MLMODEL.format(data="model.onnx").encode(), **files}


def reason_of(gateway: Gateway, name: str) -> str:
    """Why the log says that a model, or its version, is not taken; empty where it says nothing."""
    for line in gateway.logs():
        labels = line.get("labels", {})
        if "reason" in labels and name in (labels.get("model"), str(labels.get("path", "")).split("/")[0]):
            return str(labels["reason"])
    return ""


def test_what_is_hostile_in_mlflow_is_refused_by_name_and_disturbs_nobody(
    start_gateway: StartGateway, tmp_path: Path
) -> None:
    with fake_mlflow() as mlflow:
        for name, (make, _) in (*IN_MLFLOW.items(), (GOOD, (whole, ""))):
            (tmp_path / name).mkdir()
            make(tmp_path / name)
            mlflow.register(name, logged(tmp_path / name))
        settings = {
            "registry.source": "mlflow",
            "registry.mlflow_url": mlflow.url,
            "registry.mlflow_models": ",".join(f"{name}/latest" for name in (GOOD, *IN_MLFLOW)),
            "registry.max_version_bytes": str(MLFLOW_BYTES),
        }
        gateway = start_gateway(data_dir=tmp_path / "data", settings=settings)
        with Traffic("http", gateway.http_port, GOOD, ROW) as traffic:
            for name, (_, said) in IN_MLFLOW.items():
                wait_until(lambda name=name: reason_of(gateway, name) != "", why_not=gateway.log_text)
                assert said in reason_of(gateway, name), name
            count = len(traffic.outcomes)
            wait_until(lambda: len(traffic.outcomes) > count + 100, why_not=gateway.log_text)
        assert not traffic.failures
        assert [name for name in IN_MLFLOW if gateway.get(f"/v2/models/{name}/ready")[0] == 200] == []
    assert {path.name for path in tmp_path.iterdir()} <= {GOOD, *IN_MLFLOW, "data", "gateway-0"}
    assert [path for path in (tmp_path / "data").rglob("*") if path.is_file() and path.read_bytes() == b"owned"] == []
