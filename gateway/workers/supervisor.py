"""Starts workers, and knows at once when one ends. It owns the zygote and replaces a dead one; which instances there
should be is decided elsewhere (`group`), and what they execute elsewhere still."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from gateway.errors import LoadFailed
from gateway.settings import WorkersSettings
from gateway.workers.control import Channel, ControlError, Message
from gateway.workers.instance import Instance
from gateway.workers.restart import RestartPolicy
from gateway.workers.spec import Description, Exit, InstanceSpec
from gateway.workers.tasks import report_unexpected_end
from gateway.workers.zygote_process import ForkedProcess, ForkRefused, ZygoteLost, ZygoteProcess
from kernels.lanes import Lane

PAGE_BYTES = 4096
ZYGOTE_START_SECONDS = 60.0
LAST_WORDS_SHOWN = 200

logger = logging.getLogger("sluice.workers")


class Supervisor:
    """Call `start` in the loop that everything else runs in, and `stop` when all instances have been stopped.

    Args:
        settings: limits and patience.
        start_method: `fork` from a warm zygote; `spawn` starts an interpreter for each worker.
        python_path: folders that workers may import from besides ours.
        allow_any_backend: let `InstanceSpec.backend` be `module:Class`. It runs any code there is: for tests only.
        environment: what the workers' own, much smaller one is picked from.
    """

    def __init__(
        self,
        settings: WorkersSettings | None = None,
        *,
        start_method: Literal["fork", "spawn"] = "fork",
        python_path: Sequence[Path] = (),
        allow_any_backend: bool = False,
        environment: Mapping[str, str] = os.environ,
    ) -> None:
        self._settings = settings or WorkersSettings()
        self._start_method = start_method
        self._python_path = python_path
        self._allow_any_backend = allow_any_backend
        self._environment = environment
        # The zygote that can fork now; `_is_up` is set while there is one. Set by `_start_zygote`, cleared by its loss.
        # After `stop` it is set with no zygote, for whoever waits to learn that there will be none.
        self._zygote: ZygoteProcess | None = None
        self._is_up = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Returns when workers can be forked. They end with the thread that calls this, so let it be one that lives
        as long.

        Raises:
            ZygoteLost: the zygote ended at once, which it explained on standard error.
            TimeoutError: it was not ready within a minute.
        """
        zygote = await self._start_zygote()
        self._keeper = asyncio.create_task(self._keep_zygote(zygote), name="zygote keeper")
        self._keeper.add_done_callback(report_unexpected_end)

    async def stop(self) -> None:
        """Ends the zygote and every worker that is left; launches under way fail. Idempotent."""
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            keeper.cancel()
            await asyncio.gather(keeper, return_exceptions=True)
        self._zygote = None
        self._is_up.set()

    async def describe(
        self,
        path: Path,
        *,
        model: str = "",
        version: str = "",
        backend: str = "onnxruntime",
        parameters: Mapping[str, str] | None = None,
    ) -> Description:
        """Load a model for just long enough to read its signature; nothing is warmed up.

        Raises:
            LoadFailed: with the engine's reason.
        """
        spec = InstanceSpec(model, version, path, backend, parameters=parameters or {}, slot_bytes=PAGE_BYTES)
        lane, control, process, description = await self._host(spec, "describe")
        control.close()
        await asyncio.shield(process.exited)
        lane.close()
        return description

    async def launch(self, spec: InstanceSpec, on_exit: Callable[[Instance, Exit], None]) -> Instance:
        """A worker that hosts the model, loaded and warm. Cancelled, it leaves nothing behind.

        Raises:
            LoadFailed: with the engine's reason, or how the worker ended, or that it took too long.
        """
        slot_bytes = -(-spec.slot_bytes // PAGE_BYTES) * PAGE_BYTES
        spec = replace(spec, slot_bytes=slot_bytes)
        lane, control, process, description = await self._host(spec, "load")
        if process.exited.done():
            control.close()
            lane.close()
            raise _failed(spec, f"the worker {process.exited.result()} as soon as it was ready")
        return Instance(spec, description, lane, control, process, on_exit)

    async def _host(self, spec: InstanceSpec, op: str) -> tuple[Lane, Channel, ForkedProcess, Description]:
        try:
            async with asyncio.timeout(self._settings.start_timeout_seconds):
                try:
                    return await self._attempt(spec, op)
                except ZygoteLost:
                    # Not the model's fault, probably: once more, on the next zygote.
                    return await self._attempt(spec, op)
        except ZygoteLost as error:
            raise _failed(spec, "the process that starts workers keeps ending") from error
        except ForkRefused as error:
            raise _failed(spec, f"no process could be made: {error}") from error
        except TimeoutError as error:
            seconds = self._settings.start_timeout_seconds
            raise _failed(spec, f"the worker was not ready within {seconds:g} seconds") from error
        except OSError as error:
            raise _failed(spec, f"no lane could be made: {error.strerror or error}") from error

    async def _attempt(self, spec: InstanceSpec, op: str) -> tuple[Lane, Channel, ForkedProcess, Description]:
        await self._is_up.wait()
        if self._zygote is None:
            raise _failed(spec, "the gateway is stopping")
        async with contextlib.AsyncExitStack() as undo:
            lane = Lane(spec.slot_bytes)
            undo.callback(lane.close)
            ours, theirs = socket.socketpair()
            control = Channel(ours)
            undo.callback(control.close)
            with theirs:
                ours.setblocking(False)
                process = await self._zygote.fork([theirs.fileno(), *lane.fds])
            undo.callback(process.kill)
            process.on_output = _OutputLog(spec)
            try:
                control.send({"op": op, "spec": spec.to_json()})
            except ControlError as error:
                raise _failed(spec, f"its configuration is too large: {error}") from error
            except OSError:
                pass  # it is dead already, which is told better by how it ended
            description = await self._answer(spec, control, process)
            undo.pop_all()
            return lane, control, process, description

    async def _answer(self, spec: InstanceSpec, control: Channel, process: ForkedProcess) -> Description:
        """The worker's word that it is ready. It may also say why it is not, or end without a word."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Message | None] = loop.create_future()

        def on_readable(*, is_last: bool = False) -> None:
            if answer.done():
                return
            try:
                messages = control.receive()
            except (ControlError, OSError):
                messages = None
            if messages or messages is None or is_last:
                loop.remove_reader(control.fileno())
                answer.set_result(messages[0] if messages else None)

        def on_exit(exit: Exit) -> None:
            on_readable(is_last=True)

        loop.add_reader(control.fileno(), on_readable)
        # The socket alone would not do: something that the model has started may hold the other end open.
        process.on_exit.append(on_exit)
        if process.exited.done():
            on_readable(is_last=True)
        try:
            message = await answer
        finally:
            process.on_exit.remove(on_exit)
            loop.remove_reader(control.fileno())
        try:
            if message is not None and message["event"] == "ready":
                return Description.from_json(message["description"])
            if message is not None:
                raise _failed(spec, str(message["reason"]))
        except (KeyError, TypeError, ValueError) as error:
            raise _failed(spec, "the worker's answer makes no sense") from error
        exit = await asyncio.shield(process.exited)
        if exit.status is None and exit.signal is None:
            raise ZygoteLost
        raise _failed(spec, f"the worker {exit} while it loaded the model{_words(exit)}")

    async def _start_zygote(self) -> ZygoteProcess:
        zygote = ZygoteProcess(
            self._settings,
            start_method=self._start_method,
            environment=self._environment,
            python_path=self._python_path,
            allow_any_backend=self._allow_any_backend,
            on_lost=self._is_up.clear,
        )
        try:
            async with asyncio.timeout(ZYGOTE_START_SECONDS):
                hello = await zygote.ready()
        except BaseException:
            await zygote.stop()
            raise
        if not hello["is_confined"]:
            logger.warning("workers can reach the network: no system call filter here", extra={"action": "unconfined"})
        if hello["threads"] > 1 and self._start_method == "fork":
            logger.warning(
                "workers start slowly: the engine starts threads when imported, so it cannot be forked",
                extra={"action": "start-method", "threads": hello["threads"]},
            )
        self._zygote = zygote
        self._is_up.set()
        return zygote

    async def _keep_zygote(self, zygote: ZygoteProcess) -> None:
        settings = self._settings
        policy = RestartPolicy.from_settings(settings, random.random)
        try:
            while True:
                started = time.monotonic()
                await asyncio.shield(zygote.lost)
                await zygote.stop()
                now = time.monotonic()
                delay = policy.died(now, now - started).delay
                logger.error("the zygote ended, and every worker with it", extra={"action": "zygote-lost"})
                await asyncio.sleep(delay)
                while True:
                    try:
                        zygote = await self._start_zygote()
                        break
                    except (ZygoteLost, TimeoutError, OSError):
                        await asyncio.sleep(policy.died(time.monotonic(), 0.0).delay)
        finally:
            self._is_up.clear()
            await zygote.stop()


class _OutputLog:
    """Puts what one worker prints into the log, line by line."""

    def __init__(self, spec: InstanceSpec) -> None:
        self._fields = {"action": "worker-output", "model": spec.model, "version": spec.version}

    def __call__(self, text: str, dropped: int) -> None:
        for line in text.splitlines():
            if line.strip():
                logger.info(_printable(line), extra=self._fields)
        if dropped:
            logger.warning("a worker prints too much", extra={**self._fields, "dropped_bytes": dropped})


def _printable(line: str) -> str:
    return "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in line[:1000])


def _failed(spec: InstanceSpec, reason: str) -> LoadFailed:
    return LoadFailed(spec.model, spec.version, reason)


def _words(exit: Exit) -> str:
    lines = [line for line in exit.last_words.splitlines() if line.strip()]
    return f", saying: {_printable(lines[-1])[:LAST_WORDS_SHOWN]}" if lines else ""
