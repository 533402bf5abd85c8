"""Control messages arrive whole and in order however the stream is cut, and nothing strange gets through."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.workers.control import MAX_MESSAGE_BYTES, Channel, ControlError, Decoder, encode

MESSAGES = st.lists(st.dictionaries(st.text(max_size=8), st.integers() | st.text(max_size=20), max_size=4), max_size=6)


@pytest.fixture
def channels() -> Iterator[tuple[Channel, Channel]]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    pair = Channel(ours), Channel(theirs)
    yield pair
    for channel in pair:
        channel.close()


@given(messages=MESSAGES, cuts=st.lists(st.integers(0, 400), max_size=12))
def test_messages_survive_any_cutting_of_the_stream(messages: list[dict[str, object]], cuts: list[int]) -> None:
    stream = b"".join(encode(message) for message in messages)
    decoder, received, at = Decoder(), [], 0
    for cut in [*sorted(cuts), len(stream)]:
        received += decoder.feed(stream[at : max(cut, at)])
        at = max(cut, at)
    assert received == messages


@pytest.mark.parametrize("body", [b"nonsense", b"[1]", b'"text"', b"\xff\xfe", b"[" * 100_000])
def test_what_is_not_a_json_object_is_refused(body: bytes) -> None:
    with pytest.raises(ControlError):
        Decoder().feed(len(body).to_bytes(4, "little") + body)


def test_a_huge_announced_length_is_refused_before_it_is_gathered() -> None:
    with pytest.raises(ControlError):
        Decoder().feed((MAX_MESSAGE_BYTES + 1).to_bytes(4, "little"))


def test_a_message_too_large_to_receive_is_not_sent(channels: tuple[Channel, Channel]) -> None:
    with pytest.raises(ControlError):
        channels[0].send({"text": "x" * MAX_MESSAGE_BYTES})
    assert channels[1].receive() == []


def test_descriptors_travel_beside_a_message(channels: tuple[Channel, Channel]) -> None:
    reading, writing = os.pipe()
    channels[0].send({"event": "forked"}, [reading])
    os.close(reading)
    assert channels[1].receive() == [{"event": "forked"}]
    (received,) = channels[1].take_fds(1)
    os.write(writing, b"hello")
    os.close(writing)
    with open(received, "rb") as file:
        assert file.read() == b"hello"


def test_descriptors_that_were_announced_and_did_not_come_are_an_error(channels: tuple[Channel, Channel]) -> None:
    with pytest.raises(ControlError):
        channels[0].take_fds(1)


def test_descriptors_that_nobody_took_are_closed_with_the_channel(channels: tuple[Channel, Channel]) -> None:
    reading, writing = os.pipe()
    channels[0].send({}, [writing])
    os.close(writing)
    channels[1].receive()
    channels[1].close()
    with open(reading, "rb") as file:
        assert file.read() == b""


def test_a_closed_peer_is_told_from_a_silent_one(channels: tuple[Channel, Channel]) -> None:
    assert channels[0].receive() == []
    channels[1].close()
    assert channels[0].receive() is None


def test_a_peer_that_does_not_read_is_an_error_and_not_a_wait(channels: tuple[Channel, Channel]) -> None:
    def flood() -> None:
        while True:
            channels[0].send({"text": "x" * 10_000})

    with pytest.raises(ControlError):
        flood()
