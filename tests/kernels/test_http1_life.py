"""Lives of HTTP/1 connections: timeouts, pressure from both sides, draining, and callers that go in every stage."""

from __future__ import annotations

import gc
import json
import weakref
from collections.abc import Callable, Iterator

import pytest
from http1_peer import INFER, Peer, chunked, echo, infer, parse_answers, peers, request

from kernels.http1 import HttpRequest

MakePeer = Callable[..., Peer]
HALF_BODY = request(b"POST", INFER, [(b"Content-Length", b"10")]) + b"half"
HALF_LARGE_BODY = request(b"POST", INFER, [(b"Content-Length", b"1000000")]) + b"x" * 70_000
HALF_PACKED_BODY = infer(b"\x1f\x8b\x08" * 9, [(b"Content-Encoding", b"gzip")])[:-20]
HALF_PUT = request(b"PUT", b"/x", [(b"Content-Length", b"9")])


@pytest.fixture
def make() -> Iterator[MakePeer]:
    with peers() as maker:
        yield maker


# --- Time -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", [b"G", b"GET / HTTP/1.1\r\nHost: a\r\nX", request()[:-1], b"\r"])
def test_a_head_that_does_not_end_times_out(make: MakePeer, start: bytes) -> None:
    peer = make(header_timeout=5.0)
    peer.send(start)
    peer.tick(4.9)
    assert peer.take() == []
    peer.tick(5.1)
    (answer,) = peer.take()
    assert answer.status == 408
    assert answer.says_close
    assert "header" in json.loads(answer.body)["error"]
    assert peer.transport.is_half_closed


def test_a_head_that_drips_times_out_all_the_same(make: MakePeer) -> None:
    peer = make(header_timeout=5.0)
    for byte in request():
        peer.send(bytes([byte]))
        peer.tick(5.1)
        if peer.is_over:
            break
    assert [answer.status for answer in peer.take()] == [408]
    assert peer.requests == []


def test_each_head_has_its_own_time(make: MakePeer) -> None:
    peer = make(echo, header_timeout=5.0)
    peer.send(b"GET", request()[3:] + b"GE")
    peer.tick(4.9)
    peer.send(request()[2:])
    peer.tick(10.0)
    assert [answer.status for answer in peer.take()] == [200, 200]
    assert not peer.is_over


@pytest.mark.parametrize("start", [HALF_BODY, HALF_LARGE_BODY, HALF_PACKED_BODY, HALF_PUT])
def test_a_body_without_progress_times_out(make: MakePeer, start: bytes) -> None:
    peer = make(echo, body_timeout=30.0)
    peer.send(start)
    peer.tick(29.0)
    assert peer.take() == []
    peer.tick(31.0)
    (answer,) = peer.take()
    assert answer.status == 408
    assert "body" in json.loads(answer.body)["error"]
    assert peer.is_over
    assert peer.intake.live == 0


def test_an_idle_connection_is_closed_without_a_word(make: MakePeer) -> None:
    peer = make(echo, idle_timeout=75.0)
    peer.tick(74.0)
    assert not peer.is_over
    peer.ask(request())
    peer.tick(74.0)
    assert not peer.is_over
    peer.tick(76.0)
    assert peer.transport.is_closed
    assert peer.take() == []


def test_a_connection_that_waits_for_an_answer_is_not_idle(make: MakePeer) -> None:
    peer = make(idle_timeout=75.0)
    peer.send(infer())
    peer.tick(1000.0)
    peer.intake.requests[0].answer(b"late")
    peer.settle()
    assert [answer.body for answer in peer.take()] == [b"late"]
    peer.tick(1010.0)
    assert not peer.is_over
    peer.tick(1080.0)
    assert peer.transport.is_closed


def test_a_client_that_does_not_read_is_given_up(make: MakePeer) -> None:
    peer = make(echo, body_timeout=30.0)
    peer.transport.is_full = True
    peer.send(infer(b"x" * 100))
    peer.tick(0.0)
    peer.tick(29.0)
    peer.transport.waiting -= 1
    peer.tick(31.0)
    assert not peer.transport.is_aborted
    peer.tick(60.0)
    assert not peer.transport.is_aborted
    peer.tick(62.0)
    assert peer.transport.is_aborted


