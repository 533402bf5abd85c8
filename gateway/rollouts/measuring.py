"""Measurements for analyses, each asked for beside everything else, and one of a name at a time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from gateway.rollouts.actions import Measured, Query
from gateway.rollouts.follower import Follower
from gateway.rollouts.prometheus import Prometheus, QueryFailed

_log = logging.getLogger("sluice.rollouts")


class Measuring:
    """Those of all rollouts.

    Args:
        prometheus: None: every measurement is an error.
        take: gets what was measured.
    """

    def __init__(
        self, prometheus: Prometheus | None, take: Callable[[Follower, Measured], Awaitable[None]]
    ) -> None:
        self._prometheus, self._take = prometheus, take
        # By rollout and name; they belong to the group.
        self._asking: dict[tuple[str, str], asyncio.Task[None]] = {}
        self.tasks: asyncio.TaskGroup | None = None
        """Of whoever waits for them; None: nothing is asked."""

    def ask(self, follower: Follower, query: Query) -> None:
        key = (follower.row.id, query.name)
        if key not in self._asking and self.tasks is not None:
            self._asking[key] = self.tasks.create_task(self._measure(follower, query))

    async def _measure(self, follower: Follower, query: Query) -> None:
        """What goes wrong is told: the gateway serves whatever becomes of rollouts."""
        try:
            measured = await self._ask(follower, query)
        finally:
            del self._asking[follower.row.id, query.name]
        try:
            await self._take(follower, measured)
        except Exception:
            _log.exception("a measurement was lost", extra={"action": "rollout-measurement-lost"})

    async def _ask(self, follower: Follower, query: Query) -> Measured:
        row = follower.row
        names = {"model": row.model, "stable": str(row.stable), "canary": str(row.canary)}
        try:
            if self._prometheus is None:
                raise QueryFailed("rollouts.prometheus_url is not set")
            return Measured(query.name, await self._prometheus.ask(query.analysis.query, names))
        except QueryFailed as error:
            return Measured(query.name, error=str(error))
