import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from frontend_fakes import FakeCall, FakeDataPlane
from google.protobuf.message import Message

from gateway.errors import ModelLoadFailed
from gateway.frontends.control import ModelControl
from gateway.frontends.grpc import INFER_PATH, GrpcFrontend
from gateway.frontends.status import Code
from gateway.pb import inference_pb2 as pb

SERVICE = "/inference.GRPCInferenceService/"


@asynccontextmanager
async def frontend(plane: FakeDataPlane, *, is_explicit: bool = True) -> AsyncIterator[GrpcFrontend]:
    async with asyncio.TaskGroup() as tasks:
        yield GrpcFrontend(plane, ModelControl(plane, tasks, is_allowed=is_explicit))


def ask(
    method: str, *messages: Message | bytes, plane: FakeDataPlane | None = None, is_explicit: bool = True
) -> FakeCall:
    """One call that sends `messages` and closes its side, and all that it started, run to the end."""
    call = FakeCall(method if method.startswith("/") else SERVICE + method)

    async def run() -> None:
        async with frontend(plane or FakeDataPlane(), is_explicit=is_explicit) as grpc:
            grpc.handle(call)
            call.receive(*(m if isinstance(m, bytes) else m.SerializeToString() for m in messages), end=True)

    asyncio.run(run())
    assert call.code is not None, "not answered"
    return call


def answer(call: FakeCall) -> bytes:
    assert (call.code, call.text) == (0, "")
    (message,) = call.sent
    return message


def test_liveness_and_readiness_are_told_apart() -> None:
    plane = FakeDataPlane()
    plane.ready = False
    live = pb.ServerLiveResponse.FromString(answer(ask("ServerLive", b"", plane=plane)))
    ready = pb.ServerReadyResponse.FromString(answer(ask("ServerReady", b"", plane=plane)))
    assert (live.live, ready.ready) == (True, False)


@pytest.mark.parametrize(("name", "version", "ready"), [("iris", "", True), ("iris", "9", False), ("no", "", False)])
def test_a_model_is_ready_or_not_and_never_an_error(name: str, version: str, ready: bool) -> None:
    call = ask("ModelReady", pb.ModelReadyRequest(name=name, version=version))
    assert pb.ModelReadyResponse.FromString(answer(call)).ready is ready


def test_server_metadata_names_the_extensions() -> None:
    metadata = pb.ServerMetadataResponse.FromString(answer(ask("ServerMetadata", b"")))
    assert (metadata.name, list(metadata.extensions)) == ("sluice", ["statistics"])


def test_model_metadata_has_shapes() -> None:
    call = ask("ModelMetadata", pb.ModelMetadataRequest(name="iris"))
    metadata = pb.ModelMetadataResponse.FromString(answer(call))
    assert list(metadata.inputs[0].shape) == [-1, 4]


def test_a_configuration_travels_whole() -> None:
    call = ask("ModelConfig", pb.ModelConfigRequest(name="iris"))
    config = pb.ModelConfigResponse.FromString(answer(call)).config
    assert (config.max_batch_size, config.dynamic_batching.max_queue_delay_microseconds) == (8, 2**40)


def test_statistics_have_every_duration() -> None:
    call = ask("ModelStatistics", pb.ModelStatisticsRequest(name="iris", version="1"))
    (only,) = pb.ModelStatisticsResponse.FromString(answer(call)).model_stats
    assert only.version == "1"
    assert all(only.inference_stats.HasField(field.name) for field in only.inference_stats.DESCRIPTOR.fields)


def test_statistics_without_a_name_are_those_of_all_models() -> None:
    assert len(pb.ModelStatisticsResponse.FromString(answer(ask("ModelStatistics", b""))).model_stats) == 2


def test_the_index_tells_states_and_reasons() -> None:
    models = pb.RepositoryIndexResponse.FromString(answer(ask("RepositoryIndex", b""))).models
    assert [(m.name, m.version, m.state, m.reason) for m in models[2:]] == [
        ("iris", "3", "UNAVAILABLE", "not an ONNX file"),
        ("wine", "", "", ""),
    ]


def test_the_index_of_what_is_ready() -> None:
    call = ask("RepositoryIndex", pb.RepositoryIndexRequest(ready=True))
    assert len(pb.RepositoryIndexResponse.FromString(answer(call)).models) == 2


def test_a_load_passes_its_parameters() -> None:
    plane = FakeDataPlane()
    request = pb.RepositoryModelLoadRequest(model_name="iris")
    request.parameters["config"].string_param = "{}"
    request.parameters["file:1/model.onnx"].bytes_param = b"\x00"
    request.parameters["n"].int64_param = 3
    assert answer(ask("RepositoryModelLoad", request, plane=plane)) == b""
    assert plane.controlled == [("load", "iris", {"config": "{}", "file:1/model.onnx": b"\x00", "n": 3})]


