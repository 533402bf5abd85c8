"""ModelStreamInfer: many inference requests on one call, answered in their order. A request that fails is answered by a
message and the stream goes on, unless the caller asks for true statuses."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from math import ceil

from gateway.frontends import Call, Cancellable, DataPlane
from gateway.frontends.status import UNEXPECTED, Code
from gateway.pb import inference_pb2 as pb
from kernels.http2 import status_details

_log = logging.getLogger("sluice.frontends")

PAUSE_PENDING = 1024
"""Requests of one stream that are not answered yet, or whose answers its caller does not read: then the stream is not
read either, until half of them are gone."""

MAX_PENDING = 16384
"""What was on its way may still come, up to this many; more end the stream."""

_TRUE_STATUS = (b"triton_grpc_error", b"true")

# Bytes of a message appended to another's are merged into it: so an answer gets its parameter without being parsed.
_FINAL = pb.ModelInferResponse(
    parameters={"triton_final_response": pb.InferParameter(bool_param=True)}
).SerializeToString()
_INFER_RESPONSE_TAG = bytes([pb.ModelStreamInferResponse.INFER_RESPONSE_FIELD_NUMBER << 3 | 2])


class InferStream:
    """One stream. It takes the call's callbacks; when the caller leaves, what it asked for is cancelled."""

    def __init__(self, plane: DataPlane, call: Call, left: Callable[[InferStream], None]) -> None:
        self._plane = plane
        self._call = call
        self._left = left
        self._wants_status = any((name, value.lower()) == _TRUE_STATUS for name, value in call.metadata)
        # In the order of arrival; the head leaves when it is answered and the call can take its answer.
        self._pending: deque[_Pending] = deque()
        self._can_send = True
        self._ending: tuple[Code, str] | None = None  # how the call ends once nothing is pending
        self._is_over = False
        call.on_message = self._take
        call.on_end = lambda: self._end(Code.OK, "")
        call.on_cancel = self._close
        call.on_writable = self._resume

    def drain(self) -> None:
        """Takes no further request, answers those pending, and ends."""
        self._end(Code.UNAVAILABLE, "the server is shutting down")

    def _take(self, message: bytes) -> None:
        if self._ending is not None or self._is_over:
            return
        if len(self._pending) >= MAX_PENDING:
            return self._abort(Code.RESOURCE_EXHAUSTED, f"more than {MAX_PENDING} requests of this stream are pending")
        pending = _Pending(message)
        self._pending.append(pending)
        if len(self._pending) == PAUSE_PENDING:
            self._call.pause_reading()

        def done(code: int, text: bytes, answer: bytes, retry_after: float) -> None:
            pending.outcome = _Outcome(code, text, answer, retry_after)
            pending.handle = None
            self._flush()

        try:
            handle = self._plane.infer_bytes(message, self._call.deadline, done)
        except Exception:
            _log.exception("a request of a stream failed")
            return done(UNEXPECTED.code, UNEXPECTED.text.encode(), b"", 0.0)
        if pending.outcome is None:
            pending.handle = handle

    def _flush(self) -> None:
        while self._pending and self._can_send and not self._is_over:
            outcome = self._pending[0].outcome
            if outcome is None:
                return
            if outcome.code and self._wants_status:
                return self._abort(Code(outcome.code), outcome.text.decode(errors="replace"), outcome.retry_after)
            pending = self._pending.popleft()
            self._can_send = self._call.send(to_message(pending.message, outcome))
            if len(self._pending) == PAUSE_PENDING // 2:
                self._call.resume_reading()
        if not self._pending and self._ending is not None:
            self._abort(*self._ending)

    def _resume(self) -> None:
        self._can_send = True
        self._flush()

    def _end(self, code: Code, text: str) -> None:
        if self._ending is None:
            self._ending = code, text
            self._flush()

    def _abort(self, code: Code, text: str, retry_after: float = 0.0) -> None:
        if self._is_over:
            return
        self._close()
        pushback = [(b"grpc-retry-pushback-ms", b"%d" % ceil(retry_after * 1000))] if retry_after else []
        self._call.finish(code, text, pushback, status_details(code, text, retry_after=retry_after))

    def _close(self) -> None:
        """The call is over, here or at its caller: what is pending is dropped."""
        self._is_over = True
        for pending in self._pending:
            if pending.handle is not None:
                pending.handle.cancel()
        self._pending.clear()
        self._left(self)


class _Outcome:
    __slots__ = ("answer", "code", "retry_after", "text")

    def __init__(self, code: int, text: bytes, answer: bytes, retry_after: float) -> None:
        self.code = code
        self.text = text
        self.answer = answer
        self.retry_after = retry_after


class _Pending:
    __slots__ = ("handle", "message", "outcome")

    def __init__(self, message: bytes) -> None:
        self.message = message
        self.handle: Cancellable | None = None
        self.outcome: _Outcome | None = None


def to_message(request: bytes, outcome: _Outcome) -> bytes:
    """A ModelStreamInferResponse. The request is read only when it failed, for its id."""
    if outcome.code:
        asked = pb.ModelInferResponse(id=_id_of(request))
        text = outcome.text.decode(errors="replace")
        return pb.ModelStreamInferResponse(error_message=text, infer_response=asked).SerializeToString()
    size = len(outcome.answer) + len(_FINAL)
    return b"".join((_INFER_RESPONSE_TAG, to_varint(size), outcome.answer, _FINAL))


def to_varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _id_of(request: bytes) -> str:
    try:
        return pb.ModelInferRequest.FromString(request).id
    except Exception:  # what was refused may well be unreadable
        return ""
