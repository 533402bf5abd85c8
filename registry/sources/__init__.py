"""Places that versions come from, behind one interface: a source is scanned, and a scan is a complete snapshot.

A snapshot replaces the one before, so whoever acts on it needs no history from the source. Nothing here knows which
versions are wanted or loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

from registry.errors import SourceUnavailable

__all__ = ["FileStamp", "ModelListing", "Problem", "Snapshot", "Source", "SourceUnavailable", "VersionListing"]


@dataclass(frozen=True, order=True)
class FileStamp:
    """What tells one state of a file from another without reading it."""

    path: str
    """Relative to the version's folder (or the model's, for its own files), with forward slashes."""
    size: int
    mtime_ns: int
    inode: int


@dataclass(frozen=True)
class VersionListing:
    """One version: where its files are, and their stamps in the order of their paths (its fingerprint)."""

    version: int
    path: Path
    files: tuple[FileStamp, ...]
    digests: Mapping[str, str] | None = field(default=None, compare=False)
    """The SHA-256 that the bytes of each file must have, by its path, where the source vouches for them."""
    config: bytes | None = None
    """The contents of its own config.pbtxt, where the source keeps one for each version, which then has its labels and
    warm-up data among its files as well; empty: it keeps none for this one. None: the model's is meant."""


@dataclass(frozen=True)
class ModelListing:
    """One model. A listing with a `problem` is incomplete: nothing follows from what it lacks."""

    name: str
    path: Path
    versions: Mapping[int, VersionListing] = field(default_factory=lambda: MappingProxyType({}))
    config: bytes | None = None
    """The contents of config.pbtxt; None when there is none."""
    companions: tuple[FileStamp, ...] = ()
    """Files that belong to no version: labels, warm-up data."""
    problem: str = ""
    is_chosen: bool = False
    """Whether the source itself chose these versions, all of which are wanted: no version policy is asked."""
    is_awaited: bool = False
    """Whether versions that it lacks are on their way here."""
    load_on_demand: bool = False
    """Whether the source says that it is to be loaded by the first request for it."""


@dataclass(frozen=True)
class Problem:
    """Something in the source that was left out, and why."""

    path: str
    reason: str


@dataclass(frozen=True)
class Snapshot:
    """Everything that the source holds at one moment."""

    models: Mapping[str, ModelListing] = field(default_factory=lambda: MappingProxyType({}))
    problems: tuple[Problem, ...] = ()
    is_consistent: bool = False
    """Whether all of it was so at one moment, and nothing in it can be half-written: it is believed at once."""


class Source(Protocol):
    """A place that versions come from."""

    def scan(self) -> Snapshot:
        """What is there now. Blocks: call it in a thread, and one call at a time.

        Raises:
            SourceUnavailable: the place cannot be read; what it held before still stands.
        """
