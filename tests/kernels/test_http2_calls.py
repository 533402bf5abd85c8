"""Calls that are not unary inference: metadata, streaming both ways, deadlines, cancellation."""

from __future__ import annotations

import asyncio
import base64
import gc
import time
import weakref
from collections.abc import Callable, Iterator

import pytest
from h2.errors import ErrorCodes
from http2_peer import Peer, framed, head, peers
from hypothesis import given
from hypothesis import strategies as st

from kernels.http2 import Call

MakePeer = Callable[..., Peer]


@pytest.fixture
def make() -> Iterator[MakePeer]:
    with peers() as maker:
        yield maker


class Recorder:
    """Sets every callback of a call and notes what is called."""

    def __init__(self, call: Call) -> None:
        self.call = call
        self.events: list[object] = []
        call.on_message = self.events.append
        call.on_end = lambda: self.events.append("end")
        call.on_cancel = lambda: self.events.append("cancel")
        call.on_writable = lambda: self.events.append("writable")


def record(peer: Peer) -> list[Recorder]:
    recorders: list[Recorder] = []
    peer._handler = lambda call: recorders.append(Recorder(call))
    return recorders


def test_a_unary_call_gets_its_message_and_sends_its_answer(make: MakePeer) -> None:
    def handle(call: Call) -> None:
        call.on_message = call.send
        call.on_end = call.finish

    peer = make(handler=handle)
    stream = peer.call(b"abc")
    assert peer.replies[stream].messages == [b"abc"]
    assert peer.replies[stream].trailers == {b"grpc-status": b"0"}
    assert peer.calls[0].path == b"/test.Service/Method"
    assert peer.calls[0].peer == ("192.0.2.7", 4242)


def test_a_call_may_be_finished_before_its_handler_returns(make: MakePeer) -> None:
    peer = make(handler=lambda call: call.finish(12, "no such method"))
    stream = peer.call(b"abc")
    reply = peer.replies[stream]
    assert (reply.status, reply.text, reply.data) == (12, "no such method", b"")
    assert not peer.calls[0].is_cancelled


def test_messages_stream_both_ways_in_order(make: MakePeer) -> None:
    peer = make()
    recorders = record(peer)
    stream = peer.call()
    [recorder] = recorders
    for i in range(3):
        peer.send(stream, framed(b"to %d" % i))
        recorder.call.send(b"back %d" % i)
        peer.exchange()
        assert peer.replies[stream].messages == [b"back %d" % j for j in range(i + 1)]
    peer.send(stream, b"", end=True)
    assert recorder.events == [b"to 0", b"to 1", b"to 2", "end"]
    recorder.call.finish()
    peer.exchange()
    assert peer.replies[stream].status == 0


@given(st.lists(st.binary(max_size=50), max_size=8), st.lists(st.integers(1, 40), max_size=20))
def test_messages_of_a_call_may_be_cut_and_joined_anywhere(messages: list[bytes], cuts: list[int]) -> None:
    with peers() as make:
        peer = make()
        recorders = record(peer)
        stream = peer.call()
        data = b"".join(framed(message) for message in messages)
        for cut in cuts:
            peer.send(stream, data[:cut])
            data = data[cut:]
        peer.send(stream, data, end=True)
        assert recorders[0].events == [*messages, "end"]


def test_metadata_keeps_order_and_binary_values_are_decoded(make: MakePeer) -> None:
    peer = make()
    padded, bare = base64.b64encode(b"\x00\xff\x01\x02"), base64.b64encode(b"\xfe").rstrip(b"=")
    peer.call(
        b"",
        b"/s/m",
        (b"x-one", b"1"),
        (b"x-two-bin", padded + b", " + bare),
        (b"x-one", b"2"),
        (b"user-agent", b"test/1"),
        (b"grpc-accept-encoding", b"gzip"),
        (b"x-empty-bin", b""),
    )
    assert peer.calls[0].metadata == [
        (b"x-one", b"1"),
        (b"x-two-bin", b"\x00\xff\x01\x02"),
        (b"x-two-bin", b"\xfe"),
        (b"x-one", b"2"),
        (b"user-agent", b"test/1"),
        (b"x-empty-bin", b""),
    ]


@pytest.mark.parametrize("value", [b"a", b"ab!=", b"=", b"ab=c", b"YQ===", b"\xff\xff"])
def test_binary_metadata_that_is_not_base64_is_refused(make: MakePeer, value: bytes) -> None:
    peer = make()
    stream = peer.call(b"", b"/s/m", (b"x-bin", value))
    assert peer.replies[stream].status == 13
    assert peer.calls == []


@given(st.binary(max_size=40), st.booleans())
def test_binary_metadata_survives_the_way_in_and_out(value: bytes, padded: bool) -> None:
    with peers() as make:
        peer = make(handler=lambda call: call.finish(metadata=[item for item in call.metadata if item[0] == b"x-bin"]))
        text = base64.b64encode(value)
        stream = peer.call(b"", b"/s/m", (b"x-bin", text if padded else text.rstrip(b"=")))
        assert peer.calls[0].metadata == [(b"x-bin", value)]
        assert peer.replies[stream].headers.get(b"x-bin") == text.rstrip(b"=")


