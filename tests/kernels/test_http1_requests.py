"""Requests and answers over HTTP/1: what arrives where, in which order, and in which words."""

from __future__ import annotations

import gzip
import json
import time
import zlib
from collections.abc import Callable, Iterator

import pytest
from http1_peer import Peer, echo, infer, parse_answers, peers, request

from kernels.http1 import Http1Limits, HttpRequest

MakePeer = Callable[..., Peer]


@pytest.fixture
def make() -> Iterator[MakePeer]:
    with peers() as maker:
        yield maker


def test_an_inference_call_goes_through_the_intake(make: MakePeer) -> None:
    peer = make(echo)
    answer = peer.ask(infer(b'{"a":1}', [(b"Inference-Header-Content-Length", b"7"), (b"request-timeout", b"2.5")]))
    (seen,) = peer.intake.requests
    assert (seen.body, seen.model, seen.version, seen.header_length, seen.protocol) == (b'{"a":1}', b"m", b"", 7, 0)
    assert seen.deadline == pytest.approx(seen.arrived + 2.5)
    assert 0 <= time.monotonic() - seen.arrived < 60
    assert answer.status == 200
    assert answer.headers == ((b"Content-Type", b"application/json"), (b"Content-Length", b"7"))
    assert answer.body == b'{"a":1}'
    assert peer.requests == []


def test_everything_else_goes_to_the_handler(make: MakePeer) -> None:
    peer = make()
    answer = peer.ask(request(b"POST", b"/v2/repository/index?a=%20b", [(b"X-One", b" v ")], b"body"))
    (seen,) = peer.requests
    assert (seen.method, seen.path, seen.query, seen.body) == ("POST", "/v2/repository/index", "a=%20b", b"body")
    assert seen.headers == [(b"host", b"test"), (b"x-one", b"v"), (b"content-length", b"4")]
    assert (seen.header(b"x-one"), seen.header(b"x-two")) == (b"v", None)
    assert seen.peer == ("192.0.2.7", 4242)
    assert not seen.is_cancelled
    assert answer.body == b"POST /v2/repository/index?a=%20b body"


def test_only_post_is_an_inference_call(make: MakePeer) -> None:
    peer = make()
    assert peer.ask(request(b"GET", b"/v2/models/m/infer")).body == b"GET /v2/models/m/infer "
    assert peer.intake.acquired == 0


def test_the_version_that_answered_and_the_binary_head_are_named(make: MakePeer) -> None:
    peer = make(lambda pending: pending.answer(b"{}\x01\x02", header_length=2, served_version=b"3"))
    answer = peer.ask(infer())
    assert answer.header(b"Content-Type") == b"application/octet-stream"
    assert answer.header(b"Inference-Header-Content-Length") == b"2"
    assert answer.header(b"sluice-model-version") == b"3"
    assert answer.body == b"{}\x01\x02"


@pytest.mark.parametrize("code", range(1, 17))
def test_a_failure_has_the_status_of_its_code_and_its_message_as_json(make: MakePeer, code: int) -> None:
    statuses = (200, 499, 500, 400, 504, 404, 400, 403, 429, 400, 409, 400, 501, 500, 503, 500, 401)
    peer = make(lambda pending: pending.fail(code, b"why"))
    answer = peer.ask(infer())
    assert (answer.status, answer.body) == (statuses[code], b'{"error":"why"}')
    assert answer.header(b"Content-Type") == b"application/json"
    assert not answer.says_close


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (b'say "\\"\n\t\x01\x7f', 'say "\\"\n\t\x01\x7f'),
        ("Füße 日本 \U0001f600".encode(), "Füße 日本 \U0001f600"),
        (b"broken \xff\xc0\x80\xed\xa0\x80\xf5 end", "broken " + "�" * 7 + " end"),
        (b"cut \xe6\x97", "cut ��"),
        (b"</script>", "</script>"),
    ],
)
def test_any_message_is_valid_json(make: MakePeer, message: bytes, text: str) -> None:
    answer = make(lambda pending: pending.fail(3, message)).ask(infer())
    assert json.loads(answer.body) == {"error": text}


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.0, None), (0.01, b"1"), (1.0, b"1"), (1.2, b"2"), (1e300, b"1000000000")]
)
def test_retry_after_is_whole_seconds_and_at_least_one(make: MakePeer, seconds: float, said: bytes | None) -> None:
    answer = make(lambda pending: pending.fail(8, b"busy", retry_after=seconds)).ask(infer())
    assert answer.status == 429
    assert answer.header(b"Retry-After") == said


def test_pipelined_answers_keep_the_order_of_their_requests(make: MakePeer) -> None:
    peer = make()
    peer.send(infer(b"0") + request() + infer(b"2") + request(b"GET", b"/y") + infer(b"4"))
    first, third, fifth = peer.intake.requests
    assert peer.take() == []
    fifth.answer(b"five")
    third.answer(b"three")
    peer.settle()
    assert peer.take() == []
    first.answer(b"one")
    peer.settle()
    assert [answer.body for answer in peer.take()] == [b"one", b"GET /x ", b"three", b"GET /y ", b"five"]


