"""Compressed messages, both ways."""

from __future__ import annotations

import gzip
import os
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from http2_peer import INFER, Peer, framed, head, peers
from hypothesis import given
from hypothesis import strategies as st

from kernels.http2 import Call
from kernels.testing import Pending

MakePeer = Callable[..., Peer]
GZIP = ((b"grpc-encoding", b"gzip"), (b"grpc-accept-encoding", b"identity,deflate,gzip"))


@pytest.fixture
def make() -> Iterator[MakePeer]:
    with peers() as maker:
        yield maker


def echo(request: Pending) -> None:
    request.answer(request.body)


@given(st.binary(max_size=3000), st.sampled_from(["gzip", "deflate"]), st.integers(1, 3000))
def test_a_compressed_message_arrives_plain(body: bytes, encoding: str, cut: int) -> None:
    with peers() as make:
        peer = make(echo)
        data = framed(gzip.compress(body) if encoding == "gzip" else zlib.compress(body), flag=1)
        stream = peer.start(head(INFER, (b"grpc-encoding", encoding.encode())), data[:cut], end=False)
        peer.send(stream, data[cut:], end=True)
        assert peer.intake.requests[0].body == body
        assert peer.replies[stream].messages == [body]


def test_a_compressed_request_gets_a_large_answer_compressed(make: MakePeer) -> None:
    peer = make(echo)
    body = b"abcdefgh" * 1000
    stream = peer.start(head(INFER, *GZIP), framed(gzip.compress(body), flag=1))
    reply = peer.replies[stream]
    assert reply.headers[b"grpc-encoding"] == b"gzip"
    flag, size = struct.unpack_from(">BI", reply.data)
    assert (flag, size) == (1, len(reply.data) - 5)
    assert gzip.decompress(reply.data[5:]) == body
    assert reply.status == 0


def test_small_answers_stay_plain(make: MakePeer) -> None:
    peer = make(echo)
    stream = peer.start(head(INFER, *GZIP), framed(gzip.compress(b"abc"), flag=1))
    assert peer.replies[stream].messages == [b"abc"]


def test_a_client_that_does_not_accept_gzip_gets_a_plain_answer(make: MakePeer) -> None:
    peer = make(echo)
    body = b"x" * 5000
    stream = peer.start(head(INFER, (b"grpc-encoding", b"gzip")), framed(gzip.compress(body), flag=1))
    assert b"grpc-encoding" not in peer.replies[stream].headers
    assert peer.replies[stream].messages == [body]


def test_a_plain_message_is_allowed_whatever_the_encoding(make: MakePeer) -> None:
    peer = make(echo)
    stream = peer.start(head(INFER, (b"grpc-encoding", b"gzip")), framed(b"abc"))
    assert peer.replies[stream].messages == [b"abc"]


def test_an_unknown_encoding_is_unimplemented_and_names_those_that_are_known(make: MakePeer) -> None:
    peer = make(echo)
    stream = peer.start(head(INFER, (b"grpc-encoding", b"snappy")), framed(b"abc"))
    assert peer.replies[stream].status == 12
    assert peer.replies[stream].headers[b"grpc-accept-encoding"] == b"identity,deflate,gzip"
    assert peer.intake.acquired == 0


@pytest.mark.parametrize("encoding", [None, b"identity"])
def test_a_compressed_message_without_an_encoding_is_an_internal_error(make: MakePeer, encoding: bytes | None) -> None:
    peer = make(echo)
    extra = () if encoding is None else ((b"grpc-encoding", encoding),)
    stream = peer.start(head(INFER, *extra), framed(gzip.compress(b"abc"), flag=1))
    assert peer.replies[stream].status == 13


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"abc",
        gzip.compress(b"abc", mtime=0)[:-1],
        gzip.compress(b"abc", mtime=0) + b"x",
        zlib.compress(b"abc"),
        gzip.compress(b"a", mtime=0) * 2,
    ],
    ids=["nothing", "plain", "cut", "more", "zlib", "two"],
)
def test_what_is_not_one_gzip_stream_is_an_internal_error(make: MakePeer, data: bytes) -> None:
    peer = make(echo)
    stream = peer.start(head(INFER, (b"grpc-encoding", b"gzip")), framed(data, flag=1))
    assert peer.replies[stream].status == 13
    assert peer.intake.submitted == 0


def test_a_message_that_inflates_beyond_the_limit_is_refused(make: MakePeer) -> None:
    peer = make(echo, max_message_bytes=10_000)
    for size, status in ((10_000, 0), (10_001, 8)):
        stream = peer.start(head(INFER, (b"grpc-encoding", b"gzip")), framed(gzip.compress(b"x" * size), flag=1))
        while not peer.replies[stream].is_ended:
            peer.exchange()
        assert peer.replies[stream].status == status
    assert "max_message_bytes (10000)" in peer.replies[stream].text


def test_a_compression_bomb_is_refused_by_its_ratio(make: MakePeer) -> None:
    peer = make(echo, max_inflate_ratio=100)
    stream = peer.start(head(INFER, (b"grpc-encoding", b"gzip")), framed(gzip.compress(bytes(5_000_000)), flag=1))
    assert peer.replies[stream].status == 8
    assert "max_inflate_ratio" in peer.replies[stream].text


def test_calls_compress_like_inferences(make: MakePeer) -> None:
    received: list[bytes] = []

    def handle(call: Call) -> None:
        call.on_message = received.append
        call.send(b"small")
        call.send(b"y" * 4000)
        call.on_end = call.finish

    peer = make(handler=handle)
    data = framed(gzip.compress(b"one"), flag=1) + framed(b"two") + framed(gzip.compress(b""), flag=1)
    stream = peer.start(head(b"/s/m", *GZIP), data)
    assert received == [b"one", b"two", b""]
    reply = peer.replies[stream]
    assert reply.headers[b"grpc-encoding"] == b"gzip"
    assert reply.data[:10] == framed(b"small")
    assert gzip.decompress(reply.data[15:]) == b"y" * 4000
    assert reply.status == 0


def test_what_a_message_inflates_to_counts_as_buffered(make: MakePeer) -> None:
    peer = make(echo, max_buffered_bytes=60_000)
    data = framed(gzip.compress(bytes(40_000)), flag=1)
    first = peer.start(head(INFER, (b"grpc-encoding", b"gzip")), data, end=False)
    second = peer.start(head(INFER, (b"grpc-encoding", b"gzip")), data, end=False)
    assert peer.replies[second].status == 8
    assert "max_buffered_bytes (60000)" in peer.replies[second].text
    peer.send(first, b"", end=True)
    assert peer.replies[first].messages == [bytes(40_000)]


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="the kernel does not reset peaks")
@pytest.mark.parametrize("limits", [{"max_message_bytes": 1 << 20, "max_inflate_ratio": 5000}, {}])
@pytest.mark.parametrize("path", [INFER, b"/s/m"])
def test_the_limit_holds_while_a_message_inflates_not_after(
    make: MakePeer, limits: dict[str, int], path: bytes
) -> None:
    def peak() -> int:
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) * 1024

    packer = zlib.compressobj(9, wbits=31)
    bomb = b"".join(packer.compress(bytes(1 << 20)) for _ in range(256)) + packer.flush()
    peer = make(echo, handler=lambda call: None, **limits)
    Path("/proc/self/clear_refs").write_text("5")
    before = peak()
    stream = peer.start(head(path, (b"grpc-encoding", b"gzip")), framed(bomb, flag=1))
    assert peer.replies[stream].status == 8
    assert peak() - before < 100 << 20
