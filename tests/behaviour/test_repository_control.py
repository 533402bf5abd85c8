"""Load, unload and index in explicit mode, over both protocols."""

from collections.abc import Iterator

import models
import numpy as np
import pytest
from live_gateway import Gateway, StartGateway
from protocol_clients import Client, connect, refused

from gateway.frontends.status import Code


@pytest.fixture(scope="module")
def explicit(start_module_gateway: StartGateway) -> Gateway:
    return start_module_gateway(
        {
            "which": {1: models.version_of(1), 2: models.version_of(2)},
            "broken": {1: models.BROKEN},
        },
        {"which": "version_policy { all {} }"},
        settings={"models.control_mode": "explicit"},
    )


@pytest.fixture
def client(explicit: Gateway, protocol: str) -> Iterator[Client]:
    """A client of a gateway in explicit mode; nothing is loaded before and after."""
    client = connect(protocol, explicit.http_url, explicit.grpc_url)
    yield client
    client.unload("which")
    client.close()


def answers(client: Client, version: str = "") -> float:
    return float(client.infer("which", {"x": np.ones((1, 1), np.float32)}, version=version).outputs["version"][0, 0])


def test_a_server_without_models_is_ready(client: Client) -> None:
    assert client.is_ready()
    assert not client.is_model_ready("which")


def test_a_model_answers_after_its_load(client: Client) -> None:
    client.load("which")
    assert client.is_model_ready("which")
    assert (answers(client), answers(client, "1")) == (2, 1)


def test_a_model_is_gone_after_its_unload(client: Client) -> None:
    client.load("which")
    client.unload("which")
    assert not client.is_model_ready("which")
    with refused(client, Code.NOT_FOUND, "which"):
        answers(client)


def test_a_load_is_repeatable(client: Client) -> None:
    for _ in range(2):
        client.load("which")
        assert answers(client) == 2


def test_the_index_follows(client: Client) -> None:
    client.load("which")
    states = {(each["name"], each.get("version")): each.get("state") for each in client.index()}
    assert states[("which", "1")] == states[("which", "2")] == "READY"
    client.unload("which")
    states = {(each["name"], each.get("version")): each.get("state") for each in client.index()}
    assert "READY" not in states.values()
    assert any(name == "broken" for name, _ in states)


def test_a_load_of_what_is_not_there_fails(client: Client) -> None:
    text = "failed to load 'nothing', failed to poll from model repository"
    with refused(client, Code.INTERNAL, text):
        client.load("nothing")


def test_a_load_of_what_is_broken_says_why(client: Client) -> None:
    with refused(client, Code.INVALID_ARGUMENT, "load failed for model 'broken'"):
        client.load("broken")
    assert not client.is_model_ready("broken")
    reasons = [each.get("reason") for each in client.index() if each["name"] == "broken"]
    assert any(reasons)


def test_a_model_that_could_not_be_loaded_is_unavailable(client: Client) -> None:
    with refused(client, Code.INVALID_ARGUMENT, "load failed for model 'broken'"):
        client.load("broken")
    with refused(client, Code.UNAVAILABLE, "'broken'", "is not at ready state"):
        client.infer("broken", {"x": np.ones((1, 1), np.float32)})


def test_a_load_may_bring_its_configuration(client: Client) -> None:
    client.load("which", config='{"max_batch_size": 3, "version_policy": {"specific": {"versions": [1]}}}')
    assert client.model_config("which")["max_batch_size"] == 3
    assert answers(client) == 1


def test_a_load_that_brings_files_is_refused(client: Client) -> None:
    with refused(client, Code.UNIMPLEMENTED, "model files (file:1/model.onnx) from a request", "is not supported"):
        client.load("which", config="{}", files={"file:1/model.onnx": b"onnx"})
    assert not client.is_model_ready("which")


def test_an_unload_of_what_is_not_loaded_is_no_error(client: Client) -> None:
    client.unload("which")