def test_answers_of_one_wake_up_are_written_at_once(make: MakePeer) -> None:
    peer = make()
    peer.send(infer(b"0") + infer(b"1"))
    for pending in peer.intake.requests:
        pending.answer(b"x")
    assert peer.transport.written == b""
    peer.intake.flush()
    assert len(peer.take()) == 2


@pytest.mark.parametrize("version", [b"HTTP/1.0", b"HTTP/1.1"])
def test_connection_close_is_said_and_done(make: MakePeer, version: bytes) -> None:
    peer = make()
    answer = peer.ask(request(headers=[(b"Connection", b"close")], version=version) + request())
    assert answer.says_close
    assert len(peer.requests) == 1
    assert peer.transport.is_half_closed
    assert peer.protocol.eof_received() is False


def test_http_1_0_is_kept_alive_on_request(make: MakePeer) -> None:
    peer = make()
    answer = peer.ask(request(headers=[(b"Connection", b"keep-alive")], version=b"HTTP/1.0"))
    assert answer.header(b"Connection") == b"keep-alive"
    answer = peer.ask(request(version=b"HTTP/1.0"))
    assert answer.says_close
    assert peer.is_over


def test_an_answer_to_head_has_the_length_and_not_the_body(make: MakePeer) -> None:
    peer = make()
    peer.send(request(b"HEAD", b"/x") + request())
    head, get = peer.take(heads=[0])
    assert (head.header(b"Content-Length"), head.body) == (b"8", b"")
    assert get.body == b"GET /x "


def test_options_of_the_server_reach_the_handler(make: MakePeer) -> None:
    peer = make()
    assert peer.ask(request(b"OPTIONS", b"*")).body == b"OPTIONS * "


def test_an_upgrade_is_ignored(make: MakePeer) -> None:
    peer = make()
    answer = peer.ask(request(headers=[(b"Upgrade", b"h2c"), (b"Connection", b"Upgrade, HTTP2-Settings")]))
    assert answer.status == 200
    assert not answer.says_close
    assert peer.ask(request()).status == 200


def test_empty_lines_before_a_request_are_skipped(make: MakePeer) -> None:
    peer = make()
    peer.send(b"\r\n\r\n" + request(), b"\r", b"\n", b"\r", b"\n" + request())
    assert [answer.status for answer in peer.take()] == [200, 200]


def test_a_refusal_comes_after_the_answers_before_it(make: MakePeer) -> None:
    peer = make()
    peer.send(infer(b"0") + b"NONSENSE\r\n\r\n" + request())
    assert peer.take() == []
    peer.intake.requests[0].answer(b"zero")
    peer.settle()
    zero, refusal = peer.take()
    assert zero.body == b"zero"
    assert not zero.says_close
    assert refusal.status == 400
    assert refusal.says_close
    assert "error" in json.loads(refusal.body)
    assert peer.transport.is_half_closed
    assert peer.requests == []


def test_a_refused_head_request_gets_no_body(make: MakePeer) -> None:
    peer = make()
    peer.send(request(b"HEAD", b"/x", [(b"Expect", b"wonders")]))
    (answer,) = peer.take(heads=[0])
    assert answer.status == 417


def test_heads_that_are_too_large_are_refused(make: MakePeer) -> None:
    limits = {"max_header_bytes": 1000, "max_target_bytes": 500, "max_headers": 10}
    assert make(**limits).ask(request(target=b"/" + b"x" * 500)).status == 414
    assert make(**limits).ask(request(target=b"/" + b"x" * 499)).status == 200
    assert make(**limits).ask(b"GET /" + b"x" * 600).status == 414
    assert make(**limits).ask(request(headers=[(b"X", b"y" * 1000)])).status == 431
    assert make(**limits).ask(request()[:-2] + b"X: " + b"y" * 1000).status == 431
    assert make(**limits).ask(request(headers=[(b"X", b"y")] * 10)).status == 431
    assert make(**limits).ask(request(headers=[(b"X", b"y")] * 9)).status == 200


def test_what_does_not_even_begin_like_a_request_is_refused_at_once(make: MakePeer) -> None:
    for garbage in (b"\x16\x03\x01\x02", b"\0", b" GET", b"\n"):
        answer = make().ask(garbage)
        assert answer.status == 400
        assert answer.says_close


def test_a_handler_may_answer_later(make: MakePeer) -> None:
    kept: list[HttpRequest] = []
    peer = make(handler=kept.append)
    peer.send(request())
    assert peer.take() == []
    kept[0].respond(201, b"made", "text/plain", [(b"Location", b"/y")])
    peer.settle()
    (answer,) = peer.take()
    assert (answer.status, answer.body, answer.header(b"Location")) == (201, b"made", b"/y")


