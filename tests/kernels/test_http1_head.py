"""Heads of requests: the strict scanner and llhttp, which must never disagree, and what is refused whoever reads it."""

from __future__ import annotations

from typing import Any, Literal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kernels.http1_head import read_head

GOOD = b"POST /v2/models/m/infer?x=1 HTTP/1.1\r\nHost: a\r\nContent-Length: 12\r\nX-Y:  v \t\r\n\r\n"


def read(data: bytes, reader: Literal["scan", "llhttp"]) -> Any:
    return read_head(data, reader)


def head(*lines: bytes, start: bytes = b"POST /x HTTP/1.1") -> bytes:
    return b"\r\n".join((start, b"Host: a", *lines)) + b"\r\n\r\n"


def test_both_readers_read_an_ordinary_head_alike() -> None:
    scanned = read(GOOD, "scan")
    assert scanned == read(GOOD, "llhttp")
    method, target, path, query, minor, fields, length, *_ = scanned
    assert (method, target, path, query, minor, length) == (
        b"POST", b"/v2/models/m/infer?x=1", b"/v2/models/m/infer", b"x=1", 1, 12,
    )  # fmt: skip
    assert fields == [(b"Host", b"a"), (b"Content-Length", b"12"), (b"X-Y", b"v")]


def test_a_head_that_is_cut_off_anywhere_is_not_complete() -> None:
    for size in range(len(GOOD)):
        assert read(GOOD[:size], "scan") == "more"


