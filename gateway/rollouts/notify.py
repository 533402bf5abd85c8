"""Tells a webhook of every change of every rollout, at least once, whoever made it and whatever was restarted since.

The audit log is the outbox: what was announced last is noted beside each rollout, and one gateway at a time announces,
the one that has the rollout's lease. A receiver that is away is tried again, ever more rarely.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from gateway.models_ports import Clock
from gateway.rollouts.ports import InThread
from gateway.rollouts.webhook import NotDelivered
from registry.audit import AuditEntry
from registry.errors import RegistryError
from registry.rollouts import RolloutRow, RolloutStore

LOOK_SECONDS = 1.0
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0
MAX_ATTEMPTS = 12
"""After about eight minutes without an answer, a message is given up, and said to be."""
_log = logging.getLogger("sluice.rollouts")


class Receiver(Protocol):
    """`gateway.rollouts.webhook.Webhook`."""

    async def send(self, id: str, document: dict[str, Any]) -> None: ...


@dataclass
class _Trying:
    """One message that was not delivered yet."""

    attempts: int
    again_at: float


class Notifier:
    """Announces until it is cancelled.

    Args:
        open_store: gives the catalog's rollouts, in a thread; RegistryError when it cannot be reached.
        thread: runs what blocks.
    """

    def __init__(
        self,
        open_store: Callable[[], RolloutStore],
        receiver: Receiver,
        replica: str,
        lease_seconds: float,
        thread: InThread,
        clock: Clock,
    ) -> None:
        self._open_store, self._receiver, self._replica = open_store, receiver, replica
        self._lease_seconds, self._thread, self._clock = lease_seconds, thread, clock
        # By the message's id: what was tried and is to be tried again.
        self._trying: dict[str, _Trying] = {}
        self.undelivered = 0
        """Messages that were given up."""

    async def run(self) -> None:
        never = asyncio.Event()
        while True:
            await self.announce()
            await self._clock.wait(never, LOOK_SECONDS)

    async def announce(self) -> None:
        """Everything that is due now."""
        try:
            for row in await self._thread(lambda: self._open_store().unannounced()):
                await self._announce(row)
        except RegistryError:
            return  # whoever follows the rollouts says that the catalog is away

    async def _announce(self, row: RolloutRow) -> None:
        store = await self._thread(self._open_store)
        if not await self._thread(lambda: store.lead_announcing(row.id, self._replica, self._lease_seconds)):
            return
        entries = await self._thread(partial(store.history, row.id))
        for entry in entries:
            generation = int(entry.after["generation"])
            if generation > row.announced:
                if not await self._deliver(f"{row.id}.{generation}", to_message(row, entry)):
                    return  # in order, or not at all
                await self._thread(partial(store.announced, row.id, generation))

    async def _deliver(self, id: str, message: dict[str, Any]) -> bool:
        """Whether nothing is left to be done about it."""
        trying = self._trying.get(id) or _Trying(0, self._clock.now())
        if self._clock.now() < trying.again_at:
            return False
        try:
            await self._receiver.send(id, message)
        except NotDelivered as error:
            trying.attempts += 1
            if trying.attempts < MAX_ATTEMPTS:
                trying.again_at = self._clock.now() + min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** (trying.attempts - 1))
                self._trying[id] = trying
                return False
            self.undelivered += 1
            fields = {"action": "rollout-message-given-up", "message_id": id, "reason": str(error)}
            _log.error("a message about a rollout was given up", extra=fields)
        self._trying.pop(id, None)
        return True


def to_message(row: RolloutRow, entry: AuditEntry) -> dict[str, Any]:
    """What is posted."""
    return {
        "type": entry.action,
        "timestamp": entry.at,
        "data": {
            "rollout": row.id,
            "model": row.model,
            "from": row.stable,
            "to": row.canary,
            "alias": row.alias,
            "actor": entry.actor,
            "reason": entry.reason,
            "before": entry.before,
            "after": entry.after,
        },
    }
