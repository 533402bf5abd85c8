"""The client's side of an HTTP/1 connection without a socket: bytes in, answers out, and the clock as an argument."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from kernels.http1 import Http1Limits, Http1Protocol, HttpRequest
from kernels.testing import Pending, ScriptedIntake

INFER = b"/v2/models/m/infer"


@dataclass(frozen=True)
class Answer:
    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes

    def header(self, name: bytes) -> bytes | None:
        values = [value for key, value in self.headers if key.lower() == name.lower()]
        assert len(values) <= 1, f"{name!r} more than once"
        return values[0] if values else None

    @property
    def says_close(self) -> bool:
        return self.header(b"Connection") == b"close"


def parse_answers(data: bytes, heads: Iterable[int] = ()) -> list[Answer]:
    """All answers in `data`, which must hold nothing else; `heads` are the positions of answers to HEAD requests."""
    answers: list[Answer] = []
    without_body = frozenset(heads)
    final = at = 0
    while at < len(data):
        blank = data.find(b"\r\n\r\n", at)
        assert blank >= 0, f"an answer that does not end: {data[at:]!r}"
        status_line, *lines = data[at:blank].split(b"\r\n")
        at = blank + 4
        version, status, reason = status_line.split(b" ", 2)
        assert version == b"HTTP/1.1"
        assert reason
        headers = tuple((name, value) for name, value in (line.split(b": ", 1) for line in lines))
        names = [name.lower() for name, _ in headers]
        assert len(names) == len(set(names)), f"a repeated field: {names}"
        code = int(status)
        size = 0
        if code >= 200 and code not in (204, 304) and final not in without_body:
            size = int(dict(headers)[b"Content-Length"])
        assert len(data) - at >= size, "an answer that is cut off"
        answers.append(Answer(code, headers, data[at : at + size]))
        at += size
        final += code >= 200
    return answers


class FakeTransport:
    """Takes what is written and notes what is asked for. `is_full`: asks for a pause with every write."""

    def __init__(self) -> None:
        self.protocol: Http1Protocol | None = None
        self.written = bytearray()
        self.waiting = 0
        self.is_full = False
        self.is_reading = True
        self.is_closed = False
        self.is_aborted = False
        self.is_half_closed = False

    def get_extra_info(self, name: str) -> object:
        return ("192.0.2.7", 4242) if name == "peername" else None

    def write(self, data: bytes | memoryview) -> None:
        assert not self.is_half_closed, "written after the end"
        self.written += data
        if self.is_full and self.protocol is not None:
            self.waiting += len(data)
            self.protocol.pause_writing()

    def unblock(self) -> None:
        self.is_full = False
        self.waiting = 0
        assert self.protocol is not None
        self.protocol.resume_writing()

    def get_write_buffer_size(self) -> int:
        return self.waiting

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.is_half_closed = True

    def pause_reading(self) -> None:
        self.is_reading = False

    def resume_reading(self) -> None:
        self.is_reading = True

    def close(self) -> None:
        self.is_closed = True

    def abort(self) -> None:
        self.is_aborted = True

    def is_closing(self) -> bool:
        return self.is_closed or self.is_aborted


class Peer:
    """One connection. Requests that are no inference calls answer with what they were, unless `handler` is given."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        script: Callable[[Pending], None] | None = None,
        handler: Callable[[HttpRequest], None] | None = None,
        **limits: object,
    ) -> None:
        self.loop = loop
        self.intake = ScriptedIntake(script)
        self.requests: list[HttpRequest] = []
        self.closed: list[Http1Protocol] = []
        self.errors: list[dict[str, object]] = []
        self.handler = handler
        self.transport = FakeTransport()
        self.protocol = Http1Protocol(
            self.intake,
            self._handle,
            Http1Limits(**limits),  # type: ignore[arg-type]
            self.closed.append,
        )
        self.transport.protocol = self.protocol
        loop.set_exception_handler(lambda _, context: self.errors.append(context))
        self._in_loop(lambda: self.protocol.connection_made(self.transport))  # type: ignore[arg-type]

    def _in_loop(self, call: Callable[[], None]) -> None:
        async def run() -> None:
            call()

        self.loop.run_until_complete(run())

    def _handle(self, request: HttpRequest) -> None:
        self.requests.append(request)
        if self.handler is not None:
            self.handler(request)
        else:
            query = f"?{request.query}" if request.query else ""
            request.respond(200, f"{request.method} {request.path}{query} ".encode() + request.body, "text/plain")

    def send(self, *pieces: bytes) -> None:
        """Receive these pieces, each by a read of its own, and end the wake-up. A paused transport reads nothing."""
        for piece in pieces:
            rest = piece
            while rest:
                for _ in range(20):
                    if self.transport.is_reading:
                        break
                    self.settle()
                else:
                    raise AssertionError("reading is paused")
                place = self.protocol.get_buffer(-1)
                n = min(len(rest), place.nbytes)
                place[:n] = rest[:n]
                self.protocol.buffer_updated(n)
                rest = rest[n:]
        self.settle()

    def settle(self) -> None:
        """What the dispatcher and the loop do at the end of a wake-up."""
        for _ in range(3):
            self.intake.flush()
            self.loop.run_until_complete(asyncio.sleep(0))

    def take(self, heads: Iterable[int] = ()) -> list[Answer]:
        """The answers written since the last time."""
        data, self.transport.written[:] = bytes(self.transport.written), b""
        return parse_answers(data, heads)

    def take_copy(self) -> list[Answer]:
        """All answers written since the last `take`, which stay."""
        return parse_answers(bytes(self.transport.written))

    def ask(self, *pieces: bytes) -> Answer:
        self.send(*pieces)
        (answer,) = self.take()
        return answer

    def tick(self, seconds: float) -> None:
        """The listener's tick, as if `seconds` had passed since now."""
        self.protocol.tick(time.monotonic() + seconds)
        self.settle()

    def lose(self) -> None:
        self.protocol.connection_lost(None)
        self.settle()

    @property
    def is_over(self) -> bool:
        """The connection takes nothing more and has said so."""
        return self.transport.is_half_closed or self.transport.is_closing()


