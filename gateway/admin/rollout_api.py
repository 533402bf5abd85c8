"""Rollouts over HTTP: each operation in a few lines from the request to the service and back.

A gateway that serves something else than the catalog refuses them all: there is nothing that an alias could move in.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

from aiohttp import web

from gateway.admin.access import Caller
from gateway.admin.bodies import Body, query_integer, read_body
from gateway.admin.openapi import Operation
from gateway.admin.preconditions import require_match
from gateway.admin.problems import Problem, ProblemError
from gateway.admin.rollout_operations import COMMANDS, MAX_LISTED, OPERATIONS
from gateway.admin.rollout_schemas import MAX_LABELS
from gateway.rollouts.feedback import Label
from gateway.rollouts.service import RolloutService
from registry.catalog import Catalog
from registry.names import check_name

THREADS = 4
MAX_VERSION = 2**53 - 1
Doc = dict[str, Any]
Handler = Callable[[web.Request, Caller], Awaitable[web.StreamResponse]]
T = TypeVar("T")


class Controller(Protocol):
    """What the gateway's own controller does beyond the catalog."""

    def wake(self) -> None:
        """Something has changed in the catalog: look now."""

    async def abort(self, id: str, actor: str, reason: str) -> Doc:
        """Takes effect here before it returns, whatever the database does. Raises NotFound."""

    async def give_feedback(self, model: str, labels: Sequence[Label]) -> int:
        """How many of them count."""


class RolloutApi:
    """What `OPERATIONS` announce.

    Args:
        open_catalog: gives the catalog, in a thread; RegistryError when it cannot be reached.
        controller: None where the catalog is not served, which is then what every answer says.
    """

    def __init__(self, open_catalog: Callable[[], Catalog], controller: Controller | None) -> None:
        self._open_catalog, self._controller = open_catalog, controller
        self._threads = ThreadPoolExecutor(THREADS, "rollout-api")

    def close(self) -> None:
        """Waits for nothing. Idempotent."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def handlers(self) -> Iterator[tuple[Operation, Handler]]:
        for operation in OPERATIONS:
            yield operation, self._handler(operation.id)

    def _handler(self, id: str) -> Handler:
        verb = id.removesuffix("_rollout")
        if verb in COMMANDS:
            return lambda request, caller: self._command(verb, request, caller)
        handler: Handler = getattr(self, f"_{id}")
        return handler

    async def _list_rollouts(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        model, limit = check_name(request.match_info["model"]), query_integer(request, "limit", 100, 1, MAX_LISTED)
        found = await self._do(caller, lambda service: service.of_model(model, limit))
        return web.json_response({"rollouts": found})

    async def _start_rollout(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        model, body = check_name(request.match_info["model"]), await read_body(request)
        to, alias, reason = body.integer("to", low=1), body.optional_text("alias"), _reason(body)
        plan = body.object("plan", {}) if body.has("plan") else None
        body.end()
        key = Body({"key": request.headers.get("Idempotency-Key", "")}).text("key", max_length=256)
        started = await self._do(
            caller, lambda service: service.start(model, to, alias=alias, plan=plan, reason=reason, key=key)
        )
        self._wake()
        is_new = started["generation"] == 1
        return web.json_response(started, status=201 if is_new else 200, headers={"ETag": _etag(started)})

    async def _get_rollout(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        id = request.match_info["rollout"]
        return _answer(await self._do(caller, lambda service: service.get(id)))

    async def _get_rollout_history(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        id = request.match_info["rollout"]
        return web.json_response({"history": await self._do(caller, lambda service: service.history(id))})

    async def _command(self, verb: str, request: web.Request, caller: Caller) -> web.StreamResponse:
        id, body = request.match_info["rollout"], await read_body(request)
        reason = _reason(body)
        body.end()
        if verb == "abort":
            return _answer(await self._control().abort(id, caller.name, reason))

        def act(service: RolloutService) -> Doc:
            current = service.get(id)
            if_match, if_none_match = request.headers.get("If-Match"), request.headers.get("If-None-Match")
            require_match(if_match, if_none_match, _etag(current))
            return service.command(id, verb, current["generation"], reason)

        document = await self._do(caller, act)
        self._wake()
        return _answer(document)

    async def _give_feedback(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        body = await read_body(request)
        model, found = check_name(body.text("model")), body.list("labels", max_items=MAX_LABELS)
        body.end()
        if not found:
            raise ProblemError(Problem(400, "invalid-request", "labels: must not be empty"))
        labels = [_label(number, one) for number, one in enumerate(found)]
        counted = await self._control().give_feedback(model, labels)
        return web.json_response({"counted": counted, "ignored": len(labels) - counted}, status=202)

    def _control(self) -> Controller:
        if self._controller is None:
            detail = "this gateway does not serve the Sluice catalog, and rollouts move an alias there"
            raise ProblemError(Problem(409, "no-catalog", detail))
        return self._controller

    def _wake(self) -> None:
        self._control().wake()

    async def _do(self, caller: Caller, work: Callable[[RolloutService], T]) -> T:
        """In a thread, as the caller."""
        self._control()
        return await asyncio.get_running_loop().run_in_executor(
            self._threads, lambda: work(RolloutService(self._open_catalog(), caller.name))
        )


def _label(number: int, value: Any) -> Label:
    if not isinstance(value, dict):
        raise ProblemError(Problem(400, "invalid-request", f"labels[{number}]: must be an object"))
    body = Body(value, f"labels[{number}].")
    served_at = body.number("served_at", 0.0) if body.has("served_at") else None
    id = body.text("request_id", max_length=256, is_empty_ok=False)
    label = Label(id, body.integer("version", low=1), body.boolean("correct", None), served_at)
    body.end()
    return label


def _reason(body: Body) -> str:
    return body.text("reason", "", max_length=1000)


def _etag(rollout: Doc) -> str:
    """Of what commands change: counts and evidence move on by themselves."""
    return f'"{rollout["generation"]}"'


def _answer(rollout: Doc) -> web.Response:
    return web.json_response(rollout, headers={"ETag": _etag(rollout)})
