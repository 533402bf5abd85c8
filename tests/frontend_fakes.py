"""The two sides of the front ends, stepped by hand: a data plane that says what it is told to say, and the requests and
calls of connections that exist only here."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from gateway.errors import NoStatistics, UnknownModel, UnknownVersion
from gateway.frontends import Done, IndexEntry, ModelStatistics, ParameterValue
from gateway.pb import inference_pb2 as pb
from gateway.pb import model_config_pb2


def duration(count: int, ns: int) -> pb.StatisticDuration:
    return pb.StatisticDuration(count=count, ns=ns)


def statistics(name: str, version: str) -> pb.ModelStatistics:
    once = duration(3, 2**60)
    return pb.ModelStatistics(
        name=name,
        version=version,
        last_inference=1_700_000_000_000,
        inference_count=12,
        execution_count=3,
        inference_stats=pb.InferStatistics(
            success=once, fail=duration(0, 0), queue=once, compute_input=once, compute_infer=once, compute_output=once
        ),
        batch_stats=[
            pb.InferBatchStatistics(batch_size=4, compute_input=once, compute_infer=once, compute_output=once)
        ],
    )


@dataclass
class FakeHandle:
    is_cancelled: bool = False

    def cancel(self) -> None:
        self.is_cancelled = True


@dataclass
class FakeInference:
    """One request that was submitted; the test answers it."""

    message: bytes
    deadline: float
    done: Done
    handle: FakeHandle = field(default_factory=FakeHandle)

    @property
    def id(self) -> str:
        return pb.ModelInferRequest.FromString(self.message).id

    def answer(self) -> None:
        response = pb.ModelInferResponse(model_name="iris", model_version="2", id=self.id)
        response.raw_output_contents.append(b"abcd")
        self.done(0, b"", response.SerializeToString(), 0.0)

    def fail(self, code: int, text: str, retry_after: float = 0.0) -> None:
        self.done(code, text.encode(), b"", retry_after)


class FakeDataPlane:
    """Serves the model `iris` in versions 1 and 2; `wine` is in the repository and was never loaded."""

    def __init__(self) -> None:
        self.live = True
        self.ready = True
        self.ready_models = {("iris", ""), ("iris", "1"), ("iris", "2")}
        self.listeners: list[Callable[[], None]] = []
        self.inferences: list[FakeInference] = []
        self.script: Callable[[FakeInference], None] = lambda inference: None
        self.controlled: list[tuple[str, str, Mapping[str, ParameterValue]]] = []
        self.failure: BaseException | None = None
        self.gate: asyncio.Event | None = None  # loads wait for it

    def is_live(self) -> bool:
        return self.live

    def is_ready(self) -> bool:
        return self.ready

    def is_model_ready(self, name: str, version: str = "") -> bool:
        return (name, version) in self.ready_models

    def server_metadata(self) -> pb.ServerMetadataResponse:
        return pb.ServerMetadataResponse(name="sluice", version="1.2.3", extensions=["statistics"])

    def model_metadata(self, name: str, version: str = "") -> pb.ModelMetadataResponse:
        self._check(name, version)
        tensor = pb.ModelMetadataResponse.TensorMetadata
        return pb.ModelMetadataResponse(
            name=name,
            versions=["1", "2"],
            platform="onnxruntime_onnx",
            inputs=[tensor(name="x", datatype="FP32", shape=[-1, 4])],
            outputs=[tensor(name="y", datatype="BYTES", shape=[-1])],
        )

    def model_config(self, name: str, version: str = "") -> model_config_pb2.ModelConfig:
        self._check(name, version)
        x = model_config_pb2.ModelInput(name="x", data_type=model_config_pb2.TYPE_FP32, dims=[4])
        config = model_config_pb2.ModelConfig(name=name, max_batch_size=8, input=[x])
        config.parameters["threads"].string_value = "2"
        config.dynamic_batching.max_queue_delay_microseconds = 2**40
        return config

    def statistics(self, name: str = "", version: str = "") -> Sequence[ModelStatistics]:
        if name not in ("", "iris"):
            raise NoStatistics(name, version)
        return [statistics("iris", each) for each in ("1", "2") if version in ("", each)]

    def repository_index(self, ready: bool) -> Sequence[IndexEntry]:
        entry = pb.RepositoryIndexResponse.ModelIndex
        loaded = [entry(name="iris", version=version, state="READY") for version in ("1", "2")]
        broken = entry(name="iris", version="3", state="UNAVAILABLE", reason="not an ONNX file")
        return loaded if ready else [*loaded, broken, entry(name="wine")]

    async def load_model(self, name: str, parameters: Mapping[str, ParameterValue]) -> None:
        await self._control("load", name, parameters)

    async def unload_model(self, name: str, parameters: Mapping[str, ParameterValue]) -> None:
        await self._control("unload", name, parameters)

    def subscribe(self, listener: Callable[[], None]) -> Callable[[], None]:
        self.listeners.append(listener)
        return lambda: self.listeners.remove(listener)

    def infer_bytes(self, message: bytes, deadline: float, done: Done) -> FakeHandle:
        inference = FakeInference(message, deadline, done)
        self.inferences.append(inference)
        self.script(inference)
        return inference.handle

    def changed(self) -> None:
        for listener in tuple(self.listeners):
            listener()

    async def _control(self, verb: str, name: str, parameters: Mapping[str, ParameterValue]) -> None:
        if self.gate is not None:
            await self.gate.wait()
        if self.failure is not None:
            raise self.failure
        self.controlled.append((verb, name, parameters))

    def _check(self, name: str, version: str) -> None:
        if self.failure is not None:
            raise self.failure
        if name != "iris":
            raise UnknownModel(name)
        if version not in ("", "1", "2"):
            raise UnknownVersion(name, version)


@dataclass
class FakeRequest:
    """An HTTP request; `status`, `answer` and `headers` are what came back."""

    method: str
    path: str
    body: bytes = b""
    status: int = 0
    answer: bytes = b""
    headers: dict[bytes, bytes] = field(default_factory=dict)
    asked: dict[bytes, bytes] = field(default_factory=dict)

    def header(self, name: bytes) -> bytes | None:
        return self.asked.get(name)

    def respond(
        self,
        status: int,
        body: bytes = b"",
        content_type: str = "application/json",
        headers: Sequence[tuple[bytes, bytes]] = (),
    ) -> None:
        assert self.status == 0, "answered twice"
        assert content_type == "application/json"
        self.status, self.answer, self.headers = status, body, dict(headers)


class FakeCall:
    """A gRPC call; the test is the peer."""

    def __init__(self, path: str, metadata: Sequence[tuple[bytes, bytes]] = (), deadline: float = 0.0) -> None:
        self.path = path.encode()
        self.metadata = metadata
        self.deadline = deadline
        self.is_cancelled = False
        self.on_message: Callable[[bytes], None] | None = None
        self.on_end: Callable[[], None] | None = None
        self.on_cancel: Callable[[], None] | None = None
        self.on_writable: Callable[[], None] | None = None
        self.sent: list[bytes] = []
        self.code: int | None = None
        self.text = ""
        self.trailers: dict[bytes, bytes] = {}
        self.details = b""
        self.is_writable = True
        self.is_reading = True

    def send(self, message: bytes) -> bool:
        assert self.code is None, "sent after the end"
        self.sent.append(message)
        return self.is_writable

    def finish(
        self, code: int = 0, message: str = "", metadata: Sequence[tuple[bytes, bytes]] = (), details: bytes = b""
    ) -> None:
        assert self.code is None, "finished twice"
        self.code, self.text, self.trailers, self.details = int(code), message, dict(metadata), details

    def pause_reading(self) -> None:
        self.is_reading = False

    def resume_reading(self) -> None:
        self.is_reading = True

    # The peer's side.

    def receive(self, *messages: bytes, end: bool = False) -> FakeCall:
        for message in messages:
            if self.on_message is not None and self.code is None:
                self.on_message(message)
        if end and self.on_end is not None and self.code is None:
            self.on_end()
        return self

    def cancel(self) -> None:
        self.is_cancelled = True
        if self.on_cancel is not None:
            self.on_cancel()

    def make_writable(self) -> None:
        self.is_writable = True
        assert self.on_writable is not None
        self.on_writable()
