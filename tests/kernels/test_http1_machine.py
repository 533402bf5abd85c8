"""One HTTP/1 connection against everything that can happen to it, in any order, next to a model of what was asked."""

from __future__ import annotations

from http1_peer import INFER, Peer, chunked, infer, peers, request
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from kernels.http1 import HttpRequest

SIZES = st.sampled_from([0, 1, 100, 40_000, 70_000, 200_000])


class Connection(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.context = peers()
        self.kept: list[HttpRequest] = []
        make = self.context.__enter__()
        self.peer: Peer = make(handler=self.kept.append, max_pipelined=3)
        self.number = 0
        self.expected: list[bytes] = []  # what each complete request will be answered with, in order
        self.unsent = b""
        self.is_ended = False  # by us: eof, drain or loss

    def teardown(self) -> None:
        self.context.__exit__(None, None, None)

    def name(self) -> bytes:
        self.number += 1
        return b"%d:" % self.number

    @property
    def can_send(self) -> bool:
        return not self.is_ended and self.peer.transport.is_reading and not self.peer.is_over

    @precondition(lambda self: not self.is_ended)
    @rule(size=SIZES, kind=st.sampled_from(["infer", "chunked", "put"]))
    def a_client_writes_a_request(self, size: int, kind: str) -> None:
        body = self.name() + b"x" * size
        self.expected.append(body)
        if kind == "infer":
            self.unsent += infer(body)
        elif kind == "chunked":
            self.unsent += request(b"POST", INFER, [(b"Transfer-Encoding", b"chunked")]) + chunked(body[:1], body[1:])
        else:
            self.unsent += request(b"PUT", b"/x", body=body)

    @precondition(lambda self: self.can_send and self.unsent)
    @rule(size=st.sampled_from([1, 10, 100, 60_000, 300_000]))
    def some_of_it_arrives(self, size: int) -> None:
        while size and self.can_send and self.unsent:
            place = self.peer.protocol.get_buffer(-1)
            n = min(size, place.nbytes, len(self.unsent))
            place[:n] = self.unsent[:n]
            self.unsent = self.unsent[n:]
            size -= n
            self.peer.protocol.buffer_updated(n)
        self.peer.settle()

    def waiting(self) -> list[int]:
        return [i for i, seen in enumerate(self.peer.intake.requests) if not seen.is_answered and not seen.is_cancelled]

    @precondition(lambda self: self.waiting())
    @rule(data=st.data(), is_settled=st.booleans())
    def an_inference_is_answered(self, data: st.DataObject, is_settled: bool) -> None:
        pending = self.peer.intake.requests[data.draw(st.sampled_from(self.waiting()))]
        pending.answer(pending.body)
        if is_settled:
            self.peer.settle()

    @precondition(lambda self: self.kept)
    @rule(data=st.data())
    def a_request_is_answered(self, data: st.DataObject) -> None:
        seen = self.kept.pop(data.draw(st.integers(0, len(self.kept) - 1)))
        seen.respond(200, seen.body)
        self.peer.settle()

    @rule()
    def the_client_stops_reading(self) -> None:
        self.peer.transport.is_full = True

    @precondition(lambda self: not self.peer.closed)
    @rule()
    def the_client_reads_again(self) -> None:
        self.peer.transport.unblock()
        self.peer.settle()

    @rule()
    def a_second_passes(self) -> None:
        self.peer.tick(1.0)

    @precondition(lambda self: not self.is_ended)
    @rule(how=st.sampled_from(["lose", "drain", "eof"]))
    def it_ends(self, how: str) -> None:
        self.is_ended = True
        if how == "lose":
            self.peer.lose()
        elif how == "drain":
            self.peer.protocol.drain()
            self.peer.settle()
        elif not self.peer.protocol.eof_received():
            self.peer.transport.is_closed = True
            self.peer.lose()

    @invariant()
    def what_is_in_flight_is_bounded(self) -> None:
        assert self.peer.protocol.in_flight <= 3

    @invariant()
    def answers_are_a_beginning_of_what_is_expected(self) -> None:
        written = bytes(self.peer.transport.written)
        at = 0
        for expected in self.expected:
            if at == len(written):
                return
            blank = written.index(b"\r\n\r\n", at) + 4
            head = written[at:blank]
            assert head.startswith(b"HTTP/1.1 200 OK\r\n")
            assert b"Content-Length: %d\r\n" % len(expected) in head
            assert written[blank : blank + len(expected)] == expected
            at = blank + len(expected)
        assert at == len(written)

    @invariant()
    def nothing_is_forgotten(self) -> None:
        """When all is answered, settled and read, all that has arrived is on the wire."""
        if self.is_ended or self.waiting() or self.kept or self.peer.transport.is_full or self.unsent:
            return
        self.peer.settle()
        if not self.waiting() and not self.kept:
            assert len(self.peer.take_copy()) == len(self.expected)


TestConnection = Connection.TestCase
TestConnection.settings = settings(deadline=None, stateful_step_count=40)
