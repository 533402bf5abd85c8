"""The composition root: builds every part once, starts them, waits for the signal, drains, stops.

The order matters and is here only: the admin plane answers probes before anything is loaded, the inference ports are
bound before models load (and say "not ready" until they have), readiness is withdrawn before a port closes.
"""

from __future__ import annotations

import asyncio
import fcntl
import gc
import logging
import os
import resource
import signal
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import uvloop

from gateway.admin.assembly import keyring, mlflow_webhook, registry_api, registry_parts
from gateway.admin.plane import AdminPlane
from gateway.admin.rollout_api import RolloutApi
from gateway.dataplane import DataPlane
from gateway.errors import SettingsError, StartFailed
from gateway.frontends.control import ModelControl
from gateway.frontends.grpc import INFER_PATH, GrpcFrontend
from gateway.frontends.http import HttpFrontend
from gateway.frontends.status import HTTP_STATUS
from gateway.listeners import Connection, Listener, server_context
from gateway.model_config import Defaults
from gateway.models import Models
from gateway.registry_sources import Origin
from gateway.rollouts.assembly import Rollouts
from gateway.rollouts.metrics import RolloutCollector
from gateway.settings import GrpcSettings, HttpSettings, Settings
from gateway.threads import finish
from gateway.version_group import WorkerLauncher
from gateway.workers.placement import pin_thread, usable_cpus, usable_gpus
from gateway.workers.supervisor import Supervisor
from gateway.workers.zygote_process import ZygoteLost
from kernels.http1 import Http1Limits, Http1Protocol
from kernels.http2 import Http2Limits, Http2Protocol, Http2Shared
from kernels.receive import ReceiveBuffer
from registry.sources.mlflow_client import MlflowAccess
from registry.staging import Staging

_log = logging.getLogger("sluice.server")

THREADS_SECONDS = 1.0
"""What threads get to come back, also when draining has used up its time."""


