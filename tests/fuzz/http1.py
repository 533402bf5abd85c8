"""Bytes into the server's side of an HTTP/1 connection: the real `Http1Protocol`, without a socket or an event loop.

The first two bytes of an input choose what the server's side does meanwhile (see `Choices`) and how the rest, which
is what the client sends, is cut into reads.

Invariant: whatever arrives, the answers are whole and well-formed, at most one for each request and one refusal,
which is the last; only an error of the client's is refused. The same bytes in any split bring the same requests and
the same answers. When the connection is lost no exchange is left and no rule of ownership was broken. A head that the
strict reader takes means the same to llhttp.
"""

from __future__ import annotations

import random
from asyncio import events
from collections.abc import Callable, Iterator
from enum import IntFlag

from kernels.http1 import Http1Limits, Http1Protocol, HttpRequest
from kernels.http1_head import read_head
from kernels.testing import Pending, ScriptedIntake


class Choices(IntFlag):
    LATER = 1  # inference calls are answered when there is nothing else to do
    BACKWARDS = 2  # and the newest first
    TIGHT = 4  # limits that a small input can reach
    SLOW = 8  # after every write the transport is full until the wake-up ends
    EOF = 16  # the client closes its half
    DRAIN = 32  # the server is drained when all has arrived
    NEVER = 64  # the client goes before it has all answers
    REFUSING = 128  # inference calls fail


LIMITS = Http1Limits(max_body_bytes=1 << 16)
TIGHT_LIMITS = Http1Limits(
    max_header_bytes=256,
    max_headers=6,
    max_target_bytes=64,
    max_body_bytes=64,
    max_chunks=4,
    max_pipelined=2,
    compression_min_bytes=16,
)


class Loop:
    """As much of an event loop as a connection asks for."""

    def __init__(self) -> None:
        self.calls: list[Callable[[], object]] = []
        self.later: list[Callable[[], object]] = []
        self.errors: list[dict[str, object]] = []

    def call_soon(self, call: Callable[[], object]) -> None:
        self.calls.append(call)

    def call_later(self, delay: float, call: Callable[[], object]) -> None:
        self.later.append(call)

    def call_exception_handler(self, context: dict[str, object]) -> None:
        self.errors.append(context)


class Transport:
    def __init__(self, is_slow: bool) -> None:
        self.protocol: Http1Protocol | None = None
        self.written = bytearray()
        self.is_slow = is_slow
        self.is_full = False
        self.is_reading = True
        self.is_closed = False
        self.has_ended = False

    def get_extra_info(self, name: str) -> object:
        return ("192.0.2.7", 4242) if name == "peername" else None

    def write(self, data: bytes | memoryview) -> None:
        assert not self.has_ended, "written after the end"
        self.written += data
        if self.is_slow and self.protocol is not None and not self.is_full:
            self.is_full = True
            self.protocol.pause_writing()

    def get_write_buffer_size(self) -> int:
        return int(self.is_full)

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.has_ended = True

    def pause_reading(self) -> None:
        self.is_reading = False

    def resume_reading(self) -> None:
        self.is_reading = True

    def close(self) -> None:
        self.is_closed = True

    abort = close

    def is_closing(self) -> bool:
        return self.is_closed


