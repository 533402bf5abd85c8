"""HTTP/1 over real sockets: ordinary clients, hostile ones, and those that go away."""

from __future__ import annotations

import asyncio
import gzip
import http.client
import json
import os
import shutil
import socket
import ssl
import struct
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import aiohttp
import pytest
import uvloop
from http1_peer import INFER, echo, infer, parse_answers, request
from http1_server import read_all, serving

from kernels.http1 import Http1Protocol, HttpRequest

LOOPS = pytest.mark.parametrize(
    "new_loop", [uvloop.new_event_loop, asyncio.SelectorEventLoop], ids=["uvloop", "asyncio"]
)
PATH = INFER.decode()
# What a sanitizer run preloads is meant for Python: curl hangs under it, whatever server it talks to.
PLAIN_ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}


def pattern(size: int) -> bytes:
    return bytes(range(256)) * (size // 256) + bytes(size % 256)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("openssl") is None:
        pytest.skip("openssl makes the certificate")
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    command += ["-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    command += ["-keyout", str(path), "-out", str(path) + ".crt"]
    subprocess.run(command, check=True, capture_output=True, env=PLAIN_ENVIRONMENT)
    return path


def server_context(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(str(certificate) + ".crt", certificate)
    return context


def client_context(certificate: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(certificate) + ".crt")


@LOOPS
def test_http_client_keeps_its_connection(new_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    with serving(echo, new_loop=new_loop) as server:
        client = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
        for size in (0, 10, 100_000, 2_000_000):
            client.request("POST", PATH, pattern(size))
            assert client.getresponse().read() == pattern(size)
        client.request("HEAD", "/x")
        assert client.getresponse().read() == b""
        chunks = iter([b"one", b"two"])
        client.request("PUT", "/y", chunks, {"Transfer-Encoding": "chunked"}, encode_chunked=True)
        assert client.getresponse().read() == b"PUT /y 6"
        client.close()
        assert server.accepted == 1


@LOOPS
def test_many_aiohttp_clients_at_once(new_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    async def one(session: aiohttp.ClientSession, port: int, size: int) -> None:
        async with session.post(f"http://127.0.0.1:{port}{PATH}", data=pattern(size), compress=size % 3 == 0) as answer:
            assert answer.status == 200
            assert await answer.read() == pattern(size)

    async def all_of_them(port: int) -> None:
        async with aiohttp.ClientSession() as session:
            await asyncio.gather(*(one(session, port, size * 37) for size in range(300)))

    with serving(echo, new_loop=new_loop, max_inflate_ratio=2000) as server:
        asyncio.run(all_of_them(server.port))


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is the client")
def test_curl_waits_for_100_and_inflates(tmp_path: Path) -> None:
    body = json.dumps({"data": list(range(100_000))}).encode()
    (tmp_path / "body").write_bytes(body)
    with serving(echo) as server:
        url = f"http://127.0.0.1:{server.port}{PATH}"
        command = ["curl", "-sS", "--compressed", "-H", "Expect: 100-continue"]
        command += ["--data-binary", f"@{tmp_path / 'body'}", url]
        ended = subprocess.run([*command, url], capture_output=True, check=True, timeout=30, env=PLAIN_ENVIRONMENT)
        assert ended.stdout == body * 2
        assert server.accepted == 1


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is the client")
def test_curl_reads_why_its_upload_is_refused(tmp_path: Path) -> None:
    (tmp_path / "body").write_bytes(bytes(20_000_000))
    with serving(echo, max_body_bytes=1_000_000) as server:
        for extra in (["-H", "Expect:"], ["-H", "Expect: 100-continue"], ["-H", "Transfer-Encoding: chunked"]):
            command = ["curl", "-sS", "-w", "%{http_code}", "--data-binary", f"@{tmp_path / 'body'}", *extra]
            ended = subprocess.run(
                [*command, f"http://127.0.0.1:{server.port}{PATH}"],
                capture_output=True,
                check=False,
                timeout=30,
                env=PLAIN_ENVIRONMENT,
            )
            assert ended.stdout.endswith(b"413"), ended
            assert b"too large" in ended.stdout


@LOOPS
def test_tls_serves_small_and_large_and_says_goodbye(
    certificate: Path, new_loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    with serving(echo, tls=server_context(certificate), new_loop=new_loop) as server:
        client = http.client.HTTPSConnection("localhost", server.port, timeout=20, context=client_context(certificate))
        for size in (10, 3_000_000, 0):
            client.request("POST", PATH, pattern(size))
            assert client.getresponse().read() == pattern(size)
        client.request("GET", "/x", headers={"Connection": "close"})
        assert client.getresponse().read() == b"GET /x 0"
        server.until(lambda: not server.connections)


def test_tls_cancels_what_a_client_leaves(certificate: Path) -> None:
    with serving(tls=server_context(certificate)) as server:
        client = client_context(certificate).wrap_socket(server.connect(), server_hostname="localhost")
        client.sendall(infer())
        server.until(lambda: len(server.intake.requests) == 1)
        client.close()
        server.until(lambda: server.intake.requests[0].is_cancelled)


@pytest.mark.parametrize("is_reset", [True, False], ids=["reset", "closed"])
@pytest.mark.parametrize("count", [1, 5])
def test_what_a_client_leaves_is_cancelled(is_reset: bool, count: int) -> None:
    with serving() as server:
        client = server.connect()
        client.sendall(infer() * count)
        server.until(lambda: len(server.intake.requests) == count)
        if is_reset:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        server.until(lambda: all(pending.is_cancelled for pending in server.intake.requests))
        server.until(lambda: not server.connections)


def test_a_client_that_closes_its_half_gets_its_answers() -> None:
    with serving() as server:
        client = server.connect()
        client.sendall(infer(b"0") + infer(b"1"))
        client.shutdown(socket.SHUT_WR)
        server.until(lambda: len(server.intake.requests) == 2)
        for _ in range(3):
            server.tick()
        assert not any(pending.is_cancelled for pending in server.intake.requests)
        server.each(server.intake.requests, lambda pending: pending.answer(pending.body))
        answers = [answer for answer in parse_answers(read_all(client)) if answer.status != 100]
        assert [answer.body for answer in answers] == [b"0", b"1"]
        client.close()


def test_a_large_upload_goes_straight_into_its_request() -> None:
    body = pattern(20_000_000)
    with serving(lambda pending: pending.answer(b"%d" % (pending.body == body))) as server:
        client = server.connect()
        client.sendall(infer(body) + infer(body) + request(headers=[(b"Connection", b"close")]))
        client.shutdown(socket.SHUT_WR)
        assert [answer.body for answer in parse_answers(read_all(client))] == [b"1", b"1", b"GET /x 0"]
        client.close()


def test_a_large_answer_reaches_a_slow_reader_whole() -> None:
    body = pattern(10_000_000)
    with serving(lambda pending: pending.answer(body), handler=lambda seen: seen.respond(200, body)) as server:
        client = server.connect()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 262144)
        client.sendall(infer() + request() + infer(headers=[(b"Connection", b"close")]))
        server.until(lambda: len(server.intake.requests) >= 1)
        assert [answer.body for answer in parse_answers(read_all(client))] == [body] * 3
        client.close()


def test_endless_pipelining_without_reading_stops_the_writer_and_not_the_others() -> None:
    seen: list[HttpRequest] = []

    def count(asked: HttpRequest) -> None:
        seen.append(asked)
        asked.respond(200, b"x" * 1000)

    with serving(echo, handler=count) as server:
        hostile = server.connect()
        hostile.setblocking(False)
        stream = request() * 1000
        sent = 0

        def push() -> bool:
            nonlocal sent
            try:
                for _ in range(50):
                    sent += hostile.send(stream[sent % len(stream) :])
            except BlockingIOError:
                return True
            return False

        while not push():
            assert sent < 100_000_000, "it takes everything"
        server.until(push)
        friendly = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
        friendly.request("POST", PATH, b"hello")
        assert friendly.getresponse().read() == b"hello"
        friendly.close()
        server.tick(0.0)
        server.tick(1.0)
        server.tick(60.0)
        server.until(lambda: not server.connections)
        hostile.close()


def test_slow_heads_are_ended_and_told_why() -> None:
    with serving(echo) as server:
        clients = [server.connect() for _ in range(50)]
        for client in clients:
            client.sendall(b"POST /v2/models/m/infer HTTP/1.1\r\nHost: a\r\nX")
        server.until(lambda: len(server.connections) == 50)
        server.tick(1.0)
        server.run(lambda: None)
        server.tick(6.0)
        for client in clients:
            (answer,) = parse_answers(read_all(client))
            assert answer.status == 408
            client.close()


def test_a_huge_head_is_refused_before_it_has_come() -> None:
    with serving(echo) as server:
        client = server.connect()
        client.sendall(b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 100_000)
        assert [answer.status for answer in parse_answers(read_all(client))] == [431]
        client.close()


def test_draining_ends_every_connection_after_its_answers() -> None:
    with serving() as server:
        idle, busy = server.connect(), server.connect()
        busy.sendall(infer(b"busy"))
        server.until(lambda: len(server.intake.requests) == 1 and len(server.connections) == 2)
        server.each(tuple(server.connections), Http1Protocol.drain)
        assert read_all(idle) == b""
        server.run(lambda: server.intake.requests[0].answer(b"done"))
        (answer,) = parse_answers(read_all(busy))
        assert (answer.body, answer.says_close) == (b"done", True)
        for client in (idle, busy):
            client.close()
        server.until(lambda: not server.connections)


def test_clients_that_come_and_go_by_the_hundred_leave_nothing() -> None:
    waiting = []

    def later(pending: object) -> None:
        waiting.append(pending)
        if len(waiting) % 3 == 0:
            for kept in waiting[-3:]:
                if not kept.is_cancelled and not kept.is_answered:  # type: ignore[attr-defined]
                    kept.answer(b"x" * 100_000)  # type: ignore[attr-defined]

    def one(number: int) -> None:
        client = server.connect()
        client.sendall(infer(b"x" * (number * 997 % 100_000)) + infer() * (number % 4) + b"POST /v2"[: number % 9])
        if number % 2:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()

    def hundred(first: int) -> None:
        for number in range(first, first + 100):
            one(number)

    with serving(later) as server:
        threads = [threading.Thread(target=hundred, args=(first,)) for first in range(0, 400, 100)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        server.until(lambda: not server.connections)
        assert server.accepted == 400


def test_compressed_both_ways() -> None:
    body = json.dumps({"data": [0.5] * 100_000}).encode()
    with serving(echo) as server:
        client = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
        client.request("POST", PATH, gzip.compress(body), {"Content-Encoding": "gzip", "Accept-Encoding": "gzip"})
        answer = client.getresponse()
        assert answer.headers["Content-Encoding"] == "gzip"
        assert gzip.decompress(answer.read()) == body
        client.close()
