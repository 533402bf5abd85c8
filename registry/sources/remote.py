"""What every source that is not a local directory does at a look, whatever it speaks: ask within bounds, follow what it
wants, and stand by what was served last while it is away.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial

from registry.cache import ContentCache
from registry.daemon_pool import DaemonPool
from registry.errors import SourceUnavailable
from registry.ledger import Ledger
from registry.redaction import redact
from registry.sources import Problem, Snapshot
from registry.sources.health import SourceHealth
from registry.sources.replica import Replica, Wanted
from registry.sources.sentences import sentence


@dataclass(frozen=True)
class View:
    """What a source wanted at one moment. Equal views want the same."""

    wanted: Mapping[str, Wanted]


class RemoteSource(ABC):
    """One source.

    Args:
        kind: what it is, in one word.
        place: where it is, for people: without secrets.
        patience: seconds that a look waits for versions on their way here; None for as long as it takes.
        answer_seconds: how long the source may take to answer a look.
    """

    def __init__(
        self,
        kind: str,
        place: str,
        cache: ContentCache,
        ledger: Ledger,
        *,
        patience: float | None = 0.3,
        answer_seconds: float = 3.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.place, self.cache = place, cache
        self.patience = patience
        self.replica = Replica(cache, ledger)
        self._answer_seconds, self.clock = answer_seconds, clock
        self._reader = DaemonPool(1, kind)
        # Changed by `scan` alone, one call at a time.
        self._reading: Future[View] | None = None
        self._snapshot: Snapshot | None = None
        self._health = SourceHealth(kind, place)
        self.view: View | None = None
        """What was wanted at the last look."""

    @abstractmethod
    def look(self, last: View | None) -> View:
        """What is wanted now; `last` itself when nothing changed. Runs in one thread, one call at a time.

        Raises SourceUnavailable; any other error counts as one.
        """

    def open(self) -> None:
        """Takes over the cache and what was served last. Raises OSError or PullFailed when they cannot be used."""
        self.cache.open()
        self.replica.open()

    def close(self) -> None:
        """Ends a scan that waits. Idempotent."""
        self.replica.close()
        self._reader.close()
        self.cache.close()

    def hold(self, loaded: Mapping[str, Collection[int]]) -> None:
        """These versions are in use: they stay in the cache."""
        self.replica.hold(loaded)

    def health(self) -> SourceHealth:
        replica = self.replica
        return replace(self._health, pending=replica.pending, failing=replica.failing, counts=dict(replica.counts))

    def scan(self) -> Snapshot:
        now = self.clock()
        try:
            view = self._ask()
        except SourceUnavailable as error:
            self._health = self._health.unreached(error.reason)
            if self._snapshot is not None:
                raise
            last = self.replica.last()
            if not last.models:
                raise
            self._snapshot = last
            reason = f"cannot be reached ({error.reason}); what was served last is served from the cache"
            return replace(last, problems=(Problem(self.place, reason),))
        self._health = self._health.reached(now)
        if view is not self.view or self._snapshot is None or not self.replica.is_settled(now):
            self.view = view
            try:
                self._snapshot = self.replica.follow(view.wanted, now, patience=self.patience)
            except (OSError, RuntimeError) as error:  # such as a disk that is gone; or closed meanwhile
                raise SourceUnavailable(self.place, sentence(error)) from error
        return self._snapshot

    def _ask(self) -> View:
        """Raises SourceUnavailable, also when the answer takes too long; it is then waited for at the next look."""
        try:
            if self._reading is None:
                self._reading = self._reader.submit(partial(self.look, self.view))
            reading = self._reading
            try:
                view = reading.result(self._answer_seconds)
            except TimeoutError:
                if not reading.done():
                    raise SourceUnavailable(self.place, f"no answer in {self._answer_seconds:g} s") from None
                raise
        except SourceUnavailable as error:
            self._forget_answer()
            raise SourceUnavailable(self.place, redact(error.reason)) from error
        except Exception as error:
            self._forget_answer()
            raise SourceUnavailable(self.place, sentence(error)) from error
        self._reading = None
        return view

    def _forget_answer(self) -> None:
        if self._reading is not None and self._reading.done():
            self._reading = None