def run(settings: Settings, mlflow: MlflowAccess = MlflowAccess()) -> int:
    """Serves until SIGTERM or SIGINT; returns the exit status. SettingsError, StartFailed, OSError or StagingFailed
    (the data folder), some of them alone in an exception group, when it cannot start."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        server = Server(settings, mlflow)
        code = runner.run(server.serve())
        if server.has_hung_threads:
            # Closing the loop, and the interpreter, would wait for them for good. Everything else has ended.
            logging.shutdown()
            os._exit(code)
        return code


class Server:
    """Everything that runs in one process, and the signals that end it."""

    def __init__(self, settings: Settings, mlflow: MlflowAccess = MlflowAccess()) -> None:
        self._settings, self._mlflow = settings, mlflow
        # Set by the first SIGTERM or SIGINT, and by the admin plane.
        self._stopping = asyncio.Event()
        # Set by the second signal: nothing is waited for any more. Asking the admin plane to drain is none, so that a
        # hook may do so before the signal comes.
        self._hurrying = asyncio.Event()
        self._signals = 0
        self._drain_ends = 0.0  # monotonic seconds; set when draining begins
        self.has_hung_threads = False
        """After `serve`: a thread did not come back within the drain timeout, such as one that reads from a file server
        that is gone."""

    async def serve(self) -> int:
        settings = self._settings
        _raise_file_limit(settings)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal)
        data_dir = _claim(settings.data_dir)
        threads = ThreadPoolExecutor(initializer=pin_thread, initargs=(usable_cpus(),))
        loop.set_default_executor(threads)
        supervisor = Supervisor(settings.workers)
        plane = DataPlane(settings)
        origin = Origin(settings, data_dir, self._mlflow)
        models = Models(
            origin.source,
            WorkerLauncher(supervisor, settings.workers),
            plane,
            Staging(data_dir / "staged"),
            settings=origin.models_settings,
            defaults=Defaults(settings.models.default_max_batch_size, usable_gpus()),
        )
        plane.connect(models)
        parts = registry_parts(settings)
        rollouts = (
            Rollouts(settings.rollouts, data_dir, parts.catalog, plane, origin.catalog, models)
            if origin.catalog is not None
            else None
        )
        admin = AdminPlane(
            settings.admin,
            settings.admin_port,
            plane,
            plane,
            self._stopping.set,
            registry=registry_api(parts, settings, data_dir, origin),
            rollouts=RolloutApi(parts.catalog, rollouts.controller if rollouts is not None else None),
            tokens=keyring(data_dir),
            webhook=mlflow_webhook(settings, models.look_soon),
            collectors=[RolloutCollector(rollouts.controller)] if rollouts is not None else [],
        )
        async with asyncio.TaskGroup() as tasks:
            control = ModelControl(plane, tasks, is_allowed=settings.models.control_mode == "explicit")
            grpc = GrpcFrontend(plane, control)
            http_listener, grpc_listener = self._listeners(plane, HttpFrontend(plane, control), grpc)
            try:
                await admin.start()
                await http_listener.start(settings.host, settings.http_port)
                await grpc_listener.start(settings.host, settings.grpc_port)
                _log.info(
                    "listening",
                    extra={
                        "action": "listening",
                        "host": settings.host,
                        "http_port": http_listener.port,
                        "grpc_port": grpc_listener.port,
                        "admin_port": admin.port,
                    },
                )
                await _start(supervisor)
                plane.start()
                await origin.open()
                origin.follow(models)
                following = None
                if rollouts is not None:
                    await rollouts.open()  # its routes are there before the first version is
                    following = tasks.create_task(rollouts.run(), name="rollouts")
                life = tasks.create_task(models.run(), name="life cycle of models")
                # Nothing that exists now is garbage: later collections need not walk it.
                gc.collect()
                gc.freeze()
                await self._stopping.wait()
                await self._drain(plane, grpc, http_listener, grpc_listener)
                http_listener.close()
                grpc_listener.close()
                if rollouts is not None and following is not None:
                    following.cancel()
                    await rollouts.close()
                await self._close(origin)
                # Nobody is left to be answered: what still runs is for nobody.
                if not await self._unless_hurried(models.stop(), settings.workers.stop_timeout_seconds):
                    life.cancel()
            finally:
                http_listener.close()
                grpc_listener.close()
                plane.stop()
                await self._close(origin)
                await supervisor.stop()
                await admin.stop()
        self.has_hung_threads = not await self._unless_hurried(
            finish(threads), max(self._drain_ends - time.monotonic(), THREADS_SECONDS)
        )
        if self.has_hung_threads:
            _log.warning("threads hang", extra={"action": "threads-hang"})
        _log.info("stopped", extra={"action": "stopped"})
        return 0

    def _listeners(self, plane: DataPlane, http: HttpFrontend, grpc: GrpcFrontend) -> tuple[Listener, Listener]:
        settings = self._settings
        receive = ReceiveBuffer()
        shared = Http2Shared(receive)
        http_limits, grpc_limits = http1_limits(settings.http), http2_limits(settings.grpc)

        def http_connection(closed: Callable[[Connection], None]) -> Connection:
            return Http1Protocol(plane.intake, http.handle, http_limits, closed, receive)

        def grpc_connection(closed: Callable[[Connection], None]) -> Connection:
            return Http2Protocol(plane.intake, INFER_PATH, grpc.handle, grpc_limits, closed, shared)

        return (
            Listener(
                "http",
                http_connection,
                max_connections=settings.http.max_connections,
                tls=server_context(settings.tls, "http/1.1"),
            ),
            Listener(
                "grpc",
                grpc_connection,
                max_connections=settings.grpc.max_connections,
                tls=server_context(settings.tls, "h2"),
            ),
        )

    async def _drain(self, plane: DataPlane, grpc: GrpcFrontend, *listeners: Listener) -> None:
        drain = self._settings.drain
        started = time.monotonic()
        self._drain_ends = started + drain.timeout_seconds
        _log.info("draining", extra={"action": "draining", "in_flight": plane.in_flight})
        plane.withdraw_readiness()
        await self._unless_hurried(asyncio.sleep(drain.delay_seconds), drain.delay_seconds + 1)
        for listener in listeners:
            listener.stop_accepting()
            listener.drain()
        grpc.drain()
        left = drain.timeout_seconds - (time.monotonic() - started)
        finished = await self._unless_hurried(
            asyncio.gather(*(listener.wait_empty() for listener in listeners)), max(left, 0.0)
        )
        if not finished:
            _log.warning(
                "drain cut short",
                extra={
                    "action": "drain-cut-short",
                    "in_flight": plane.in_flight,
                    "connections": sum(len(listener.connections) for listener in listeners),
                },
            )

    async def _close(self, origin: Origin) -> None:
        await self._unless_hurried(origin.close(), self._settings.workers.stop_timeout_seconds)

    async def _unless_hurried(self, work: Awaitable[object], timeout: float) -> bool:
        """Waits for `work` until it is done, the time is over or a second signal comes; whether it was done."""
        task = asyncio.ensure_future(work)
        hurry = asyncio.ensure_future(self._hurrying.wait())
        try:
            await asyncio.wait((task, hurry), timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            return task.done()
        finally:
            hurry.cancel()
            task.cancel()

    def _on_signal(self) -> None:
        self._signals += 1
        if self._signals > 1:
            self._hurrying.set()
        self._stopping.set()


async def _start(supervisor: Supervisor) -> None:
    try:
        await supervisor.start()
    except ZygoteLost:
        reason = "the process that starts them ended at once; its own words are above"
        raise StartFailed("workers", reason) from None
    except TimeoutError:
        raise StartFailed("workers", "the process that starts them did not answer within a minute") from None


def http1_limits(settings: HttpSettings) -> Http1Limits:
    return Http1Limits(
        max_header_bytes=settings.max_header_bytes,
        max_headers=settings.max_headers,
        max_target_bytes=settings.max_target_bytes,
        max_body_bytes=settings.max_body_bytes,
        max_inflate_ratio=settings.max_inflate_ratio,
        max_chunks=settings.max_chunks,
        max_pipelined=settings.max_pipelined,
        max_unread_bytes=settings.max_unread_bytes,
        header_timeout=settings.header_timeout_seconds,
        body_timeout=settings.body_timeout_seconds,
        idle_timeout=settings.idle_timeout_seconds,
        linger_timeout=settings.linger_timeout_seconds,
        compression_min_bytes=settings.compression_min_bytes,
        compression_max_bytes=settings.compression_max_bytes,
        statuses=HTTP_STATUS,
    )


def http2_limits(settings: GrpcSettings) -> Http2Limits:
    return Http2Limits(
        max_message_bytes=settings.max_message_bytes,
        max_buffered_bytes=settings.max_buffered_bytes,
        max_inflate_ratio=settings.max_inflate_ratio,
        max_concurrent_streams=settings.max_concurrent_streams,
        max_header_bytes=settings.max_header_bytes,
        max_resets_per_minute=settings.max_resets_per_minute,
        max_control_frames_per_minute=settings.max_control_frames_per_minute,
        header_timeout=settings.header_timeout_seconds,
        body_timeout=settings.body_timeout_seconds,
        max_unread_bytes=settings.max_unread_bytes,
        write_timeout=settings.write_timeout_seconds,
        idle_timeout=settings.idle_timeout_seconds,
        keepalive_time=settings.keepalive_time_seconds,
        keepalive_timeout=settings.keepalive_timeout_seconds,
        min_ping_interval=settings.min_ping_interval_seconds,
        max_ping_strikes=settings.max_ping_strikes,
        max_continuations=settings.max_continuations,
        max_settings=settings.max_settings,
        max_outbound_acks=settings.max_outbound_acks,
        min_body_rate=settings.min_body_rate_bytes,
        stream_window=settings.stream_window_bytes,
        connection_window=settings.connection_window_bytes,
        compression_min_bytes=settings.compression_min_bytes,
    )


def _raise_file_limit(settings: Settings) -> None:
    """Asks for as many open files as connections are allowed; a lower hard limit is reported, not fatal."""
    wanted = settings.http.max_connections + settings.grpc.max_connections + 1024
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
        soft = allowed
    if soft != resource.RLIM_INFINITY and soft < wanted:
        _log.warning(
            "fewer open files than connections are allowed",
            extra={"action": "file-limit", "limit": soft, "wanted": wanted},
        )


def _claim(folder: Path) -> Path:
    """The data folder, made when absent and held by this process until it ends. SettingsError when another has it."""
    folder = folder.expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise SettingsError("data_dir", f"{folder} cannot be used: {error.strerror}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise SettingsError("data_dir", f"{folder} is in use by another gateway; give each its own") from None
    return folder
