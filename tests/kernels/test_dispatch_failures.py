"""What the dispatcher itself fails on: every request is answered all the same, in either protocol."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import http1_peer
import http2_peer
import pytest
from dispatch_bench import INTERNAL, Bench, message

from kernels.http1 import Http1Limits, Http1Protocol
from kernels.http2 import Http2Limits, Http2Protocol
from kernels.rollout import ArmTally, Rollout
from kernels.routes import ModelRoute, RouteTable

BODY = b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 1]}]}'


def broken_bench() -> Bench:
    """Dividing its requests raises for those with the header `x-team`."""
    bench = Bench(lanes=0)
    rule = ("x-team", "prefix", cast(str, 5), bench.deployment)
    rollout = Rollout("m", bench.deployment, [(bench.deployment, 0.0, ArmTally("1", 0.0))], rules=[rule])
    route = ModelRoute(bench.deployment, {"1": bench.deployment}, {}, rollout)
    bench.dispatcher.route_table = RouteTable({"m": route})
    return bench


def answer_by_http(bench: Bench) -> tuple[object, str]:
    """The status and the text."""
    loop = asyncio.new_event_loop()
    peer = http1_peer.Peer(loop)
    peer.lose()
    peer.intake = cast(Any, SimpleNamespace(flush=bench.settle))
    peer.protocol = Http1Protocol(bench.dispatcher, lambda request: None, Http1Limits(), peer.closed.append)
    loop.call_soon(peer.protocol.connection_made, peer.transport)
    peer.settle()
    answer = peer.ask(http1_peer.infer(BODY, [(b"x-team", b"a")]))
    peer.lose()
    loop.close()
    return answer.status, answer.body.decode()


def answer_by_grpc(bench: Bench) -> tuple[object, str]:
    peer = http2_peer.Peer()
    peer.intake = cast(Any, SimpleNamespace(flush=bench.settle))
    peer.protocol = Http2Protocol(
        bench.dispatcher, http2_peer.INFER, lambda call: None, Http2Limits(), peer.closed.append
    )
    reply = peer.connect().infer(message([[1, 1]]), (b"x-team", b"a"))
    peer.lose()
    ends = {**reply.headers, **reply.trailers}
    return int(ends[b"grpc-status"]), ends[b"grpc-message"].decode()


@pytest.mark.parametrize(("ask", "status"), [(answer_by_http, 500), (answer_by_grpc, INTERNAL)])
def test_a_request_that_cannot_be_directed_is_answered_and_the_exception_is_told(
    ask: Callable[[Bench], tuple[object, str]], status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[type[BaseException]] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: told.append(unraisable.exc_type))
    bench = broken_bench()
    found, text = ask(bench)
    assert found == status
    assert "the gateway failed on the request" in text
    assert told == [TypeError]
    assert sum(bench.dispatcher.unrouted.failure_counts()) == 1
