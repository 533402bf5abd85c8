"""Deadlines, cancellation, batches and limits, over both protocols."""

import contextlib
import http.client
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import grpc
import models
import numpy as np
import pytest
from live_gateway import Gateway, StartGateway, wait_until
from protocol_clients import Answer, Array, Client, Refused, connect, refused

from gateway.frontends.status import HTTP_STATUS, Code
from gateway.pb import inference_pb2

TICK = 2000
"""Iterations that keep the spinning model busy for a good while (tens of milliseconds)."""


def spin(iterations: int) -> dict[str, Array]:
    return {"iterations": np.array([[iterations]], np.int64), "x": np.ones((1, 128), np.float32)}


def in_parallel(
    gateway: Gateway, protocol: str, count: int, call: Callable[[Client, int], Answer]
) -> list[Answer | Refused]:
    """`call` from `count` threads, each with a client of its own."""

    def run(i: int) -> Answer | Refused:
        client = connect(protocol, gateway.http_url, gateway.grpc_url)
        try:
            return call(client, i)
        except Refused as refusal:
            return refusal
        finally:
            client.close()

    with ThreadPoolExecutor(count) as threads:
        return list(threads.map(run, range(count)))


def test_a_deadline_that_cannot_be_met_is_told(client: Client) -> None:
    start = time.monotonic()
    with refused(client, Code.DEADLINE_EXCEEDED):
        client.infer("spinning", spin(50 * TICK), deadline=0.05)
    assert time.monotonic() - start < 10


def test_a_timeout_parameter_is_a_deadline_too(client: Client) -> None:
    with refused(client, Code.DEADLINE_EXCEEDED):
        client.infer("spinning", spin(50 * TICK), timeout_us=50_000)


def test_a_deadline_far_away_changes_nothing(client: Client) -> None:
    assert client.infer("free", {"x": np.ones((1, 1), np.float32)}, deadline=30).outputs["y"].tolist() == [[1]]


def test_the_gateway_serves_on_after_missed_deadlines(client: Client) -> None:
    for _ in range(3):
        with pytest.raises(Refused):  # turned away at once where it is foreseen
            client.infer("spinning", spin(20 * TICK), deadline=0.02)
    assert client.infer("spinning", spin(1), deadline=60).outputs


def test_concurrent_requests_get_their_own_answers(gateway: Gateway, protocol: str) -> None:
    rounds, threads = 20, 8

    def call(client: Client, i: int) -> Answer:
        for j in range(rounds):
            rows = 1 + (i + j) % 4
            x = np.random.default_rng(100 * i + j).normal(size=(rows, 30)).astype(np.float32)
            answer = client.infer("tabular", {"features": x}, id=f"{i}-{j}")
            assert answer.id == f"{i}-{j}"
            expected = models.expected(MODEL, features=x)["scores"]
            np.testing.assert_allclose(answer.outputs["scores"], expected, rtol=1e-5, atol=1e-6)
        return answer

    answers = in_parallel(gateway, protocol, threads, call)
    assert all(isinstance(each, Answer) for each in answers), answers


MODEL = models.tabular(2)


def test_concurrent_requests_share_batches(gateway: Gateway, client: Client, protocol: str) -> None:
    def call(client: Client, i: int) -> Answer:
        return client.infer("spinning", spin(TICK))

    (before,) = client.statistics("spinning")
    answers = in_parallel(gateway, protocol, 12, call)
    assert all(isinstance(each, Answer) for each in answers), answers
    (after,) = client.statistics("spinning")
    assert after["inference_count"] - before["inference_count"] == 12
    assert after["execution_count"] - before["execution_count"] < 12
    assert any(batch["batch_size"] > 1 for batch in after["batch_stats"])


def test_requests_of_different_shapes_do_not_mix(gateway: Gateway, protocol: str) -> None:
    def call(client: Client, i: int) -> Answer:
        for j in range(10):
            x = np.full((1, 1 + i % 3), i * 10 + j, np.float32)
            answer = client.infer("free", {"x": x})
            np.testing.assert_array_equal(answer.outputs["y"], x)
        return answer

    answers = in_parallel(gateway, protocol, 6, call)
    assert all(isinstance(each, Answer) for each in answers), answers


