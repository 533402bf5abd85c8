"""A TCP proxy that stands between a client and a server and does as it is told: cut, hold up, shorten, corrupt."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Literal

from live_gateway import free_ports

Fault = Literal["none", "cut", "delay", "hang", "truncate", "corrupt"]
CHUNK = 65536
DELAY_SECONDS = 0.2
TRUNCATE_BYTES = 200


class FaultProxy:
    """Listens on a port of its own from `start` to `stop`. `fault` may be set at any time and concerns what the server
    answers from then on; `cut` ends what is open too, and what a `hang` held back goes on when it is over.

    Args:
        host, port: the server; or `unix`, its socket.
    """

    def __init__(self, host: str = "127.0.0.1", port: int = 0, *, unix: str = "") -> None:
        self._host, self._port, self._unix = host, port, unix
        (self.port,) = free_ports(1)
        self.fault: Fault = "none"
        self.hits = 0
        """Connections and answers that a fault met."""
        # Changed on the loop's thread alone.
        self._writers: set[asyncio.StreamWriter] = set()
        self._healed = asyncio.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fault proxy", daemon=True)

    def start(self) -> None:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(10)

    def set(self, fault: Fault) -> None:
        self.fault = fault
        self._loop.call_soon_threadsafe(self._apply, fault)

    def stop(self) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _apply(self, fault: Fault) -> None:
        self._healed.clear() if fault == "hang" else self._healed.set()
        if fault == "cut":
            self._abort()

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)

    async def _close(self) -> None:
        self._server.close()
        self._abort()
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _abort(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            if self.fault == "cut":
                self.hits += 1
                return
            with suppress(OSError, asyncio.CancelledError):
                await self._join(reader, writer)
        finally:
            writer.transport.abort()
            self._writers.discard(writer)

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server = (
            asyncio.open_unix_connection(self._unix) if self._unix
            else asyncio.open_connection(self._host, self._port)
        )  # fmt: skip
        answers, asks = await server
        self._writers.add(asks)
        try:
            ways = [
                asyncio.ensure_future(self._ask(reader, asks)),
                asyncio.ensure_future(self._answer(answers, writer)),
            ]
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
        finally:
            asks.transport.abort()
            self._writers.discard(asks)

    async def _ask(self, reader: asyncio.StreamReader, server: asyncio.StreamWriter) -> None:
        while data := await reader.read(CHUNK):
            server.write(data)
            await server.drain()

    async def _answer(self, server: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await server.read(CHUNK):
            fault = self.fault
            self.hits += fault != "none"
            if fault == "delay":
                await asyncio.sleep(DELAY_SECONDS)
            elif fault == "hang":
                await self._healed.wait()
            elif fault == "corrupt":
                data = bytes(byte ^ 0x55 for byte in data)
            elif fault == "truncate":
                writer.write(data[:TRUNCATE_BYTES])
                await writer.drain()
                return
            writer.write(data)
            await writer.drain()


@contextmanager
def fault_proxy(host: str = "127.0.0.1", port: int = 0, *, unix: str = "") -> Iterator[FaultProxy]:
    proxy = FaultProxy(host, port, unix=unix)
    proxy.start()
    try:
        yield proxy
    finally:
        proxy.stop()
