"""A bound port and its connections: accepts, counts, ticks, drains. Knows no protocol beyond what a connection can be
told."""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, cast

from gateway.errors import SettingsError
from gateway.settings import TlsSettings

_log = logging.getLogger("sluice.listeners")

TICK_SECONDS = 1.0
TICKS_AT_ONCE = 100
"""Connections told the time in one go: ten thousand would keep the loop from requests for milliseconds."""
BACKLOG = 4096
HANDSHAKE_SECONDS = 10.0


class Connection(Protocol):
    """`kernels.http1.Http1Protocol` and `kernels.http2.Http2Protocol`."""

    def tick(self, now: float) -> None:
        """Enforces the connection's own time limits."""

    def drain(self) -> None:
        """Finishes what is in flight, says so to the client, and closes."""

    def close_now(self) -> None:
        """Closes whatever is in flight."""


ConnectionFactory = Callable[[Callable[[Any], None]], Connection]
"""Makes the protocol of a new connection; the argument is to be called with it once it has closed."""


class Listener:
    """One port. Every connection is in `connections` from accept to close."""

    def __init__(
        self, name: str, make: ConnectionFactory, *, max_connections: int, tls: ssl.SSLContext | None = None
    ) -> None:
        self._name = name
        self._make = make
        self._max_connections = max_connections
        self._tls = tls
        self._server: asyncio.Server | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._refused = 0
        # Those still to be told the time in this round, and seconds between two portions of it.
        self._round: list[Connection] = []
        self._pause = TICK_SECONDS
        self._is_draining = False
        # Set while nothing is connected, so that a drain can wait for it.
        self._empty = asyncio.Event()
        self._empty.set()
        # Changed by accept and close only.
        self.connections: set[Connection] = set()

    @property
    def port(self) -> int:
        assert self._server is not None, "this is a bug: the port of a listener that was not started"
        return int(self._server.sockets[0].getsockname()[1])

    async def start(self, host: str, port: int) -> None:
        """OSError when the address cannot be bound."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            cast(Callable[[], asyncio.BaseProtocol], self._accept if self._tls is None else self._greet),
            host,
            port,
            ssl=self._tls,
            ssl_handshake_timeout=None if self._tls is None else HANDSHAKE_SECONDS,
            backlog=BACKLOG,
        )
        self._timer = loop.call_later(TICK_SECONDS, self._tick)

    def stop_accepting(self) -> None:
        if self._server is not None:
            self._server.close()

    def drain(self) -> None:
        """Tells every connection to finish and close, also those whose handshake is yet to be done."""
        self._is_draining = True
        for connection in tuple(self.connections):
            connection.drain()

    async def wait_empty(self) -> None:
        await self._empty.wait()

    def close(self) -> None:
        """Closes the port and every connection. Idempotent."""
        self.stop_accepting()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._round.clear()
        for connection in tuple(self.connections):
            connection.close_now()

    def _greet(self) -> Handshake:
        return Handshake(self._accept)

    def _accept(self) -> Connection | Refusal:
        if len(self.connections) >= self._max_connections:
            self._refused += 1
            return Refusal()
        connection = self._make(self._closed)
        self.connections.add(connection)
        self._empty.clear()
        if self._is_draining:
            asyncio.get_running_loop().call_soon(connection.drain)  # once it has its transport
        return connection

    def _closed(self, connection: Connection) -> None:
        self.connections.discard(connection)
        if not self.connections:
            self._empty.set()

    def _tick(self) -> None:
        """One portion of a round, which reaches every connection once in TICK_SECONDS."""
        if not self._round:
            self._begin_round()
        self._timer = asyncio.get_running_loop().call_later(self._pause, self._tick)
        portion = self._round[-TICKS_AT_ONCE:]
        del self._round[-TICKS_AT_ONCE:]
        now = time.monotonic()
        for connection in portion:
            if connection in self.connections:  # it may have closed since the round began
                connection.tick(now)

    def _begin_round(self) -> None:
        self._round = list(self.connections)
        portions = max(1, -(-len(self._round) // TICKS_AT_ONCE))
        self._pause = TICK_SECONDS / portions
        if self._refused:
            _log.warning(
                "connections refused",
                extra={
                    "action": "connections-refused",
                    "listener": self._name,
                    "refused": self._refused,
                    "limit": self._max_connections,
                },
            )
            self._refused = 0


class Handshake(asyncio.Protocol):
    """Stands in for a TLS connection until its handshake is done. The loop says nothing of a handshake that fails, so
    what would be made at accept would never be known to have closed."""

    def __init__(self, accept: Callable[[], Connection | Refusal]) -> None:
        self._accept = accept

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        connection = cast(asyncio.BaseProtocol, self._accept())
        transport.set_protocol(connection)
        connection.connection_made(transport)


class Refusal(asyncio.Protocol):
    """The connection that is one too many: closed as soon as it is there."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast(asyncio.Transport, transport).abort()


def server_context(settings: TlsSettings, alpn: str) -> ssl.SSLContext | None:
    """The TLS context of a listener that speaks `alpn`; None while no certificate is set. SettingsError when a file
    cannot be read, ssl.SSLError when it holds something else."""
    if settings.certificate_file is None:
        return None
    for name in ("certificate_file", "private_key_file", "client_ca_file"):
        file: Path | None = getattr(settings, name)
        try:
            if file is not None:
                file.open("rb").close()
        except OSError as error:  # ssl would not say which
            raise SettingsError(f"tls.{name}", f"{file} cannot be read: {error.strerror}") from None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # An empty password: ssl would ask the terminal for that of an encrypted key.
    context.load_cert_chain(settings.certificate_file, settings.private_key_file, password="")
    context.set_alpn_protocols([alpn])
    if settings.client_ca_file is not None:
        context.load_verify_locations(settings.client_ca_file)
        context.verify_mode = ssl.CERT_REQUIRED if settings.require_client_certificate else ssl.CERT_OPTIONAL
    return context
