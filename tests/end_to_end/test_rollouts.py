"""Rollouts as an operator runs them: the command line, real gateways, real traffic."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import models
import numpy as np
import onnx
import pytest
from fault_proxy import fault_proxy
from live_gateway import ROOT, Gateway, StartGateway, wait_until
from postgresql_server import PostgreSQLServer, postgresql_server
from traffic import Traffic

from gateway.rollouts.service import RolloutService
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


class Operator:
    """Somebody with the command line, the files of versions, and one registry."""

    def __init__(self, folder: Path, url: str, artifacts: Path, *options: str) -> None:
        self.folder, self.url, self.options = folder, url, options
        self.settings: dict[str, str] = {}
        self.catalog = Catalog(url)
        self.store = LocalArtifacts(artifacts)

    def publish(self, model: onnx.ModelProto, name: str, alias: str | None = None, config: str = "") -> int:
        path = models.save(model, self.folder / name / "model.onnx")
        if config:
            path = path.parent
            (path / "config.pbtxt").write_text(config)
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

    def roll_out(self, to: int, *more: str, plan: Any = QUICK) -> subprocess.CompletedProcess[str]:
        words = ("rollout", "start", MODEL, "--to", str(to), "--plan", self.plan(plan), "--wait", "--json")
        return self.run(*words, *more)

    def status(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self.run("rollout", "status", MODEL, "--json").stdout)
        return document

    @property
    def service(self) -> RolloutService:
        return RolloutService(self.catalog, "ann")

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
    operator.publish(models.failing(), "bad")
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


SHADOWED = {
    **QUICK,
    "steps": [{"shadow": {"percent": 100, "minTime": "100ms", "minRequests": 50}}, *QUICK["steps"]],
    "guards": {"disagreement": True},
}


@pytest.mark.heavy
def test_a_version_that_answers_otherwise_as_a_shadow_is_rolled_back_unless_the_plan_allows_for_it(
    gateway: Gateway, operator: Operator
) -> None:
    operator.publish(models.version_of(1.5), "other")
    with callers(gateway) as traffic:
        done = operator.roll_out(2, plan=SHADOWED)
        assert done.returncode == 2, done.stderr + gateway.log_text()
        assert versions(traffic, len(traffic.outcomes)) == {"1"}
        assert operator.status()["disagreements"][-1] == {
            "request_id": "",
            "output": "version",
            "difference": "1 of 1 values differ, first at 0",
            "live": "[1]",
            "shadow": "[1.5]",
        }
        done = operator.roll_out(2, plan={**SHADOWED, "comparison": {"outputs": {"version": {"atol": 1}}}})
        assert done.returncode == 0, done.stderr + gateway.log_text()
    assert not traffic.failures
    assert operator.status()["disagreements"] == []


def test_both_versions_are_run_by_their_own_configuration(gateway: Gateway, operator: Operator) -> None:
    for version, rows in ((2, 4), (3, 8)):
        operator.publish(models.version_of(version), f"by {rows}", config=f"max_batch_size: {rows}")
    assert operator.run("alias", MODEL, "champion", "2").returncode == 0
    with callers(gateway) as traffic:
        wait_until(lambda: versions(traffic, 10) == {"2"}, why_not=gateway.log_text)
        plan = operator.plan({**QUICK, "steps": [{"setWeight": 50}, {"pause": {}}]})
        operator.run("rollout", "start", MODEL, "--to", "3", "--plan", plan)
        wait_until(lambda: versions(traffic, 50) == {"2", "3"}, why_not=gateway.log_text)
        assert [batch_size(gateway, version) for version in (2, 3)] == [4, 8]
    assert not traffic.failures


def test_a_version_whose_configuration_cannot_be_read_has_failed_at_once(
    gateway: Gateway, operator: Operator
) -> None:
    operator.publish(models.version_of(2), "unreadable", config="nonsense {")
    with callers(gateway) as traffic:
        done = operator.roll_out(2)
        assert done.returncode == 2, done.stderr + gateway.log_text()
        assert "config.pbtxt:1" in json.loads(done.stdout)["reason"]
    assert not traffic.failures
    assert {outcome.version for outcome in traffic.outcomes} == {"1"}


def batch_size(gateway: Gateway, version: int) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", gateway.http_port)
    with contextlib.closing(connection):
        connection.request("GET", f"/v2/models/{MODEL}/versions/{version}/config")
        size: int = json.loads(connection.getresponse().read())["max_batch_size"]
        return size


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


# Replicas


@pytest.fixture(scope="module")
def postgresql() -> Iterator[PostgreSQLServer]:
    with postgresql_server() as server:
        yield server


@pytest.fixture
def shared(tmp_path: Path, postgresql: PostgreSQLServer) -> Iterator[Operator]:
    """Of one registry in PostgreSQL, with version 1 as the champion."""
    registry = {"database_url": postgresql.database_url(), "artifacts_url": str(tmp_path / "artifacts")}
    config = tmp_path / "sluice.yaml"
    config.write_text(json.dumps({"registry": registry}))
    operator = Operator(
        tmp_path / "made", registry["database_url"], tmp_path / "artifacts", "--config", str(config)
    )
    operator.settings = {f"registry.{name}": value for name, value in registry.items()}
    with contextlib.closing(operator.catalog):
        operator.publish(models.version_of(1), "good", alias="champion")
        yield operator


def start_three(start_gateway: StartGateway, operator: Operator, folder: Path) -> list[Gateway]:
    return [
        start_gateway(data_dir=folder / f"data-{number}", settings=operator.settings, wait=number == 2)
        for number in range(3)
    ]


def test_three_gateways_follow_one_rollout_to_its_end(
    start_gateway: StartGateway, shared: Operator, tmp_path: Path
) -> None:
    shared.publish(models.version_of(2), "better")
    three = start_three(start_gateway, shared, tmp_path)
    for gateway in three:
        gateway.wait_ready()
    with contextlib.ExitStack() as stack:
        everywhere = [stack.enter_context(callers(gateway)) for gateway in three]
        done = shared.roll_out(2)
        assert done.returncode == 0, done.stderr + three[0].log_text()
        wait_until(lambda: all(versions(traffic, 50) == {"2"} for traffic in everywhere))
    assert not any(traffic.failures for traffic in everywhere)
    assert shared.champion() == 2


def test_the_leader_is_killed_and_a_bad_version_is_still_taken_back_everywhere(
    start_gateway: StartGateway, shared: Operator, tmp_path: Path
) -> None:
    shared.publish(models.failing(), "bad")
    three = start_three(start_gateway, shared, tmp_path)
    for gateway in three:
        gateway.wait_ready()
    plan = shared.plan({"steps": [{"setWeight": 10}, {"pause": {}}]})
    begun = json.loads(shared.run("rollout", "start", MODEL, "--to", "2", "--plan", plan, "--json").stdout)
    store = shared.catalog.rollouts
    wait_until(lambda: store.get(begun["id"]).status["weight"] == 0.1, why_not=three[0].log_text)
    leader = store.get(begun["id"]).leader
    of_leader = next(one for one in three if leader in (one.repository / "rollouts.json").read_text())
    of_leader.kill()
    left = [one for one in three if one is not of_leader]
    with callers(left[0]) as first, callers(left[1]) as second:
        wait_until(lambda: not store.get(begun["id"]).is_active, why_not=left[0].log_text)
        answered = [len(first.outcomes), len(second.outcomes)]
        wait_until(lambda: len(first.outcomes) > answered[0] + 500 and len(second.outcomes) > answered[1] + 500)
        for traffic in (first, second):
            last = [outcome for outcome in traffic.outcomes if outcome.version == "2"]
            assert not last
    assert not first.failures
    assert not second.failures
    assert shared.champion() == 1


def test_a_gateway_that_is_cut_off_never_widens_the_canary_and_hears_of_the_rollback_when_it_is_back(
    start_gateway: StartGateway, shared: Operator, postgresql: PostgreSQLServer, tmp_path: Path
) -> None:
    shared.publish(models.version_of(2), "better")
    with fault_proxy(unix=f"{postgresql.folder}/.s.PGSQL.5432") as proxy, contextlib.ExitStack() as stack:
        through = re.sub(r"@/(\w+)\?.*", rf"@127.0.0.1:{proxy.port}/\1", shared.url)
        settings = shared.settings | {"rollouts.lease_seconds": "1"}
        three = [
            start_gateway(data_dir=tmp_path / f"data-{number}", settings=settings | {"registry.database_url": url},
                          wait=False)
            for number, url in enumerate((shared.url, shared.url, through))
        ]  # fmt: skip
        for gateway in three:
            gateway.wait_ready()
        steps = [{"setWeight": 10}, {"pause": {}}, {"setWeight": 60}, {"pause": {}}]
        begun = shared.run("rollout", "start", MODEL, "--to", "2", "--plan", shared.plan({"steps": steps}), "--json")
        id = json.loads(begun.stdout)["id"]
        first, second, cut = [stack.enter_context(callers(gateway)) for gateway in three]
        wait_until(lambda: all(versions(one, 200) == {"1", "2"} for one in (first, second, cut)))

        proxy.set("cut")
        widened = len(cut.outcomes)
        shared.service.command(id, "resume", None, "wider")  # past whoever leads: it may be the one that is cut off
        wait_until(lambda: min(canary_share(first, 300), canary_share(second, 300)) > 0.4, why_not=three[0].log_text)
        shared.service.command(id, "abort", None, "enough")
        wait_until(lambda: versions(first, 300) == versions(second, 300) == {"1"}, why_not=three[0].log_text)
        missed = len(cut.outcomes) - widened
        assert 0 < canary_share(cut, missed) < 0.2, "as it was, neither more nor back"

        proxy.set("none")
        healed = time.monotonic()
        wait_until(lambda: cut.outcomes[-1].at > healed + FOLLOWED_SECONDS and versions(cut, 100) == {"1"})
        heard = max(outcome.at for outcome in cut.outcomes if outcome.version == "2") - healed
        print(f"the last request of the canary was sent {heard:.2f} s after the gateway could hear of the rollback")
        assert heard < FOLLOWED_SECONDS
    assert not first.failures + second.failures + cut.failures
    assert (shared.catalog.rollouts.get(id).state, shared.champion()) == ("rolled_back", 1)
    assert shared.catalog.verify_audit() is None


def canary_share(traffic: Traffic, last: int) -> float:
    return sum(outcome.version == "2" for outcome in traffic.outcomes[-last:]) / last


def test_an_abort_takes_effect_while_the_database_is_down_and_is_recorded_when_it_is_back(
    start_gateway: StartGateway, shared: Operator, postgresql: PostgreSQLServer, tmp_path: Path
) -> None:
    shared.publish(models.version_of(2), "better")
    gateway = start_gateway(data_dir=tmp_path / "one", settings=shared.settings)
    plan = shared.plan({"steps": [{"setWeight": 50}, {"pause": {}}]})
    id = json.loads(shared.run("rollout", "start", MODEL, "--to", "2", "--plan", plan, "--json").stdout)["id"]
    with callers(gateway) as traffic:
        wait_until(lambda: versions(traffic, 50) == {"1", "2"}, why_not=gateway.log_text)
        postgresql.stop()
        try:
            aborted = gateway_abort(gateway, id)
            assert aborted["state"] == "rolled_back"
            answered = len(traffic.outcomes)
            wait_until(lambda: len(traffic.outcomes) > answered + 300)
            assert versions(traffic, 200) == {"1"}
        finally:
            postgresql.start()
        wait_until(lambda: not shared.catalog.rollouts.get(id).is_active, why_not=gateway.log_text)
        wait_until(lambda: versions(traffic, 100) == {"1"})
    assert not traffic.failures
    assert shared.champion() == 1


def gateway_abort(gateway: Gateway, id: str) -> Any:
    """By the admin API, as somebody who knows the rollout's id."""
    connection = http.client.HTTPConnection(gateway.admin_url, timeout=30)
    with contextlib.closing(connection):
        headers = {"Content-Type": "application/json"}
        connection.request("POST", f"/api/v1/rollouts/{id}:abort", b"{}", headers)
        response = connection.getresponse()
        assert response.status == 200, response.read()
        return json.loads(response.read())
