"""Hostile artifacts in a place that a gateway serves from: they do not load, their workers may die of them, and callers
of other models notice nothing."""

from __future__ import annotations

import contextlib
import http.client
import json
from pathlib import Path

import hostile
import models
import numpy as np
import onnx
from live_gateway import Gateway, StartGateway, wait_until
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
