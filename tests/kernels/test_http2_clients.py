"""Clients that people use, over real sockets: grpcio in both its forms, nghttp and h2load, plain and with TLS."""

from __future__ import annotations

import asyncio
import random
import shutil
import socket
import ssl
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar, cast

import grpc
import grpc.aio
import pytest
import uvloop
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, StreamEnded
from h2.settings import SettingCodes
from http2_peer import INFER, framed, head

from kernels.http2 import Call, Http2Limits, Http2Protocol, Http2Shared
from kernels.testing import Pending, ScriptedIntake

SECONDS = 20.0
HEADERS = ["-Hte:trailers", "-Hcontent-type:application/grpc"]
T = TypeVar("T")


class Server:
    """A listener on a loop in a thread of its own."""

    def __init__(self, context: ssl.SSLContext | None = None, **limits: int) -> None:
        self.script: Callable[[Pending], object] = lambda request: request.answer(request.body, served_version=b"7")
        self.handler: Callable[[Call], object] = lambda call: call.finish(12, "no such method")
        self.connections: set[Http2Protocol] = set()
        self._empty = asyncio.Event()
        self._empty.set()
        self.shared = Http2Shared()
        self.loop = uvloop.new_event_loop()
        self.intake = ScriptedIntake(lambda request: self.script(request), self.loop.call_soon)
        self._limits = Http2Limits(**limits)
        self._thread = threading.Thread(target=self.loop.run_forever)
        self._thread.start()
        self._server = self.run(self._listen(context))
        self.port = int(self._server.sockets[0].getsockname()[1])
        self.address = f"127.0.0.1:{self.port}"

    async def _listen(self, context: ssl.SSLContext | None) -> asyncio.Server:
        def make() -> Http2Protocol:
            connection = Http2Protocol(
                self.intake, INFER, lambda call: self.handler(call), self._limits, self._closed, self.shared
            )
            self.connections.add(connection)
            self._empty.clear()
            return connection

        server = await self.loop.create_server(cast(Any, make), "127.0.0.1", 0, ssl=context)
        return cast(asyncio.Server, server)

    def _closed(self, connection: Http2Protocol) -> None:
        self.connections.discard(connection)
        if not self.connections:
            self._empty.set()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(SECONDS)

    def call_soon(self, function: Callable[..., object], *arguments: object) -> None:
        self.loop.call_soon_threadsafe(function, *arguments)

    def wait(self, condition: Callable[[], bool]) -> None:
        """Until `condition` holds on the loop."""

        async def look() -> bool:
            return condition()

        give_up = time.monotonic() + SECONDS
        while not self.run(look()):
            assert time.monotonic() < give_up

    def close(self) -> None:
        async def end() -> None:
            self._server.close()
            for connection in tuple(self.connections):
                connection.close_now()
            await asyncio.wait_for(self._empty.wait(), SECONDS)

        self.run(end())
        self.call_soon(self.loop.stop)
        self._thread.join()
        self.loop.close()
        assert self.intake.faults == []
        assert self.intake.live == 0
        assert self.shared.live_streams == 0


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


@pytest.fixture
def channel(server: Server) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(server.address, [("grpc.max_receive_message_length", -1)]) as channel:
        yield channel


def infer(channel: grpc.Channel) -> Any:
    return channel.unary_unary(INFER.decode())


def test_grpcio_gets_its_answer_and_the_version(server: Server, channel: grpc.Channel) -> None:
    answer, call = infer(channel).with_call(b"hello", timeout=SECONDS)
    assert answer == b"hello"
    assert call.code() is grpc.StatusCode.OK
    assert ("sluice-model-version", "7") in call.trailing_metadata()
    assert server.intake.requests[0].deadline == pytest.approx(time.monotonic() + SECONDS, abs=SECONDS)


def test_grpcio_gets_large_messages_both_ways(channel: grpc.Channel) -> None:
    body = bytes(range(256)) * 80_000
    assert infer(channel)(body, timeout=SECONDS) == body


def test_grpcio_gets_codes_and_texts(server: Server, channel: grpc.Channel) -> None:
    server.script = lambda request: request.fail(5, "no «model» here".encode(), retry_after=0.5)
    with pytest.raises(grpc.RpcError) as raised:
        infer(channel)(b"hello", timeout=SECONDS)
    assert cast(Any, raised.value).code() is grpc.StatusCode.NOT_FOUND
    assert cast(Any, raised.value).details() == "no «model» here"
    assert ("grpc-retry-pushback-ms", "500") in cast(Any, raised.value).trailing_metadata()