SMUGGLING = {
    "two lengths": head(b"Content-Length: 3", b"Content-Length: 4"),
    "the same length twice": head(b"Content-Length: 3", b"Content-Length: 3"),
    "a list of lengths": head(b"Content-Length: 3, 3"),
    "length and chunked": head(b"Content-Length: 3", b"Transfer-Encoding: chunked"),
    "chunked and length": head(b"Transfer-Encoding: chunked", b"Content-Length: 3"),
    "signed length": head(b"Content-Length: +3"),
    "negative length": head(b"Content-Length: -3"),
    "hexadecimal length": head(b"Content-Length: 0x3"),
    "length with a space in it": head(b"Content-Length: 3 3"),
    "no length": head(b"Content-Length:"),
    "length beyond all numbers": head(b"Content-Length: 99999999999999999999"),
    "chunked twice": head(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"),
    "chunked twice in a list": head(b"Transfer-Encoding: chunked, chunked"),
    "chunked not last": head(b"Transfer-Encoding: chunked, gzip"),
    "not chunked at all": head(b"Transfer-Encoding: identity"),
    "nearly chunked": head(b"Transfer-Encoding: xchunked"),
    "vertical tab before chunked": head(b"Transfer-Encoding: \x0bchunked"),
    "empty transfer encoding": head(b"Transfer-Encoding:"),
    "space before colon": head(b"Content-Length : 3"),
    "tab before colon": head(b"Content-Length\t: 3"),
    "folded line": head(b"X: a", b" b"),
    "folded by a tab": head(b"X: a", b"\tb"),
    "folded first line": b"GET / HTTP/1.1\r\n Host: a\r\n\r\n",
    "bare line feed": b"GET / HTTP/1.1\nHost: a\n\n",
    "bare line feed between fields": b"GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n",
    "line feed in a value": head(b"X: a\nContent-Length: 3"),
    "carriage return in a value": head(b"X: a\rContent-Length: 3"),
    "carriage return at the end of a value": head(b"X: a\r"),
    "NUL in a value": head(b"X: a\0b"),
    "NUL in a name": head(b"X\0: a"),
    "NUL in the target": head(start=b"GET /a\0b HTTP/1.1"),
    "delete in a value": head(b"X: a\x7fb"),
    "no name": head(b": a"),
    "no colon": head(b"X"),
    "name with brackets": head(b"X(y): a"),
    "name beyond ASCII": head(b"X\xe9: a"),
    "two spaces before the target": head(start=b"GET  / HTTP/1.1"),
    "two spaces behind it": head(start=b"GET /  HTTP/1.1"),
    "space at the end of the line": head(start=b"GET / HTTP/1.1 "),
    "tab for a space": head(start=b"GET\t/ HTTP/1.1"),
    "no version": head(start=b"GET /"),
    "other protocol": head(start=b"GET / ICE/1.0"),
    "lower-case protocol": head(start=b"GET / http/1.1"),
    "lower-case method": head(start=b"get / HTTP/1.1"),
    "unknown method": head(start=b"FROB / HTTP/1.1"),
    "no method": head(start=b"/ HTTP/1.1"),
    "fragment": head(start=b"GET /a#b HTTP/1.1"),
    "target beyond ASCII": head(start=b"GET /\xff HTTP/1.1"),
    "target without a slash": head(start=b"GET a HTTP/1.1"),
    "star for another method": head(start=b"GET * HTTP/1.1"),
    "foreign scheme": head(start=b"GET ftp://a/b HTTP/1.1"),
    "two hosts": head(b"Host: b"),
    "no host": b"GET / HTTP/1.1\r\n\r\n",
    "chunked in 1.0": head(b"Transfer-Encoding: chunked", start=b"POST /x HTTP/1.0"),
    "no timeout": head(b"request-timeout:"),
    "timeout of nothing": head(b"request-timeout: 0"),
    "timeout in words": head(b"request-timeout: soon"),
    "two timeouts": head(b"request-timeout: 1", b"request-timeout: 1"),
    "JSON length in words": head(b"Inference-Header-Content-Length: many"),
    "two JSON lengths": head(b"Inference-Header-Content-Length: 1", b"Inference-Header-Content-Length: 1"),
}


@pytest.mark.parametrize("data", SMUGGLING.values(), ids=SMUGGLING.keys())
def test_whatever_could_be_understood_in_two_ways_is_refused(data: bytes) -> None:
    scanned = read(data, "scan")
    asked = read(data, "llhttp")
    assert isinstance(asked, tuple)
    assert asked[0] == 400
    assert scanned == "odd" or (isinstance(scanned, tuple) and scanned[0] == 400)


OTHER_REFUSALS = {
    505: head(start=b"GET / HTTP/2.0"),
    501: head(b"Transfer-Encoding: gzip, chunked"),
    417: head(b"Expect: a miracle"),
    415: head(b"Content-Encoding: br"),
    413: head(b"Content-Length: 67108865"),
    405: head(start=b"CONNECT a:80 HTTP/1.1"),
    431: head(*(b"X: y" for _ in range(100))),
}


@pytest.mark.parametrize(("status", "data"), OTHER_REFUSALS.items())
def test_what_is_clear_but_not_supported_has_a_status_of_its_own(status: int, data: bytes) -> None:
    for answer in (read(data, "scan"), read(data, "llhttp")):
        assert answer == "odd" or answer[0] == status
    assert read(data, "llhttp")[0] == status


@pytest.mark.parametrize(
    "data",
    [
        head(start=b"GET http://other/path?q HTTP/1.1"),
        head(start=b"OPTIONS * HTTP/1.1"),
        head(start=b'GET /{"|^`<> HTTP/1.1'),
        head(start=b"PROPFIND / HTTP/1.1"),
        head(b"Upgrade: h2c", b"Connection: Upgrade", start=b"GET /x HTTP/1.1"),
        head(b"Expect:", b"X: \xe9\xff"),
        b"GET / HTTP/1.0\r\n\r\n",
    ],
)
def test_rare_heads_are_read(data: bytes) -> None:
    assert len(read(data, "llhttp")) > 2
    if read(data, "scan") != "odd":
        assert read(data, "scan") == read(data, "llhttp")


def test_an_absolute_target_is_its_path() -> None:
    assert read(head(start=b"GET http://other:1/path?q HTTP/1.1"), "llhttp")[2:4] == (b"/path", b"q")
    assert read(head(start=b"GET https://other HTTP/1.1"), "llhttp")[2:4] == (b"/", b"")
    assert read(head(start=b"GET http://other?q HTTP/1.1"), "llhttp")[2:4] == (b"/", b"q")


def coding(*values: bytes) -> int:
    chosen: int = read(head(*(b"Accept-Encoding: " + value for value in values)), "scan")[11]
    return chosen


@pytest.mark.parametrize(
    ("wish", "choice"),
    [
        (b"gzip", 1), (b"deflate", 2), (b"gzip, deflate", 1), (b"deflate, gzip", 1), (b"br", 0), (b"", 0),
        (b"gzip;q=0.5, deflate;q=0.8", 2), (b"gzip;q=0", 0), (b"*", 1), (b"*;q=0.3, gzip;q=0", 2), (b"identity", 0),
        (b"gzip; q=1.0", 1), (b"GZIP", 1), (b"x-gzip", 1), (b"gzip;q=nonsense", 0), (b"gzip;q=2", 0), (b"*;q=0", 0),
    ],
)  # fmt: skip
def test_the_coding_that_the_client_likes_best_is_chosen(wish: bytes, choice: int) -> None:
    assert coding(wish) == choice


def test_wishes_in_several_fields_are_one_list() -> None:
    assert coding(b"gzip;q=0.1", b"deflate") == 2


@pytest.mark.parametrize(
    ("version", "connection", "keeps"),
    [
        (b"1.1", b"", True), (b"1.1", b"close", False), (b"1.1", b"keep-alive, Close", False), (b"1.0", b"", False),
        (b"1.0", b"Keep-Alive", True), (b"1.0", b"keep-alive, close", False), (b"1.1", b"upgrade", True),
    ],
)  # fmt: skip
def test_the_connection_is_kept_by_default_since_1_1_and_on_request_before(
    version: bytes, connection: bytes, keeps: bool
) -> None:
    data = head(b"Connection: " + connection, start=b"GET / HTTP/" + version)
    assert read(data, "scan")[8] is keeps
    assert read(data, "llhttp")[8] is keeps


@pytest.mark.parametrize(("text", "seconds"), [(b"2", 2.0), (b"0.25", 0.25), (b".5", 0.5), (b"1.", 1.0)])
def test_a_timeout_is_decimal_seconds(text: bytes, seconds: float) -> None:
    assert read(head(b"request-timeout: " + text), "scan")[13] == seconds


PIECES = st.sampled_from(
    [
        b"GET", b"POST", b" ", b"  ", b"/", b"/x", b"?q", b"*", b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2.0", b"\r\n", b"\n",
        b"\r", b"Host: a\r\n", b"Content-Length: 5\r\n", b"Content-Length", b": ", b":", b"5",
        b"Transfer-Encoding: chunked\r\n", b"Connection: close\r\n", b"X: y\r\n", b"\t", b"\0", b"\x7f", b"\xff", b"X",
        b"Expect: 100-continue\r\n", b"Accept-Encoding: gzip\r\n", b"Upgrade: x\r\n", b"http://h", b",", b";",
    ]
)  # fmt: skip
ANYTHING = st.one_of(
    st.lists(PIECES, max_size=25).map(b"".join),
    st.lists(PIECES, max_size=12).map(lambda parts: b"POST / HTTP/1.1\r\nHost: a\r\n" + b"".join(parts) + b"\r\n\r\n"),
    st.tuples(st.integers(0, len(GOOD)), st.binary(max_size=3), st.integers(0, 3)).map(
        lambda t: GOOD[: t[0]] + t[1] + GOOD[t[0] + t[2] :]
    ),
    st.binary(max_size=100),
)


@given(ANYTHING)
@example(b"POST / HTTP/1.1\r\nHost: a\r\nX:\r\n\r\n")
@example(b"POST / HTTP/1.1\r\nHost: a\r\nX:y\t \r\n\r\n")
def test_what_the_scanner_accepts_llhttp_reads_the_same_way(data: bytes) -> None:
    scanned = read(data, "scan")
    if isinstance(scanned, str):
        return
    if len(scanned) == 2:
        # Refused by what the fields say, on which there is only one opinion; llhttp may have its own words for it.
        size = data.index(b"\r\n\r\n") + 4
        asked = read(data[:size], "llhttp")
        assert asked == scanned or asked[0] == 400
        return
    assert read(data[: scanned[-1]], "llhttp") == scanned


@given(ANYTHING)
def test_an_odd_head_is_read_or_refused_and_nothing_else(data: bytes) -> None:
    answer = read(data, "llhttp")
    if len(answer) == 2:
        assert answer[0] in (400, 405, 413, 414, 415, 417, 431, 501, 505)
    else:
        *_, size = answer
        assert size == len(data)
        assert b"\0" not in data
        assert data.count(b"\n") == data.count(b"\r") == data.count(b"\r\n")