def test_a_request_that_fails_in_its_batch_fails_alone(start_gateway: StartGateway, protocol: str) -> None:
    gateway = start_gateway({"picky": {1: models.picky()}}, {"picky": "max_batch_size: 8\n"
                            "dynamic_batching { max_queue_delay_microseconds: 20000 }"})  # fmt: skip

    def call(client: Client, i: int) -> Answer:
        return client.infer("picky", {"index": np.array([[100 if i == 3 else i]], np.int64)})

    answers = in_parallel(gateway, protocol, 6, call)
    failed = answers.pop(3)
    assert isinstance(failed, Refused)
    assert failed.status == (500 if protocol == "http" else Code.INTERNAL)
    for i, answer in zip([0, 1, 2, 4, 5], answers, strict=True):
        assert isinstance(answer, Answer), answer
        assert answer.outputs["y"].tolist() == [[4 * i, 4 * i + 1, 4 * i + 2, 4 * i + 3]]


@pytest.fixture(scope="module")
def narrow(start_module_gateway: StartGateway) -> Gateway:
    """A gateway with small limits."""
    return start_module_gateway(
        {"spinning": {1: models.spinning()}, "free": {1: models.identity("FP32", ("N", "M"))}},
        {"spinning": "max_batch_size: 1\ndynamic_batching { }"},
        settings={
            "batching.max_queue_rows": 4,
            "http.max_body_bytes": 100_000,
            "grpc.max_message_bytes": 100_000,
        },
    )


def test_an_overload_is_answered_at_once(narrow: Gateway, protocol: str) -> None:
    def call(client: Client, i: int) -> Answer:
        return client.infer("spinning", spin(10 * TICK))

    answers = in_parallel(narrow, protocol, 16, call)
    turned_away = [each for each in answers if isinstance(each, Refused)]
    assert turned_away, "nothing was turned away"
    assert any(isinstance(each, Answer) for each in answers)
    code = Code.RESOURCE_EXHAUSTED
    assert {each.status for each in turned_away} == {HTTP_STATUS[code] if protocol == "http" else int(code)}


def test_an_overload_says_when_to_come_back(narrow: Gateway, protocol: str) -> None:
    hints: list[float] = []

    def over_http(i: int) -> None:
        connection = http.client.HTTPConnection(narrow.http_url, timeout=60)
        with contextlib.closing(connection):
            tensors = [
                {"name": "iterations", "datatype": "INT64", "shape": [1, 1], "data": [10 * TICK]},
                {"name": "x", "datatype": "FP32", "shape": [1, 128], "data": [1] * 128},
            ]
            connection.request("POST", "/v2/models/spinning/infer", json.dumps({"inputs": tensors}))
            response = connection.getresponse()
            response.read()
            if response.status == 429:
                hints.append(float(response.headers["Retry-After"]))

    def over_grpc(i: int) -> None:
        request = inference_pb2.ModelInferRequest(model_name="spinning")
        request.inputs.add(name="iterations", datatype="INT64", shape=[1, 1])
        request.inputs.add(name="x", datatype="FP32", shape=[1, 128])
        request.raw_input_contents.extend(array.tobytes() for array in spin(10 * TICK).values())
        with grpc.insecure_channel(narrow.grpc_url) as channel:
            method = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
            try:
                method(request.SerializeToString())
            except grpc.RpcError as error:
                trailers = {each.key: each.value for each in error.trailing_metadata()}
                hints.append(float(trailers["grpc-retry-pushback-ms"]) / 1000)

    with ThreadPoolExecutor(16) as threads:
        list(threads.map(over_http if protocol == "http" else over_grpc, range(16)))
    assert hints, "nothing was turned away"
    assert all(0 < each < 60 for each in hints)


def test_a_message_may_be_too_large(narrow: Gateway, protocol: str) -> None:
    client = connect(protocol, narrow.http_url, narrow.grpc_url)
    x = np.zeros((1, 50_000), np.float32)
    with pytest.raises(Refused) as caught:
        client.infer("free", {"x": x})
    assert caught.value.status == (413 if protocol == "http" else Code.RESOURCE_EXHAUSTED)
    client.close()


def test_a_message_may_be_too_large_once_it_is_inflated(narrow: Gateway, protocol: str) -> None:
    client = connect(protocol, narrow.http_url, narrow.grpc_url)
    with pytest.raises(Refused) as caught:
        client.infer("free", {"x": np.zeros((1, 50_000), np.float32)}, compression="gzip")
    assert caught.value.status == (413 if protocol == "http" else Code.RESOURCE_EXHAUSTED)
    client.close()


def test_callers_that_leave_do_not_keep_the_queue_full(narrow: Gateway, protocol: str) -> None:
    def call(client: Client, i: int) -> Answer:
        return client.infer("spinning", spin(5 * TICK), deadline=0.05)

    in_parallel(narrow, protocol, 4, call)
    client = connect(protocol, narrow.http_url, narrow.grpc_url)

    def serves() -> bool:
        try:
            return bool(client.infer("spinning", spin(1)).outputs)
        except Refused:
            return False

    wait_until(serves, 30)
    client.close()
