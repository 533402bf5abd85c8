"""Asking Prometheus for one number: what is sent, and what its answers mean."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from gateway.rollouts.prometheus import Prometheus, QueryFailed


def ask(answer: Any, query: str = "up", status: int = 200) -> tuple[float | None, list[str]]:
    asked: list[str] = []

    async def handle(request: web.Request) -> web.Response:
        asked.append(str((await request.post())["query"]))
        if isinstance(answer, str):
            return web.Response(text=answer, status=status)
        return web.json_response(answer, status=status)

    async def main() -> float | None:
        app = web.Application()
        app.router.add_post("/api/v1/query", handle)
        async with TestServer(app) as server:
            prometheus = Prometheus(str(server.make_url("/")))
            return await prometheus.ask(query, {"model": "fraud", "canary": "7", "stable": "6"})

    return asyncio.run(main()), asked


def success(kind: str, result: Any) -> dict[str, Any]:
    return {"status": "success", "data": {"resultType": kind, "result": result}}


def series(*values: str) -> dict[str, Any]:
    return success("vector", [{"metric": {}, "value": [1700000000, value]} for value in values])


def test_names_in_the_query_are_those_of_the_rollout() -> None:
    query = 'sum(rate(sluice_requests_total{model="$model",version="$canary"}[1m])) / $other'
    _, asked = ask(series("1"), query)
    assert asked == ['sum(rate(sluice_requests_total{model="fraud",version="7"}[1m])) / $other']


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        (series("0.25"), 0.25),
        (success("scalar", [1700000000, "3"]), 3.0),
        (series("+Inf"), float("inf")),
        (series("NaN"), None),
        (series(), None),
    ],
)
def test_a_sample_is_its_value_and_no_sample_is_nothing(answer: Any, value: float | None) -> None:
    assert ask(answer)[0] == value


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (series("1", "2"), "2 series"),
        (success("matrix", []), "matrix"),
        ({"status": "error", "error": "parse error"}, "parse error"),
        ({"status": "success"}, "KeyError"),
        ("<html>", "JSONDecodeError"),
        ([], "TypeError"),
        (success("scalar", [1700000000]), "IndexError"),
        ("[" * 100_000, "RecursionError"),
        ('"' + "x" * (1 << 20) + '"', "longer than"),
    ],
)
def test_whatever_is_not_one_number_fails_by_name(answer: Any, reason: str) -> None:
    with pytest.raises(QueryFailed, match=reason):
        ask(answer, status=400)


def test_a_server_that_is_not_there_fails_by_name() -> None:
    with pytest.raises(QueryFailed):
        asyncio.run(Prometheus("http://127.0.0.1:9").ask("up", {}))
