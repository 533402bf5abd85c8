"""Follows the rollouts of a catalog in one gateway: applies what is written there, leads when nobody else does, and takes
traffic back at once when the evidence says so. What to do is decided by `machine`, through a `Follower` for each rollout;
this is the shell that reads, writes and routes.

A step is written to the catalog before it takes effect. A rollback takes effect before it is written; until it is, the
journal in the data folder remembers it. So whatever is lost, the database, the leader or this process, no canary ever
gets more traffic than somebody has decided on with all of that at hand.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from gateway.models_ports import Clock
from gateway.rollouts.changes import change_of, is_gone_back
from gateway.rollouts.documents import to_document, to_seen
from gateway.rollouts.evidence import Event, Evidence, Thresholds
from gateway.rollouts.follower import Follower
from gateway.rollouts.journal import Journal, Remembered
from gateway.rollouts.machine import Begin, Command, Decision, Facts, Query
from gateway.rollouts.metrics import RolloutSample
from gateway.rollouts.ports import InThread, Models, Plane, Source
from gateway.rollouts.remembering import from_memory, to_memory
from gateway.rollouts.routing import route_of, route_to
from gateway.rollouts.service import RolloutService
from gateway.rollouts.status import State, Status
from gateway.settings import RolloutsSettings
from registry.catalog import Catalog
from registry.errors import (
    AliasConflict,
    NotFound,
    RegistryError,
    RolloutChanged,
    SourceUnavailable,
    VersionRejected,
)
from registry.rollouts import RolloutRow

ACTOR = "sluice"
"""Whom the audit log names for what the machine decides."""
_log = logging.getLogger("sluice.rollouts")


class RolloutController:
    """All rollouts of one catalog, in one gateway.

    Args:
        open_catalog: gives the catalog, in a thread; RegistryError when it cannot be reached.
        thread: runs what blocks.
        analyst: asks the metrics provider.
    """

    def __init__(
        self,
        open_catalog: Callable[[], Catalog],
        plane: Plane,
        source: Source,
        models: Models,
        journal: Journal,
        thread: InThread,
        settings: RolloutsSettings,
        clock: Clock,
        analyst: Analyst,
    ) -> None:
        self._open_catalog, self._plane, self._source, self._models = open_catalog, plane, source, models
        self._journal, self._thread, self._settings, self._clock = journal, thread, settings, clock
        self._analyst = analyst
        self._replica = ""
        # Rollouts under way, and those that ended here and are not settled in the catalog yet, by id.
        self._followers: dict[str, Follower] = {}
        # Models whose rollout is over while both versions may be loaded: which one answers.
        self._pins: dict[str, int] = {}
        self._is_away = False
        self._wake = asyncio.Event()
        self.rollbacks: Counter[tuple[str, str]] = Counter()