def test_after_the_last_answer_the_client_has_a_moment_to_read_it(make: MakePeer) -> None:
    peer = make(linger_timeout=2.0)
    peer.send(b"NONSENSE\r\n\r\n")
    assert peer.transport.is_half_closed
    peer.tick(1.9)
    assert not peer.transport.is_closed
    peer.send(b"what it had still to say")
    peer.tick(2.1)
    assert peer.transport.is_closed


# --- Pressure -------------------------------------------------------------------------------------------------------


def test_only_so_many_requests_are_in_flight(make: MakePeer) -> None:
    peer = make(max_pipelined=4)
    peer.send(b"".join(infer(b"%d" % i) for i in range(10)))
    assert [seen.body for seen in peer.intake.requests] == [b"0", b"1", b"2", b"3"]
    assert not peer.transport.is_reading
    peer.intake.requests[0].answer(b"0")
    peer.settle()
    assert len(peer.intake.requests) == 4  # not before half of them are done
    peer.intake.requests[1].answer(b"1")
    peer.settle()
    assert len(peer.intake.requests) == 6
    assert not peer.transport.is_reading
    for i in range(2, 10):
        peer.intake.requests[i].answer(b"%d" % i)
        peer.settle()
    assert [answer.body for answer in peer.take()] == [b"%d" % i for i in range(10)]
    assert peer.transport.is_reading


def test_a_half_received_head_behind_a_full_pipeline_survives(make: MakePeer) -> None:
    peer = make(max_pipelined=1)
    peer.send(infer(b"0") + infer(b"1") + infer(b"2")[:20])
    for i in range(2):
        peer.tick(100.0)  # it is not the client that is slow
        peer.intake.requests[i].answer(b"%d" % i)
        peer.settle()
    peer.send(infer(b"2")[20:])
    peer.intake.requests[2].answer(b"2")
    peer.settle()
    assert [answer.body for answer in peer.take()] == [b"0", b"1", b"2"]


def test_reading_stops_while_the_client_does_not_read(make: MakePeer) -> None:
    peer = make(echo)
    peer.transport.is_full = True
    peer.send(infer(b"x" * 300_000))
    was_reading = peer.transport.is_reading
    assert not was_reading
    peer.transport.unblock()
    peer.settle()
    assert peer.transport.is_reading
    assert len(peer.take()) == 1
    assert peer.ask(infer(b"y")).status == 200


def test_pipelining_without_reading_is_bounded(make: MakePeer) -> None:
    body = b"x" * 50_000
    peer = make(handler=lambda seen: seen.respond(200, body))
    peer.transport.is_full = True
    peer.send(request() * 1000)
    assert len(peer.requests) < 20
    assert not peer.transport.is_reading
    for _ in range(1000):
        if len(peer.requests) == 1000:
            break
        peer.transport.is_full = False
        peer.transport.waiting = 0
        peer.protocol.resume_writing()
        peer.transport.is_full = True
        peer.settle()
    assert len(peer.take()) == 1000


def test_answers_that_wait_for_an_earlier_one_hold_back_further_requests(make: MakePeer) -> None:
    peer = make(max_unread_bytes=100_000)
    peer.send(infer(b"slow") + infer(b"fast") * 10)
    for pending in peer.intake.requests[1:4]:
        pending.answer(bytes(40_000))
    peer.send(infer(b"later"))
    assert not peer.transport.is_reading
    assert len(peer.intake.requests) == 11
    peer.intake.requests[0].answer(b"done")
    for pending in peer.intake.requests[4:11]:
        pending.answer(b"")
    peer.settle()
    assert peer.transport.is_reading
    assert len(peer.intake.requests) == 12
    assert [len(answer.body) for answer in peer.take()] == [4, 40_000, 40_000, 40_000] + [0] * 7


def test_large_answers_keep_their_place_when_the_client_reads_slowly(make: MakePeer) -> None:
    peer = make()
    peer.send(infer(b"a" * 100) + infer(b"b" * 100_000) + infer(b"c" * 100) + infer(b"d" * 70_000))
    peer.transport.is_full = True
    for pending in peer.intake.requests:
        pending.answer(pending.body)
        peer.settle()
    peer.transport.unblock()
    peer.settle()
    assert [answer.body[:1] for answer in peer.take()] == [b"a", b"b", b"c", b"d"]


# --- Draining -------------------------------------------------------------------------------------------------------


