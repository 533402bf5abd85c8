"""Explicit load and unload calls of what every source that is not a directory holds, and loading on demand, over both
protocols."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import models
import numpy as np
import obstore
import onnx
import pytest
from fake_mlflow import FakeMlflow, fake_mlflow
from live_gateway import Gateway, StartGateway, wait_until
from mlflow_server import ONNX_MLMODEL
from protocol_clients import Client, connect, refused
from s3_server import s3_server

from gateway.frontends.status import Code
from registry.artifacts import LocalArtifacts
from registry.catalog import Catalog
from registry.object_artifacts import open_bucket
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


@dataclass
class Served:
    """A gateway in explicit mode over one kind of source, and how somebody publishes there."""

    gateway: Gateway
    publish: Callable[[str, int], None]


@pytest.fixture(scope="module", params=["catalog", "bucket", "MLflow"])
def served(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, start_module_gateway: StartGateway
) -> Iterator[Served]:
    data_dir = tmp_path_factory.mktemp("explicit") / "data"
    with made(request.param, data_dir) as (publish_there, settings):
        publish_there("fraud", 1)
        publish_there("other", 1)
        explicit = {"models.control_mode": "explicit", **settings}
        yield Served(start_module_gateway(data_dir=data_dir, settings=explicit), publish_there)


@contextlib.contextmanager
def made(kind: str, data_dir: Path) -> Iterator[tuple[Callable[[str, int], None], dict[str, str]]]:
    """How somebody publishes to a source of a kind, and the settings of who serves from it."""
    if kind == "catalog":
        yield partial(publish, data_dir), {}
    elif kind == "bucket":
        with s3_server() as s3:
            url = f"{s3.bucket_url()}/models"
            bucket = open_bucket(url, url, dict(s3.options))
            options = ",".join(f"{name}={value}" for name, value in s3.options.items())
            settings = {"source": "objects", "objects_url": url, "objects_options": options}
            yield partial(put, bucket), {f"registry.{name}": value for name, value in settings.items()}
    else:
        with fake_mlflow() as mlflow:
            settings = {"source": "mlflow", "mlflow_url": mlflow.url, "mlflow_models": "fraud/latest,other/latest"}
            yield partial(register, mlflow), {f"registry.{name}": value for name, value in settings.items()}


def put(bucket: Any, model: str, version: int) -> None:
    obstore.put(bucket, f"{model}/{version}/model.onnx", models.version_of(version).SerializeToString())


def register(mlflow: FakeMlflow, model: str, version: int) -> None:
    mlmodel = ONNX_MLMODEL.format(data="model.onnx").encode()
    mlflow.register(model, {"MLmodel": mlmodel, "model.onnx": models.version_of(version)})


@pytest.fixture
def client(served: Served, protocol: str) -> Iterator[Client]:
    """A client; nothing is loaded before and after."""
    client = connect(protocol, served.gateway.http_url, served.gateway.grpc_url)
    yield client
    client.unload("fraud")
    client.close()


def test_a_model_answers_from_its_load_to_its_unload(client: Client) -> None:
    assert client.is_ready()
    with refused(client, Code.NOT_FOUND, "fraud"):
        answered(client, "fraud")
    client.load("fraud")
    assert answered(client, "fraud") >= 1
    assert not client.is_model_ready("other")
    client.unload("fraud")
    assert not client.is_model_ready("fraud")


def test_what_was_published_since_comes_with_the_next_load(client: Client, served: Served) -> None:
    client.load("fraud")
    before = answered(client, "fraud")
    served.publish("fraud", int(before) + 1)
    assert answered(client, "fraud") == before
    client.load("fraud")
    assert answered(client, "fraud") == before + 1


def test_a_model_that_the_source_lacks_is_not_found(client: Client) -> None:
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
