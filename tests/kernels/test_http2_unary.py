"""Unary inference over HTTP/2, from the head to the trailers."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Iterator

import pytest
from google.protobuf import any_pb2, duration_pb2
from h2.errors import ErrorCodes
from http2_peer import INFER, Peer, framed, head, peers
from hypothesis import given
from hypothesis import strategies as st

from kernels.http2 import status_details
from kernels.testing import Pending

MakePeer = Callable[..., Peer]


@pytest.fixture
def make() -> Iterator[MakePeer]:
    with peers() as maker:
        yield maker


def echo(request: Pending) -> None:
    request.answer(request.body)


def test_an_answer_given_inside_submit_arrives_with_its_status(make: MakePeer) -> None:
    reply = make(echo).infer(b"abc")
    assert reply.headers == {b":status": b"200", b"content-type": b"application/grpc"}
    assert reply.messages == [b"abc"]
    assert reply.trailers == {b"grpc-status": b"0"}
    assert reply.is_ended


def test_an_answer_given_later_is_written_by_the_flush_that_the_intake_was_asked_for(make: MakePeer) -> None:
    peer = make()
    stream = peer.start(data=framed(b"abc"))
    assert not peer.replies[stream].headers
    peer.intake.requests[0].answer(b"later", served_version=b"7")
    assert peer.take() == b""
    peer.exchange()
    assert peer.replies[stream].messages == [b"later"]
    assert peer.replies[stream].trailers == {b"grpc-status": b"0", b"sluice-model-version": b"7"}


def test_answers_arrive_in_the_order_in_which_they_are_given(make: MakePeer) -> None:
    peer = make()
    streams = [peer.start(data=framed(bytes([i]))) for i in range(5)]
    for i in reversed(range(5)):
        peer.intake.requests[i].answer(b"answer" + bytes([i]))
    peer.exchange()
    assert [peer.replies[s].messages for s in streams] == [[b"answer" + bytes([i])] for i in range(5)]


def test_an_empty_message_and_an_empty_answer_are_messages(make: MakePeer) -> None:
    reply = make(echo).infer(b"")
    assert reply.messages == [b""]
    assert reply.status == 0


def test_a_failure_is_one_trailers_only_answer(make: MakePeer) -> None:
    def fail(request: Pending) -> None:
        request.fail(8, "Modell «eins» 100 % voll\n".encode(), retry_after=0.0121, served_version=b"3")

    reply = make(fail).infer(b"abc")
    assert reply.data == b""
    assert not reply.trailers
    assert reply.headers.pop(b"grpc-status-details-bin")
    assert reply.headers == {
        b":status": b"200",
        b"content-type": b"application/grpc",
        b"grpc-status": b"8",
        b"grpc-message": b"Modell %C2%ABeins%C2%BB 100 %25 voll%0A",
        b"sluice-model-version": b"3",
        b"grpc-retry-pushback-ms": b"13",
    }
    assert reply.is_ended


def fields(message: bytes) -> list[tuple[int, int | bytes]]:
    """The fields of a protobuf message, of those two wire types that a status has."""
    found: list[tuple[int, int | bytes]] = []
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            value, shift, at = value | (byte & 127) << shift, shift + 7, at + 1
            if byte < 128:
                return value

    while at < len(message):
        tag = varint()
        if tag & 7 == 0:
            found.append((tag >> 3, varint()))
        else:
            assert tag & 7 == 2
            size = varint()
            found.append((tag >> 3, message[at : at + size]))
            at += size
    return found


def read_details(data: bytes) -> tuple[int, str, dict[str, bytes]]:
    """Code, text, and the details by the last part of their type."""
    code, text = [value for field, value in fields(data) if field in (1, 2)]
    details = [any_pb2.Any.FromString(value) for field, value in fields(data) if field == 3]
    assert isinstance(code, int)
    assert isinstance(text, bytes)
    assert all(one.type_url.startswith("type.googleapis.com/google.rpc.") for one in details)
    return code, text.decode(), {one.type_url.rpartition(".")[2]: one.value for one in details}


def test_a_refusal_that_may_be_tried_again_says_when_in_its_details(make: MakePeer) -> None:
    reply = make(lambda request: request.fail(8, b"queue full", retry_after=1.2501)).infer(b"abc")
    encoded = reply.headers[b"grpc-status-details-bin"]
    code, text, details = read_details(base64.b64decode(encoded + b"=" * (-len(encoded) % 4)))
    assert (code, text) == (8, "queue full")
    assert list(details) == ["RetryInfo"]
    ((field, delay),) = fields(details["RetryInfo"])
    assert field == 1
    assert duration_pb2.Duration.FromString(delay).ToMilliseconds() == 1251
    assert reply.headers[b"grpc-retry-pushback-ms"] == b"1251"


def test_a_failure_without_advice_or_reason_has_no_details(make: MakePeer) -> None:
    reply = make(lambda request: request.fail(13, b"broken")).infer(b"abc")
    assert b"grpc-status-details-bin" not in reply.headers


@given(text=st.text(max_size=2000), retry_after=st.floats(0, 1e9))
def test_details_of_any_text_can_be_read_and_are_small(text: str, retry_after: float) -> None:
    data = status_details(3, text, "SOME_REASON", retry_after)
    code, kept, details = read_details(data)
    assert code == 3
    assert fields(details["ErrorInfo"]) == [(1, b"SOME_REASON"), (2, b"sluice")]
    assert ("RetryInfo" in details) == (retry_after > 0)
    assert text.encode("utf-8", "replace").decode().startswith(kept)
    assert len(kept.encode()) >= min(len(text.encode("utf-8", "replace")), 1021)
    assert len(data) < 1300


@pytest.mark.parametrize("bad", [b"\xff", b"\xc3", b"\xe2\x82", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xc0\x80"])
def test_a_text_that_is_not_utf_8_is_mended_in_details(make: MakePeer, bad: bytes) -> None:
    message = b"odd " + bad + " é€𝄞".encode()
    reply = make(lambda request: request.fail(8, message, retry_after=1.0)).infer(b"abc")
    encoded = reply.headers[b"grpc-status-details-bin"]
    _, text, _ = read_details(base64.b64decode(encoded + b"=" * (-len(encoded) % 4)))
    assert text == "odd " + "?" * len(bad) + " é€𝄞"


def test_the_exchange_knows_its_stream_protocol_and_times(make: MakePeer) -> None:
    peer = make(echo)
    before = time.monotonic()
    peer.infer(b"abc", (b"grpc-timeout", b"1500m"))
    request = peer.intake.requests[0]
    assert (request.stream_id, request.protocol, request.header_length) == (1, 1, -1)
    assert before <= request.arrived <= time.monotonic()
    assert request.deadline == pytest.approx(request.arrived + 1.5)


@given(st.integers(0, 99_999_999), st.sampled_from("HMSmun"))
def test_every_timeout_of_up_to_eight_digits_becomes_a_deadline(value: int, unit: str) -> None:
    seconds = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}[unit] * value
    with peers() as make:
        peer = make(echo)
        peer.infer(b"", (b"grpc-timeout", f"{value}{unit}".encode()))
        request = peer.intake.requests[0]
        assert request.deadline > 0.0
        assert request.deadline - request.arrived == pytest.approx(seconds, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("text", [b"", b"S", b"1", b"123456789S", b"-1S", b"1.5S", b"1s", b"1 S", b"1SS", b"+1S"])
def test_a_malformed_timeout_is_refused(make: MakePeer, text: bytes) -> None:
    peer = make(echo)
    reply = peer.infer(b"", (b"grpc-timeout", text))
    assert (reply.status, reply.text) == (3, "malformed grpc-timeout")
    assert peer.intake.acquired == 0


@pytest.mark.parametrize(
    "text",
    [b"application/grpc", b"application/grpc+proto", b"application/grpc;charset=utf-8", b"Application/GRPC ; a=b"],
)
def test_grpc_content_types_are_accepted(make: MakePeer, text: bytes) -> None:
    peer = make(echo)
    stream = peer.start(head(content_type=text), framed(b"abc"))
    assert peer.replies[stream].status == 0


@pytest.mark.parametrize(
    "text", [b"application/json", b"application/grpc-web", b"application/grpc+json", b"application/grp"]
)
def test_other_content_types_are_http_415(make: MakePeer, text: bytes) -> None:
    peer = make(echo)
    stream = peer.start(head(content_type=text), framed(b"abc"))
    assert peer.replies[stream].headers[b":status"] == b"415"
    assert peer.replies[stream].is_ended
    assert peer.intake.acquired == 0


def test_a_request_without_content_type_is_http_415(make: MakePeer) -> None:
    peer = make(echo)
    stream = peer.start([item for item in head() if item[0] != b"content-type"], framed(b"abc"))
    assert peer.replies[stream].headers[b":status"] == b"415"


def test_other_methods_than_post_are_http_405(make: MakePeer) -> None:
    peer = make(echo)
    stream = peer.start(head(method=b"GET"))
    assert peer.replies[stream].headers == {b":status": b"405", b"allow": b"POST"}


def test_a_head_beyond_the_limit_is_http_431_and_the_connection_goes_on(make: MakePeer) -> None:
    peer = make(echo, max_header_bytes=1000)
    stream = peer.start(head(INFER, (b"x-big", b"v" * 1000)), framed(b"abc"))
    assert peer.replies[stream].headers[b":status"] == b"431"
    assert peer.infer(b"abc").messages == [b"abc"]


def test_a_request_without_a_message_is_a_cardinality_violation(make: MakePeer) -> None:
    peer = make(echo)
    stream = peer.start(data=b"")
    assert peer.replies[stream].status == 12
    stream = peer.start()
    assert peer.replies[stream].status == 12
    assert peer.intake.submitted == 0


def test_a_second_message_is_a_cardinality_violation(make: MakePeer) -> None:
    peer = make(echo)
    stream = peer.start(data=framed(b"one") + framed(b"two"))
    assert peer.replies[stream].status == 12
    assert peer.intake.submitted == 0


@pytest.mark.parametrize("data", [b"\0", b"\0\0\0\0", framed(b"abc")[:-1], framed(b"abc") + b"\0"])
def test_a_request_that_ends_inside_a_message_is_an_internal_error(make: MakePeer, data: bytes) -> None:
    peer = make(echo)
    stream = peer.start(data=data)
    assert peer.replies[stream].status in (12, 13)
    assert peer.intake.submitted == 0


def test_unknown_message_flags_are_an_internal_error(make: MakePeer) -> None:
    peer = make(echo)
    stream = peer.start(data=framed(b"abc", flag=2))
    assert peer.replies[stream].status == 13


@given(st.lists(st.integers(1, 9), max_size=30), st.binary(max_size=100))
def test_a_message_may_be_cut_into_frames_anywhere(cuts: list[int], body: bytes) -> None:
    with peers() as make:
        peer = make(echo)
        data = framed(body)
        stream = peer.start(end=False)
        for cut in cuts:
            peer.send(stream, data[:cut])
            data = data[cut:]
        peer.send(stream, data, end=True)
        assert peer.replies[stream].messages == [body]


def test_a_message_larger_than_the_limit_is_refused_by_its_prefix_alone(make: MakePeer) -> None:
    peer = make(echo, max_message_bytes=100)
    stream = peer.start(data=framed(b"x" * 101)[:20], end=False)
    reply = peer.replies[stream]
    assert (reply.status, reply.text) == (8, "message of 101 bytes is larger than max_message_bytes (100)")
    assert reply.reset == ErrorCodes.NO_ERROR
    assert peer.infer(b"x" * 100).messages == [b"x" * 100]


def test_unfinished_messages_are_bounded_together(make: MakePeer) -> None:
    peer = make(echo, max_buffered_bytes=1000)
    first = peer.start(data=framed(b"x" * 600)[:-1], end=False)
    second = peer.start(data=framed(b"x" * 600)[:-1], end=False)
    assert peer.replies[second].status == 8
    assert "max_buffered_bytes (1000)" in peer.replies[second].text
    peer.send(first, b"x", end=True)
    assert peer.replies[first].status == 0
    assert peer.infer(b"x" * 900).status == 0


def test_a_large_message_passes_through_the_windows_both_ways(make: MakePeer) -> None:
    body = bytes(range(256)) * 12_000
    peer = make(echo, stream_window=65536, connection_window=65535)
    stream = peer.start(data=framed(body))
    while not peer.replies[stream].is_ended:
        peer.exchange()
    assert peer.replies[stream].messages == [body]


def test_a_client_reset_cancels_the_request_while_it_is_queued(make: MakePeer) -> None:
    peer = make()
    stream = peer.start(data=framed(b"abc"))
    peer.client.reset_stream(stream, ErrorCodes.CANCEL)
    peer.exchange()
    assert peer.intake.requests[0].is_cancelled
    assert peer.intake.live == 0


def test_a_client_reset_cancels_the_request_while_it_is_received(make: MakePeer) -> None:
    peer = make()
    stream = peer.start(data=b"\0\0\0", end=False)
    assert peer.intake.live == 1
    peer.client.reset_stream(stream, ErrorCodes.CANCEL)
    peer.exchange()
    assert (peer.intake.live, peer.intake.cancelled) == (0, 1)


def test_a_client_reset_after_the_answer_was_given_releases_it(make: MakePeer) -> None:
    peer = make(stream_window=65536)
    stream = peer.start(data=framed(b"abc"))
    peer.intake.requests[0].answer(b"x" * 10_000_000)
    peer.exchange()
    peer.client.reset_stream(stream, ErrorCodes.CANCEL)
    peer.exchange()
    assert (peer.intake.released, peer.intake.cancelled, peer.intake.live) == (1, 0, 0)


def test_a_reset_before_the_flush_of_an_answer_loses_nothing_else(make: MakePeer) -> None:
    peer = make()
    first, second = (peer.start(data=framed(b"abc")) for _ in range(2))
    peer.intake.requests[0].answer(b"one")
    peer.intake.requests[1].answer(b"two")
    peer.client.reset_stream(first, ErrorCodes.CANCEL)
    peer.exchange()
    assert peer.replies[second].messages == [b"two"]


def test_a_lost_connection_cancels_everything_on_it(make: MakePeer) -> None:
    peer = make()
    for i in range(10):
        peer.start(data=framed(b"abc"), end=i % 2 == 0)
    peer.lose()
    assert (peer.intake.cancelled, peer.intake.live) == (10, 0)
    assert peer.closed == [peer.protocol]


def test_events_after_the_connection_is_lost_do_nothing(make: MakePeer) -> None:
    peer = make()
    peer.start(data=framed(b"abc"))
    peer.lose()
    peer.protocol.connection_lost(None)
    peer.protocol.drain()
    peer.protocol.close_now()
    peer.protocol.resume_writing()
    peer.tick(1000.0)
    peer.protocol.buffer_updated(10)
    peer.intake.flush()
    assert peer.closed == [peer.protocol]


def test_nothing_is_written_while_the_transport_is_paused(make: MakePeer) -> None:
    peer = make(echo)
    peer.protocol.pause_writing()
    peer.client.send_headers(1, head())
    peer.client.send_data(1, framed(b"abc"), end_stream=True)
    peer.feed(peer.client.data_to_send())
    assert peer.take() == b""
    peer.protocol.resume_writing()
    assert b"abc" in peer.take()


def test_a_transport_that_fills_up_is_given_no_more_than_one_piece(make: MakePeer) -> None:
    peer = make()
    stream = peer.start(data=framed(b"abc"))
    peer.client.increment_flow_control_window(2**30, stream)
    peer.exchange()
    peer.intake.requests[0].answer(b"x" * 2_000_000)
    peer.transport.is_full = True
    peer.intake.flush()
    assert 0 < len(peer.take()) < 300_000
    peer.protocol.resume_writing()
    assert 0 < len(peer.take()) < 300_000


def test_a_client_with_no_window_gets_its_answer_when_it_opens_one() -> None:
    with peers() as make:
        peer = make(echo)
        peer.client.update_settings({4: 3})
        peer.exchange()
        reply = peer.infer(b"abcdef")
        for _ in range(10):
            peer.exchange()
        assert reply.messages == [b"abcdef"]


def test_streams_beyond_the_limit_are_refused_before_the_settings_are_acknowledged(make: MakePeer) -> None:
    peer = make(max_concurrent_streams=2, connect=False)
    peer.client.initiate_connection()
    for stream in (1, 3, 5):
        peer.client.send_headers(stream, head())
    peer.feed(peer.client.data_to_send())
    for event in peer.client.receive_data(peer.take()):
        peer._note(event)
    assert peer.replies[5].reset == ErrorCodes.REFUSED_STREAM
    assert peer.protocol.live_streams == 2


def test_trailers_from_the_client_end_the_request(make: MakePeer) -> None:
    peer = make(echo)
    stream = peer.start(data=framed(b"abc"), end=False)
    peer.client.send_headers(stream, [(b"x-done", b"yes")], end_stream=True)
    peer.exchange()
    assert peer.replies[stream].messages == [b"abc"]


@given(st.lists(st.integers(0, 40_000), min_size=1, max_size=6), st.booleans())
def test_answers_of_any_size_are_sent_whole(sizes: list[int], reset_one: bool) -> None:
    with peers() as make:
        peer = make()
        streams = [peer.start(data=framed(b"abc")) for _ in sizes]
        for i, size in enumerate(sizes):
            peer.intake.requests[i].answer(bytes([i]) * size)
        if reset_one:
            peer.client.reset_stream(streams[0], ErrorCodes.CANCEL)
        for _ in range(20):
            peer.exchange()
        for i, size in enumerate(sizes):
            if i or not reset_one:
                assert peer.replies[streams[i]].messages == [bytes([i]) * size]