def test_the_status_carries_text_metadata_and_details(make: MakePeer) -> None:
    peer = make(handler=lambda call: call.finish(9, "no\tgood", [(b"x-why", b"because")], b"\x08\x09"))
    stream = peer.call(b"")
    assert peer.replies[stream].headers == {
        b":status": b"200",
        b"content-type": b"application/grpc",
        b"grpc-status": b"9",
        b"grpc-message": b"no%09good",
        b"grpc-status-details-bin": b"CAk",
        b"x-why": b"because",
    }


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (b"X-Upper", b"a"),
        (b"", b"a"),
        (b":path", b"a"),
        (b"grpc-status", b"0"),
        (b"te", b"a"),
        (b"x-a", b"a\n"),
        (b"x a", b""),
    ],
)
def test_metadata_that_cannot_be_sent_is_an_error_and_the_call_goes_on(
    make: MakePeer, key: bytes, value: bytes
) -> None:
    peer = make()
    stream = peer.call(b"")
    with pytest.raises(ValueError, match="not "):
        peer.calls[0].finish(metadata=[(b"x-fine", b"1"), (key, value)])
    peer.calls[0].finish()
    peer.exchange()
    assert peer.replies[stream].headers.get(b"x-fine") is None
    assert peer.replies[stream].status == 0


def test_a_status_code_that_does_not_exist_is_an_error(make: MakePeer) -> None:
    peer = make()
    peer.call(b"")
    with pytest.raises(ValueError, match="status code"):
        peer.calls[0].finish(17)


def test_a_reset_cancels_the_call_once_and_leaves_it_inert(make: MakePeer) -> None:
    peer = make()
    recorders = record(peer)
    stream = peer.call()
    peer.client.reset_stream(stream, ErrorCodes.CANCEL)
    peer.exchange()
    [recorder] = recorders
    assert recorder.events == ["cancel"]
    assert recorder.call.is_cancelled
    assert recorder.call.send(b"late")
    recorder.call.finish()
    recorder.call.pause_reading()
    recorder.call.resume_reading()
    peer.lose()
    assert recorder.events == ["cancel"]


def test_a_lost_connection_cancels_its_calls(make: MakePeer) -> None:
    peer = make()
    recorders = record(peer)
    for _ in range(3):
        peer.call()
    peer.lose()
    assert [recorder.events for recorder in recorders] == [["cancel"]] * 3


def test_a_call_that_reacts_to_a_lost_connection_by_ending_all_others_is_safe(make: MakePeer) -> None:
    peer = make()

    def handle(call: Call) -> None:
        def end_all() -> None:
            for other in peer.calls:
                other.resume_reading()
                other.send(b"bye")
                other.finish(1, "gone")

        call.on_cancel = end_all

    peer._handler = handle
    for _ in range(3):
        peer.call()
    peer.lose()
    assert peer.calls[-1].is_cancelled


def test_a_call_may_close_its_connection_from_a_callback(make: MakePeer) -> None:
    peer = make()

    def handle(call: Call) -> None:
        call.on_message = lambda message: peer.protocol.close_now()

    peer._handler = handle
    peer.call(b"abc")
    assert peer.transport.is_aborted


def test_a_connection_that_is_lost_inside_a_callback_is_taken_down_after_it(make: MakePeer) -> None:
    peer = make()

    def handle(call: Call) -> None:
        call.on_message = lambda message: peer.lose()

    peer._handler = handle
    peer.client.send_headers(1, head(b"/s/m"))
    peer.client.send_data(1, framed(b"abc") + framed(b"def"), end_stream=True)
    peer.feed(peer.client.data_to_send())
    assert peer.calls[0].is_cancelled
    assert peer.closed == [peer.protocol]


def test_a_finished_call_is_not_cancelled_by_what_follows(make: MakePeer) -> None:
    peer = make()
    recorders = record(peer)
    stream = peer.call()
    recorders[0].call.finish()
    peer.exchange()
    assert peer.replies[stream].reset == ErrorCodes.NO_ERROR
    peer.lose()
    assert recorders[0].events == []
    assert not recorders[0].call.is_cancelled


def test_a_handler_that_raises_ends_its_call_and_nothing_else(make: MakePeer) -> None:
    def handle(call: Call) -> None:
        raise RuntimeError("boom")

    peer = make(lambda request: request.answer(b"fine"), handle)
    stream = peer.call(b"abc")
    assert (peer.replies[stream].status, peer.replies[stream].text) == (13, "the handler failed")
    assert peer.infer(b"abc").messages == [b"fine"]


def test_a_callback_that_raises_ends_its_call(make: MakePeer) -> None:
    def handle(call: Call) -> None:
        call.send(b"first")
        call.on_message = lambda message: 1 / 0

    peer = make(handler=handle)
    stream = peer.call(b"abc")
    assert peer.replies[stream].messages == [b"first"]
    assert peer.replies[stream].trailers[b"grpc-status"] == b"13"


