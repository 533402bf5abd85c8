"""The two front ends, and what they stand between: below them the protocols of `kernels` (one request each, as bytes),
above them the data plane. They translate and decide nothing; what they need of either side is written down here.

Inference does not pass through this package, but for streams: connections hand it to `DataPlane.intake` themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from gateway.pb import model_config_pb2

ParameterValue = bool | int | str | bytes

Done = Callable[[int, bytes, bytes, float], None]
"""Called once with a gRPC status code, its text, the answer (a ModelInferResponse, empty unless the code is 0) and the
seconds to wait before another try (0: nothing to say)."""


# The facts have the names of the protocol's own messages, so such a message serves as well as a dataclass.


class TensorMetadata(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def datatype(self) -> str: ...
    @property
    def shape(self) -> Sequence[int]: ...


class ServerMetadata(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def version(self) -> str: ...
    @property
    def extensions(self) -> Sequence[str]: ...


class ModelMetadata(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def versions(self) -> Sequence[str]: ...
    @property
    def platform(self) -> str: ...
    @property
    def inputs(self) -> Sequence[TensorMetadata]: ...
    @property
    def outputs(self) -> Sequence[TensorMetadata]: ...


class Duration(Protocol):
    """A number of events and their nanoseconds together."""

    @property
    def count(self) -> int: ...
    @property
    def ns(self) -> int: ...


class InferStatistics(Protocol):
    """`success` and `fail` count requests; the compute durations all have the same count."""

    @property
    def success(self) -> Duration: ...
    @property
    def fail(self) -> Duration: ...
    @property
    def queue(self) -> Duration: ...
    @property
    def compute_input(self) -> Duration: ...
    @property
    def compute_infer(self) -> Duration: ...
    @property
    def compute_output(self) -> Duration: ...


class BatchStatistics(Protocol):
    @property
    def batch_size(self) -> int: ...
    @property
    def compute_input(self) -> Duration: ...
    @property
    def compute_infer(self) -> Duration: ...
    @property
    def compute_output(self) -> Duration: ...


class ModelStatistics(Protocol):
    """One version since it was loaded. `inference_count` counts rows, `execution_count` batches; `last_inference` is
    milliseconds since the epoch, 0 for never."""

    @property
    def name(self) -> str: ...
    @property
    def version(self) -> str: ...
    @property
    def last_inference(self) -> int: ...
    @property
    def inference_count(self) -> int: ...
    @property
    def execution_count(self) -> int: ...
    @property
    def inference_stats(self) -> InferStatistics: ...
    @property
    def batch_stats(self) -> Sequence[BatchStatistics]: ...


class IndexEntry(Protocol):
    """One version in the model repository, or a model of which none was ever loaded: then only `name` is not empty."""

    @property
    def name(self) -> str: ...
    @property
    def version(self) -> str: ...
    @property
    def state(self) -> str: ...
    @property
    def reason(self) -> str: ...


class Cancellable(Protocol):
    def cancel(self) -> None:
        """The caller has gone: drops the request wherever it is, and `done` is not called any more. Idempotent."""


class DataPlane(Protocol):
    """What the front ends call. An empty version lets the server pick; everything raises `gateway.errors` by name."""

    def is_live(self) -> bool: ...
    def is_ready(self) -> bool: ...

    def is_model_ready(self, name: str, version: str = "") -> bool:
        """False also for a model or version that is unknown."""

    def server_metadata(self) -> ServerMetadata: ...
    def model_metadata(self, name: str, version: str = "") -> ModelMetadata: ...
    def model_config(self, name: str, version: str = "") -> model_config_pb2.ModelConfig: ...

    def statistics(self, name: str = "", version: str = "") -> Sequence[ModelStatistics]:
        """Of one version, of one model, or (without a name) of all. Raises NoStatistics for what is not served."""

    def repository_index(self, ready: bool) -> Sequence[IndexEntry]: ...

    async def load_model(self, name: str, parameters: Mapping[str, ParameterValue]) -> None:
        """Returns when the model is ready. Raises ModelNotInRepository, ModelLoadFailed."""

    async def unload_model(self, name: str, parameters: Mapping[str, ParameterValue]) -> None:
        """Returns when the model takes no new request. Raises UnknownModel."""

    def subscribe(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Calls `listener` whenever the readiness of the server or of a model has changed, until the function that is
        returned is called."""

    def infer_bytes(self, message: bytes, deadline: float, done: Done) -> Cancellable:
        """Submits a ModelInferRequest. `deadline` is monotonic seconds, 0 for none. `done` may be called before this
        returns."""


class HttpRequest(Protocol):
    """`kernels.http1.HttpRequest`: one request that is not an inference call."""

    @property
    def method(self) -> str: ...
    @property
    def path(self) -> str:
        """As received: percent-encoded, without the query."""

    @property
    def body(self) -> bytes: ...

    def header(self, name: bytes) -> bytes | None:
        """The first value of the field with this lower-case name."""

    def respond(
        self,
        status: int,
        body: bytes = b"",
        content_type: str = "application/json",
        headers: Sequence[tuple[bytes, bytes]] = (),
    ) -> None: ...


class Call(Protocol):
    """`kernels.http2.Call`: one gRPC call that is not unary inference. Once it is over (finished, cancelled, past its
    deadline) no callback is called any more."""

    on_message: Callable[[bytes], object] | None
    on_end: Callable[[], object] | None
    on_cancel: Callable[[], object] | None
    on_writable: Callable[[], object] | None

    @property
    def path(self) -> bytes: ...
    @property
    def metadata(self) -> Sequence[tuple[bytes, bytes]]: ...
    @property
    def deadline(self) -> float: ...
    @property
    def is_cancelled(self) -> bool: ...

    def send(self, message: bytes) -> bool:
        """False when the peer does not keep up: hold back further messages until `on_writable`."""

    def finish(
        self,
        code: int = 0,
        message: str = "",
        metadata: Sequence[tuple[bytes, bytes]] = (),
        details: bytes = b"",
    ) -> None: ...

    def pause_reading(self) -> None:
        """Lets the peer send no more than is on its way."""

    def resume_reading(self) -> None: ...
