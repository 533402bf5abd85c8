"""Clients that break the rules, or keep to them and mean harm."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest
from h2.errors import ErrorCodes
from hpack import Encoder
from http2_peer import INFER, PREFACE, Peer, framed, head, peers
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    PriorityFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kernels.testing import Pending

MakePeer = Callable[..., Peer]


@pytest.fixture
def make() -> Iterator[MakePeer]:
    with peers() as maker:
        yield maker


def echo(request: Pending) -> None:
    request.answer(request.body)


def headers_frame(stream: int, fields: list[tuple[bytes, bytes]] | None = None, *flags: str) -> HeadersFrame:
    """A request head that leaves no trace in the compression state."""
    frame = HeadersFrame(stream)
    encoder = Encoder()
    encoder.header_table_size = 0
    frame.data = encoder.encode(head() if fields is None else fields)
    for flag in flags or ("END_HEADERS",):
        frame.flags.add(flag)
    return frame


def data_frame(stream: int, data: bytes, *flags: str) -> DataFrame:
    frame = DataFrame(stream, data)
    for flag in flags:
        frame.flags.add(flag)
    return frame


def goaway(peer: Peer) -> tuple[ErrorCodes, bytes]:
    """The GOAWAY that the server has just written; it must have closed the connection with it."""
    [frame] = [frame for frame in peer.take_frames() if isinstance(frame, GoAwayFrame)]
    assert peer.transport.is_closed
    return ErrorCodes(frame.error_code), frame.additional_data


@pytest.fixture
def raw(make: MakePeer) -> Callable[..., Peer]:
    """Makes peers that have exchanged settings and speak in frames from there on."""

    def make_raw(script: Callable[[Pending], object] | None = None, **limits: int) -> Peer:
        peer = make(script, connect=False, **limits)
        acknowledgement = SettingsFrame()
        acknowledgement.flags.add("ACK")
        peer.feed(PREFACE)
        peer.feed_frames(SettingsFrame(), acknowledgement)
        peer.take()
        return peer

    return make_raw


def test_something_else_than_http2_is_closed(make: MakePeer) -> None:
    peer = make(connect=False)
    peer.feed(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
    assert peer.transport.is_closed


@pytest.mark.parametrize("size", range(len(PREFACE)))
def test_a_preface_that_arrives_in_pieces_is_taken(make: MakePeer, size: int) -> None:
    peer = make(connect=False)
    peer.feed(PREFACE[:size])
    peer.feed(PREFACE[size:])
    peer.feed_frames(SettingsFrame())
    assert not peer.transport.is_closed


def test_a_first_frame_that_is_not_settings_ends_the_connection(make: MakePeer) -> None:
    peer = make(connect=False)
    peer.feed(PREFACE)
    peer.feed_frames(PingFrame(0, b"12345678"))
    assert goaway(peer)[0] == ErrorCodes.PROTOCOL_ERROR


def test_frames_that_arrive_byte_by_byte_are_one_request(raw: MakePeer) -> None:
    peer = raw(echo)
    for byte in headers_frame(1).serialize() + data_frame(1, framed(b"abc"), "END_STREAM").serialize():
        peer.feed(bytes([byte]))
    assert peer.intake.requests[0].body == b"abc"


def test_bad_hpack_ends_the_connection(raw: MakePeer) -> None:
    peer = raw()
    frame = HeadersFrame(1, b"\xff\xff\xff\xff\xff\xff\xff")
    frame.flags.add("END_HEADERS")
    peer.feed_frames(frame)
    assert goaway(peer)[0] == ErrorCodes.COMPRESSION_ERROR


def test_a_frame_larger_than_allowed_ends_the_connection(raw: MakePeer) -> None:
    peer = raw()
    peer.feed_frames(headers_frame(1), data_frame(1, bytes(16385)))
    assert goaway(peer)[0] == ErrorCodes.FRAME_SIZE_ERROR


def test_data_for_a_stream_that_was_never_opened_ends_the_connection(raw: MakePeer) -> None:
    peer = raw()
    peer.feed_frames(data_frame(1, b"abc"))
    assert goaway(peer)[0] == ErrorCodes.PROTOCOL_ERROR


def test_a_header_name_in_upper_case_resets_the_stream_alone(raw: MakePeer) -> None:
    peer = raw(echo)
    peer.feed_frames(headers_frame(1, [*head(), (b"Upper", b"a")]))
    peer.feed_frames(headers_frame(3), data_frame(3, framed(b"abc"), "END_STREAM"))
    assert peer.intake.requests[0].body == b"abc"
    assert not peer.transport.is_closed


def test_a_window_that_overflows_on_the_connection_ends_it(raw: MakePeer) -> None:
    peer = raw()
    peer.feed_frames(WindowUpdateFrame(0, 2**31 - 1), WindowUpdateFrame(0, 2**31 - 1))
    assert goaway(peer)[0] == ErrorCodes.FLOW_CONTROL_ERROR


def test_a_window_that_overflows_on_a_stream_cancels_the_stream(raw: MakePeer) -> None:
    peer = raw()
    peer.feed_frames(headers_frame(1), data_frame(1, framed(b"abc"), "END_STREAM"), WindowUpdateFrame(1, 2**31 - 1))
    assert peer.intake.requests[0].is_cancelled
    assert not peer.transport.is_closed


def test_more_data_than_the_window_of_a_paused_call_resets_its_stream(raw: MakePeer) -> None:
    peer = raw(stream_window=16384)
    peer._handler = lambda call: call.pause_reading()
    peer.feed_frames(headers_frame(1, head(b"/s/m")), *[data_frame(1, framed(bytes(10_000))) for _ in range(3)])
    resets = [frame for frame in peer.take_frames() if isinstance(frame, RstStreamFrame | GoAwayFrame)]
    assert [frame.error_code for frame in resets] == [ErrorCodes.FLOW_CONTROL_ERROR]
    assert peer.calls[0].is_cancelled


def test_a_continuation_flood_ends_the_connection(raw: MakePeer) -> None:
    peer = raw()
    peer.feed_frames(headers_frame(1, None, "END_STREAM"), *[ContinuationFrame(1, b"") for _ in range(20)])
    assert peer.transport.is_closed
    assert peer.intake.acquired == 0


def test_a_head_whose_frames_come_byte_by_byte_is_no_flood(raw: MakePeer) -> None:
    peer = raw(max_continuations=2)
    block = headers_frame(1).data
    frames = [HeadersFrame(1, block[:9]), ContinuationFrame(1, block[9:12]), ContinuationFrame(1, block[12:])]
    frames[-1].flags.add("END_HEADERS")
    for frame in [*frames, data_frame(1, framed(b"slow"), "END_STREAM")]:
        for byte in frame.serialize():
            peer.feed(bytes([byte]))
    assert [request.body for request in peer.intake.requests] == [b"slow"]


def test_a_head_that_repeats_one_table_entry_for_ever_is_refused(raw: MakePeer) -> None:
    peer = raw()
    encoder = Encoder()
    first = encoder.encode([*head(), (b"x-long", b"v" * 3000)])
    again = encoder.encode([(b"x-long", b"v" * 3000)])
    assert len(again) == 1
    frame = HeadersFrame(1, first + again * 10_000)
    frame.flags.add("END_HEADERS")
    frame.flags.add("END_STREAM")
    peer.feed_frames(frame)
    assert peer.intake.acquired == 0
    assert peer.protocol.live_streams == 0
    assert not peer.transport.is_closed


def test_rapid_resets_end_the_connection(raw: MakePeer) -> None:
    peer = raw(max_resets_per_minute=100)
    for i in range(101):
        stream = 2 * i + 1
        peer.feed_frames(headers_frame(stream), RstStreamFrame(stream, 8))
    assert goaway(peer) == (ErrorCodes.ENHANCE_YOUR_CALM, b"too_many_resets")
    assert peer.intake.live == 0


def test_resets_of_requests_that_have_run_for_a_while_are_ordinary(raw: MakePeer) -> None:
    peer = raw(max_resets_per_minute=10)
    for i in range(50):
        peer.feed_frames(headers_frame(2 * i + 1))
    opened = time.monotonic()
    while time.monotonic() < opened + 0.06:
        pass
    for i in range(50):
        peer.feed_frames(RstStreamFrame(2 * i + 1, 8))
    assert not peer.transport.is_closed
    assert peer.intake.live == 0


def test_making_the_server_reset_counts_like_resetting(raw: MakePeer) -> None:
    peer = raw(max_resets_per_minute=100)
    for i in range(102):
        stream = 2 * i + 1
        peer.feed_frames(headers_frame(stream), WindowUpdateFrame(stream, 2**31 - 1))
    assert goaway(peer) == (ErrorCodes.ENHANCE_YOUR_CALM, b"too_many_stream_errors")
    assert peer.intake.live == 0


def test_too_many_pings_end_the_connection(raw: MakePeer) -> None:
    peer = raw()
    for _ in range(3):
        peer.feed_frames(PingFrame(0, b"12345678"))
    assert not peer.transport.is_closed
    peer.feed_frames(PingFrame(0, b"12345678"))
    assert goaway(peer) == (ErrorCodes.ENHANCE_YOUR_CALM, b"too_many_pings")


def test_pings_between_answers_are_welcome(raw: MakePeer) -> None:
    peer = raw(echo)
    for i in range(50):
        stream = 2 * i + 1
        peer.feed_frames(headers_frame(stream), data_frame(stream, framed(b"abc"), "END_STREAM"))
        peer.feed_frames(PingFrame(0, b"12345678"))
    assert not peer.transport.is_closed


def test_settings_that_nobody_acknowledges_away_end_the_connection(raw: MakePeer) -> None:
    peer = raw(max_outbound_acks=100)
    peer.protocol.pause_writing()
    peer.feed_frames(*[SettingsFrame() for _ in range(200)])
    peer.protocol.resume_writing()
    assert goaway(peer)[0] == ErrorCodes.ENHANCE_YOUR_CALM


def small_window_update(i: int) -> Frame:
    return WindowUpdateFrame(0, 1)


def priority(i: int) -> Frame:
    return PriorityFrame(2 * i + 1, depends_on=0, stream_weight=1)


def empty_data(i: int) -> Frame:
    return data_frame(1, b"")


def padded_data(i: int) -> Frame:
    frame = data_frame(1, b"", "PADDED")
    frame.pad_length = 3
    return frame


def more_settings(i: int) -> Frame:
    return SettingsFrame()


@pytest.mark.parametrize("make_frame", [small_window_update, priority, empty_data, padded_data, more_settings])
def test_frames_that_do_no_work_are_limited(raw: MakePeer, make_frame: Callable[[int], Frame]) -> None:
    peer = raw(max_control_frames_per_minute=200)
    peer.feed_frames(headers_frame(1))
    for i in range(250):
        peer.feed_frames(make_frame(i))
    assert goaway(peer)[0] == ErrorCodes.ENHANCE_YOUR_CALM


def test_a_message_of_a_million_tiny_frames_is_taken(raw: MakePeer) -> None:
    peer = raw(echo)
    size = 100_000
    chunks = b"".join(data_frame(1, b"x").serialize() for _ in range(1000))
    peer.feed_frames(headers_frame(1), data_frame(1, framed(b"x" * size)[:5]))
    for _ in range(size // 1000):
        peer.feed(chunks)
    peer.feed_frames(data_frame(1, b"", "END_STREAM"))
    assert peer.intake.requests[0].body == b"x" * size


def test_a_declared_length_costs_no_memory_before_its_bytes_come(raw: MakePeer) -> None:
    peer = raw(max_message_bytes=2**31)
    for i in range(100):
        peer.feed_frames(headers_frame(2 * i + 1), data_frame(2 * i + 1, b"\0\x7f\xff\xff\xff" + b"x"))
    assert peer.intake.live == 100
    assert not peer.transport.is_closed


def test_no_request_is_taken_after_the_connection_was_ended(raw: MakePeer) -> None:
    peer = raw(echo)
    peer.feed(
        b"".join(PingFrame(0, b"12345678").serialize() for _ in range(10))
        + headers_frame(1).serialize()
        + data_frame(1, framed(b"abc"), "END_STREAM").serialize()
    )
    assert peer.intake.acquired == 0


def test_a_client_that_goes_away_politely_is_closed_when_its_last_answer_is_out(raw: MakePeer) -> None:
    peer = raw()
    peer.feed_frames(headers_frame(1), data_frame(1, framed(b"abc"), "END_STREAM"), GoAwayFrame(0, 0, 0))
    assert not peer.transport.is_closed
    peer.intake.requests[0].answer(b"bye")
    peer.intake.flush()
    assert b"bye" in peer.take()
    assert peer.transport.is_closed
    assert not peer.transport.is_aborted


def request_bytes(stream: int) -> bytes:
    return headers_frame(stream).serialize() + data_frame(stream, framed(b"abc"), "END_STREAM").serialize()


frames = st.one_of(
    st.binary(max_size=60),
    st.builds(
        lambda kind, flags, stream, payload: (
            len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload
        ),
        st.integers(0, 12),
        st.integers(0, 255),
        st.integers(0, 9),
        st.binary(max_size=40),
    ),
    st.integers(0, 4).map(lambda i: request_bytes(2 * i + 1)),
    st.integers(0, 4).map(lambda i: headers_frame(2 * i + 1).serialize()),
    st.integers(0, 4).map(lambda i: headers_frame(2 * i + 1, head(b"/s/m")).serialize()),
    st.tuples(st.integers(0, 4), st.binary(max_size=20)).map(lambda x: data_frame(2 * x[0] + 1, x[1]).serialize()),
    st.integers(0, 4).map(lambda i: RstStreamFrame(2 * i + 1, 8).serialize()),
)


@settings(max_examples=400, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.lists(frames, max_size=25), st.integers(0, 3))
def test_no_bytes_break_the_rules_of_ownership(pieces: list[bytes], answers: int) -> None:
    """The teardown of `peers` checks them."""
    with peers() as make:
        peer = make(connect=False)
        peer._handler = lambda call: call.send(b"hello")
        peer.feed(PREFACE)
        peer.feed_frames(SettingsFrame())
        for i, piece in enumerate(pieces):
            peer.feed(piece)
            if i % 4 == answers:
                for request in peer.intake.requests:
                    if not request.is_answered and not request.is_cancelled:
                        request.answer(b"x" * 30_000)
                for call in peer.calls:
                    call.finish()
            peer.intake.flush()
        peer.tick(2.0)


def test_the_path_of_an_inference_is_matched_exactly(raw: MakePeer) -> None:
    peer = raw(echo)
    peer.feed_frames(headers_frame(1, head(INFER + b"/")), headers_frame(3, head(INFER[:-1])))
    assert len(peer.calls) == 2
    assert peer.intake.acquired == 0
