"""The admin plane's server: binds the port, routes, checks who asks. What it shows comes from an `Observer`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from importlib import resources
from typing import Protocol

from aiohttp import web

from gateway import __version__
from gateway.admin.access import Access, is_loopback
from gateway.admin.observer import Observer
from gateway.errors import SettingsError
from gateway.metrics import MeterSource, exposition, make_registry
from gateway.settings import AdminSettings

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
    ) -> None:
        """SettingsError when it would be open to others without a token."""
        if not is_loopback(settings.host) and settings.token_file is None:
            raise SettingsError(
                "admin.host", f"{settings.host} is not loopback: set admin.token_file, or bind 127.0.0.1 or ::1"
            )
        self._settings, self._port = settings, port
        self._access = Access.from_settings(settings)
        self._observer = Observer(source)
        self._registry = make_registry(source, self._observer.demand)
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

    def observe(self) -> None:
        self._observer.observe(self._clock())

    def application(self) -> web.Application:
        app = web.Application(middlewares=[self._guard], client_max_size=64 * 1024)
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/api/v1/health", self._health_report)
        app.router.add_get("/api/v1/models", self._models)
        app.router.add_post("/api/v1/drain", self._start_drain)
        for path, (name, content_type) in _CONSOLE_FILES.items():
            app.router.add_get(path, _static(name, content_type))
        return app

    def _tick(self) -> None:
        self.observe()
        self._timer = asyncio.get_running_loop().call_later(OBSERVE_SECONDS, self._tick)

    @web.middleware
    async def _guard(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        refusal = self._access.check(request.path, request.headers)
        if refusal is not None:
            response: web.StreamResponse = _error(refusal.status, refusal.reason)
            if refusal.status == 401:
                response.headers["WWW-Authenticate"] = 'Bearer realm="sluice"'
        else:
            try:
                response = await handler(request)
            except web.HTTPException as error:
                response = _error(error.status, error.reason)
                if "Allow" in error.headers:
                    response.headers["Allow"] = error.headers["Allow"]
        response.headers.update(_HEADERS)
        return response

    async def _metrics(self, request: web.Request) -> web.Response:
        body, content_type = exposition(self._registry, request.headers.get("Accept", ""))
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def _healthz(self, request: web.Request) -> web.Response:
        return _probe(self._health.is_live())

    async def _readyz(self, request: web.Request) -> web.Response:
        return _probe(self._health.is_ready())

    async def _health_report(self, request: web.Request) -> web.Response:
        return web.json_response(
            {
                "name": "sluice",
                "version": __version__,
                "live": self._health.is_live(),
                "ready": self._health.is_ready(),
                "uptime_seconds": round(self._clock() - self._started, 3),
            }
        )

    async def _models(self, request: web.Request) -> web.Response:
        return web.json_response({"models": self._observer.models()})

    async def _start_drain(self, request: web.Request) -> web.Response:
        self._drain()
        return web.json_response({"draining": True}, status=202)


def _probe(is_well: bool) -> web.Response:
    return web.Response(text="ok\n" if is_well else "not ok\n", status=200 if is_well else 503)


def _error(status: int, reason: str) -> web.Response:
    return web.json_response({"error": reason}, status=status)


def _static(name: str, content_type: str) -> _Handler:
    body = resources.files("gateway.admin").joinpath(name).read_bytes()

    async def handler(request: web.Request) -> web.Response:
        return web.Response(body=body, content_type=content_type, charset="utf-8")

    return handler
