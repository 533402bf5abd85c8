"""The client's side of an HTTP/2 connection without a socket: frames in, frames out, and the clock as an argument."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
)
from hyperframe.frame import Frame

from kernels.http2 import Call, Http2Limits, Http2Protocol, Http2Shared
from kernels.testing import Pending, ScriptedIntake

INFER = b"/inference.GRPCInferenceService/ModelInfer"
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

Headers = Sequence[tuple[bytes, bytes]]


def framed(message: bytes, flag: int = 0) -> bytes:
    return struct.pack(">BI", flag, len(message)) + message


def unframed(data: bytes) -> list[bytes]:
    messages = []
    while data:
        flag, size = struct.unpack_from(">BI", data)
        assert flag == 0, "a compressed message"
        messages.append(data[5 : 5 + size])
        data = data[5 + size :]
    return messages


def head(path: bytes = INFER, *extra: tuple[bytes, bytes], **changed: bytes) -> list[tuple[bytes, bytes]]:
    """Request headers; `changed` replaces pseudo headers and content-type, with `_` for what Python does not allow."""
    fields = {
        b":method": b"POST",
        b":scheme": b"http",
        b":path": path,
        b":authority": b"test",
        b"te": b"trailers",
        b"content-type": b"application/grpc",
    }
    for name, value in changed.items():
        key = name.replace("_", "-").encode()
        fields[b":" + key if b":" + key in fields else key] = value
    return [*fields.items(), *extra]


class FakeTransport:
    def __init__(self) -> None:
        self.written = bytearray()
        self.protocol: Http2Protocol | None = None
        self.is_closed = False
        self.is_aborted = False
        self.is_full = False  # takes one more write and then asks for a pause

    def get_extra_info(self, name: str) -> object:
        return ("192.0.2.7", 4242) if name == "peername" else None

    def set_write_buffer_limits(self, high: int | None = None) -> None: ...

    def write(self, data: bytes) -> None:
        self.written += data
        if self.is_full and self.protocol is not None:
            self.protocol.pause_writing()

    def close(self) -> None:
        self.is_closed = True

    def abort(self) -> None:
        self.is_closed = self.is_aborted = True


@dataclass
class Reply:
    """What has come back on one stream."""

    headers: dict[bytes, bytes] = field(default_factory=dict)
    trailers: dict[bytes, bytes] = field(default_factory=dict)
    data: bytes = b""
    is_ended: bool = False
    reset: int | None = None

    @property
    def status(self) -> int | None:
        value = self.trailers.get(b"grpc-status", self.headers.get(b"grpc-status"))
        return None if value is None else int(value)

    @property
    def text(self) -> str:
        return self.trailers.get(b"grpc-message", self.headers.get(b"grpc-message", b"")).decode()

    @property
    def messages(self) -> list[bytes]:
        return unframed(self.data)


class Peer:
    """A connection and its client. `limits` are those of Http2Limits."""

    def __init__(
        self,
        script: Callable[[Pending], object] | None = None,
        handler: Callable[[Call], object] | None = None,
        **limits: int,
    ) -> None:
        self.intake = ScriptedIntake(script)
        self.calls: list[Call] = []
        self.closed: list[Http2Protocol] = []
        self.shared = Http2Shared()
        self.transport = FakeTransport()
        self._handler = handler
        self.protocol = Http2Protocol(
            self.intake, INFER, self._handle, Http2Limits(**limits), self.closed.append, self.shared
        )
        self.transport.protocol = self.protocol
        self.client = H2Connection(H2Configuration(client_side=True, header_encoding=None))
        self.replies: dict[int, Reply] = {}
        self.events: list[Event] = []
        self.goaway: list[tuple[int, int | None, bytes | None]] = []
        self._taken = 0

    def _handle(self, call: Call) -> None:
        self.calls.append(call)
        if self._handler is not None:
            self._handler(call)

    def connect(self) -> Peer:
        self.protocol.connection_made(self.transport)
        self.client.initiate_connection()
        self.client.increment_flow_control_window(2**31 - 1 - 65535)
        self.exchange()
        self.exchange()
        return self

    def feed(self, data: bytes) -> None:
        """Bytes into the protocol the way an event loop does it."""
        while data and not self.transport.is_closed:
            view = self.protocol.get_buffer(-1)
            n = min(len(view), len(data))
            view[:n] = data[:n]
            self.protocol.buffer_updated(n)
            data = data[n:]

    def feed_frames(self, *frames: Frame) -> None:
        self.feed(b"".join(frame.serialize() for frame in frames))

    def take(self) -> bytes:
        """What the server has written since the last time."""
        data = bytes(self.transport.written[self._taken :])
        self._taken += len(data)
        return data

    def take_frames(self) -> list[Frame]:
        """What the server has written since the last time, unseen by the client."""
        frames, data = [], memoryview(self.take())
        while data:
            frame, size = Frame.parse_frame_header(data[:9])
            frame.parse_body(data[9 : 9 + size])
            frames.append(frame)
            data = data[9 + size :]
        return frames

    def exchange(self) -> None:
        """Both sides' bytes to the other, once, with the flush that the intake owes."""
        self.feed(self.client.data_to_send())
        self.intake.flush()
        for event in self.client.receive_data(self.take()):
            self._note(event)
        self.feed(self.client.data_to_send())

    def _note(self, event: Event) -> None:
        self.events.append(event)
        match event:
            case ResponseReceived():
                self.replies.setdefault(event.stream_id, Reply()).headers = dict(event.headers)
            case DataReceived():
                self.replies[event.stream_id].data += event.data
                self.client.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            case TrailersReceived():
                self.replies[event.stream_id].trailers = dict(event.headers)
            case StreamEnded():
                self.replies[event.stream_id].is_ended = True
            case StreamReset():
                self.replies.setdefault(event.stream_id, Reply()).reset = int(event.error_code or 0)
            case ConnectionTerminated():
                self.goaway.append((int(event.error_code or 0), event.last_stream_id, event.additional_data))

    def start(self, headers: Headers | None = None, data: bytes | None = None, end: bool = True) -> int:
        """Open a stream; the bytes go out at once. Without `data` only the head does."""
        stream = self.client.get_next_available_stream_id()
        self.client.send_headers(stream, head() if headers is None else headers, end_stream=end and data is None)
        self.replies[stream] = Reply()
        if data is not None:
            self.send(stream, data, end)
        self.exchange()
        return stream

    def send(self, stream: int, data: bytes, end: bool = False) -> None:
        size = self.client.max_outbound_frame_size
        while len(data) > min(size, self.client.local_flow_control_window(stream)):
            n = min(size, self.client.local_flow_control_window(stream))
            assert n, "the server's window is full"
            self.client.send_data(stream, data[:n])
            data = data[n:]
            self.exchange()
        self.client.send_data(stream, data, end_stream=end)
        self.exchange()

    def infer(self, message: bytes, *extra: tuple[bytes, bytes]) -> Reply:
        return self.replies[self.start(head(INFER, *extra), framed(message))]

    def call(
        self, message: bytes | None = None, path: bytes = b"/test.Service/Method", *extra: tuple[bytes, bytes]
    ) -> int:
        """A call to the handler, not half-closed when there is no message."""
        if message is None:
            return self.start(head(path, *extra), end=False)
        return self.start(head(path, *extra), framed(message))

    def tick(self, seconds: float) -> None:
        """What the protocol does when so many seconds have passed."""
        self.protocol.tick(time.monotonic() + seconds)
        self.intake.flush()

    def lose(self) -> None:
        self.protocol.connection_lost(None)


@contextmanager
def peers() -> Iterator[Callable[..., Peer]]:
    """A function that makes connected peers; at the end their connections are lost and nothing may be left over."""
    made: list[Peer] = []

    def make(
        script: Callable[[Pending], object] | None = None,
        handler: Callable[[Call], object] | None = None,
        *,
        connect: bool = True,
        **limits: int,
    ) -> Peer:
        peer = Peer(script, handler, **limits)
        made.append(peer)
        if connect:
            peer.connect()
        else:
            peer.protocol.connection_made(peer.transport)
        return peer

    yield make
    for peer in made:
        peer.lose()
        assert peer.intake.faults == []
        assert peer.intake.live == 0
        assert peer.shared.live_streams == 0
        assert peer.closed == [peer.protocol]
