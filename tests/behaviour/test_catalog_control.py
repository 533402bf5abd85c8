"""Explicit load and unload calls, and loading on demand, of what a catalog holds, over both protocols."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import models
import numpy as np
import onnx
import pytest
from live_gateway import Gateway, StartGateway, wait_until
from protocol_clients import Client, connect, refused

from gateway.frontends.status import Code
from registry.artifacts import LocalArtifacts
from registry.catalog import Catalog
from registry.policies import ModelPolicy
from registry.publish import push

INPUTS = {"x": np.ones((1, 1), np.float32)}


def publish(data_dir: Path, model: str, version: int, policy: ModelPolicy | None = None) -> None:
    file = data_dir.parent / f"{model}-{version}.onnx"
    data_dir.mkdir(parents=True, exist_ok=True)
    onnx.save(models.version_of(version), file)
    with contextlib.closing(Catalog(f"sqlite:///{data_dir / 'catalog.db'}")) as catalog:
        push(catalog, LocalArtifacts(data_dir / "artifacts"), file, model, actor="tester")
        if policy is not None:
            catalog.set_policy(model, policy, "tester")


def answered(client: Client, model: str) -> float:
    return float(client.infer(model, INPUTS).outputs["version"][0, 0])


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, start_module_gateway: StartGateway) -> Gateway:
    data_dir = tmp_path_factory.mktemp("explicit") / "data"
    publish(data_dir, "fraud", 1)
    publish(data_dir, "other", 1)
    return start_module_gateway(data_dir=data_dir, settings={"models.control_mode": "explicit"})


@pytest.fixture
def client(gateway: Gateway, protocol: str) -> Iterator[Client]:
    """A client; nothing is loaded before and after."""
    client = connect(protocol, gateway.http_url, gateway.grpc_url)
    yield client
    client.unload("fraud")
    client.close()


def test_a_model_of_the_catalog_answers_from_its_load_to_its_unload(client: Client) -> None:
    assert client.is_ready()
    with refused(client, Code.NOT_FOUND, "fraud"):
        answered(client, "fraud")
    client.load("fraud")
    assert answered(client, "fraud") >= 1
    assert not client.is_model_ready("other")
    client.unload("fraud")
    assert not client.is_model_ready("fraud")


def test_what_was_published_since_comes_with_the_next_load(client: Client, gateway: Gateway, protocol: str) -> None:
    client.load("fraud")
    before = answered(client, "fraud")
    publish(gateway.repository, "fraud", int(before) + 1)
    assert answered(client, "fraud") == before
    client.load("fraud")
    assert answered(client, "fraud") == before + 1


def test_a_model_that_the_catalog_lacks_is_not_found(client: Client) -> None:
    with pytest.raises(Exception, match="nothing"):
        client.load("nothing")


def test_a_policy_has_a_model_loaded_on_demand_also_after_a_restart_without_the_catalog(
    tmp_path: Path, start_gateway: StartGateway, protocol: str
) -> None:
    data_dir = tmp_path / "data"
    publish(data_dir, "fraud", 1, ModelPolicy(load_on_demand=True))
    publish(data_dir, "always", 1)
    gateway = start_gateway(data_dir=data_dir)
    client = connect(protocol, gateway.http_url, gateway.grpc_url)
    assert client.is_model_ready("always")
    assert not client.is_model_ready("fraud")
    assert answered(client, "fraud") == 1
    client.close()
    gateway.stop()
    (data_dir / "catalog.db").write_bytes(b"no database")
    gateway = start_gateway(data_dir=data_dir)
    client = connect(protocol, gateway.http_url, gateway.grpc_url)
    wait_until(lambda: client.is_model_ready("always"))
    assert not client.is_model_ready("fraud")
    assert answered(client, "fraud") == 1
    client.close()