def test_grpcio_compresses_both_ways(channel: grpc.Channel) -> None:
    body = b"tensor " * 10_000
    for compression in (grpc.Compression.Gzip, grpc.Compression.Deflate):
        assert infer(channel)(body, timeout=SECONDS, compression=compression) == body


def test_grpcio_cancels(server: Server, channel: grpc.Channel) -> None:
    server.script = lambda request: None
    future = infer(channel).future(b"hello")
    server.wait(lambda: server.intake.submitted == 1)
    future.cancel()
    server.wait(lambda: server.intake.requests[0].is_cancelled)


def test_a_client_deadline_cancels_the_request(server: Server, channel: grpc.Channel) -> None:
    server.script = lambda request: None
    with pytest.raises(grpc.RpcError) as raised:
        infer(channel)(b"hello", timeout=0.05)
    assert cast(Any, raised.value).code() is grpc.StatusCode.DEADLINE_EXCEEDED
    server.wait(lambda: server.intake.live == 0)


def test_closing_a_channel_cancels_what_is_in_flight(server: Server, channel: grpc.Channel) -> None:
    server.script = lambda request: None
    futures = [infer(channel).future(b"hello") for _ in range(50)]
    server.wait(lambda: server.intake.submitted == 50)
    channel.close()
    server.wait(lambda: not server.connections)
    assert server.intake.live == 0
    assert all(future.done() for future in futures)


def test_grpcio_streams_both_ways(server: Server, channel: grpc.Channel) -> None:
    def handle(call: Call) -> None:
        call.on_message = lambda message: call.send(message.upper())
        call.on_end = lambda: call.finish(metadata=[(b"x-count", b"3"), (b"x-raw-bin", b"\x00\xff")])

    server.handler = handle
    stream: Any = cast(Any, channel).stream_stream("/test.Service/Chat")(
        iter([b"a", b"b", b"c"]), timeout=SECONDS, metadata=[("x-in-bin", b"\xfe\x00")]
    )
    assert list(stream) == [b"A", b"B", b"C"]
    assert dict(stream.trailing_metadata()) == {"x-count": "3", "x-raw-bin": b"\x00\xff"}


def test_grpcio_gets_status_details(server: Server, channel: grpc.Channel) -> None:
    server.handler = lambda call: call.finish(9, "no", details=b"\x08\x09\x12\x02no")
    with pytest.raises(grpc.RpcError) as raised:
        cast(Any, channel).unary_unary("/test.Service/Method")(b"", timeout=SECONDS)
    assert cast(Any, raised.value).code() is grpc.StatusCode.FAILED_PRECONDITION
    assert ("grpc-status-details-bin", b"\x08\x09\x12\x02no") in cast(Any, raised.value).trailing_metadata()


def test_a_drain_fails_no_request(server: Server, channel: grpc.Channel) -> None:
    server.script = lambda request: None
    futures = [infer(channel).future(b"%d" % i, wait_for_ready=True, timeout=SECONDS) for i in range(10)]
    server.wait(lambda: server.intake.submitted == 10)

    def drain_and_answer() -> None:
        for connection in tuple(server.connections):
            connection.drain()
        server.script = lambda request: request.answer(request.body)
        for request in server.intake.requests:
            request.answer(request.body)

    server.call_soon(drain_and_answer)
    assert [future.result(SECONDS) for future in futures] == [b"%d" % i for i in range(10)]
    assert infer(channel)(b"after", wait_for_ready=True, timeout=SECONDS) == b"after"


def test_grpc_aio_runs_many_calls_at_once_and_cancels_some(server: Server) -> None:
    def answer(request: Pending) -> None:
        if not request.is_cancelled:
            request.answer(request.body)

    server.script = lambda request: server.loop.call_later(0.01, answer, request)

    async def main() -> None:
        async with grpc.aio.insecure_channel(server.address) as channel:
            method = cast(Any, channel).unary_unary(INFER.decode())
            calls = [method(b"%d" % i, timeout=SECONDS) for i in range(300)]
            await asyncio.sleep(0.005)
            for call in calls[::3]:
                call.cancel()
            results = await asyncio.gather(*calls, return_exceptions=True)
        for i, result in enumerate(results):
            if i % 3:
                assert result == b"%d" % i
            else:
                assert isinstance(result, asyncio.CancelledError) or result == b"%d" % i

    asyncio.run(main())
    server.wait(lambda: server.intake.live == 0)