def test_draining_gives_an_idle_connection_its_grace_and_then_closes_it(make: MakePeer) -> None:
    peer = make(echo, drain_grace=0.01)
    peer.ask(request())
    peer.protocol.drain()
    peer.protocol.drain()
    assert not peer.is_over
    while not peer.transport.is_closed:
        peer.settle()


def test_a_request_that_was_on_its_way_when_draining_began_is_answered_and_told_to_close(make: MakePeer) -> None:
    peer = make(echo)
    peer.ask(request())
    peer.protocol.drain()
    assert peer.ask(request()).says_close
    assert peer.is_over


def test_draining_finishes_what_is_in_flight_and_says_so_last(make: MakePeer) -> None:
    peer = make()
    peer.send(infer(b"0") + infer(b"1"))
    peer.protocol.drain()
    assert not peer.is_over
    for pending in reversed(peer.intake.requests):
        pending.answer(pending.body)
        peer.settle()
    zero, one = peer.take()
    assert (zero.says_close, one.says_close) == (False, True)
    assert peer.transport.is_half_closed


@pytest.mark.parametrize("cut", [1, 30, 69])
def test_a_request_that_has_begun_is_answered_while_draining(make: MakePeer, cut: int) -> None:
    peer = make(echo)
    whole = infer(b"body")
    peer.send(whole[:cut])
    peer.protocol.drain()
    assert not peer.is_over
    peer.send(whole[cut:] + infer(b"too late"))
    (answer,) = peer.take()
    assert answer.body == b"body"
    assert answer.says_close
    assert peer.is_over


def test_draining_inside_a_handler_is_fine(make: MakePeer) -> None:
    def before(seen: HttpRequest) -> None:
        peer.protocol.drain()
        seen.respond(200)

    def after(seen: HttpRequest) -> None:
        seen.respond(200)
        peer.protocol.drain()

    for handler, says_close in ((before, True), (after, False)):
        peer = make(handler=handler)
        assert peer.ask(request()).says_close is says_close
        assert peer.is_over is says_close


def test_close_now_ends_everything(make: MakePeer) -> None:
    peer = make()
    peer.send(infer())
    peer.protocol.close_now()
    assert peer.transport.is_aborted
    peer.lose()
    assert peer.intake.requests[0].is_cancelled
    peer.protocol.close_now()


# --- Callers that go ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "start", [b"", b"PO", infer()[:-1], HALF_BODY, HALF_LARGE_BODY, HALF_PACKED_BODY, infer(), infer() + HALF_BODY,
              HALF_PUT + b"1234", infer() + b"NONSENSE\r\n\r\n",
              request(b"POST", INFER, [(b"Transfer-Encoding", b"chunked")]) + chunked(b"abc", end=b"5\r\nab")],
)  # fmt: skip
def test_what_is_not_answered_is_cancelled_when_the_connection_is_lost(make: MakePeer, start: bytes) -> None:
    peer = make()
    peer.send(*[start] if start else [])
    peer.lose()
    assert all(pending.is_cancelled for pending in peer.intake.requests)
    assert peer.intake.live == 0
    assert peer.closed == [peer.protocol]
    peer.protocol.connection_lost(None)
    assert peer.closed == [peer.protocol]


def test_answers_that_wait_for_their_turn_are_released_when_the_connection_is_lost(make: MakePeer) -> None:
    peer = make()
    peer.send(infer(b"0") + infer(b"1") + infer(b"2"))
    peer.intake.requests[1].answer(b"one")
    peer.lose()
    assert [pending.is_cancelled for pending in peer.intake.requests] == [True, False, True]
    assert (peer.intake.released, peer.intake.cancelled) == (1, 2)


def test_a_connection_lost_between_answer_and_flush_writes_nothing(make: MakePeer) -> None:
    peer = make()
    peer.send(infer())
    peer.intake.requests[0].answer(b"x")
    peer.protocol.connection_lost(None)
    peer.settle()
    assert peer.transport.written == b""


@pytest.mark.parametrize("size", [10, 100_000])
@pytest.mark.parametrize("count", [1, 3])
def test_a_connection_lost_inside_a_write_is_fine(make: MakePeer, size: int, count: int) -> None:
    peer = make()
    peer.send(b"".join(infer(b"%d" % i) for i in range(count)) + HALF_BODY)

    def lose(data: bytes | memoryview) -> None:
        peer.protocol.connection_lost(None)

    peer.transport.write = lose  # type: ignore[method-assign]
    peer.intake.requests[0].answer(b"x" * size)
    peer.settle()
    assert peer.intake.live == 0
    assert peer.closed == [peer.protocol]


