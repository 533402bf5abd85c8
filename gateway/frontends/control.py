"""Loads and unloads that callers ask for, over either front end. Each runs in a task of its own and goes on when its
caller has gone: a client's timeout must not leave a model half loaded."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from gateway.errors import ControlNotAllowed, NotServing
from gateway.frontends import DataPlane, ParameterValue

Finished = Callable[[BaseException | None], None]
"""Called once, with what went wrong. Must not raise."""


class ModelControl:
    """`tasks` belongs to the caller, who awaits it at shutdown. `is_allowed`: the control mode is explicit."""

    def __init__(self, plane: DataPlane, tasks: asyncio.TaskGroup, *, is_allowed: bool) -> None:
        self._plane = plane
        self._tasks = tasks
        self._is_allowed = is_allowed

    def load(self, model: str, parameters: Mapping[str, ParameterValue], finished: Finished) -> None:
        """Raises ControlNotAllowed, or NotServing at shutdown; then `finished` is not called."""
        self._start(lambda: self._plane.load_model(model, parameters), f"load {model}", finished)

    def unload(self, model: str, parameters: Mapping[str, ParameterValue], finished: Finished) -> None:
        """As `load`."""
        self._start(lambda: self._plane.unload_model(model, parameters), f"unload {model}", finished)

    def _start(self, action: Callable[[], Coroutine[Any, Any, None]], name: str, finished: Finished) -> None:
        if not self._is_allowed:
            raise ControlNotAllowed
        work = _run(action, finished)
        try:
            self._tasks.create_task(work, name=name)
        except RuntimeError:  # the group is shutting down
            work.close()
            raise NotServing from None


async def _run(action: Callable[[], Coroutine[Any, Any, None]], finished: Finished) -> None:
    try:
        await action()
    except Exception as error:
        finished(error)
    except asyncio.CancelledError:
        finished(NotServing())
        raise
    else:
        finished(None)
