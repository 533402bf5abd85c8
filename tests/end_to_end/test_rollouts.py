"""Rollouts as an operator runs them: the command line, real gateways, real traffic."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import models
import numpy as np
import onnx
import pytest
from live_gateway import ROOT, Gateway, StartGateway, wait_until
from onnx import TensorProto, helper, numpy_helper
from postgresql_server import PostgreSQLServer, postgresql_server
from traffic import Traffic

from registry.artifacts import LocalArtifacts
from registry.catalog import Catalog
from registry.publish import push

MODEL = "which"
QUICK = {
    "steps": [
        {"setWeight": 20},
        {"bake": {"minTime": "500ms", "minRequests": 50}},
        {"setWeight": 50},
        {"bake": {"minTime": "500ms", "minRequests": 50}},
    ],
    "terminationWait": "1s",
}
FOLLOWED_SECONDS = 2.0
ROW = np.ones((1, 1), np.float32)


def failing() -> onnx.ModelProto:
    """The signature of `version_of`, and fails at every request: x (always 1) is no index into a table of one row."""
    nodes = [
        helper.make_node("Cast", ["x"], ["index"], to=TensorProto.INT64),
        helper.make_node("Gather", ["table", "index"], ["version"]),
    ]
    table = numpy_helper.from_array(np.zeros(1, np.float32), "table")
    shape = ["N", 1]
    graph = helper.make_graph(
        nodes,
        "failing",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("version", TensorProto.FLOAT, shape)],
        [table],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


class Operator:
    """Somebody with the command line, the files of versions, and one registry."""

    def __init__(self, folder: Path, url: str, artifacts: Path, *options: str) -> None:
        self.folder, self.options = folder, options
        self.catalog = Catalog(url)
        self.store = LocalArtifacts(artifacts)

    def publish(self, model: onnx.ModelProto, name: str, alias: str | None = None) -> int:
        path = models.save(model, self.folder / name / "model.onnx")
        return push(self.catalog, self.store, path, MODEL, actor="ann", alias=alias).version

    def plan(self, document: Any = QUICK) -> str:
        path = self.folder / "plan.json"
        path.write_text(json.dumps(document))
        return str(path)

    def run(self, *words: str, seconds: float = 60.0) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "gateway", *words, *self.options]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("SLUICE_")}
        return subprocess.run(
            command, cwd=ROOT, env=environment | {"COLUMNS": "200"}, capture_output=True, text=True, timeout=seconds
        )

    def roll_out(self, to: int, *more: str) -> subprocess.CompletedProcess[str]:
        return self.run("rollout", "start", MODEL, "--to", str(to), "--plan", self.plan(), "--wait", "--json", *more)

    def champion(self) -> int | None:
        (row,) = self.catalog.aliases(MODEL)
        return row.version


@pytest.fixture
def operator(tmp_path: Path) -> Iterator[Operator]:
    """Of one gateway's own registry, with version 1 as the champion."""
    data_dir = tmp_path / "data"
    data_dir.mkdir()
    url = f"sqlite:///{data_dir}/catalog.db"
    operator = Operator(tmp_path / "made", url, data_dir / "artifacts", "--data-dir", str(data_dir))
    with contextlib.closing(operator.catalog):
        operator.publish(models.version_of(1), "good", alias="champion")
        yield operator


@pytest.fixture
def gateway(start_gateway: StartGateway, operator: Operator, tmp_path: Path) -> Gateway:
    return start_gateway(data_dir=tmp_path / "data")