def test_an_unload_passes_its_parameters() -> None:
    plane = FakeDataPlane()
    request = pb.RepositoryModelUnloadRequest(model_name="iris")
    request.parameters["unload_dependents"].bool_param = True
    ask("RepositoryModelUnload", request, plane=plane)
    assert plane.controlled == [("unload", "iris", {"unload_dependents": True})]


def test_a_parameter_without_a_value_is_refused() -> None:
    request = pb.RepositoryModelLoadRequest(model_name="iris", parameters={"x": pb.ModelRepositoryParameter()})
    call = ask("RepositoryModelLoad", request)
    assert (call.code, call.text) == (Code.INVALID_ARGUMENT, "parameter 'x' has no value")


def test_a_load_that_fails_says_why() -> None:
    plane = FakeDataPlane()
    plane.failure = ModelLoadFailed("x", "no such operator")
    call = ask("RepositoryModelLoad", pb.RepositoryModelLoadRequest(model_name="x"), plane=plane)
    assert (call.code, call.text) == (Code.INVALID_ARGUMENT, "load failed for model 'x': no such operator")


@pytest.mark.parametrize("method", ["RepositoryModelLoad", "RepositoryModelUnload"])
def test_control_is_refused_unless_it_is_explicit(method: str) -> None:
    plane = FakeDataPlane()
    call = ask(method, pb.RepositoryModelLoadRequest(model_name="iris"), plane=plane, is_explicit=False)
    assert call.code == Code.UNAVAILABLE
    assert call.text == "explicit model load / unload is not allowed if polling is enabled"
    assert plane.controlled == []


def test_a_load_goes_on_when_its_caller_has_gone() -> None:
    plane, call = FakeDataPlane(), FakeCall(SERVICE + "RepositoryModelLoad")

    async def run() -> None:
        plane.gate = asyncio.Event()
        async with frontend(plane) as grpc:
            grpc.handle(call)
            call.receive(pb.RepositoryModelLoadRequest(model_name="iris").SerializeToString(), end=True)
            await asyncio.sleep(0)
            call.cancel()
            plane.gate.set()

    asyncio.run(run())
    assert plane.controlled == [("load", "iris", {})]
    assert (call.sent, call.code) == ([], None)


@pytest.mark.parametrize(
    "method",
    [
        "SystemSharedMemoryStatus",
        "SystemSharedMemoryRegister",
        "SystemSharedMemoryUnregister",
        "CudaSharedMemoryStatus",
        "CudaSharedMemoryRegister",
        "CudaSharedMemoryUnregister",
        "TraceSetting",
        "LogSettings",
    ],
)
def test_what_is_known_and_not_offered_says_so(method: str) -> None:
    call = ask(method, b"")
    assert call.code == Code.UNIMPLEMENTED
    assert call.text.endswith("is not supported")


def test_a_repository_name_is_not_supported() -> None:
    call = ask("RepositoryIndex", pb.RepositoryIndexRequest(repository_name="elsewhere"))
    assert (call.code, call.text) == (Code.UNIMPLEMENTED, "repository names is not supported")


@pytest.mark.parametrize("path", [SERVICE + "Nothing", "/", "", "/a.B/C", "/\xff"])
def test_an_unknown_method_is_unimplemented(path: str) -> None:
    assert ask(path if path.startswith("/") else "/" + path).code == Code.UNIMPLEMENTED


@pytest.mark.parametrize(
    ("messages", "text"),
    [
        ((), "takes one message, got none"),
        ((b"", b""), "takes one message, got more"),
        ((b"",) * 9, "takes one message, got more"),
        ((b"\x0a\xff",), "cannot parse the request"),
    ],
    ids=["none", "two", "many", "cut"],
)
def test_a_unary_method_takes_one_well_formed_message(messages: tuple[bytes, ...], text: str) -> None:
    call = ask("ModelMetadata", *messages)
    assert call.code == Code.INVALID_ARGUMENT
    assert text in call.text


def test_unknown_fields_are_tolerated() -> None:
    assert ask("ServerLive", b"\xf8\x3f\x01").code == 0


def test_a_bug_of_ours_is_logged_and_not_told(caplog: pytest.LogCaptureFixture) -> None:
    plane = FakeDataPlane()
    plane.failure = ZeroDivisionError("secret")
    with caplog.at_level(logging.ERROR):
        call = ask("ModelConfig", pb.ModelConfigRequest(name="iris"), plane=plane)
    assert (call.code, call.text) == (Code.INTERNAL, "internal error")
    assert "secret" in caplog.text


def test_every_method_of_the_service_but_inference_has_a_handler() -> None:
    service = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"]
    names = {f"/{service.full_name}/{method.name}".encode() for method in service.methods}
    assert INFER_PATH in names

    async def run() -> None:
        async with frontend(FakeDataPlane()) as grpc:
            for name in names - {INFER_PATH}:
                call = FakeCall(name.decode())
                grpc.handle(call)
                assert not call.text.startswith("unknown method"), name

    asyncio.run(run())
