"""HTTP/2 with gRPC on it: one nghttp2 session per connection, driven by an event loop, knowing no method.

Unary inference calls go through an `Intake` without a Python object of their own but the exchange. Every other call
reaches Python as a `Call`. What a message means is no business of this module.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

from kernels.exchange import Intake, ReplySink
from kernels.http2_limits import Http2Limits as Http2Limits
from kernels.receive import ReceiveBuffer

class Transport(Protocol):
    """The part of `asyncio.Transport` that a connection uses."""

    def get_extra_info(self, name: str) -> object: ...
    def set_write_buffer_limits(self, high: int | None = None) -> None: ...
    def write(self, data: bytes) -> None: ...
    def close(self) -> None: ...
    def abort(self) -> None: ...

def status_details(code: int, message: str, reason: str = "", retry_after: float = 0.0) -> bytes:
    """A serialized `google.rpc.Status` for `Call.finish`: with an ErrorInfo when there is a `reason` (UPPER_SNAKE_CASE,
    domain `sluice`), a RetryInfo when `retry_after` seconds are positive. Empty when there is neither."""

class Http2Shared:
    """What the connections of one event loop share: receive buffer, output buffer, recycled streams, zlib states."""

    live_streams: int
    """Streams open on all connections: zero when nothing leaks."""

    def __init__(self, receive: ReceiveBuffer | None = None) -> None: ...

class Http2Protocol(ReplySink):
    """One server connection: an asyncio `BufferedProtocol` in all but name, for uvloop's TCP and TLS transports.

    `infer_path` is the path whose calls are unary inferences and go to `intake`. Every other call goes to `handler`,
    whatever its path, as soon as its head is there. The caller keeps the set of open connections: `on_close` says when
    one has gone, after everything on it has been cancelled.
    """

    peer: object
    live_streams: int

    def __init__(
        self,
        intake: Intake,
        infer_path: bytes,
        handler: Callable[[Call], object],
        limits: Http2Limits,
        on_close: Callable[[Http2Protocol], object],
        shared: Http2Shared | None = None,
    ) -> None: ...
    def connection_made(self, transport: Transport) -> None: ...
    def get_buffer(self, sizehint: int) -> memoryview: ...
    def buffer_updated(self, size: int) -> None: ...
    def data_received(self, data: bytes) -> None: ...
    def eof_received(self) -> bool: ...
    def pause_writing(self) -> None: ...
    def resume_writing(self) -> None: ...
    def connection_lost(self, error: Exception | None) -> None: ...
    def drain(self) -> None:
        """Ask the client by GOAWAY to open no more streams, take those it opened before it knew, and close when the
        last of them has ended. Idempotent."""

    def tick(self, now: float) -> None:
        """Enforce what time alone brings about. Call about once a second with the monotonic clock."""

    def close_now(self) -> None:
        """Say GOAWAY, as far as the socket takes it, and abort. `on_close` follows from the event loop."""

class Call:
    """One gRPC call that is not a unary inference.

    The handler sets the callbacks before it returns: messages may follow at once. They are called from the connection's
    own callbacks; an exception in one is reported to the event loop and ends the call with INTERNAL. When the call is
    over (finished, cancelled, deadline passed) none is called any more, and `send` and `finish` do nothing.
    """

    path: bytes
    metadata: list[tuple[bytes, bytes]]
    """Lower-case names in the client's order; values of names in `-bin` are decoded."""
    deadline: float
    """Monotonic seconds, 0 for none. When it passes the client is told, and `on_cancel` called."""
    peer: object
    is_cancelled: bool
    on_message: Callable[[bytes], object] | None
    on_end: Callable[[], object] | None
    """The client sends no more messages."""
    on_cancel: Callable[[], object] | None
    """The client, the connection or the deadline has ended the call before `finish` did."""
    on_writable: Callable[[], object] | None
    """There is room again after `send` returned False."""

    def send(self, message: bytes) -> bool:
        """Queue one message. False when more than `send_high_water` bytes are waiting now: it is sent all the same, and
        `on_writable` says when to go on."""

    def finish(
        self,
        code: int = 0,
        message: str = "",
        metadata: Sequence[tuple[bytes, bytes]] = (),
        details: bytes = b"",
    ) -> None:
        """End the call with a status, after what is queued. `details` is a serialized `google.rpc.Status`.

        Raises ValueError for a code outside 0..16, for a name that is no metadata key, and for a value that is not
        printable ASCII under a name that does not end in `-bin`.
        """

    def pause_reading(self) -> None:
        """Let the client send no more than its window allows. What has arrived is still delivered."""

    def resume_reading(self) -> None: ...