class Connection:
    """One connection and all that it asked for and said."""

    def __init__(self, choices: Choices) -> None:
        self.choices = choices
        self.seen: list[tuple[object, ...]] = []
        self.heads: list[bool] = []  # whether the request was HEAD, for each of them in order
        self.closed: list[Http1Protocol] = []
        self.loop = Loop()
        self.intake = ScriptedIntake(self._infer, self.loop.call_soon)
        self.transport = Transport(Choices.SLOW in choices)
        limits = TIGHT_LIMITS if Choices.TIGHT in choices else LIMITS
        self.protocol = Http1Protocol(self.intake, self._handle, limits, self.closed.append)
        self.transport.protocol = self.protocol
        events._set_running_loop(self.loop)  # type: ignore[arg-type]
        try:
            self.protocol.connection_made(self.transport)  # type: ignore[arg-type]
        finally:
            events._set_running_loop(None)

    def _infer(self, pending: Pending) -> None:
        self.heads.append(False)
        self.seen.append((pending.model, pending.version, pending.body, pending.header_length))
        if Choices.LATER not in self.choices:
            self._answer(pending)

    def _answer(self, pending: Pending) -> None:
        if Choices.REFUSING in self.choices:
            pending.fail(8, b'full "\n', retry_after=0.5, served_version=b"1")
        else:
            pending.answer(pending.body, header_length=pending.header_length, served_version=b"1")

    def _handle(self, request: HttpRequest) -> None:
        self.heads.append(request.method == "HEAD")
        self.seen.append((request.method, request.path, request.query, tuple(request.headers), request.body))
        request.respond(200, request.method.encode() + request.body, "text/plain")

    @property
    def takes_more(self) -> bool:
        return not self.transport.is_closed and not self.transport.has_ended

    def receive(self, data: bytes) -> None:
        while data and self.takes_more:
            if not self.transport.is_reading and not self._make_room():
                return
            place = self.protocol.get_buffer(-1)
            n = min(len(data), place.nbytes)
            place[:n] = data[:n]
            self.protocol.buffer_updated(n)
            data = data[n:]
            self.settle()

    def _make_room(self) -> bool:
        for _ in range(1000):
            self.settle()
            if self.transport.is_reading or not self.takes_more:
                return self.takes_more
            self.answer_one()
        raise AssertionError("reading is paused and stays so")

    def settle(self) -> None:
        """What the dispatcher and the loop do at the end of a wake-up."""
        while self.loop.calls or self.transport.is_full:
            calls, self.loop.calls = self.loop.calls, []
            for call in calls:
                call()
            if self.transport.is_full:
                self.transport.is_full = False
                self.protocol.resume_writing()

    def answer_one(self) -> bool:
        waiting = [call for call in self.intake.requests if not call.is_answered and not call.is_cancelled]
        if waiting:
            self._answer(waiting[-1 if Choices.BACKWARDS in self.choices else 0])
            self.settle()
        return bool(waiting)

    def end(self) -> None:
        if Choices.EOF in self.choices and not self.protocol.eof_received():
            self.transport.is_closed = True
        self.settle()
        if Choices.DRAIN in self.choices:
            self.protocol.drain()
            self.loop.calls += self.loop.later
            self.settle()
        while Choices.NEVER not in self.choices and self.answer_one():
            pass
        self.protocol.connection_lost(None)
        self.settle()
        assert self.closed == [self.protocol]
        assert self.protocol.in_flight == 0
        assert self.intake.live == 0
        assert self.intake.faults == []
        assert self.loop.errors == []

    def answers(self) -> list[tuple[bytes, ...]]:
        """All final answers, which must be whole: status line, fields and body of each."""
        answers: list[tuple[bytes, ...]] = []
        data, at = bytes(self.transport.written), 0
        while at < len(data):
            blank = data.index(b"\r\n\r\n", at)
            line, *fields = data[at:blank].split(b"\r\n")
            at = blank + 4
            version, status, _ = line.split(b" ", 2)
            assert version == b"HTTP/1.1" and len(status) == 3
            if status[:1] == b"1":
                continue
            assert not answers or b"Connection: close" not in answers[-1], "an answer behind the last"
            values = dict(field.split(b": ", 1) for field in fields)
            assert len(values) == len(fields), "a field twice"
            size = int(values[b"Content-Length"])
            is_head = self.heads[len(answers)] if len(answers) < len(self.heads) else at == len(data)
            body = b"" if is_head else data[at : at + size]
            assert is_head or len(body) == size
            at += len(body)
            answers.append((line, *fields, body))
        return answers


def reads(data: bytes, seed: int) -> Iterator[bytes]:
    dice = random.Random(seed)
    at = 0
    while at < len(data):
        n = dice.choice((1, 1, 2, 5, 60))
        yield data[at : at + n]
        at += n


def play(choices: Choices, pieces: Iterator[bytes]) -> Connection:
    connection = Connection(choices)
    for piece in pieces:
        connection.receive(piece)
    connection.end()
    return connection


def check_answers(connection: Connection) -> list[tuple[bytes, ...]]:
    answers = connection.answers()
    assert len(answers) <= len(connection.heads) + 1
    if len(answers) > len(connection.heads):
        line, *rest = answers[-1]
        assert line[9:10] in (b"4", b"5") and line[9:12] != b"500"
        assert b"Connection: close" in rest
    return answers


def check_readers(data: bytes) -> None:
    head = data[: data.find(b"\r\n\r\n") + 4]
    scanned = read_head(head, "scan")
    if scanned not in ("more", "odd"):
        read = read_head(head, "llhttp")
        assert read == scanned or (is_refusal(read) and is_refusal(scanned))


def is_refusal(read: str | tuple[object, ...]) -> bool:
    return isinstance(read, tuple) and len(read) == 2


def one_input(data: bytes) -> None:
    if len(data) < 3:
        return
    choices, seed, data = Choices(data[0]), data[1], data[2:]
    whole = play(choices, iter([data]))
    split = play(choices, reads(data, seed))
    answers, split_answers = check_answers(whole), check_answers(split)
    assert whole.seen == split.seen
    assert answers == split_answers
    check_readers(data)
