"""What the life cycle talks about: attempts to serve model versions, actions on them, events, lines of the index.

Plain data. Who may change an attempt is said at its class.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from gateway.lifecycle import State
from gateway.model_config import WrittenConfig
from registry.sources import FileStamp, ModelListing, VersionListing

Level = Literal["info", "warning", "error"]

UNLOADED = "unloaded"
ON_DEMAND = "loaded by the first request for it"
NO_ROOM = "does not fit into memory"
"""How the reason begins of what was refused for want of memory."""
CHANGED_IN_PLACE = "files changed in place; what was loaded keeps serving. Put changed files into a new version"


@dataclass(frozen=True)
class Event:
    """A change of state, for logs and listeners."""

    action: str
    level: Level = "info"
    model: str = ""
    version: str = ""
    fields: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True)
class Backoff:
    """Pauses between attempts to load the same files: doubled each time, from `initial` up to `maximum` seconds."""

    initial: float = 1.0
    maximum: float = 300.0

    def after(self, failures: int) -> float:
        return min(self.maximum, self.initial * 2.0 ** min(failures - 1, 64))


@dataclass(frozen=True)
class Revision:
    """What a version is made of: another one of the same version takes its place."""

    files: tuple[FileStamp, ...]
    config: bytes
    """Everything in the configuration but the version policy, which says nothing about any one version."""
    companions: tuple[FileStamp, ...]


@dataclass(eq=False)
class Attempt:
    """One attempt to serve one revision of one version. Only the Reconciler changes it."""

    model: str
    version: int
    revision: Revision
    listing: VersionListing
    model_listing: ModelListing
    written: WrittenConfig
    failures: int = 0
    """Failed ones before this."""
    state: State = State.UNKNOWN
    reason: str = ""
    since: float = 0.0
    retry_at: float | None = None
    """When over: when it may be tried again; None when only another revision may help."""
    is_live: bool = False
    """Whether it has instances: from loaded to unloaded, also while they keep dying and it is UNAVAILABLE."""
    nbytes: int = 0
    """Memory that it takes: measured once it was loaded, before that as far as its files say."""
    digest: str = ""
    load_seconds: float = 0.0
    """From the start of the load to READY; 0 until then."""
    seen: tuple[FileStamp, ...] = ()
    """The stamps that its files were last compared at."""

    @property
    def companions_path(self) -> Path:
        """Where the files of `revision.companions` are."""
        return self.model_listing.path if self.listing.config is None else self.listing.path

    @property
    def is_over(self) -> bool:
        """Whether nothing is left of it but its reason."""
        return self.state is State.UNAVAILABLE and not self.is_live

    def is_of(self, version: int, revision: Revision) -> bool:
        return self.version == version and self.revision == revision


@dataclass(frozen=True)
class Load:
    """Bring it up, then call `loaded` or `failed`."""

    attempt: Attempt


@dataclass(frozen=True)
class Unload:
    """Stop answering for it (or give up bringing it up), finish what runs, then call `unloaded`."""

    attempt: Attempt


@dataclass(frozen=True)
class Verify:
    """Compare the files that are there now with what was loaded, then call `verified`."""

    attempt: Attempt
    listing: VersionListing


Action = Load | Unload | Verify


@dataclass(frozen=True)
class IndexRow:
    """One line of the repository index. A model that was never loaded has a name only."""

    name: str
    version: str = ""
    state: str = ""
    reason: str = ""
    is_awaited: bool = False
    """Not READY, and loaded as soon as somebody asks for it."""
    load_seconds: float = field(default=0.0, compare=False)
    """From the start of the load to READY; 0 until then."""


@dataclass(frozen=True)
class Capacity:
    """The memory that models take, in bytes."""

    limit: int
    """0: none."""
    loaded: Mapping[tuple[str, int], int]
    """By model and version, of what is loaded, loads, or leaves."""
    evictions: Mapping[str, int]
    """How often each model was unloaded to make room for others."""