@pytest.fixture(params=["http", "grpc"])
def protocol(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def callers(gateway: Gateway, protocol: str = "http") -> Traffic:
    return Traffic(protocol, gateway.http_port if protocol == "http" else gateway.grpc_port, MODEL, ROW)


def versions(traffic: Traffic, last: int) -> set[str]:
    return {outcome.version for outcome in traffic.outcomes[-last:]}


def test_a_good_version_is_promoted_and_the_alias_moves_to_it(
    gateway: Gateway, operator: Operator, protocol: str
) -> None:
    operator.publish(models.version_of(2), "better")
    with callers(gateway, protocol) as traffic:
        done = operator.roll_out(2)
        assert done.returncode == 0, done.stderr + gateway.log_text()
        wait_until(lambda: versions(traffic, 50) == {"2"}, why_not=gateway.log_text)
    assert not traffic.failures
    assert operator.champion() == 2
    document = json.loads(done.stdout)
    assert (document["outcome"], document["from"], document["to"]) == ("promoted", 1, 2)
    assert document["canary"]["requests"] >= 100


def test_a_bad_version_is_rolled_back_and_no_caller_sees_an_error(
    gateway: Gateway, operator: Operator, protocol: str, tmp_path: Path
) -> None:
    operator.publish(failing(), "bad")
    report = tmp_path / "report.xml"
    with callers(gateway, protocol) as traffic:
        done = operator.roll_out(2, "--junit", str(report))
        assert done.returncode == 2, done.stderr + gateway.log_text()
        answered = len(traffic.outcomes)
        wait_until(lambda: len(traffic.outcomes) > answered + 100)
        assert versions(traffic, 50) == {"1"}
    assert not traffic.failures
    assert operator.champion() == 1
    document = json.loads(done.stdout)
    assert document["canary"]["failed"] >= 2
    assert any(guard["fired"] for guard in document["guards"])
    assert "<failure" in report.read_text()


def test_without_traffic_nobody_can_tell(gateway: Gateway, operator: Operator) -> None:
    operator.publish(models.version_of(2), "better")
    done = operator.roll_out(2, "--timeout", "3s")
    assert done.returncode == 3, done.stderr + gateway.log_text()
    assert operator.champion() == 1


def test_a_rollout_survives_the_gateway_and_never_gets_ahead_of_itself(
    start_gateway: StartGateway, operator: Operator, tmp_path: Path
) -> None:
    operator.publish(models.version_of(2), "better")
    plan = operator.plan({"steps": [{"setWeight": 10}, {"pause": {}}]})
    first = start_gateway(data_dir=tmp_path / "data")
    assert operator.run("rollout", "start", MODEL, "--to", "2", "--plan", plan).returncode == 0
    with callers(first) as traffic:
        wait_until(lambda: versions(traffic, 500) == {"1", "2"}, why_not=first.log_text)
    first.kill()
    second = start_gateway(data_dir=tmp_path / "data")
    with callers(second) as traffic:
        wait_until(lambda: len(traffic.outcomes) > 500)
        share = sum(outcome.version == "2" for outcome in traffic.outcomes) / len(traffic.outcomes)
        assert share < 0.2
        wait_until(lambda: versions(traffic, 500) == {"1", "2"}, why_not=second.log_text)
        assert operator.run("rollout", "promote", MODEL).returncode == 0
        wait_until(lambda: versions(traffic, 50) == {"2"}, why_not=second.log_text)
    assert operator.champion() == 2
    assert not traffic.failures


def test_an_abort_takes_effect_while_the_database_is_down_and_is_recorded_when_it_is_back(
    start_gateway: StartGateway, shared: list[Operator], postgresql: PostgreSQLServer, tmp_path: Path
) -> None:
    operator = shared[0]
    operator.publish(models.version_of(2), "better")
    plan = operator.plan({"steps": [{"setWeight": 50}, {"pause": {}}]})
    gateway = start_shared(start_gateway, operator, tmp_path / "one")
    begun = operator.run("rollout", "start", MODEL, "--to", "2", "--plan", plan, "--json")
    id = json.loads(begun.stdout)["id"]
    remote = ("--id", id, "--admin-url", f"http://{gateway.admin_url}")
    with callers(gateway) as traffic:
        wait_until(lambda: versions(traffic, 50) == {"1", "2"}, why_not=gateway.log_text)
        postgresql.stop()
        try:
            aborted = subprocess.run(
                [sys.executable, "-m", "gateway", "rollout", "abort", MODEL, *remote],
                cwd=ROOT, capture_output=True, text=True, timeout=60,
            )  # fmt: skip
            assert aborted.returncode == 0, aborted.stderr + gateway.log_text()
            wait_until(lambda: versions(traffic, 100) == {"1"}, why_not=gateway.log_text)
        finally:
            postgresql.start()
        wait_until(lambda: not operator.catalog.rollouts.get(id).is_active, why_not=gateway.log_text)
        wait_until(lambda: len(traffic.outcomes) > 0 and versions(traffic, 100) == {"1"})
    assert not traffic.failures
    assert operator.champion() == 1


# Replicas


@pytest.fixture(scope="module")
def postgresql() -> Iterator[PostgreSQLServer]:
    with postgresql_server() as server:
        yield server


@pytest.fixture
def shared(tmp_path: Path, postgresql: PostgreSQLServer) -> Iterator[list[Operator]]:
    """One registry in PostgreSQL, with version 1 as the champion."""
    url = postgresql.database_url()
    options = ("--config", str(tmp_path / "sluice.yaml"))
    (tmp_path / "sluice.yaml").write_text(json.dumps({"registry": shared_registry(url, tmp_path)}))
    operator = Operator(tmp_path / "made", url, tmp_path / "artifacts", *options)
    with contextlib.closing(operator.catalog):
        operator.publish(models.version_of(1), "good", alias="champion")
        yield [operator]


def shared_registry(url: str, folder: Path) -> dict[str, str]:
    return {"database_url": url, "artifacts_url": str(folder / "artifacts")}


def start_shared(start_gateway: StartGateway, operator: Operator, data_dir: Path) -> Gateway:
    settings = {f"registry.{name}": value for name, value in shared_registry(
        operator.catalog_url, operator.store_folder.parent).items()}  # fmt: skip
    return start_gateway(data_dir=data_dir, settings=settings)
