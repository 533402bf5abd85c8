from collections.abc import Iterable

import pytest
from frontend_fakes import FakeCall, FakeDataPlane, FakeInference
from hypothesis import given
from hypothesis import strategies as st

from gateway.frontends import stream
from gateway.frontends.status import Code
from gateway.frontends.stream import InferStream, to_varint
from gateway.pb import inference_pb2 as pb

TRUE_STATUS = [(b"triton_grpc_error", b"true")]


class Stream:
    """One stream over a fake call."""

    def __init__(self, metadata: Iterable[tuple[bytes, bytes]] = (), deadline: float = 0.0) -> None:
        self.plane = FakeDataPlane()
        self.call = FakeCall("/inference.GRPCInferenceService/ModelStreamInfer", list(metadata), deadline)
        self.open = {InferStream(self.plane, self.call, lambda stream: self.open.discard(stream))}

    def ask(self, *ids: str) -> None:
        for each in ids:
            self.call.receive(pb.ModelInferRequest(model_name="iris", id=each).SerializeToString())

    def asked(self, id: str) -> FakeInference:
        (only,) = [each for each in self.plane.inferences if each.id == id]
        return only

    @property
    def replies(self) -> list[tuple[str, str]]:
        """Id and error text of each reply."""
        messages = [pb.ModelStreamInferResponse.FromString(message) for message in self.call.sent]
        return [(message.infer_response.id, message.error_message) for message in messages]


def test_replies_keep_the_order_of_requests() -> None:
    s = Stream()
    s.ask("a", "b", "c")
    s.asked("c").answer()
    s.asked("b").answer()
    assert s.replies == []
    s.asked("a").answer()
    assert s.replies == [("a", ""), ("b", ""), ("c", "")]


def test_a_good_reply_is_the_answer_marked_as_final() -> None:
    s = Stream()
    s.ask("a")
    s.asked("a").answer()
    response = pb.ModelStreamInferResponse.FromString(s.call.sent[0]).infer_response
    assert (response.model_name, response.model_version, response.id) == ("iris", "2", "a")
    assert list(response.raw_output_contents) == [b"abcd"]
    assert response.parameters["triton_final_response"].bool_param is True


def test_an_answer_may_come_at_once() -> None:
    s = Stream()
    s.plane.script = FakeInference.answer
    s.ask("a", "b")
    assert s.replies == [("a", ""), ("b", "")]


def test_an_error_is_a_message_and_the_stream_goes_on() -> None:
    s = Stream()
    s.ask("a", "b")
    s.asked("a").fail(Code.NOT_FOUND, "Request for unknown model: 'x' is not found")
    s.asked("b").answer()
    assert s.replies == [("a", "Request for unknown model: 'x' is not found"), ("b", "")]
    assert s.call.code is None


def test_an_error_about_an_unreadable_request_has_no_id() -> None:
    s = Stream()
    s.call.receive(b"\x0a\xff")
    s.plane.inferences[0].fail(Code.INVALID_ARGUMENT, "cannot parse")
    assert s.replies == [("", "cannot parse")]


def test_a_caller_may_ask_for_true_statuses() -> None:
    s = Stream(TRUE_STATUS)
    s.ask("a", "b", "c")
    s.asked("a").answer()
    s.asked("b").fail(Code.RESOURCE_EXHAUSTED, "too much", retry_after=0.5)
    assert s.replies == [("a", "")]
    assert (s.call.code, s.call.text) == (Code.RESOURCE_EXHAUSTED, "too much")
    assert s.call.trailers == {b"grpc-retry-pushback-ms": b"500"}
    assert b"google.rpc.RetryInfo" in s.call.details
    assert s.asked("c").handle.is_cancelled
    assert not s.open


def test_the_stream_ends_when_its_caller_has_all_answers() -> None:
    s = Stream()
    s.ask("a")
    s.call.receive(end=True)
    assert s.call.code is None
    s.asked("a").answer()
    assert (s.replies, s.call.code) == ([("a", "")], Code.OK)
    assert not s.open


def test_an_empty_stream_ends_at_once() -> None:
    s = Stream()
    s.call.receive(end=True)
    assert s.call.code == Code.OK


def test_what_a_caller_asked_for_is_cancelled_when_it_leaves() -> None:
    s = Stream()
    s.ask("a", "b")
    s.asked("a").answer()
    s.call.cancel()
    assert [each.handle.is_cancelled for each in s.plane.inferences] == [False, True]
    assert s.call.code is None
    assert not s.open


def test_a_deadline_is_handed_down() -> None:
    s = Stream(deadline=12.5)
    s.ask("a")
    assert s.asked("a").deadline == 12.5


def test_replies_wait_for_a_slow_reader() -> None:
    s = Stream()
    s.plane.script = FakeInference.answer
    s.call.is_writable = False
    s.ask("a", "b", "c")
    assert s.replies == [("a", "")]
    s.call.receive(end=True)
    s.call.make_writable()
    assert s.replies == [("a", ""), ("b", ""), ("c", "")]
    assert s.call.code == Code.OK


def test_a_stream_is_not_read_while_much_is_pending(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "PAUSE_PENDING", 4)
    s = Stream()
    s.ask("a", "b", "c")
    assert s.call.is_reading
    s.ask("d", "e")
    assert not s.call.is_reading
    for each in ("a", "b"):
        s.asked(each).answer()
    assert not s.call.is_reading
    s.asked("c").answer()
    assert s.call.is_reading


def test_a_stream_that_asks_without_end_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "MAX_PENDING", 3)
    s = Stream()
    s.ask("a", "b", "c", "d", "e")
    assert s.call.code == Code.RESOURCE_EXHAUSTED
    assert len(s.plane.inferences) == 3
    assert all(each.handle.is_cancelled for each in s.plane.inferences)


def test_a_drain_answers_what_is_pending_and_takes_no_more() -> None:
    s = Stream()
    s.ask("a")
    (only,) = s.open
    only.drain()
    s.ask("b")
    assert (len(s.plane.inferences), s.call.code) == (1, None)
    s.asked("a").answer()
    assert s.replies == [("a", "")]
    assert s.call.code == Code.UNAVAILABLE


def test_a_request_that_the_data_plane_chokes_on_fails_alone(caplog: pytest.LogCaptureFixture) -> None:
    s = Stream()

    def choke(inference: FakeInference) -> None:
        if inference.id == "a":
            raise ZeroDivisionError

    s.plane.script = choke
    s.ask("a", "b")
    s.asked("b").answer()
    assert s.replies == [("a", "internal error"), ("b", "")]
    assert "ZeroDivisionError" in caplog.text


@given(st.permutations(range(6)), st.sets(st.integers(0, 5)), st.sets(st.integers(0, 5)))
def test_whatever_the_order_of_answers_the_replies_have_that_of_requests(
    order: list[int], failing: set[int], blocked: set[int]
) -> None:
    s = Stream()
    s.ask(*(str(i) for i in range(6)))
    for i in order:
        s.call.is_writable = i not in blocked
        inference = s.asked(str(i))
        inference.fail(Code.INTERNAL, "no") if i in failing else inference.answer()
    s.call.receive(end=True)
    while s.call.code is None:
        s.call.make_writable()
    assert s.replies == [(str(i), "no" if i in failing else "") for i in range(6)]


@given(st.integers(0, 2**63))
def test_a_varint_is_what_protobuf_reads(number: int) -> None:
    assert pb.ModelStatistics.FromString(b"\x18" + to_varint(number)).last_inference == number
