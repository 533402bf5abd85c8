"""Any stream of bytes, cut in any way: the same answers, and never anything but requests understood or refused."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterator

import pytest
from http1_peer import INFER, Answer, Peer, chunked, echo, infer, peers, request
from hypothesis import given, settings
from hypothesis import strategies as st

MakePeer = Callable[..., Peer]


@pytest.fixture(scope="module")
def make() -> Iterator[MakePeer]:
    with peers() as maker:
        yield maker


CHUNKED = [(b"Transfer-Encoding", b"chunked")]
MESSAGES = [
    request(),
    request(b"DELETE", b"/y?z"),
    infer(b""),
    infer(b'{"inputs":[]}'),
    infer(b"x" * 20_000),
    infer(b"x" * 70_000),
    infer(gzip.compress(b"packed" * 1000), [(b"Content-Encoding", b"gzip"), (b"Accept-Encoding", b"deflate")]),
    request(b"POST", INFER, CHUNKED) + chunked(b"one", b"two" * 2000, end=b"0\r\nT: x\r\n\r\n"),
    request(b"PUT", b"/z", CHUNKED) + chunked(b"a;b=c"),
    request(headers=[(b"Expect", b"")]),
    b"\r\n" + request(b"PROPFIND", b'/{"odd"}'),
    request(b"GET", b"/1.0", [(b"Connection", b"keep-alive")], version=b"HTTP/1.0"),
]
SMALL = [message for message in MESSAGES if len(message) < 5000]
LAST_WORDS = [
    b"",
    request(headers=[(b"Connection", b"close")]),
    request(version=b"HTTP/1.0"),
    b"\x16\x03\x01",
    request(b"POST", INFER, [*CHUNKED, (b"Content-Length", b"3")]) + b"abc",
    request(b"POST", INFER, CHUNKED) + b"3\nabc",
    request(headers=[(b"X", b"y" * 20_000)]),
    request(target=b"/" + b"x" * 9_000),
    infer(b"nonsense", [(b"Content-Encoding", b"gzip")]),
    request(b"GET", b"/x", [(b"Expect", b"wonders")]),
    b"GET / HTTP/1.1\nHost: a\n\n",
    b"GET / HTTP/1.1\r\nHost: a\r\n X: folded\r\n\r\n",
    infer(b"x" * 30_000)[:-1],
    b"GET / HTT",
]


def outcome(make: MakePeer, pieces: list[bytes]) -> tuple[list[Answer], list[bytes], bool]:
    peer = make(echo)
    peer.send(*pieces)
    seen = [pending.body for pending in peer.intake.requests]
    seen += [seen.method.encode() + seen.path.encode() + seen.body for seen in peer.requests]
    answers = [answer for answer in peer.take() if answer.status != 100]
    is_over = peer.is_over
    peer.lose()
    return answers, seen, is_over


def cut(stream: bytes, places: list[int]) -> list[bytes]:
    ends = sorted({place % (len(stream) + 1) for place in places} | {len(stream)})
    starts = [0, *ends[:-1]]
    return [stream[start:end] for start, end in zip(starts, ends, strict=True) if end > start]


STREAMS = st.tuples(st.lists(st.sampled_from(MESSAGES), max_size=6).map(b"".join), st.sampled_from(LAST_WORDS)).map(
    lambda parts: parts[0] + parts[1]
)


@settings(deadline=None)
@given(STREAMS, st.lists(st.integers(0, 200_000), max_size=12))
def test_how_a_stream_is_cut_makes_no_difference(make: MakePeer, stream: bytes, places: list[int]) -> None:
    assert outcome(make, cut(stream, places)) == outcome(make, [stream])


@pytest.mark.parametrize("last", LAST_WORDS)
def test_not_even_when_every_byte_comes_alone(make: MakePeer, last: bytes) -> None:
    stream = b"".join(SMALL) + last
    assert outcome(make, [stream[i : i + 1] for i in range(len(stream))]) == outcome(make, [stream])


@settings(deadline=None)
@given(
    st.lists(st.sampled_from(SMALL), min_size=1, max_size=3).map(b"".join),
    st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 2), st.binary(max_size=3)), min_size=1, max_size=4),
)
def test_a_damaged_stream_is_requests_and_then_perhaps_one_refusal(
    make: MakePeer, stream: bytes, damages: list[tuple[int, int, bytes]]
) -> None:
    for place, size, new in damages:
        place %= len(stream) + 1
        stream = stream[:place] + new + stream[place + size :]
    answers, seen, is_over = outcome(make, [stream])
    refusals = [answer for answer in answers if answer.status != 200]
    assert refusals in ([], answers[-1:])
    assert len(answers) - len(refusals) == len(seen)
    assert all(answer.body.startswith(b'{"error":') and answer.says_close for answer in refusals)
    assert [answer.says_close for answer in answers[:-1]] == [False] * len(answers[:-1])
    assert is_over == (bool(answers) and answers[-1].says_close)


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_noise_is_refused_or_waited_on(make: MakePeer, noise: bytes) -> None:
    answers, seen, _ = outcome(make, [noise])
    assert seen == []
    assert [answer.status for answer in answers] in ([], [400])