def test_only_the_first_answer_counts(make: MakePeer) -> None:
    def twice(seen: HttpRequest) -> None:
        seen.respond(200, b"one")
        seen.respond(500, b"two")

    peer = make(handler=twice)
    assert peer.ask(request()).body == b"one"
    peer.requests[0].respond(200, b"three")
    peer.settle()
    assert peer.take() == []


def test_an_answer_without_a_body_has_no_type(make: MakePeer) -> None:
    peer = make(handler=lambda seen: seen.respond(204))
    assert peer.ask(request()).headers == ()
    peer = make(handler=lambda seen: seen.respond(200))
    assert peer.ask(request()).headers == ((b"Content-Length", b"0"),)


def test_a_handler_that_raises_answers_500_and_is_reported(make: MakePeer) -> None:
    def fail(_: HttpRequest) -> None:
        raise ZeroDivisionError

    peer = make(handler=fail)
    assert peer.ask(request()).status == 500
    assert [type(error["exception"]) for error in peer.errors] == [ZeroDivisionError]
    assert peer.ask(request()).status == 500


@pytest.mark.parametrize(
    ("status", "kind", "headers"),
    [
        (101, "text/plain", ()),
        (1000, "text/plain", ()),
        (200, "text/plain\r\nX: y", ()),
        (200, "text/plain", ((b"X", b"a\r\nY: b"),)),
        (200, "text/plain", ((b"X\n", b"a"),)),
        (200, "text/plain", ((b"", b"a"),)),
        (200, "text/plain", ((b"Content-Length", b"5"),)),
        (200, "text/plain", ((b"CONNECTION", b"close"),)),
    ],
)
def test_an_answer_that_would_break_the_stream_is_not_taken(
    make: MakePeer, status: int, kind: str, headers: tuple[tuple[bytes, bytes], ...]
) -> None:
    kept: list[HttpRequest] = []
    peer = make(handler=kept.append)
    peer.send(request())
    with pytest.raises(ValueError):
        kept[0].respond(status, b"x", kind, headers)
    kept[0].respond(200, b"fine")
    peer.settle()
    assert [answer.body for answer in peer.take()] == [b"fine"]


BIG = json.dumps({"data": [0.25] * 2000}).encode()


@pytest.mark.parametrize(
    ("coding", "inflate"), [(b"gzip", gzip.decompress), (b"deflate", zlib.decompress)], ids=["gzip", "deflate"]
)
def test_large_answers_are_compressed_for_those_who_ask(
    make: MakePeer, coding: bytes, inflate: Callable[[bytes], bytes]
) -> None:
    peer = make(lambda pending: pending.answer(BIG, header_length=40))
    answer = peer.ask(infer(headers=[(b"Accept-Encoding", coding)]))
    assert answer.header(b"Content-Encoding") == coding
    assert answer.header(b"Inference-Header-Content-Length") == b"40"
    assert answer.header(b"Vary") == b"Accept-Encoding"
    assert len(answer.body) < len(BIG) / 10
    assert inflate(answer.body) == BIG
    assert peer.ask(infer()).body == BIG


def test_what_need_not_be_compressed_is_not(make: MakePeer) -> None:
    noise = bytes((i * i * 7919 >> 3) & 0xFF for i in range(3000))
    wish = [(b"Accept-Encoding", b"gzip")]
    small = make(lambda pending: pending.answer(b"x" * 1023)).ask(infer(headers=wish))
    assert small.header(b"Content-Encoding") is None
    huge = make(lambda pending: pending.answer(b"x" * 5000), compression_max_bytes=4999).ask(infer(headers=wish))
    assert huge.header(b"Content-Encoding") is None
    encoded = make(handler=lambda seen: seen.respond(200, noise, headers=[(b"Content-Encoding", b"br")]))
    assert encoded.ask(request(headers=wish)).body == noise


@pytest.mark.parametrize("size", [65535, 65536, 3_000_000])
def test_large_answers_arrive_whole_and_in_turn(make: MakePeer, size: int) -> None:
    body = bytes(range(256)) * (size // 256 + 1)
    peer = make(lambda pending: pending.answer(body), handler=lambda seen: seen.respond(200, body))
    peer.send(infer() + request() + request(b"HEAD") + infer())
    answers = parse_answers(bytes(peer.transport.written), heads=[2])
    assert [answer.body for answer in answers] == [body, body, b"", body]


def test_limits_that_make_no_sense_are_named() -> None:
    for name, value in {"max_pipelined": 0, "max_headers": 257, "max_inflate_ratio": 0, "max_target_bytes": 0}.items():
        with pytest.raises(ValueError, match=name):
            Http1Limits(**{name: value})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="statuses"):
        Http1Limits(statuses=(200,))
    with pytest.raises(TypeError):
        HttpRequest()


def test_statuses_are_those_of_the_table(make: MakePeer) -> None:
    peer = make(lambda pending: pending.fail(5, b"no"), statuses=(200, *(400 + i for i in range(16))))
    assert peer.ask(infer()).status == 404
