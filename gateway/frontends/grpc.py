"""gRPC methods and what answers each: one table by path. Unary inference is not in it: connections match it themselves.

Handlers of unary methods get a parsed message and return one; `Unary` does the rest.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from gateway.errors import InvalidRequest, Unsupported
from gateway.frontends import Call, DataPlane, ParameterValue, answers
from gateway.frontends.control import Finished, ModelControl
from gateway.frontends.health import Health
from gateway.frontends.reflection import Reflection
from gateway.frontends.status import UNEXPECTED, Code, status_of
from gateway.frontends.stream import InferStream
from gateway.pb import health_pb2, reflection_pb2, reflection_v1alpha_pb2
from gateway.pb import inference_pb2 as pb

_log = logging.getLogger("sluice.frontends")

INFER_PATH = b"/inference.GRPCInferenceService/ModelInfer"


def _name_of(module: ModuleType) -> str:
    (service,) = module.DESCRIPTOR.services_by_name.values()
    return str(service.full_name)


_INFERENCE = _name_of(pb)
_HEALTH = _name_of(health_pb2)
_REFLECTION = (_name_of(reflection_pb2), _name_of(reflection_v1alpha_pb2))

_UNSUPPORTED = {
    "SystemSharedMemoryStatus": "system shared memory",
    "SystemSharedMemoryRegister": "system shared memory",
    "SystemSharedMemoryUnregister": "system shared memory",
    "CudaSharedMemoryStatus": "CUDA shared memory",
    "CudaSharedMemoryRegister": "CUDA shared memory",
    "CudaSharedMemoryUnregister": "CUDA shared memory",
    "TraceSetting": "trace",
    "LogSettings": "logging",
}

Handler = Callable[[Call], None]
M = TypeVar("M", bound=Message)


class GrpcFrontend:
    """`handle` is what an `Http2Protocol` calls for every call but unary inference."""

    def __init__(self, plane: DataPlane, control: ModelControl) -> None:
        self._plane = plane
        self._control = control
        self._health = Health(plane)
        self._reflection = Reflection(pb.DESCRIPTOR.pool, (_INFERENCE, _HEALTH, *_REFLECTION))
        # The open ModelStreamInfer calls: each adds itself, and leaves when it is over.
        self._streams: set[InferStream] = set()
        self._is_draining = False
        self._handlers = self._table()

    def handle(self, call: Call) -> None:
        """Sets the call's callbacks, or ends it. Never raises."""
        handler = self._handlers.get(call.path)
        if handler is None:
            call.finish(Code.UNIMPLEMENTED, f"unknown method {call.path.decode(errors='replace')}")
        else:
            handler(call)

    def drain(self) -> None:
        """Ends the calls that would otherwise never end: watches, reflection, and streams once their pending requests
        are answered; and those that still come. To be called after readiness is withdrawn."""
        self._is_draining = True
        self._health.drain()
        self._reflection.drain()
        for stream in tuple(self._streams):
            stream.drain()

    def _table(self) -> dict[bytes, Handler]:
        plane = self._plane
        inference: dict[str, Handler] = {
            "ServerLive": unary(pb.ServerLiveRequest, lambda _: pb.ServerLiveResponse(live=plane.is_live())),
            "ServerReady": unary(pb.ServerReadyRequest, lambda _: pb.ServerReadyResponse(ready=plane.is_ready())),
            "ModelReady": unary(
                pb.ModelReadyRequest, lambda m: pb.ModelReadyResponse(ready=plane.is_model_ready(m.name, m.version))
            ),
            "ServerMetadata": unary(pb.ServerMetadataRequest, lambda _: answers.server_metadata(plane)),
            "ModelMetadata": unary(pb.ModelMetadataRequest, lambda m: answers.model_metadata(plane, m.name, m.version)),
            "ModelConfig": unary(pb.ModelConfigRequest, lambda m: answers.model_config(plane, m.name, m.version)),
            "ModelStatistics": unary(
                pb.ModelStatisticsRequest, lambda m: answers.model_statistics(plane, m.name, m.version)
            ),
            "RepositoryIndex": unary(pb.RepositoryIndexRequest, self._index),
            "RepositoryModelLoad": one_request(pb.RepositoryModelLoadRequest, self._load),
            "RepositoryModelUnload": one_request(pb.RepositoryModelUnloadRequest, self._unload),
            "ModelStreamInfer": self._open_stream,
        }
        inference |= {name: _unsupported(feature) for name, feature in _UNSUPPORTED.items()}
        health: dict[str, Handler] = {
            "Check": unary(health_pb2.HealthCheckRequest, self._health.check),
            "List": unary(health_pb2.HealthListRequest, self._health.list_all),
            "Watch": one_request(health_pb2.HealthCheckRequest, self._health.watch),
        }
        reflection: dict[str, Handler] = {"ServerReflectionInfo": self._reflection.open}
        services = {_INFERENCE: inference, _HEALTH: health} | dict.fromkeys(_REFLECTION, reflection)
        return {
            f"/{service}/{name}".encode(): handler
            for service, methods in services.items()
            for name, handler in methods.items()
        }

    def _index(self, request: pb.RepositoryIndexRequest) -> pb.RepositoryIndexResponse:
        _refuse_repository(request.repository_name)
        return answers.repository_index(self._plane, request.ready)

    def _load(self, request: pb.RepositoryModelLoadRequest, call: Call) -> None:
        _refuse_repository(request.repository_name)
        finished = _finisher(call, pb.RepositoryModelLoadResponse())
        self._control.load(request.model_name, to_parameters(request.parameters), finished)

    def _unload(self, request: pb.RepositoryModelUnloadRequest, call: Call) -> None:
        _refuse_repository(request.repository_name)
        finished = _finisher(call, pb.RepositoryModelUnloadResponse())
        self._control.unload(request.model_name, to_parameters(request.parameters), finished)

    def _open_stream(self, call: Call) -> None:
        stream = InferStream(self._plane, call, self._streams.discard)
        self._streams.add(stream)
        if self._is_draining:
            stream.drain()