def test_a_request_that_ends_inside_a_message_cancels_the_call(make: MakePeer) -> None:
    peer = make()
    recorders = record(peer)
    stream = peer.start(head(b"/s/m"), framed(b"abc")[:-1])
    assert peer.replies[stream].status == 13
    assert recorders[0].events == ["cancel"]


def test_send_says_when_to_stop_and_on_writable_when_to_go_on(make: MakePeer) -> None:
    peer = make(send_high_water=100_000)
    recorders = record(peer)
    stream = peer.call()
    call = recorders[0].call
    peer.protocol.pause_writing()
    assert call.send(b"x" * 60_000)
    assert not call.send(b"x" * 60_000)
    assert not call.send(b"x" * 60_000)
    peer.protocol.resume_writing()
    for _ in range(10):
        peer.exchange()
    assert recorders[0].events == ["writable"]
    assert len(peer.replies[stream].messages) == 3
    assert call.send(b"more")
    call.finish()
    peer.exchange()
    assert peer.replies[stream].messages[-1] == b"more"
    assert peer.replies[stream].status == 0


def test_a_sender_driven_by_on_writable_sends_everything(make: MakePeer) -> None:
    left = [b"%06d" % i * 5000 for i in range(40)]
    expected = list(left)

    def handle(call: Call) -> None:
        def fill() -> None:
            while left and call.send(left.pop(0)):
                pass
            if not left:
                call.finish()

        call.on_writable = fill
        fill()

    peer = make(handler=handle, send_high_water=50_000)
    stream = peer.call(b"go")
    while not peer.replies[stream].is_ended:
        peer.exchange()
    assert peer.replies[stream].messages == expected


def test_a_paused_reader_holds_the_client_to_its_window(make: MakePeer) -> None:
    peer = make(stream_window=65536)
    recorders = record(peer)
    stream = peer.call()
    recorders[0].call.pause_reading()
    for _ in range(4):
        peer.send(stream, framed(b"x" * 16_000))
    assert len(recorders[0].events) == 4
    assert peer.client.local_flow_control_window(stream) == 65536 - 4 * 16_005
    recorders[0].call.resume_reading()
    peer.exchange()
    assert peer.client.local_flow_control_window(stream) == 65536


def test_messages_above_the_limit_end_the_call(make: MakePeer) -> None:
    peer = make(max_message_bytes=10)
    recorders = record(peer)
    stream = peer.call(b"x" * 11)
    assert peer.replies[stream].status == 8
    assert recorders[0].events == ["cancel"]


def test_a_call_does_not_outlive_its_stream(make: MakePeer) -> None:
    peer = make(handler=lambda call: None)
    peer.call(b"abc")
    call = peer.calls.pop()

    class Marker:
        pass

    def hold(call: Call, marker: Marker) -> weakref.ref[Marker]:
        call.on_message = lambda message: (call, marker)
        return weakref.ref(marker)

    gone = hold(call, Marker())
    call.finish()
    del call
    gc.collect()
    assert gone() is None


def test_a_deadline_that_passes_ends_the_call_and_cancels_its_handler(make: MakePeer) -> None:
    async def main() -> None:
        peer = make()
        recorders = record(peer)
        stream = peer.call(b"abc", b"/s/m", (b"grpc-timeout", b"1m"))
        assert 0.0 < recorders[0].call.deadline - time.monotonic() < 0.002
        cancelled = asyncio.Event()
        recorders[0].call.on_cancel = cancelled.set
        await asyncio.wait_for(cancelled.wait(), 10.0)
        assert recorders[0].call.is_cancelled
        await asyncio.sleep(0)
        peer.exchange()
        assert peer.replies[stream].status == 4

    asyncio.run(main())


def test_a_deadline_does_not_touch_a_call_that_has_finished(make: MakePeer) -> None:
    async def main() -> None:
        peer = make(handler=lambda call: None)
        stream = peer.call(b"abc", b"/s/m", (b"grpc-timeout", b"1m"))
        peer.calls[0].finish()
        peer.call(b"abc", b"/s/m", (b"grpc-timeout", b"2m"))
        later = asyncio.Event()
        peer.calls[1].on_cancel = later.set
        await asyncio.wait_for(later.wait(), 10.0)
        peer.exchange()
        assert peer.replies[stream].status == 0

    asyncio.run(main())


def test_what_a_call_sends_between_wake_ups_is_written_by_the_event_loop(make: MakePeer) -> None:
    async def main() -> None:
        peer = make()
        peer.call(b"abc")
        peer.take()
        peer.calls[0].send(b"one")
        peer.calls[0].send(b"two")
        assert peer.take() == b""
        await asyncio.sleep(0)
        data = peer.take()
        assert b"one" in data
        assert b"two" in data

    asyncio.run(main())


def test_a_failing_handler_is_reported_to_the_event_loop(make: MakePeer) -> None:
    async def main() -> None:
        reports: list[dict[str, object]] = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: reports.append(context))
        peer = make(handler=lambda call: 1 / 0)
        peer.call(b"abc")
        assert isinstance(reports[0]["exception"], ZeroDivisionError)

    asyncio.run(main())
