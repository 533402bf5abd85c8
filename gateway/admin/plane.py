"""The admin plane's server: binds the port, routes, checks who asks and what for. What it shows comes from an
`Observer`, the registry from a `RegistryApi`."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from importlib import resources
from typing import Any, Protocol

from aiohttp import web
from prometheus_client.registry import Collector

from gateway import __version__
from gateway.admin import openapi, problems
from gateway.admin.access import Access, Caller, Refusal, Tokens, is_loopback
from gateway.admin.observer import Observer
from gateway.admin.openapi import Operation
from gateway.admin.problems import Problem, ProblemError
from gateway.admin.registry_api import RegistryApi
from gateway.admin.rollout_api import RolloutApi
from gateway.admin.webhook import MlflowWebhook
from gateway.errors import SettingsError
from gateway.metrics import MeterSource, exposition, make_registry
from gateway.settings import AdminSettings
from registry.errors import RegistryError

OBSERVE_SECONDS = 1.0
_CONSOLE_FILES = {
    "/": ("console.html", "text/html"),
    "/console.css": ("console.css", "text/css"),
    "/console.js": ("console.js", "text/javascript"),
}
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_CallerHandler = Callable[[web.Request, Caller], Awaitable[web.StreamResponse]]
_of_gateway = partial(Operation, tag="gateway")
_KINDS = {401: "unauthorized", 403: "forbidden", 404: "not-found", 405: "method-not-allowed", 413: "limit-exceeded"}
OPERATIONS = (
    _of_gateway("get_health", "GET", "/api/v1/health", "read", "Who answers, and for how long", {200: "Health"}),
    _of_gateway("list_served", "GET", "/api/v1/models", "read", "What is served, and how that is", {200: "Served"}),
    _of_gateway("drain", "POST", "/api/v1/drain", "operate", "Begin to drain, as SIGTERM does", {202: "Draining"}),
    _of_gateway("get_metrics", "GET", "/metrics", "read", "Metrics for Prometheus", {200: "text/plain"}),
)
NOWHERE: tuple[None, None] = (None, None)
OPENAPI_PATH = "/api/v1/openapi.json"
_log = logging.getLogger("sluice.admin")


class Health(Protocol):
    """What the probes ask; the data plane answers."""

    def is_live(self) -> bool: ...
    def is_ready(self) -> bool: ...


class AdminPlane:
    """One aiohttp server. `drain` is what POST /api/v1/drain starts: the same as SIGTERM."""

    def __init__(
        self,
        settings: AdminSettings,
        port: int,
        source: MeterSource,
        health: Health,
        drain: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
        *,
        registry: RegistryApi | None = None,
        rollouts: RolloutApi | None = None,
        tokens: Tokens | None = None,
        webhook: MlflowWebhook | None = None,
        collectors: Iterable[Collector] = (),
    ) -> None:
        """SettingsError when it would be open to others without a token."""
        if not is_loopback(settings.host) and settings.token_file is None and (tokens is None or tokens.is_empty):
            raise SettingsError(
                "admin.host",
                f"{settings.host} is not loopback: make a token by `sluice token create`, set admin.token_file, "
                "or bind 127.0.0.1 or ::1",
            )
        self._settings, self._port = settings, port
        self._access = Access.from_settings(settings, tokens)
        self._registry_api, self._rollout_api, self._webhook = registry, rollouts, webhook
        # By path pattern and method: what a caller must be allowed, and who answers. Filled with the routes.
        self._operations: dict[tuple[str, str], tuple[Operation, _CallerHandler]] = {}
        self._observer = Observer(source)
        self._registry = make_registry(source, self._observer.demand)
        for collector in collectors:
            self._registry.register(collector)
        self._health, self._drain, self._clock = health, drain, clock
        self._started = clock()
        self._runner: web.AppRunner | None = None
        self._timer: asyncio.TimerHandle | None = None

    @property
    def port(self) -> int:
        """The port that is bound; the one asked for until then."""
        addresses = self._runner.addresses if self._runner else []
        return int(addresses[0][1]) if addresses else self._port

    async def start(self) -> None:
        """Binds and answers from here on; OSError when the port is taken."""
        if self._registry_api is not None:
            self._registry_api.start()
        self._runner = web.AppRunner(self.application(), access_log=None, handle_signals=False, shutdown_timeout=1.0)
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, self._settings.host, self._port).start()
        except OSError:
            await self.stop()
            raise
        self._tick()

    async def stop(self) -> None:
        """Closes; may be called twice, and before `start`."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()
        for api in (self._rollout_api, self._registry_api):
            if api is not None:
                api.close()

    def observe(self) -> None:
        self._observer.observe(self._clock())

    def application(self) -> web.Application:
        app = web.Application(middlewares=[self._guard], client_max_size=64 * 1024)
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        for path, (name, content_type) in _CONSOLE_FILES.items():
            app.router.add_get(path, _static(name, content_type))
        own: tuple[_CallerHandler, ...] = (self._health_report, self._models, self._start_drain, self._metrics)
        for operation, handler in zip(OPERATIONS, own, strict=True):
            self._add(app, operation, handler)
        operations = list(OPERATIONS)
        for api in (self._registry_api, self._rollout_api):
            for operation, handler in api.handlers() if api is not None else ():
                self._add(app, operation, handler)
                operations.append(operation)
        if self._webhook is not None:
            self._add(app, self._webhook.operation, self._webhook.handle)
            operations.append(self._webhook.operation)
        document = openapi.document(operations, __version__)
        answers = {200: "application/json"}
        itself = Operation("get_openapi", "GET", OPENAPI_PATH, "read", "This document", answers, "document")
        self._add(app, itself, _document(document))
        return app

    def _add(self, app: web.Application, operation: Operation, handler: _CallerHandler) -> None:
        # A colon parts a rollout from what is to be done with it.
        app.router.add_route(operation.method, operation.path.replace("{rollout}", "{rollout:[^/:]+}"), _unguarded)
        self._operations[operation.path, operation.method] = operation, handler

    def _tick(self) -> None:
        self.observe()
        self._timer = asyncio.get_running_loop().call_later(OBSERVE_SECONDS, self._tick)

    @web.middleware
    async def _guard(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        resource = request.match_info.route.resource
        # Where nothing is, whoever has a token may know that.
        key = resource.canonical if resource else "", request.method
        operation, found = self._operations.get(key, NOWHERE)
        answer = self._access.admit(request.path, request.headers, operation.scope if operation else "read")
        if isinstance(answer, Refusal):
            response: web.StreamResponse = _refused(answer)
        elif operation is not None and operation.query and (unknown := request.query.keys() - operation.query.keys()):
            response = _problem(Problem(400, "invalid-request", f"{min(unknown)[:64]}: there is no such parameter"))
        else:
            response = await _answered(partial(found, request, answer) if found else partial(handler, request))
        if not response.prepared:
            response.headers.update(_HEADERS)
        return response

    async def _metrics(self, request: web.Request, caller: Caller) -> web.Response:
        body, content_type = exposition(self._registry, request.headers.get("Accept", ""))
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def _healthz(self, request: web.Request) -> web.Response:
        return _probe(self._health.is_live())

    async def _readyz(self, request: web.Request) -> web.Response:
        return _probe(self._health.is_ready())

    async def _health_report(self, request: web.Request, caller: Caller) -> web.Response:
        return web.json_response(
            {
                "name": "sluice",
                "version": __version__,
                "live": self._health.is_live(),
                "ready": self._health.is_ready(),
                "uptime_seconds": round(self._clock() - self._started, 3),
            }
        )

    async def _models(self, request: web.Request, caller: Caller) -> web.Response:
        return web.json_response({"models": self._observer.models()})

    async def _start_drain(self, request: web.Request, caller: Caller) -> web.Response:
        self._drain()
        return web.json_response({"draining": True}, status=202)


def _probe(is_well: bool) -> web.Response:
    return web.Response(text="ok\n" if is_well else "not ok\n", status=200 if is_well else 503)


async def _answered(handle: Callable[[], Awaitable[web.StreamResponse]]) -> web.StreamResponse:
    """The answer, or the problem that was met."""
    try:
        return await handle()
    except web.HTTPException as error:
        response = _problem(Problem(error.status, _KINDS.get(error.status, "invalid-request"), error.reason))
        if "Allow" in error.headers:
            response.headers["Allow"] = error.headers["Allow"]
        return response
    except ProblemError as error:
        return _problem(error.problem)
    except RegistryError as error:
        problem = problems.from_error(error)
        if problem.status >= 500:
            _log.warning("the registry failed a request", extra={"action": "registry-failed", "reason": str(error)})
        return _problem(problem)
    except Exception:
        _log.exception("a request of the admin plane failed", extra={"action": "admin-request-failed"})
        return _problem(Problem(500, "internal", "this is a bug: the log says more"))


def _refused(refusal: Refusal) -> web.Response:
    facts = {"scope": refusal.scope} if refusal.scope else {}
    response = _problem(Problem(refusal.status, _KINDS[refusal.status], refusal.reason, facts))
    if refusal.status == 401:
        response.headers["WWW-Authenticate"] = 'Bearer realm="sluice"'
    return response


def _problem(problem: Problem) -> web.Response:
    return web.json_response(problem.to_dict(), status=problem.status, content_type=problems.CONTENT_TYPE)


async def _unguarded(request: web.Request) -> web.Response:
    raise AssertionError("this is a bug: the guard answers for every operation")


def _document(document: dict[str, Any]) -> _CallerHandler:
    async def handle(request: web.Request, caller: Caller) -> web.Response:
        return web.json_response(document)

    return handle


def _static(name: str, content_type: str) -> _Handler:
    body = resources.files("gateway.admin").joinpath(name).read_bytes()

    async def handler(request: web.Request) -> web.Response:
        return web.Response(body=body, content_type=content_type, charset="utf-8")

    return handler
