"""Gateways that live from the registry: what is published is served, whatever happens around it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
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
from live_gateway import ROOT, Gateway, StartGateway, wait_until
from postgresql_server import PostgreSQLServer, postgresql_server
from s3_server import S3Server, s3_server
from traffic import Traffic

from gateway.cli.failure import ExitCode
from registry.artifacts import ArtifactStore, LocalArtifacts
from registry.catalog import Catalog
from registry.object_artifacts import ObjectArtifacts
from registry.publish import PushResult, push

MODEL = "which"
ROW = np.ones((1, 1), np.float32)
FOLLOWED_SECONDS = 2.0


class Registry:
    """A catalog and its store, as somebody who publishes has them."""

    def __init__(self, folder: Path, url: str, store: ArtifactStore) -> None:
        self.folder, self.url, self.store = folder, url, store
        self.catalog = Catalog(url)

    def publish(self, number: int, *, alias: str | None = None, model: str = MODEL, **options: Any) -> PushResult:
        return self.push(models.version_of(number), f"{model}-{number}", alias=alias, model=model, **options)

    def push(self, made: onnx.ModelProto | bytes, name: str, *, model: str = MODEL, **options: Any) -> PushResult:
        path = models.save(made, self.folder / name / "model.onnx")
        return push(self.catalog, self.store, path, model, actor="ann", **options)

    def move(self, version: int, alias: str = "champion") -> None:
        self.catalog.move_alias(MODEL, alias, version, actor="ann")


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    return folder


@pytest.fixture
def registry(tmp_path: Path, data_dir: Path) -> Iterator[Registry]:
    """The one in the data folder."""
    registry = Registry(tmp_path / "made", f"sqlite:///{data_dir}/catalog.db", LocalArtifacts(data_dir / "artifacts"))
    with contextlib.closing(registry.catalog):
        yield registry


@pytest.fixture(params=["http", "grpc"])
def protocol(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def which_traffic(gateway: Gateway, protocol: str) -> Traffic:
    port = gateway.http_port if protocol == "http" else gateway.grpc_port
    return Traffic(protocol, port, MODEL, ROW)


def answers(gateway: Gateway) -> str:
    """The version that answers now."""
    with which_traffic(gateway, "http") as traffic:
        wait_until(lambda: bool(traffic.outcomes), why_not=gateway.log_text)
    return traffic.outcomes[-1].version


def actions(gateway: Gateway) -> list[str]:
    return [line.get("event.action", "") for line in gateway.logs()]


def wait_for_answers(traffic: Traffic, count: int) -> None:
    target = len(traffic.outcomes) + count
    wait_until(lambda: len(traffic.outcomes) >= target, why_not=lambda: str(traffic.outcomes[-3:]))


def wait_for_version(traffic: Traffic, version: str, gateway: Gateway) -> float:
    """Seconds until it answers."""
    began = time.monotonic()
    wait_until(lambda: bool(traffic.outcomes) and traffic.outcomes[-1].version == version, why_not=gateway.log_text)
    return time.monotonic() - began


def test_moving_an_alias_under_load_swaps_without_a_failed_request(
    start_gateway: StartGateway, registry: Registry, data_dir: Path, protocol: str
) -> None:
    registry.publish(1, alias="champion")
    registry.publish(2)
    gateway = start_gateway(data_dir=data_dir)
    with which_traffic(gateway, protocol) as traffic:
        wait_for_answers(traffic, 200)
        seen = []
        for version in (2, 1, 2):
            registry.move(version)
            seen.append(wait_for_version(traffic, str(version), gateway))
            wait_for_answers(traffic, 200)
    assert min(seen) < FOLLOWED_SECONDS, "whatever else the machine does meanwhile"
    assert not traffic.failures
    assert {outcome.version for outcome in traffic.outcomes} == {"1", "2"}


def test_a_push_is_followed_and_the_answer_names_the_catalogs_number(
    start_gateway: StartGateway, registry: Registry, data_dir: Path, protocol: str
) -> None:
    registry.publish(7)
    gateway = start_gateway(data_dir=data_dir)
    with which_traffic(gateway, protocol) as traffic:
        wait_for_answers(traffic, 20)
        registry.publish(8)
        wait_for_version(traffic, "2", gateway)
    assert not traffic.failures


def test_a_gateway_may_start_before_anything_is_published(
    start_gateway: StartGateway, registry: Registry, data_dir: Path
) -> None:
    gateway = start_gateway(data_dir=data_dir)
    registry.publish(1)
    wait_until(lambda: gateway.get(f"/v2/models/{MODEL}/ready")[0] == 200, why_not=gateway.log_text)


def test_a_version_that_does_not_load_disturbs_nobody(
    start_gateway: StartGateway, registry: Registry, data_dir: Path
) -> None:
    registry.publish(1, alias="champion")
    gateway = start_gateway(data_dir=data_dir)
    with which_traffic(gateway, "http") as traffic:
        wait_for_answers(traffic, 20)
        config = registry.folder / "broken" / "config.pbtxt"
        config.parent.mkdir(parents=True)
        config.write_text('input { name: "other" data_type: TYPE_FP32 dims: [1] }')
        models.save(models.version_of(2), config.parent / "model.onnx")
        push(registry.catalog, registry.store, config.parent, MODEL, actor="ann", alias="champion")
        wait_until(lambda: "version-load-failed" in actions(gateway), why_not=gateway.log_text)
        wait_for_answers(traffic, 20)
    assert not traffic.failures
    assert {outcome.version for outcome in traffic.outcomes} == {"1"}


def test_a_version_that_differs_from_the_golden_set_is_never_served(
    start_gateway: StartGateway, registry: Registry, data_dir: Path, tmp_path: Path
) -> None:
    side = {"datatype": "FP32", "shape": [1, 1]}
    golden = {"inputs": [{"name": "x", "data": [1], **side}], "outputs": [{"name": "version", "data": [7], **side}]}
    (tmp_path / "golden.json").write_text(json.dumps(golden))
    registry.publish(7)
    gateway = start_gateway(data_dir=data_dir)

    def sluice(*arguments: str) -> int:
        command = [sys.executable, "-m", "gateway", *arguments, "--admin-url", f"http://{gateway.admin_url}"]
        return subprocess.run(command, cwd=ROOT, capture_output=True, timeout=60, check=False).returncode

    with which_traffic(gateway, "http") as traffic:
        wait_for_answers(traffic, 20)
        assert sluice("policy", MODEL, "--golden", str(tmp_path / "golden.json")) == ExitCode.DONE
        wrong = models.save(models.version_of(8), tmp_path / "wrong.onnx")
        assert sluice("push", str(wrong), "--name", MODEL, "--alias", "champion") == ExitCode.REFUSED
        again = models.version_of(7)
        again.doc_string = "another file with the same answers"
        right = models.save(again, tmp_path / "right.onnx")
        assert sluice("push", str(right), "--name", MODEL, "--alias", "champion") == ExitCode.DONE
        wait_for_version(traffic, "3", gateway)
    assert not traffic.failures
    assert {outcome.version for outcome in traffic.outcomes} == {"1", "3"}


def test_a_store_that_lies_is_refused_and_reported_while_the_loaded_version_stays(
    start_gateway: StartGateway, registry: Registry, data_dir: Path
) -> None:
    registry.publish(1, alias="champion")
    gateway = start_gateway(data_dir=data_dir)
    with which_traffic(gateway, "grpc") as traffic:
        wait_for_answers(traffic, 20)
        pushed = registry.publish(2)
        (entry,) = pushed.row.manifest.files
        path = data_dir / "artifacts" / "objects" / entry.sha256[:2] / entry.sha256
        good = path.read_bytes()
        path.chmod(0o644)
        path.write_bytes(models.version_of(3).SerializeToString())
        registry.move(2)
        wait_until(
            lambda: any("should have digest" in str(line.get("labels")) for line in gateway.logs()),
            why_not=gateway.log_text,
        )
        wait_for_answers(traffic, 20)
        assert {outcome.version for outcome in traffic.outcomes} == {"1"}
        path.write_bytes(good)
        wait_for_version(traffic, "2", gateway)
    assert not traffic.failures


def test_a_killed_gateway_starts_again_from_the_cache_with_everything_else_gone(
    start_gateway: StartGateway, registry: Registry, data_dir: Path, tmp_path: Path
) -> None:
    registry.publish(1, alias="champion")
    registry.publish(2)
    gateway = start_gateway(data_dir=data_dir)
    gateway.kill()
    registry.catalog.close()
    for name in ("catalog.db", "catalog.db-wal", "catalog.db-shm", "artifacts"):
        if (data_dir / name).exists():
            shutil.move(data_dir / name, tmp_path / name)
    (data_dir / "catalog.db").mkdir()  # a database that cannot be opened
    gateway = start_gateway(data_dir=data_dir)
    assert answers(gateway) == "1"
    assert any("served from the cache" in str(line.get("labels")) for line in gateway.logs())
    wait_until(lambda: "repository-unavailable" in actions(gateway), why_not=gateway.log_text)
    (data_dir / "catalog.db").rmdir()
    for name in ("artifacts", "catalog.db-shm", "catalog.db-wal", "catalog.db"):
        if (tmp_path / name).exists():
            shutil.move(tmp_path / name, data_dir / name)
    registry.move(2)
    wait_until(lambda: answers(gateway) == "2", why_not=gateway.log_text)
    assert "repository-recovered" in actions(gateway)


# Shared


@pytest.fixture(scope="module")
def postgresql() -> Iterator[PostgreSQLServer]:
    with postgresql_server() as server:
        yield server


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    with s3_server() as server:
        yield server


@pytest.fixture
def shared(tmp_path: Path, postgresql: PostgreSQLServer, s3: S3Server) -> Iterator[Registry]:
    """One PostgreSQL and one bucket."""
    store = ObjectArtifacts(f"{s3.bucket_url()}/artifacts", options=s3.options)
    registry = Registry(tmp_path / "made", postgresql.database_url(), store)
    with contextlib.closing(registry.catalog):
        yield registry


def shared_settings(shared: Registry, s3: S3Server) -> dict[str, str]:
    options = ",".join(f"{name}={value}" for name, value in s3.options.items())
    return {
        "registry.database_url": shared.url,
        "registry.artifacts_url": shared.store.place,
        "registry.artifacts_options": options,
    }


def test_two_gateways_on_one_registry_see_a_push_and_agree(
    start_gateway: StartGateway, shared: Registry, s3: S3Server, tmp_path: Path
) -> None:
    shared.publish(1, alias="champion")
    settings = shared_settings(shared, s3)
    both = [start_gateway(data_dir=tmp_path / name, settings=settings) for name in ("one", "two")]
    with which_traffic(both[0], "http") as first, which_traffic(both[1], "grpc") as second:
        for number in (2, 3):
            wait_for_answers(first, 20)
            shared.publish(number, alias="champion")
            wait_for_version(first, str(number), both[0])
            wait_for_version(second, str(number), both[1])
    assert not first.failures
    assert not second.failures


def test_a_registry_that_goes_away_and_comes_back_is_not_noticed_by_callers(
    start_gateway: StartGateway, shared: Registry, s3: S3Server, postgresql: PostgreSQLServer, tmp_path: Path
) -> None:
    shared.publish(1, alias="champion")
    gateway = start_gateway(data_dir=tmp_path / "one", settings=shared_settings(shared, s3))
    with which_traffic(gateway, "http") as traffic:
        wait_for_answers(traffic, 20)
        postgresql.stop()
        try:
            wait_until(lambda: "repository-unavailable" in actions(gateway), why_not=gateway.log_text)
            wait_for_answers(traffic, 20)
        finally:
            postgresql.start()
        wait_until(lambda: "repository-recovered" in actions(gateway), why_not=gateway.log_text)
        pushed = shared.publish(2)
        s3.stop()
        try:
            shared.move(pushed.version)
            wait_until(lambda: "repository-problem" in actions(gateway), why_not=gateway.log_text)
            wait_for_answers(traffic, 20)
            assert gateway.is_ready()
        finally:
            s3.start()
        wait_for_version(traffic, "2", gateway)
    assert not traffic.failures


def test_no_secret_is_logged_or_handed_to_a_worker(
    start_gateway: StartGateway, shared: Registry, s3: S3Server, tmp_path: Path
) -> None:
    shared.publish(1)
    settings = shared_settings(shared, s3)
    secret = "hunter2hunter2"
    assert "test-secret" in settings["registry.artifacts_options"]
    environment = {"SLUICE_REGISTRY__ARTIFACTS_OPTIONS": settings.pop("registry.artifacts_options")}
    environment |= {"AWS_SECRET_ACCESS_KEY": secret, "MLFLOW_TRACKING_PASSWORD": secret, "PGPASSWORD": secret}
    gateway = start_gateway(data_dir=tmp_path / "one", settings=settings, environment=environment)
    s3.stop()
    try:
        shared.catalog.move_alias(MODEL, "champion", 1, actor="ann")
        wait_for_answers_of_a_broken_push(gateway, shared)
    finally:
        s3.start()
    for word in (secret, "test-secret"):
        assert word not in gateway.log_text()
        for pid in descendants(gateway.process.pid):
            assert word.encode() not in Path(f"/proc/{pid}/environ").read_bytes()


def wait_for_answers_of_a_broken_push(gateway: Gateway, shared: Registry) -> None:
    """Something that the gateway wants and the store, being away, does not give."""
    local = Registry(shared.folder, shared.url, LocalArtifacts(shared.folder / "elsewhere"))
    with contextlib.closing(local.catalog):
        local.publish(9, model="elsewhere")
    wait_until(lambda: "repository-problem" in actions(gateway), why_not=gateway.log_text)


def descendants(pid: int) -> list[int]:
    children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return [each for child in children for each in (child, *descendants(child)) if os.path.exists(f"/proc/{each}")]
