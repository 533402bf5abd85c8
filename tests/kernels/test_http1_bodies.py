"""Bodies of requests: lengths, chunks, codings, limits, and the client that waits for 100."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable, Iterator

import httptools
import pytest
from http1_peer import INFER, Peer, chunked, echo, infer, peers, request
from hypothesis import given
from hypothesis import strategies as st

MakePeer = Callable[..., Peer]
CHUNKED = (b"Transfer-Encoding", b"chunked")
INFER_CHUNKED = request(b"POST", INFER, [CHUNKED])
INFER_GZIP = [(b"Content-Encoding", b"gzip")]


@pytest.fixture
def make() -> Iterator[MakePeer]:
    with peers() as maker:
        yield maker


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


def noise(size: int) -> bytes:
    return b"".join(zlib.crc32(i.to_bytes(4, "big")).to_bytes(4, "big") for i in range(size // 4 + 1))[:size]


@pytest.mark.parametrize("size", [0, 1, 65536, 70_000, 1_000_000, 5_000_000])
def test_a_body_of_known_length_arrives_whole(make: MakePeer, size: int) -> None:
    body = noise(size)
    peer = make(echo)
    peer.send(infer(body) + request())
    assert [answer.body for answer in peer.take()] == [body, b"GET /x "]


def test_a_large_body_is_received_in_its_place_and_not_beyond_it(make: MakePeer) -> None:
    body = noise(3_000_000)
    peer = make(echo)
    peer.send(request(b"POST", INFER, [(b"Content-Length", b"3000000")]))
    left = len(body)
    sizes = []
    while left >= 16384:
        place = peer.protocol.get_buffer(-1)
        assert place.nbytes <= left
        n = min(place.nbytes, 700_000)
        place[:n] = body[len(body) - left :][:n]
        peer.protocol.buffer_updated(n)
        left -= n
        sizes.append(n)
    assert len(sizes) < 8
    if left:
        peer.send(body[len(body) - left :])
    peer.settle()
    assert [answer.body for answer in peer.take()] == [body]
    assert peer.ask(request()).status == 200


def test_a_body_that_ends_just_where_its_place_ends_leaves_the_next_request_alone(make: MakePeer) -> None:
    body = noise(40_000)
    peer = make(echo)
    head, rest = infer(body)[:-40_000], body
    peer.send(head + rest[:10_000], rest[10_000:] + infer(b"next"))
    assert [answer.body for answer in peer.take()] == [body, b"next"]


@pytest.mark.parametrize("method", [b"POST", b"PUT"])
def test_chunks_are_put_together(make: MakePeer, method: bytes) -> None:
    stream = request(method, b"/x", [CHUNKED]) + chunked(b"one ", b"two ", b"three", end=b"0\r\nX: y\r\nZ:\r\n\r\n")
    for step in (1, 2, 3, 7, 1000):
        peer = make()
        peer.send(*(stream[i : i + step] for i in range(0, len(stream), step)), request())
        assert [answer.body for answer in peer.take()] == [method + b" /x one two three", b"GET /x "]


def test_chunks_of_an_inference_call_are_put_together(make: MakePeer) -> None:
    peer = make(echo)
    body = noise(300_000)
    assert peer.ask(INFER_CHUNKED + chunked(body[:70_000], body[70_000:])).body == body


@pytest.mark.parametrize(
    "wire",
    [
        b"3\r\nabc\r\n0\r\n\r\n", b"003\r\nabc\r\n0\r\n\r\n", b"3;a\r\nabc\r\n0\r\n\r\n", b"3;a=b\r\nabc\r\n0\r\n\r\n",
        b'3;a="b;\\"c";d\r\nabc\r\n0\r\n\r\n', b"3\r\nabc\r\n0;x=y\r\nT: u\r\n\r\n", b"3\r\nabc\r\n000\r\n\r\n",
    ],
)  # fmt: skip
def test_unusual_chunks_are_understood(make: MakePeer, wire: bytes) -> None:
    assert make(echo).ask(INFER_CHUNKED + wire).body == b"abc"


@pytest.mark.parametrize(
    "wire",
    [
        b"3\nabc\r\n0\r\n\r\n", b"3\r\nabc0\r\n\r\n", b"3\r\nabcd\r\n0\r\n\r\n", b"3 \r\nabc\r\n", b" 3\r\nabc\r\n",
        b"0x3\r\nabc\r\n", b"-3\r\nabc\r\n", b"+3\r\nabc\r\n", b"\r\nabc\r\n", b";a\r\nabc\r\n", b"3;\r\nabc\r\n",
        b"3;a b\r\nabc\r\n", b"3;a=\r\nabc\r\n", b'3;a="b\r\nabc\r\n', b"3;a\nabc\r\n", b"3\r\rabc\r\n",
        b"10000000000000003\r\nabc\r\n", b"0\r\n X: y\r\n\r\n", b"0\r\nX\r\n\r\n", b"0\r\nX: y\n\r\n",
        b"0\r\nX: \0\r\n\r\n", b"0\r\n\n", b"3\r\nabc\n0\r\n\r\n", b"0\r\n: y\r\n\r\n",
    ],
)  # fmt: skip
def test_malformed_chunks_are_refused(make: MakePeer, wire: bytes) -> None:
    peer = make(echo)
    answer = peer.ask(INFER_CHUNKED + wire + request())
    assert answer.status == 400
    assert answer.says_close
    assert peer.transport.is_half_closed
    assert peer.intake.submitted == 0


class Reference:
    def __init__(self) -> None:
        self.body = b""
        self.is_complete = False

    def on_body(self, data: bytes) -> None:
        self.body += data

    def on_message_complete(self) -> None:
        self.is_complete = True


CHUNK_PIECES = st.sampled_from(
    [b"0", b"1", b"3", b"a", b"F", b"\r\n", b"\r", b"\n", b"abc", b";", b"=", b'"', b"\\", b"x", b" ", b":", b"\t",
     b"\0", b"3\r\nabc\r\n", b"0\r\n\r\n", b"X: y\r\n", b"1\r\nz\r\n"]
)  # fmt: skip


@given(st.lists(CHUNK_PIECES, max_size=14).map(b"".join), st.integers(1, 9))
def test_chunks_mean_what_they_mean_to_llhttp(wire: bytes, step: int) -> None:
    reference = Reference()
    try:
        httptools.HttpRequestParser(reference).feed_data(b"POST / HTTP/1.1\r\n" + b"%s: %s\r\n\r\n" % CHUNKED + wire)
        is_good = True
    except httptools.HttpParserError:
        is_good = False
    with peers() as make:
        peer = make(echo)
        stream = INFER_CHUNKED + wire
        peer.send(*(stream[i : i + step] for i in range(0, len(stream), step)))
        if peer.intake.submitted:
            # Whatever follows the body may be no request for either of the two.
            assert reference.is_complete
            assert peer.intake.requests[0].body == reference.body
        elif peer.take():
            assert not is_good or reference.is_complete is False
        else:
            assert not reference.is_complete


def test_too_many_chunks_are_refused(make: MakePeer) -> None:
    peer = make(echo, max_chunks=1000)
    assert peer.ask(INFER_CHUNKED + chunked(*[b"x"] * 1000)).status == 200
    peer.send(INFER_CHUNKED, *[b"1\r\nx\r\n" * 100] * 11)
    (answer,) = peer.take()
    assert answer.status == 413


def test_a_million_tiny_chunks_end_at_the_limit(make: MakePeer) -> None:
    peer = make(echo)
    stream = b"1\r\nx\r\n" * 1_000_000
    peer.send(INFER_CHUNKED, stream)
    (answer,) = peer.take()
    assert answer.status == 413
    assert peer.intake.submitted == 0
    assert peer.intake.live == 0


@pytest.mark.parametrize("tail", [b"1;" + b"x" * 20_000, b"0\r\nX: " + b"y" * 20_000, b"0\r\n" + b"X: y\r\n" * 5_000])
def test_extensions_and_trailers_without_end_are_refused(make: MakePeer, tail: bytes) -> None:
    assert make(echo).ask(INFER_CHUNKED + tail).status == 431


def test_a_length_beyond_the_limit_is_refused_at_the_head(make: MakePeer) -> None:
    peer = make(echo, max_body_bytes=100)
    answer = peer.ask(request(b"POST", INFER, [(b"Content-Length", b"101")]))
    assert answer.status == 413
    assert answer.says_close
    assert peer.transport.is_half_closed
    assert peer.transport.is_reading
    peer.send(b"x" * 101)  # is dropped
    assert peer.intake.acquired == 0
    assert make(echo, max_body_bytes=100).ask(infer(b"x" * 100)).status == 200


def test_chunks_beyond_the_limit_are_refused_before_they_come(make: MakePeer) -> None:
    assert make(echo, max_body_bytes=100).ask(INFER_CHUNKED + b"65\r\n").status == 413
    assert make(echo, max_body_bytes=100).ask(INFER_CHUNKED + chunked(b"x" * 60)[:-5] + b"29\r\n").status == 413
    assert make(echo, max_body_bytes=100).ask(INFER_CHUNKED + chunked(b"x" * 60, b"x" * 40)).status == 200
    assert make(echo).ask(INFER_CHUNKED + b"fffffffffffffff\r\n").status == 413


BODY = json.dumps({"data": list(range(5000))}).encode()


@pytest.mark.parametrize(
    ("coding", "pack"),
    [
        (b"gzip", gzip.compress),
        (b"GZip", gzip.compress),
        (b"x-gzip", gzip.compress),
        (b"deflate", zlib.compress),
        (b"deflate", raw_deflate),
        (b"identity", bytes),
        (b"", bytes),
    ],
)
def test_a_compressed_body_is_inflated(make: MakePeer, coding: bytes, pack: Callable[[bytes], bytes]) -> None:
    packed = pack(BODY)
    header = [(b"Content-Encoding", coding)]
    assert make(echo).ask(infer(packed, header)).body == BODY
    stream = request(b"POST", INFER, [*header, CHUNKED]) + chunked(packed[:1], packed[1:100], packed[100:])
    peer = make(echo)
    peer.send(*(stream[i : i + 1] for i in range(len(stream))))
    assert [answer.body for answer in peer.take()] == [BODY]
    assert peer.ask(request(b"PUT", b"/x", header, packed)).body == b"PUT /x " + BODY


def test_gzip_members_in_a_row_are_one_body(make: MakePeer) -> None:
    assert make(echo).ask(infer(gzip.compress(b"one") + gzip.compress(b"two"), INFER_GZIP)).body == b"onetwo"


def test_an_empty_body_needs_no_coding(make: MakePeer) -> None:
    assert make(echo).ask(infer(b"", INFER_GZIP)).body == b""
    assert make(echo).ask(request(b"POST", INFER, [*INFER_GZIP, CHUNKED]) + chunked()).body == b""


@pytest.mark.parametrize(
    "packed",
    [
        b"nonsense",
        gzip.compress(BODY)[:-1],
        gzip.compress(BODY)[:-9],
        gzip.compress(BODY) + b"more",
        b"\x1f\x8b",
        gzip.compress(BODY)[:-8] + b"\0" * 8,
    ],
    ids=["nonsense", "cut", "without a trailer", "more", "magic alone", "wrong trailer"],
)
def test_a_broken_compressed_body_is_refused(make: MakePeer, packed: bytes) -> None:
    peer = make(echo)
    answer = peer.ask(infer(packed, INFER_GZIP))
    assert answer.status == 400
    assert answer.says_close
    assert peer.intake.submitted == 0


def test_inflating_stops_at_the_limits(make: MakePeer) -> None:
    zeros = gzip.compress(b"0" * 5_000_000)
    assert make(echo).ask(infer(zeros, INFER_GZIP)).status == 413  # for its ratio
    assert make(echo, max_inflate_ratio=5000).ask(infer(zeros, INFER_GZIP)).status == 200
    assert make(echo, max_inflate_ratio=5000, max_body_bytes=4_999_999).ask(infer(zeros, INFER_GZIP)).status == 413
    small = gzip.compress(b"0" * 500_000)
    assert make(echo).ask(infer(small, INFER_GZIP)).status == 200  # little enough to be harmless


@pytest.mark.parametrize("coding", [b"br", b"gzip, gzip", b"deflate, gzip", b"zstd"])
def test_other_codings_are_refused(make: MakePeer, coding: bytes) -> None:
    answer = make(echo).ask(infer(b"x", [(b"Content-Encoding", coding)]))
    assert answer.status == 415
    assert "gzip" in json.loads(answer.body)["error"]


EXPECT = [(b"Expect", b"100-continue"), (b"Content-Length", b"3")]


def test_a_client_that_waits_is_told_to_go_on(make: MakePeer) -> None:
    peer = make(echo)
    peer.send(request(b"POST", INFER, EXPECT))
    assert [answer.status for answer in peer.take()] == [100]
    assert peer.ask(b"abc").body == b"abc"


def test_a_client_that_does_not_wait_is_not_told(make: MakePeer) -> None:
    assert make(echo).ask(request(b"POST", INFER, EXPECT) + b"abc").status == 200
    assert make(echo).ask(request(b"POST", INFER, [EXPECT[0]])).status == 200


def test_going_on_is_said_in_its_turn(make: MakePeer) -> None:
    peer = make()
    peer.send(infer(b"first") + request(b"POST", INFER, EXPECT))
    assert peer.take() == []
    peer.intake.requests[0].answer(b"1")
    peer.settle()
    assert [answer.status for answer in peer.take()] == [200, 100]
    peer.send(b"abc")
    peer.intake.requests[1].answer(b"2")
    peer.settle()
    assert [answer.body for answer in peer.take()] == [b"2"]


def test_a_refused_body_is_not_asked_for(make: MakePeer) -> None:
    answer = make(max_body_bytes=2).ask(request(b"POST", INFER, EXPECT))
    assert answer.status == 413


def test_http_1_0_and_an_empty_expectation_expect_nothing(make: MakePeer) -> None:
    peer = make(echo)
    peer.send(request(b"POST", INFER, EXPECT, version=b"HTTP/1.0"))
    assert peer.take() == []
    assert peer.ask(b"abc").body == b"abc"
    assert make(echo).ask(infer(b"abc", [(b"Expect", b"")])).body == b"abc"