@contextmanager
def peers() -> Iterator[Callable[..., Peer]]:
    """A maker of connections; afterwards each has given back everything and broken no rule of ownership."""
    loop = asyncio.new_event_loop()
    made: list[Peer] = []

    def make(*args: object, **kwargs: object) -> Peer:
        peer = Peer(loop, *args, **kwargs)  # type: ignore[arg-type]
        made.append(peer)
        return peer

    try:
        yield make
        for peer in made:
            if not peer.closed:
                peer.lose()
            assert peer.closed == [peer.protocol]
            assert peer.intake.faults == []
            assert peer.intake.live == 0
            assert peer.protocol.in_flight == 0
    finally:
        loop.close()


def request(
    method: bytes = b"GET",
    target: bytes = b"/x",
    headers: Sequence[tuple[bytes, bytes]] = (),
    body: bytes = b"",
    *,
    version: bytes = b"HTTP/1.1",
    host: bool = True,
) -> bytes:
    """A well-formed request: Host and Content-Length are added."""
    lines = [b"%s %s %s" % (method, target, version)]
    if host:
        lines.append(b"Host: test")
    lines += [b"%s: %s" % field for field in headers]
    if body:
        lines.append(b"Content-Length: %d" % len(body))
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def infer(body: bytes = b"{}", headers: Sequence[tuple[bytes, bytes]] = (), target: bytes = INFER) -> bytes:
    return request(b"POST", target, headers, body)


def chunked(*chunks: bytes, end: bytes = b"0\r\n\r\n") -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks) + end


def echo(pending: Pending) -> None:
    pending.answer(pending.body)
