"""Bytes into the server's side of an HTTP/2 connection: the real `Http2Protocol`, without a socket or an event loop.

Reads the inputs of the target http2, which has the session alone and is many times as fast: what that one finds is
where this one starts. Here the exchanges, the intake's wake-ups, the Python calls and the transport are the true
ones.

Invariant: whatever arrives, nothing is raised, each exchange is answered or cancelled exactly once, calls are told of
their end, and when the connection is lost no exchange and no stream is left and no rule of ownership was broken.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from enum import IntFlag

from kernels.http2 import Call, Http2Limits, Http2Protocol, Http2Shared
from kernels.testing import Pending, ScriptedIntake

INFER = b"/inference.GRPCInferenceService/ModelInfer"
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
EVENTS = 0xFA
HEADERS = 1


class Choices(IntFlag):
    """As in http2.cpp, but for what is the session's own matter there."""

    AT_ONCE = 1
    ECHO = 2
    TIGHT = 4
    VANISH = 8  # the client goes without a word at the end
    SLOW = 16


LIMITS = Http2Limits(max_message_bytes=1 << 16, send_high_water=256, compression_min_bytes=64)
TIGHT_LIMITS = Http2Limits(
    max_message_bytes=64,
    max_buffered_bytes=96,
    max_concurrent_streams=3,
    max_header_bytes=300,
    max_continuations=2,
    max_settings=2,
    max_outbound_acks=4,
    max_resets_per_minute=3,
    max_control_frames_per_minute=12,
    max_ping_strikes=1,
    send_high_water=256,
    compression_min_bytes=64,
)


class Transport:
    def __init__(self, is_slow: bool) -> None:
        self.protocol: Http2Protocol | None = None
        self.written = 0
        self.is_slow = is_slow
        self.is_full = False
        self.is_closed = False

    def get_extra_info(self, name: str) -> object:
        return ("192.0.2.7", 4242) if name == "peername" else None

    def write(self, data: bytes) -> None:
        assert not self.is_closed, "written after the end"
        self.written += len(data)
        if self.is_slow and self.protocol is not None:
            self.is_full = True
            self.protocol.pause_writing()

    def close(self) -> None:
        self.is_closed = True

    abort = close


class Connection:
    def __init__(self, choices: Choices) -> None:
        self.choices = choices
        self.calls: list[Call] = []
        self.ends = 0
        self.closed: list[Http2Protocol] = []
        self.shared = Http2Shared()
        self.intake = ScriptedIntake(self._infer)
        self.transport = Transport(Choices.SLOW in choices)
        limits = TIGHT_LIMITS if Choices.TIGHT in choices else LIMITS
        self.protocol = Http2Protocol(self.intake, INFER, self._handle, limits, self.closed.append, self.shared)
        self.transport.protocol = self.protocol
        self.now = time.monotonic()
        self.protocol.connection_made(self.transport)  # type: ignore[arg-type]

    def _infer(self, pending: Pending) -> None:
        if Choices.AT_ONCE in self.choices:
            pending.answer(pending.body, served_version=b"3")

    def _handle(self, call: Call) -> None:
        if call.path.endswith(b"!"):
            raise LookupError("no such method")
        self.calls.append(call)
        call.on_cancel = self._end
        if Choices.ECHO in self.choices:
            call.on_message = call.send
            call.on_end = call.finish

    def _end(self) -> None:
        self.ends += 1

    @property
    def is_open(self) -> bool:
        return not self.transport.is_closed

    def receive(self, data: bytes) -> None:
        while data and self.is_open:
            view = self.protocol.get_buffer(-1)
            n = min(len(view), len(data))
            view[:n] = data[:n]
            self.protocol.buffer_updated(n)
            data = data[n:]
        self.intake.flush()

    def event(self, what: int) -> None:
        much = what >> 3
        events: tuple[Callable[[int], None], ...] = (
            self._answer,
            self._refuse,
            self._answer_at_length,
            self._pass,
            self._unblock,
            self._drain,
            self._send,
            self._end_call,
        )
        if self.is_open:
            events[what & 7](much)
            self.intake.flush()

    def _oldest(self) -> Pending | None:
        waiting = (seen for seen in self.intake.requests if not seen.is_answered and not seen.is_cancelled)
        return next(waiting, None)

    def _answer(self, much: int) -> None:
        if pending := self._oldest():
            pending.answer(pending.body, served_version=b"3")

    def _refuse(self, much: int) -> None:
        if pending := self._oldest():
            pending.fail(1 + much % 16, b"no %\n", retry_after=0.25 if much == 13 else 0.0)

    def _answer_at_length(self, much: int) -> None:
        if pending := self._oldest():
            pending.answer(bytes(300 * much))

    def _pass(self, much: int) -> None:
        self.now += 8000.0 if much == 31 else 0.5 * much * much
        self.protocol.tick(self.now)

    def _unblock(self, much: int) -> None:
        if self.transport.is_full:
            self.transport.is_full = False
            self.protocol.resume_writing()

    def _drain(self, much: int) -> None:
        self.protocol.drain()

    def _last_call(self) -> Call | None:
        return next((call for call in reversed(self.calls) if not call.is_cancelled), None)

    def _send(self, much: int) -> None:
        if call := self._last_call():
            call.send(bytes(20 * much))

    def _end_call(self, much: int) -> None:
        call = self._last_call()
        if call is None:
            return
        if much <= 16:
            call.finish(much, "café", [(b"x-key", b"value"), (b"x-bin", b"\x00")], b"details")
            self.calls.remove(call)
        elif much & 1:
            call.pause_reading()
        else:
            call.resume_reading()

    def end(self) -> None:
        if Choices.VANISH not in self.choices:
            self.protocol.close_now()
        self.protocol.connection_lost(None)
        for call in self.calls:
            call.finish()  # too late, and no harm
        self.intake.flush()
        assert self.closed == [self.protocol]
        assert self.intake.live == 0
        assert self.intake.faults == []
        assert self.shared.live_streams == 0
        assert self.protocol.live_streams == 0
        assert self.ends <= len(self.calls)


def one_input(data: bytes) -> None:
    if not data:
        return
    connection = Connection(Choices(data[0]))
    run, data, heads = b"", data[1:], 0
    if data.startswith(PREFACE):
        run, data = PREFACE, data[len(PREFACE) :]
    while len(data) >= 9 and len(data) >= 9 + (size := int.from_bytes(data[:3], "big")):
        frame, data = data[: 9 + size], data[9 + size :]
        heads += frame[3] == HEADERS
        if frame[3] != EVENTS:
            run += frame
            continue
        connection.receive(run)
        run = b""
        for what in frame[9:]:
            connection.event(what)
    connection.receive(run + data)
    assert not run.startswith(PREFACE) or len(connection.intake.requests) + len(connection.calls) <= heads
    connection.end()
