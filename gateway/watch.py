"""When the source is looked at, and what is made of what it shows: only what two looks agree on is passed on.

A source that cannot be read changes nothing: it is reported once, and once more when it is back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from gateway.attempts import Event
from gateway.models_ports import Clock
from gateway.settings import ModelsSettings
from registry.errors import SourceUnavailable
from registry.sources import Snapshot, Source
from registry.sources.settling import Settling

SETTLE_SECONDS = 0.25
"""Between the two looks that must agree, where the poll interval does not say otherwise."""


class Watch:
    """One source.

    Args:
        observe: given a snapshot whenever what is believed of the source has changed.
        settle_seconds: between the first two looks, and between the two of `look_twice`.
    """

    def __init__(
        self,
        source: Source,
        observe: Callable[[Snapshot], None],
        emit: Callable[[Event], None],
        settings: ModelsSettings,
        *,
        clock: Clock,
        settle_seconds: float = SETTLE_SECONDS,
    ) -> None:
        self._source, self._observe, self._emit = source, observe, emit
        self._mode, self._poll_seconds = settings.control_mode, settings.poll_seconds
        self._clock = clock
        self._settle_seconds = settle_seconds
        # Changed by `look` alone, one at a time.
        self._looking = asyncio.Lock()
        self._settling = Settling()
        self._observed: Snapshot | None = None
        self._looks = 0
        # Changed by `follow`, `hurry` and `lost`.
        self._is_lost = False
        self._is_hinted = False
        self.look_at: float | None = None if self._mode == "explicit" else clock.now()
        """When the next look is due; None for never: in mode explicit, and in mode none once two looks agree."""

    @property
    def believed(self) -> Snapshot:
        return self._settling.believed

    def is_due(self, now: float) -> bool:
        return self.look_at is not None and self.look_at <= now

    def hurry(self) -> None:
        """Something may have changed: the next look is due now, if there is one; one under way may have missed it."""
        self._is_hinted = True
        if self.look_at is not None:
            self.look_at = self._clock.now()

    async def follow(self) -> None:
        """One look, and when the next one is due."""
        self._is_hinted = False
        try:
            await self.look()
        except SourceUnavailable as error:
            self.lost(error)
        else:
            if self._is_lost:
                self._emit(Event("repository-recovered"))
            self._is_lost = False
        is_first = self._looks == 1 and not self._is_lost
        is_done = self._mode == "none" and self._looks > 1 and self._settling.is_settled and not self._is_lost
        pause = min(self._settle_seconds, self._poll_seconds) if is_first else self._poll_seconds
        self.look_at = None if is_done else self._clock.now() + (0.0 if self._is_hinted else pause)

    def lost(self, error: SourceUnavailable) -> None:
        """The source could not be read."""
        if not self._is_lost:
            fields = {"place": error.place, "reason": error.reason}
            self._emit(Event("repository-unavailable", "error", fields=fields))
        self._is_lost = True

    async def look(self) -> None:
        """Raises SourceUnavailable; what was believed then stands."""
        async with self._looking:
            scan = await asyncio.to_thread(self._source.scan)
            self._looks += 1
            believed = self._settling.observe(scan)
            if self._looks == 1 and not self._settling.is_settled:
                return  # one look alone says nothing
            if believed != self._observed:
                self._observed = believed
                self._observe(believed)

    async def look_twice(self) -> None:
        """So that what is there now is believed, if it holds still. Raises SourceUnavailable."""
        await self.look()
        await self._clock.wait(asyncio.Event(), self._settle_seconds)
        await self.look()
