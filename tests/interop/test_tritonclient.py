"""The variants of tritonclient that the behaviour tests do not use: asynchronous ones, and their finer points."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as grpc_sync
import tritonclient.grpc.aio as grpc_aio
import tritonclient.http as http_sync
import tritonclient.http.aio as http_aio
from live_gateway import Gateway
from tritonclient.utils import InferenceServerException

X = np.float32([[1, 2, 3]])


def tensor(module: Any, array: np.ndarray[Any, Any] = X) -> Any:
    made = module.InferInput("x", list(array.shape), "FP32")
    made.set_data_from_numpy(array)
    return made


@pytest.mark.parametrize("module", [http_aio, grpc_aio], ids=["http", "grpc"])
def test_the_asynchronous_client_gets_many_answers_at_once(gateway: Gateway, module: Any) -> None:
    url = gateway.http_url if module is http_aio else gateway.grpc_url

    async def main() -> None:
        async with module.InferenceServerClient(url) as client:
            assert await client.is_server_live()
            assert await client.is_server_ready()
            assert await client.is_model_ready("free")
            metadata = await client.get_model_metadata("free")
            assert (metadata["name"] if isinstance(metadata, dict) else metadata.name) == "free"
            arrays = [np.float32([[i, -i]]) for i in range(100)]
            results = await asyncio.gather(*(client.infer("free", [tensor(module, each)]) for each in arrays))
            for array, result in zip(arrays, results, strict=True):
                np.testing.assert_array_equal(result.as_numpy("y"), array)
            with pytest.raises(InferenceServerException, match="'nothing' is not found"):
                await client.infer("nothing", [tensor(module)])

    asyncio.run(main())


def test_the_asynchronous_client_streams(gateway: Gateway) -> None:
    async def requests() -> AsyncIterator[dict[str, Any]]:
        for i in range(20):
            yield {"model_name": "free" if i != 7 else "nothing", "inputs": [tensor(grpc_aio)], "request_id": str(i)}

    async def main() -> list[str]:
        seen = []
        async with grpc_aio.InferenceServerClient(gateway.grpc_url) as client:
            async for result, error in client.stream_infer(requests()):
                seen.append(error.message() if error else result.get_response().id)
        return seen

    seen = asyncio.run(main())
    assert seen[:7] == [str(i) for i in range(7)]
    assert "'nothing' is not found" in seen[7]
    assert seen[8:] == [str(i) for i in range(8, 20)]


def test_async_infer_over_http_uses_many_connections(gateway: Gateway) -> None:
    client = http_sync.InferenceServerClient(gateway.http_url, concurrency=4)
    waiting = [client.async_infer("free", [tensor(http_sync)], request_id=str(i)) for i in range(40)]
    assert [each.get_result().get_response()["id"] for each in waiting] == [str(i) for i in range(40)]
    client.close()


def test_async_infer_over_grpc_can_be_cancelled(gateway: Gateway) -> None:
    client = grpc_sync.InferenceServerClient(gateway.grpc_url)
    iterations = grpc_sync.InferInput("iterations", [1, 1], "INT64")
    iterations.set_data_from_numpy(np.array([[50_000]], np.int64))
    x = tensor(grpc_sync, np.ones((1, 128), np.float32))
    outcome: list[Any] = []
    call = client.async_infer("spinning", [iterations, x], lambda result, error: outcome.append(error))
    call.cancel()
    client.infer("free", [tensor(grpc_sync)])
    client.close()
    assert outcome
    assert "CANCELLED" in str(outcome[0].status())


def test_a_keepalive_that_the_client_prefers_is_fine(gateway: Gateway) -> None:
    options = grpc_sync.KeepAliveOptions(keepalive_time_ms=10_000, keepalive_permit_without_calls=True)
    client = grpc_sync.InferenceServerClient(gateway.grpc_url, keepalive_options=options)
    assert client.is_server_live()
    client.close()


def test_log_and_trace_settings_are_refused_clearly(gateway: Gateway) -> None:
    for module, url in ((http_sync, gateway.http_url), (grpc_sync, gateway.grpc_url)):
        client = module.InferenceServerClient(url)
        for ask in (client.get_log_settings, client.get_trace_settings, client.get_system_shared_memory_status):
            with pytest.raises(InferenceServerException, match="not supported"):
                ask()
        client.close()


def test_headers_and_query_parameters_are_tolerated(gateway: Gateway) -> None:
    client = http_sync.InferenceServerClient(gateway.http_url)
    result = client.infer("free", [tensor(http_sync)], headers={"X-Tenant": "a"}, query_params={"tenant": "a b"})
    np.testing.assert_array_equal(result.as_numpy("y"), X)
    client.close()


def test_a_request_body_made_apart_is_answered(gateway: Gateway) -> None:
    body, length = http_sync.InferenceServerClient.generate_request_body([tensor(http_sync)])
    import http.client

    connection = http.client.HTTPConnection(gateway.http_url, timeout=30)
    headers = {"Inference-Header-Content-Length": str(length)} if length is not None else {}
    connection.request("POST", "/v2/models/free/infer", body, headers)
    response = connection.getresponse()
    result = http_sync.InferenceServerClient.parse_response_body(
        response.read(), header_length=int(response.headers["Inference-Header-Content-Length"])
    )
    connection.close()
    np.testing.assert_array_equal(result.as_numpy("y"), X)
