"""What the passing of time does to a connection, and how one ends in peace."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from h2.errors import ErrorCodes
from h2.events import PingReceived
from http2_peer import INFER, PREFACE, Peer, framed, head, peers
from hyperframe.frame import GoAwayFrame, HeadersFrame, PingFrame, SettingsFrame

from kernels.testing import Pending

MakePeer = Callable[..., Peer]


@pytest.fixture
def make() -> Iterator[MakePeer]:
    with peers() as maker:
        yield maker


def goaways(peer: Peer) -> list[tuple[int, int]]:
    """Error code and last stream of every GOAWAY since the last time."""
    frames = peer.take_frames()
    return [(frame.error_code, frame.last_stream_id) for frame in frames if isinstance(frame, GoAwayFrame)]


def answer_ping(peer: Peer) -> None:
    """What every client does, and `h2` does not once it has seen a GOAWAY."""
    frame = PingFrame(0, b"draining")
    frame.flags.add("ACK")
    peer.feed_frames(frame)


def answer_pings(peer: Peer) -> None:
    """Both of a drain."""
    answer_ping(peer)
    answer_ping(peer)


NOTICE = (0, 2**31 - 1)


def echo(request: Pending) -> None:
    request.answer(request.body)


def test_a_client_that_says_nothing_is_closed(make: MakePeer) -> None:
    peer = make(connect=False, header_timeout=5)
    peer.tick(4.0)
    assert not peer.transport.is_closed
    peer.tick(5.1)
    assert peer.transport.is_aborted


def test_a_client_that_does_not_finish_its_preface_is_closed(make: MakePeer) -> None:
    peer = make(connect=False, header_timeout=5)
    peer.feed(PREFACE[:-1])
    peer.tick(5.1)
    assert peer.transport.is_aborted


def test_a_head_that_is_not_finished_is_closed(make: MakePeer) -> None:
    peer = make(connect=False, header_timeout=5)
    peer.feed(PREFACE)
    peer.feed_frames(SettingsFrame())
    frame = HeadersFrame(1, b"\x83")
    peer.feed_frames(frame)
    peer.tick(4.0)
    assert not peer.transport.is_closed
    peer.tick(5.1)
    assert peer.transport.is_aborted


def test_a_connected_client_may_wait_before_its_first_request(make: MakePeer) -> None:
    peer = make(header_timeout=5, idle_timeout=600)
    peer.tick(590.0)
    assert not peer.transport.is_closed
    assert peer.goaway == []


def test_a_slow_message_is_a_missed_deadline(make: MakePeer) -> None:
    peer = make(echo, body_timeout=30, min_body_rate=1000)
    stream = peer.start(data=framed(b"x" * 20_000)[:10_000], end=False)
    peer.tick(39.0)
    peer.exchange()
    assert not peer.replies[stream].is_ended
    peer.tick(41.0)
    peer.exchange()
    assert peer.replies[stream].status == 4
    assert "body_timeout" in peer.replies[stream].text
    assert peer.intake.live == 0


def test_a_message_that_has_arrived_may_wait_for_its_answer(make: MakePeer) -> None:
    peer = make(body_timeout=30, write_timeout=30, keepalive_time=10_000)
    stream = peer.start(data=framed(b"abc"))
    peer.tick(3000.0)
    peer.intake.requests[0].answer(b"late")
    peer.exchange()
    assert peer.replies[stream].messages == [b"late"]


def test_a_call_may_stay_open_for_ever(make: MakePeer) -> None:
    peer = make(body_timeout=30, write_timeout=30, idle_timeout=30)
    stream = peer.call()
    peer.tick(3000.0)
    peer.exchange()
    peer.calls[0].send(b"still here")
    peer.exchange()
    assert peer.replies[stream].messages == [b"still here"]


def test_an_answer_for_which_the_client_opens_no_window_is_given_up(make: MakePeer) -> None:
    peer = make(echo, write_timeout=60)
    peer.client.update_settings({4: 0})
    peer.exchange()
    stream = peer.start(data=framed(b"abc"))
    assert peer.intake.live == 1
    peer.tick(59.0)
    peer.exchange()
    assert peer.intake.live == 1
    peer.tick(61.0)
    peer.exchange()
    assert peer.replies[stream].reset == ErrorCodes.CANCEL
    assert peer.intake.live == 0


def test_a_transport_that_takes_nothing_is_closed(make: MakePeer) -> None:
    peer = make(write_timeout=60)
    peer.protocol.pause_writing()
    peer.tick(0.0)
    peer.tick(59.0)
    assert not peer.transport.is_closed
    peer.tick(61.0)
    assert peer.transport.is_aborted


def test_an_idle_connection_is_drained_and_closed(make: MakePeer) -> None:
    peer = make(echo, idle_timeout=100)
    peer.infer(b"abc")
    peer.tick(99.0)
    assert goaways(peer) == []
    peer.tick(101.0)
    assert goaways(peer) == [NOTICE]
    answer_pings(peer)
    assert goaways(peer) == [(0, 1)]
    assert peer.transport.is_closed
    assert not peer.transport.is_aborted


def test_a_silent_client_is_asked_whether_it_is_there(make: MakePeer) -> None:
    peer = make(keepalive_time=100, keepalive_timeout=20)
    peer.tick(101.0)
    peer.exchange()
    assert any(isinstance(event, PingReceived) for event in peer.events)
    peer.tick(130.0)  # it has answered
    assert not peer.transport.is_closed


def test_a_client_that_does_not_answer_a_ping_is_closed(make: MakePeer) -> None:
    peer = make(keepalive_time=100, keepalive_timeout=20)
    peer.tick(101.0)
    peer.tick(120.0)
    assert not peer.transport.is_closed
    peer.tick(122.0)
    assert peer.transport.is_aborted


def test_a_drain_takes_what_the_client_has_sent_and_then_closes(make: MakePeer) -> None:
    peer = make()
    peer.start(data=framed(b"one"))
    peer.client.send_headers(3, head())
    peer.client.send_data(3, framed(b"two"), end_stream=True)
    in_flight = peer.client.data_to_send()
    peer.protocol.drain()
    assert goaways(peer) == [NOTICE]
    peer.feed(in_flight)
    answer_pings(peer)
    assert goaways(peer) == [(0, 3)]
    assert [request.body for request in peer.intake.requests] == [b"one", b"two"]
    assert not peer.transport.is_closed
    peer.intake.requests[0].answer(b"answer 1")
    peer.intake.requests[1].answer(b"answer 2")
    peer.intake.flush()
    assert peer.transport.is_closed
    assert not peer.transport.is_aborted
    data = peer.take()
    assert b"answer 1" in data
    assert b"answer 2" in data


def test_a_drain_takes_what_the_client_wrote_behind_its_answer_to_the_first_ping(make: MakePeer) -> None:
    """As grpc does, which puts such answers before the requests that it has begun."""
    peer = make()
    peer.start(data=framed(b"one"))
    peer.client.send_headers(3, head())
    peer.client.send_data(3, framed(b"two"), end_stream=True)
    behind = peer.client.data_to_send()
    peer.protocol.drain()
    answer_ping(peer)
    assert goaways(peer) == [NOTICE]
    peer.feed(behind)
    answer_ping(peer)
    assert goaways(peer) == [(0, 3)]
    assert [request.body for request in peer.intake.requests] == [b"one", b"two"]


def test_a_drain_names_the_last_stream_when_the_client_does_not_answer_its_ping(make: MakePeer) -> None:
    peer = make()
    peer.start(data=framed(b"one"))
    peer.protocol.drain()
    peer.protocol.drain()
    assert goaways(peer) == [NOTICE]
    peer.tick(4.9)
    assert goaways(peer) == []
    peer.tick(5.1)
    assert goaways(peer) == [(0, 1)]
    peer.intake.requests[0].answer(b"1")
    peer.intake.flush()
    assert peer.transport.is_closed


def test_an_idle_connection_drains_at_once(make: MakePeer) -> None:
    peer = make(echo)
    peer.infer(b"abc")
    peer.protocol.drain()
    answer_pings(peer)
    assert peer.transport.is_closed
    assert not peer.transport.is_aborted


def test_closing_now_says_goaway_and_cancels_what_is_left(make: MakePeer) -> None:
    peer = make()
    peer.start(data=framed(b"one"))
    peer.protocol.close_now()
    assert len(goaways(peer)) == 1
    assert peer.transport.is_aborted
    peer.protocol.close_now()
    peer.lose()
    assert peer.intake.requests[0].is_cancelled


def test_a_closed_transport_that_never_drains_is_aborted(make: MakePeer) -> None:
    peer = make(write_timeout=60)
    peer.protocol.drain()
    answer_pings(peer)
    assert peer.transport.is_closed
    peer.tick(59.0)
    assert not peer.transport.is_aborted
    peer.tick(61.0)
    assert peer.transport.is_aborted


def test_an_answer_for_a_closing_connection_is_released(make: MakePeer) -> None:
    peer = make()
    peer.start(head(INFER), framed(b"one"))
    peer.protocol.close_now()
    peer.intake.requests[0].answer(b"late")
    peer.intake.flush()
    peer.lose()
    assert peer.intake.released == 1


def hold_windows(peer: Peer) -> None:
    """From here on the client takes what the windows allow and gives nothing back."""
    peer.client.acknowledge_received_data = lambda *_: None  # type: ignore[method-assign]


def test_a_client_that_leaves_too_many_answers_unread_gets_no_more_of_them(make: MakePeer) -> None:
    peer = make(lambda request: request.answer(b"x" * 400_000), max_unread_bytes=1_000_000)
    hold_windows(peer)
    statuses = [peer.infer(b"abc").status for _ in range(5)]
    assert statuses == [None, None, None, 8, 8]
    refused = list(peer.replies.values())[-1]
    assert "max_unread_bytes (1000000)" in refused.text
    assert peer.intake.submitted == 3


def test_a_client_that_reads_again_is_served_again(make: MakePeer) -> None:
    peer = make(lambda request: request.answer(b"x" * 400_000), max_unread_bytes=100_000)
    hold_windows(peer)
    first = peer.infer(b"abc")
    assert peer.infer(b"abc").status == 8
    peer.client.increment_flow_control_window(1 << 20, next(iter(peer.replies)))
    peer.exchange()
    peer.exchange()
    assert first.status == 0
    assert peer.infer(b"abc").status is None
    assert peer.intake.submitted == 2


def test_a_client_over_the_limit_that_reads_nothing_is_closed_after_the_write_timeout(make: MakePeer) -> None:
    peer = make(lambda request: request.answer(b"x" * 400_000), max_unread_bytes=100_000, write_timeout=10)
    hold_windows(peer)
    peer.infer(b"abc")
    peer.tick(9)
    assert not peer.transport.is_closed
    peer.tick(11)
    assert peer.transport.is_aborted
