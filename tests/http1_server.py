"""An HTTP/1 listener on a real socket, in a loop and thread of its own."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import uvloop

from kernels.http1 import Http1Limits, Http1Protocol, HttpRequest
from kernels.receive import ReceiveBuffer
from kernels.testing import Pending, ScriptedIntake

Value = TypeVar("Value")


class Server:
    """`script` answers inference calls and `handler` the rest, both in the loop's thread."""

    def __init__(
        self,
        script: Callable[[Pending], None] | None,
        handler: Callable[[HttpRequest], None],
        limits: Http1Limits,
        tls: ssl.SSLContext | None,
        new_loop: Callable[[], asyncio.AbstractEventLoop],
    ) -> None:
        self.connections: set[Http1Protocol] = set()
        self.accepted = 0
        self.loop = new_loop()
        self.intake = ScriptedIntake(script, self.loop.call_soon)
        self.receive = ReceiveBuffer()
        self.errors: list[dict[str, object]] = []
        self._handler = handler
        self._limits = limits
        self.loop.set_exception_handler(lambda _, context: self.errors.append(context))
        listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.port: int = listener.getsockname()[1]
        self._listening = self.loop.run_until_complete(
            self.loop.create_server(self._connection, sock=listener, ssl=tls)  # type: ignore[arg-type]
        )
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()

    def _connection(self) -> Http1Protocol:
        connection = Http1Protocol(self.intake, self._handler, self._limits, self.connections.discard, self.receive)
        self.connections.add(connection)
        self.accepted += 1
        return connection

    def run(self, call: Callable[[], Value]) -> Value:
        """The result of `call`, made in the loop's thread."""

        async def in_loop() -> Value:
            return call()

        return asyncio.run_coroutine_threadsafe(in_loop(), self.loop).result(30)

    def each(self, targets: Iterable[Value], call: Callable[[Value], None]) -> None:
        """Make `call` with each of them, in the loop's thread."""

        def all_of_them() -> None:
            for target in targets:
                call(target)

        self.run(all_of_them)

    def tick(self, seconds: float = 0.0) -> None:
        """Tick every connection as if `seconds` had passed since now."""
        self.each(tuple(self.connections), lambda connection: connection.tick(time.monotonic() + seconds))

    def until(self, condition: Callable[[], bool]) -> None:
        """Let the loop turn until `condition` holds there; fail when it has had ample time."""
        deadline = time.monotonic() + 20
        while not self.run(condition):
            assert time.monotonic() < deadline, "it did not come about"
            self.tick()

    def connect(self) -> socket.socket:
        client = socket.create_connection(("127.0.0.1", self.port), timeout=20)
        return client

    def stop(self) -> None:
        # Python 3.11 trips over its own bookkeeping when the last connection leaves at the same moment.
        with contextlib.suppress(TypeError):
            self._listening.close()
        self.each(tuple(self.connections), Http1Protocol.close_now)
        self.until(lambda: not self.connections)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(20)
        self.loop.close()


def describe(seen: HttpRequest) -> None:
    """Answers with what the request was."""
    seen.respond(200, f"{seen.method} {seen.path} {len(seen.body)}".encode(), "text/plain")


@contextmanager
def serving(
    script: Callable[[Pending], None] | None = None,
    handler: Callable[[HttpRequest], None] = describe,
    tls: ssl.SSLContext | None = None,
    new_loop: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop,
    **limits: object,
) -> Iterator[Server]:
    """A server; when it is left, nothing may be in flight any more and no rule of ownership broken."""
    server = Server(script, handler, Http1Limits(**limits), tls, new_loop)  # type: ignore[arg-type]
    try:
        yield server
    finally:
        server.stop()
    assert server.intake.live == 0
    assert server.intake.faults == []
    assert server.errors == []


def read_all(client: socket.socket) -> bytes:
    """Everything until the server's end."""
    pieces = []
    while piece := client.recv(65536):
        pieces.append(piece)
    return b"".join(pieces)
