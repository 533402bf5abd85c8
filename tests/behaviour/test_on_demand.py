"""Models that are loaded by their first request, over both protocols."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import grpc
import models
import numpy as np
import pytest
from live_gateway import Gateway, StartGateway, wait_until
from protocol_clients import Client, connect, refused

from gateway.frontends.status import Code
from gateway.pb import inference_pb2

ON_DEMAND = 'parameters { key: "load_on_demand" value { string_value: "true" } }'
WARMUP = """
model_warmup { name: "long" batch_size: 4 count: 10000
  inputs { key: "x" value { data_type: TYPE_FP32 dims: [1] zero_data: true } } }
"""
SLOW = "max_batch_size: 4" + 16 * WARMUP
INPUTS = {"x": np.ones((1, 1), np.float32)}


def metric(gateway: Gateway, name: str) -> float:
    """The sum of all series of a metric."""
    lines = gateway.get("/metrics", admin=True)[1].decode().splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith((f"{name}{{", f"{name} ")))


def state_of(client: Client, model: str) -> tuple[str, str]:
    (row,) = [row for row in client.index() if row["name"] == model]
    return row.get("state", ""), row.get("reason", "")


@pytest.fixture(scope="module")
def gateway(start_module_gateway: StartGateway) -> Gateway:
    good = {name: {1: models.version_of(9)} for name in ("by http", "by grpc", "many", "idle")}
    return start_module_gateway({**good, "broken": {1: models.BROKEN}}, dict.fromkeys((*good, "broken"), ON_DEMAND))


@pytest.fixture
def client(gateway: Gateway, protocol: str) -> Iterator[Client]:
    client = connect(protocol, gateway.http_url, gateway.grpc_url)
    yield client
    client.close()


def test_the_first_request_waits_for_the_load_and_is_answered(client: Client, protocol: str) -> None:
    model = f"by {protocol}"
    assert client.is_ready()
    assert not client.is_model_ready(model)
    assert state_of(client, model) == ("UNAVAILABLE", "loaded by the first request for it")
    answer = client.infer(model, INPUTS)
    assert (answer.model, answer.version) == (model, "1")
    assert client.is_model_ready(model)
    assert state_of(client, model) == ("READY", "")


def test_what_nobody_asks_for_is_not_loaded(client: Client) -> None:
    assert state_of(client, "idle") == ("UNAVAILABLE", "loaded by the first request for it")


def test_a_model_that_cannot_be_loaded_says_why_to_who_waited(client: Client) -> None:
    with refused(client, Code.UNAVAILABLE, "'broken' is not at ready state"):
        client.infer("broken", INPUTS)


def test_who_waited_in_vain_is_told_why_in_words_for_programs(gateway: Gateway, start_gateway: StartGateway) -> None:
    slow = start_gateway(
        {"slow": {1: models.version_of(1)}}, {"slow": ON_DEMAND + SLOW}, settings={"models.max_waiting_requests": 1}
    )
    with grpc.insecure_channel(gateway.grpc_url) as channel, grpc.insecure_channel(slow.grpc_url) as other:
        assert b"VERSION_NOT_READY" in reason(ask(channel, "broken"))
        waiting = ask(other, "slow", timeout_us=1_000_000)
        wait_until(lambda: metric(slow, "sluice_waiting_requests") == 1, why_not=slow.log_text)
        assert b"TOO_MANY_WAITING" in reason(ask(other, "slow"))
        assert b"EXPIRED" in reason(waiting)


def ask(channel: grpc.Channel, model: str, timeout_us: int = 0) -> grpc.Future:
    request = inference_pb2.ModelInferRequest(model_name=model, raw_input_contents=[bytes(4)])
    request.inputs.add(name="x", datatype="FP32", shape=[1, 1])
    if timeout_us:
        request.parameters["timeout"].int64_param = timeout_us
    return channel.unary_unary("/inference.GRPCInferenceService/ModelInfer").future(request.SerializeToString())


def reason(call: grpc.Future) -> bytes:
    """Of a refusal, its details."""
    assert isinstance(call.exception(30), grpc.RpcError)
    return bytes(dict(call.trailing_metadata())["grpc-status-details-bin"])


def test_many_that_come_at_once_are_answered_by_one_load(gateway: Gateway, client: Client, protocol: str) -> None:
    clients = [connect(protocol, gateway.http_url, gateway.grpc_url) for _ in range(8)]
    versions: list[float] = []

    def ask(one: Client) -> None:
        versions.append(float(one.infer("many", INPUTS).outputs["version"][0, 0]))

    threads = [threading.Thread(target=ask, args=(one,)) for one in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one in clients:
        one.close()
    assert versions == [9.0] * 8
    loads = [line for line in gateway.logs() if line.get("event.action") == "version-loading" and "many" in str(line)]
    assert len(loads) == 1


def test_a_deadline_ends_the_wait(start_gateway: StartGateway, protocol: str) -> None:
    gateway = start_gateway({"slow": {1: models.version_of(1)}}, {"slow": ON_DEMAND + SLOW})
    client = connect(protocol, gateway.http_url, gateway.grpc_url)
    with refused(client, Code.DEADLINE_EXCEEDED):
        client.infer("slow", INPUTS, timeout_us=100_000)
    assert state_of(client, "slow")[0] == "LOADING"
    client.close()


@pytest.fixture(scope="module")
def one_worker(start_module_gateway: StartGateway) -> int:
    """Bytes that the smallest of models takes here."""
    gateway = start_module_gateway({"m": {1: models.version_of(1)}})
    measured = metric(gateway, "sluice_memory_bytes")
    gateway.stop()
    assert measured > 0
    return int(measured)


def test_the_least_recently_used_leaves_for_the_next_and_comes_back(
    start_gateway: StartGateway, one_worker: int, protocol: str
) -> None:
    names = ("first", "second", "third")
    weights = {name: {1: models.version_of(number)} for number, name in enumerate(names, 1)}
    gateway = start_gateway(
        weights, dict.fromkeys(names, ON_DEMAND), settings={"models.memory_bytes": one_worker * 5 // 4}
    )
    client = connect(protocol, gateway.http_url, gateway.grpc_url)
    for _ in range(2):
        for number, name in enumerate(names, 1):
            assert client.infer(name, INPUTS).outputs["version"][0, 0] == number
    assert metric(gateway, "sluice_evictions_total") >= 3
    assert metric(gateway, "sluice_memory_limit_bytes") == one_worker * 5 // 4
    client.close()


def test_what_does_not_fit_is_refused_with_the_sizes(start_gateway: StartGateway, protocol: str) -> None:
    gateway = start_gateway({"m": {1: models.tabular(1)}}, {"m": ON_DEMAND}, settings={"models.memory_bytes": 100})
    client = connect(protocol, gateway.http_url, gateway.grpc_url)
    with refused(client, Code.UNAVAILABLE, "does not fit into memory: it needs"):
        client.infer("m", {"x": np.ones((1, 30), np.float32)})
    wait_until(lambda: "models may take 100" in state_of(client, "m")[1])
    client.close()