def test_a_connection_lost_inside_a_handler_is_fine(make: MakePeer) -> None:
    def lose(seen: HttpRequest) -> None:
        peer.protocol.connection_lost(None)
        assert seen.is_cancelled
        seen.respond(200)

    peer = make(handler=lose)
    peer.send(infer() + request() + infer() * 10)
    assert peer.take() == []
    assert len(peer.intake.requests) == 1


def test_a_transport_that_fails_ends_the_connection(make: MakePeer) -> None:
    peer = make()
    peer.send(infer() + infer())

    def fail(data: bytes | memoryview) -> None:
        raise RuntimeError("no")

    peer.transport.write = fail  # type: ignore[method-assign]
    peer.intake.requests[0].answer(b"x")
    peer.settle()
    assert peer.transport.is_aborted
    peer.intake.requests[1].answer(b"x")
    peer.settle()
    peer.tick(1000.0)
    peer.protocol.drain()


def test_a_handlers_answer_after_the_connection_is_dropped(make: MakePeer) -> None:
    kept: list[HttpRequest] = []
    peer = make(handler=kept.append)
    peer.send(request())
    was_cancelled = kept[0].is_cancelled
    assert not was_cancelled
    peer.lose()
    assert kept[0].is_cancelled
    kept[0].respond(200, b"x")
    assert peer.take() == []


def test_a_client_that_says_no_more_gets_its_answers(make: MakePeer) -> None:
    peer = make()
    peer.send(infer(b"0") + infer(b"1"))
    assert peer.protocol.eof_received() is True
    peer.intake.requests[0].answer(b"0")
    peer.settle()
    assert not peer.is_over
    peer.intake.requests[1].answer(b"1")
    peer.settle()
    assert [answer.says_close for answer in peer.take()] == [False, True]
    assert peer.transport.is_closed


@pytest.mark.parametrize("start", [b"", b"GET", HALF_BODY, HALF_LARGE_BODY])
def test_a_client_that_says_no_more_in_the_middle_is_gone(make: MakePeer, start: bytes) -> None:
    peer = make()
    peer.send(*[start] if start else [])
    assert peer.protocol.eof_received() is False
    assert peer.intake.live == 0
    assert peer.take() == []


def test_a_half_request_does_not_take_the_answers_before_it(make: MakePeer) -> None:
    peer = make()
    peer.send(infer(b"0") + HALF_BODY)
    assert peer.protocol.eof_received() is True
    peer.intake.requests[0].answer(b"0")
    peer.settle()
    (answer,) = peer.take()
    assert answer.says_close
    assert peer.transport.is_closed


def test_requests_that_waited_for_room_are_answered_after_the_end(make: MakePeer) -> None:
    peer = make(max_pipelined=1)
    peer.send(infer(b"0") + infer(b"1") + infer(b"2") + b"GET")
    assert peer.protocol.eof_received() is True
    for i in range(3):
        peer.intake.requests[i].answer(b"%d" % i)
        peer.settle()
    assert [answer.body for answer in peer.take()] == [b"0", b"1", b"2"]
    assert peer.transport.is_closed


def test_a_blocked_output_survives_the_end(make: MakePeer) -> None:
    peer = make()
    peer.send(infer(b"a") + infer(b"b"))
    peer.transport.is_full = True
    for pending in peer.intake.requests:
        pending.answer(pending.body)
        peer.settle()
    assert len(parse_answers(bytes(peer.transport.written))) == 1
    assert peer.protocol.eof_received() is False
    assert [answer.body for answer in peer.take()] == [b"a", b"b"]


def test_a_finished_connection_is_garbage(make: MakePeer) -> None:
    class Mark:
        pass

    mark = Mark()
    watch = weakref.ref(mark)

    def handler(seen: HttpRequest, mark: Mark = mark) -> None:
        seen.respond(200)

    peer = make(handler=handler)
    peer.send(request() + infer() + HALF_BODY)
    peer.lose()
    peer.handler = None
    del handler, mark
    gc.collect()
    assert watch() is None
