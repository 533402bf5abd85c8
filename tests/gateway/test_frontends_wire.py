"""The front ends on the real connections of `kernels`, called by real clients; behind them is a data plane made up."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
import tritonclient.grpc.aio as triton_grpc
import tritonclient.http.aio as triton_http
from frontend_fakes import FakeDataPlane, FakeInference
from tritonclient.utils import InferenceServerException

from gateway.frontends.control import ModelControl
from gateway.frontends.grpc import INFER_PATH, GrpcFrontend
from gateway.frontends.http import HttpFrontend
from gateway.frontends.status import HTTP_STATUS
from gateway.pb import health_pb2, inference_pb2, reflection_pb2
from kernels.http1 import Http1Protocol
from kernels.http1_request import Http1Limits
from kernels.http2 import Http2Limits, Http2Protocol
from kernels.testing import EchoIntake


@dataclass
class Ports:
    plane: FakeDataPlane
    grpc_frontend: GrpcFrontend
    http: str
    grpc: str


async def until(is_true: Callable[[], object]) -> None:
    """Lets the loop turn until it is true; the test's own timeout is the limit."""
    while not is_true():  # noqa: ASYNC110
        await asyncio.sleep(0)


@asynccontextmanager
async def serving() -> AsyncIterator[Ports]:
    plane, loop = FakeDataPlane(), asyncio.get_running_loop()
    intake = EchoIntake(call_soon=loop.call_soon)
    connections: set[Any] = set()

    def kept(connection: Any) -> Any:
        connections.add(connection)
        return connection

    async with asyncio.TaskGroup() as tasks:
        control = ModelControl(plane, tasks, is_allowed=True)
        http, grpc_frontend = HttpFrontend(plane, control), GrpcFrontend(plane, control)
        http_limits, grpc_limits = Http1Limits(statuses=HTTP_STATUS), Http2Limits()
        servers = [
            await loop.create_server(
                lambda: kept(Http1Protocol(intake, http.handle, http_limits, connections.discard)), "127.0.0.1", 0
            ),
            await loop.create_server(
                lambda: kept(Http2Protocol(intake, INFER_PATH, grpc_frontend.handle, grpc_limits, connections.discard)),
                "127.0.0.1",
                0,
            ),
        ]
        urls = [f"127.0.0.1:{server.sockets[0].getsockname()[1]}" for server in servers]
        try:
            yield Ports(plane, grpc_frontend, *urls)
        finally:
            for server in servers:
                server.close()
            for connection in tuple(connections):
                connection.close_now()
            await until(lambda: not connections)
    assert intake.faults == []


async def over_both(ports: Ports) -> list[Any]:
    return [triton_http.InferenceServerClient(ports.http), triton_grpc.InferenceServerClient(ports.grpc)]


def test_tritonclient_reads_everything_over_both_protocols() -> None:
    async def main() -> None:
        async with serving() as ports:
            for client in await over_both(ports):
                async with client:
                    assert await client.is_server_live()
                    assert await client.is_server_ready()
                    assert await client.is_model_ready("iris", "2")
                    assert not await client.is_model_ready("iris", "3")
                    for ask in ("get_server_metadata", "get_model_repository_index", "get_inference_statistics"):
                        assert await getattr(client, ask)()
                    for ask in ("get_model_metadata", "get_model_config", "get_inference_statistics"):
                        assert await getattr(client, ask)("iris")
                    await client.load_model("iris", config="{}", files={"file:1/model.onnx": b"\x00\xff"})
                    await client.unload_model("iris")
            (http_load, http_unload, grpc_load, grpc_unload) = ports.plane.controlled
            assert http_load == grpc_load == ("load", "iris", {"config": "{}", "file:1/model.onnx": b"\x00\xff"})
            assert http_unload == grpc_unload == ("unload", "iris", {"unload_dependents": False})

    asyncio.run(main())


def test_tritonclient_is_told_what_is_wrong_over_both_protocols() -> None:
    async def main() -> None:
        async with serving() as ports:
            for client in await over_both(ports):
                async with client:
                    with pytest.raises(InferenceServerException, match="'nothing' is not found") as caught:
                        await client.get_model_metadata("nothing")
                    assert caught.value.status() in ("404", "StatusCode.NOT_FOUND")
                    with pytest.raises(InferenceServerException, match="trace is not supported"):
                        await client.get_trace_settings()

    asyncio.run(main())


def test_a_watch_ends_at_a_drain() -> None:
    async def main() -> None:
        async with serving() as ports, grpc.aio.insecure_channel(ports.grpc) as channel:
            watch = channel.unary_stream("/grpc.health.v1.Health/Watch")(b"")
            first = health_pb2.HealthCheckResponse.FromString(await watch.read())
            ports.plane.ready = False
            ports.grpc_frontend.drain()
            second = health_pb2.HealthCheckResponse.FromString(await watch.read())
            assert (first.status, second.status) == (1, 2)
            assert await watch.code() == grpc.StatusCode.UNAVAILABLE

    asyncio.run(main())


def test_a_watch_that_is_cancelled_unsubscribes() -> None:
    async def main() -> None:
        async with serving() as ports, grpc.aio.insecure_channel(ports.grpc) as channel:
            watch = channel.unary_stream("/grpc.health.v1.Health/Watch")(b"")
            await watch.read()
            assert ports.plane.listeners
            watch.cancel()
            await until(lambda: not ports.plane.listeners)

    asyncio.run(main())


def test_a_stream_is_answered_and_ends_with_its_caller() -> None:
    async def main() -> None:
        async with serving() as ports, grpc.aio.insecure_channel(ports.grpc) as channel:
            ports.plane.script = FakeInference.answer
            call = channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")()
            for i in range(3000):
                await call.write(inference_pb2.ModelInferRequest(id=str(i)).SerializeToString())
            await call.done_writing()
            replies = [inference_pb2.ModelStreamInferResponse.FromString(raw) async for raw in call]
            assert [each.infer_response.id for each in replies] == [str(i) for i in range(3000)]
            assert await call.code() == grpc.StatusCode.OK

    asyncio.run(main())


def test_a_stream_that_is_cancelled_cancels_what_it_asked_for() -> None:
    async def main() -> None:
        async with serving() as ports, grpc.aio.insecure_channel(ports.grpc) as channel:
            call = channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")()
            await call.write(inference_pb2.ModelInferRequest(id="a").SerializeToString())
            await until(lambda: ports.plane.inferences)
            call.cancel()
            await until(lambda: ports.plane.inferences[0].handle.is_cancelled)

    asyncio.run(main())


def test_a_deadline_ends_a_stream() -> None:
    async def main() -> None:
        async with serving() as ports, grpc.aio.insecure_channel(ports.grpc) as channel:
            call = channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")(timeout=0.2)
            await call.write(inference_pb2.ModelInferRequest(id="a").SerializeToString())
            assert await call.code() == grpc.StatusCode.DEADLINE_EXCEEDED
            await until(lambda: ports.plane.inferences[0].handle.is_cancelled)
            assert ports.plane.inferences[0].deadline > 0

    asyncio.run(main())


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
def test_reflection_answers_both_its_versions(version: str) -> None:
    async def main() -> None:
        async with serving() as ports, grpc.aio.insecure_channel(ports.grpc) as channel:
            path = f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo"
            call = channel.stream_stream(path)()
            await call.write(reflection_pb2.ServerReflectionRequest(list_services="*").SerializeToString())
            await call.done_writing()
            response = reflection_pb2.ServerReflectionResponse.FromString(await call.read())
            assert len(response.list_services_response.service) == 4

    asyncio.run(main())