def one_request(request_type: type[M], begin: Callable[[M, Call], None]) -> Handler:
    """A handler that calls `begin` once the caller has sent its one message and closed its side. What `begin` raises
    ends the call with its status."""

    def handler(call: Call) -> None:
        messages: list[bytes] = []

        def take(message: bytes) -> None:
            if len(messages) < 2:  # the second is there to be counted
                messages.append(message)

        def run() -> None:
            try:
                begin(_parse(request_type, messages), call)
            except Exception as error:
                finish_with_error(call, error)

        call.on_message = take
        call.on_end = run

    return handler


def unary(request_type: type[M], answer: Callable[[M], Message]) -> Handler:
    """A handler that answers with the message that `answer` returns."""

    def begin(request: M, call: Call) -> None:
        call.send(answer(request).SerializeToString())
        call.finish()

    return one_request(request_type, begin)


def finish_with_error(call: Call, error: BaseException) -> None:
    status = status_of(error)
    if status is None:
        _log.error("%s failed", call.path.decode(errors="replace"), exc_info=error)
        status = UNEXPECTED
    call.finish(status.code, status.text)


def to_parameters(parameters: Mapping[str, pb.ModelRepositoryParameter]) -> dict[str, ParameterValue]:
    """Raises InvalidRequest for a parameter without a value."""
    return {name: _parameter(name, parameter) for name, parameter in parameters.items()}


def _parameter(name: str, parameter: pb.ModelRepositoryParameter) -> ParameterValue:
    choice = parameter.WhichOneof("parameter_choice")
    if choice is None:
        raise InvalidRequest(f"parameter '{name}' has no value")
    value: ParameterValue = getattr(parameter, choice)
    return value


def _parse(request_type: type[M], messages: list[bytes]) -> M:
    if len(messages) != 1:
        raise InvalidRequest(f"the method takes one message, got {'none' if not messages else 'more'}")
    try:
        return request_type.FromString(messages[0])
    except DecodeError as error:
        raise InvalidRequest(f"cannot parse the request: {error}") from None


def _finisher(call: Call, response: Message) -> Finished:
    def finish(error: BaseException | None) -> None:
        if call.is_cancelled:
            return
        if error is not None:
            return finish_with_error(call, error)
        call.send(response.SerializeToString())
        call.finish()

    return finish


def _refuse_repository(name: str) -> None:
    if name:
        raise Unsupported("repository names")


def _unsupported(feature: str) -> Handler:
    def handler(call: Call) -> None:
        finish_with_error(call, Unsupported(feature))

    return handler