def test_a_slow_reader_gets_every_byte_in_order(server: Server) -> None:
    body = random.Random(7).randbytes(8_000_000)
    server.script = lambda request: request.answer(body)
    client = H2Connection(H2Configuration(client_side=True, header_encoding=None))
    client.initiate_connection()
    client.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 2**31 - 1})
    client.increment_flow_control_window(2**31 - 1 - 65535)
    for stream in (1, 3):
        client.send_headers(stream, head())
        client.send_data(stream, framed(b"abc"), end_stream=True)
    received: dict[int, bytearray] = {1: bytearray(), 3: bytearray()}
    ended: set[int] = set()
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        connection.settimeout(SECONDS)
        connection.connect(("127.0.0.1", server.port))
        while len(ended) < 2:
            connection.sendall(client.data_to_send())
            for event in client.receive_data(connection.recv(16_384)):
                if isinstance(event, DataReceived):
                    received[event.stream_id] += event.data
                elif isinstance(event, StreamEnded):
                    ended.add(event.stream_id)
    assert all(bytes(data) == framed(body) for data in received.values())


def test_a_thousand_clients_that_vanish_leave_nothing_behind(server: Server) -> None:
    def answer(request: Pending) -> None:
        if not request.is_cancelled:
            request.answer(request.body * 50_000)

    server.script = lambda request: server.loop.call_later(0.0005 * (request.stream_id % 7), answer, request)
    client = H2Connection(H2Configuration(client_side=True, header_encoding=None))
    client.initiate_connection()
    for stream in range(1, 15, 2):
        client.send_headers(stream, head())
        client.send_data(stream, framed(b"abc"), end_stream=True)
    data = client.data_to_send()
    for i in range(1000):
        with socket.create_connection(("127.0.0.1", server.port), SECONDS) as connection:
            if i % 2:  # leave by RST instead of FIN
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.sendall(data[: len(data) - i % 40])
            if i % 3 == 0:
                connection.recv(100_000)
    server.wait(lambda: not server.connections)
    assert server.intake.acquired > 1000


@pytest.fixture
def message_file(tmp_path: Path) -> Path:
    path = tmp_path / "message"
    path.write_bytes(framed(b"x" * 100))
    return path


@pytest.mark.skipif(shutil.which("h2load") is None, reason="nghttp2-client is not installed")
def test_h2load_gets_every_answer(server: Server, message_file: Path) -> None:
    url = f"http://{server.address}{INFER.decode()}"
    command = ["h2load", "-n4000", "-c8", "-m10", *HEADERS, "-d", str(message_file), url]
    result = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=True)
    assert "4000 succeeded, 0 failed, 0 errored, 0 timeout" in result.stdout
    assert server.intake.submitted == 4000


@pytest.mark.skipif(shutil.which("nghttp") is None, reason="nghttp2-client is not installed")
def test_nghttp_sees_headers_data_and_trailers(server: Server, message_file: Path) -> None:
    url = f"http://{server.address}{INFER.decode()}"
    command = ["nghttp", "-vn", *HEADERS, "-d", str(message_file), url]
    result = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=True)
    assert ":status: 200" in result.stdout
    assert "grpc-status: 0" in result.stdout


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("tls")
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-keyout", str(key), "-out", str(certificate), "-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=DNS:localhost"]
    subprocess.run(command, capture_output=True, timeout=SECONDS, check=True)
    return key, certificate


def test_tls_carries_large_messages_and_streams(certificate: tuple[Path, Path]) -> None:
    key, chain = certificate
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain, key)
    context.set_alpn_protocols(["h2"])
    server = Server(context)
    try:
        credentials = grpc.ssl_channel_credentials(chain.read_bytes())
        options = [("grpc.max_receive_message_length", -1)]
        with grpc.secure_channel(f"localhost:{server.port}", credentials, options) as channel:
            body = bytes(range(256)) * 20_000
            assert infer(channel)(body, timeout=SECONDS) == body
            futures = [infer(channel).future(b"%d" % i, timeout=SECONDS) for i in range(100)]
            assert [future.result() for future in futures] == [b"%d" % i for i in range(100)]
    finally:
        server.close()
