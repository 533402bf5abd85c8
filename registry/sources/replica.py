"""What is wanted of a remote source, brought to local disk, and what of it can be listed now.

A source says at each look what it wants to have served; this brings it here in the background and lists a model anew
only when everything that is wanted of it is at hand, pinned and verified. Until then what was listed last stands, also
over a restart: so a source or a store that is away, slow, or lies changes nothing. It knows no database, no protocol
and no clock.
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future, wait
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType

from registry.cache import ContentCache
from registry.daemon_pool import DaemonPool
from registry.errors import ArtifactRefused, DigestMismatch, RegistryError, VersionChanged
from registry.ledger import Ledger, Pinned, Served
from registry.manifest import FileEntry
from registry.sources import FileStamp, ModelListing, Problem, Snapshot, VersionListing
from registry.sources.sentences import sentence

CHECK_SECONDS = 30.0
"""Between two looks at whether cached folders are still whole."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 60.0
_SLICE_SECONDS = 0.2


@dataclass(frozen=True)
class Candidate:
    """One version that is wanted.

    `identity` is the source's own word for what it is, which must never change for this version. `bring` blocks until
    the version is in the cache and returns its files; it is given those that were pinned, if any were, and then brings
    these or fails. A `version` below zero stands for the files that belong to no version; these may change, and then
    have another number.
    """

    version: int
    identity: str
    bring: Callable[[tuple[FileEntry, ...] | None], tuple[FileEntry, ...]] = field(compare=False, repr=False)
    config: bytes | None = None
    """See `VersionListing.config`."""


@dataclass(frozen=True)
class Wanted:
    """What is wanted of one model."""

    candidates: tuple[Candidate, ...] = ()
    config: bytes | None = None
    is_chosen: bool = True
    """See `ModelListing.is_chosen`."""
    reasons: tuple[str, ...] = ()
    """Why something else than this should be served, if it could; with any, what was served last stands."""
    notes: tuple[str, ...] = ()
    """What else is odd about the model, and keeps nothing from being served."""
    load_on_demand: bool = False
    """See `ModelListing.load_on_demand`."""
    may_stay: frozenset[int] | None = None
    """Which versions, if they were served, may go on while what is wanted is not at hand. None: any."""


@dataclass
class _Pull:
    future: Future[Pinned]
    attempts: int
    reason: str = ""
    retry_at: float | None = None
    """When it failed: when to try again; None for never, as it is."""


_Key = tuple[str, int, str]


class Replica:
    """The wanted versions of one source.

    Args:
        parallelism: versions that are brought here at once.
    """

    def __init__(self, cache: ContentCache, ledger: Ledger, *, parallelism: int = 4) -> None:
        self._cache, self._ledger = cache, ledger
        self._pool = DaemonPool(parallelism, "pull")
        self._is_closed = threading.Event()
        # Changed by `open` and `follow` only, one call at a time. All pinned versions, by model and number; what is
        # served, which is in the ledger too; where its folders are; and what is being brought here or could not be.
        self._pinned: dict[tuple[str, int], Pinned] = {}
        self._served: dict[str, Served] = {}
        self._folders: dict[tuple[FileEntry, ...], Path] = {}
        self._pulls: dict[_Key, _Pull] = {}
        self._checked_at: float | None = None
        # Pins in the cache: what is listed, and what `hold` was told.
        self._listed: set[tuple[FileEntry, ...]] = set()
        self._held: set[tuple[FileEntry, ...]] = set()
        self.counts: Counter[str] = Counter()
        """Pulls by outcome (`pulled`, `failed`, `refused`), and `lies`: other contents than were pinned."""

    def open(self) -> None:
        """Takes over what was served last. Raises PullFailed when there is no way to remember."""
        self._ledger.open()
        self._pinned = self._ledger.seen()
        self._served = self._ledger.served()

    def close(self) -> None:
        """Ends a `follow` that waits. Idempotent."""
        self._is_closed.set()
        self._pool.close()
        self._ledger.close()

    @property
    def pending(self) -> int:
        """Versions on their way here."""
        return sum(not pull.future.done() for pull in self._pulls.values())

    @property
    def failing(self) -> dict[tuple[str, int], str]:
        """Versions that could not be brought here, and why."""
        return {(model, version): pull.reason for (model, version, _), pull in self._pulls.items() if pull.reason}

    def is_settled(self, now: float) -> bool:
        """Whether `follow` with the same wants has nothing to do."""
        is_checked = self._checked_at is not None and now - self._checked_at < CHECK_SECONDS
        return is_checked and not any(
            not pull.reason or (pull.retry_at is not None and pull.retry_at <= now) for pull in self._pulls.values()
        )

    def last(self) -> Snapshot:
        """What was served last, as far as it is still at hand."""
        listings = {model: self._listing(model, served) for model, served in self._served.items()}
        self._repin()
        return Snapshot(MappingProxyType({name: each for name, each in listings.items() if each}), (), True)

    def pinned_identity(self, model: str, version: int) -> str | None:
        """What a version was when it was first seen; None when it never was."""
        pinned = self._pinned.get((model, version))
        return pinned.identity if pinned else None

    def served_versions(self, model: str) -> frozenset[int]:
        """What was last listed of a model with everything at hand."""
        return frozenset(self._served[model].versions) if model in self._served else frozenset()

    def hold(self, loaded: Mapping[str, Collection[int]]) -> None:
        """These versions are in use: their files stay in the cache, wanted or not."""
        held = {
            self._pinned[model, version].files
            for model, versions in loaded.items() for version in versions if (model, version) in self._pinned
        }  # fmt: skip
        self._swap_pins(self._held, held)
        self._held = held

    def follow(self, wanted: Mapping[str, Wanted], now: float, *, patience: float | None = 0.0) -> Snapshot:
        """What can be listed now that this is wanted, after waiting for at most `patience` seconds (None: for as long
        as it takes) for what is on its way."""
        if self._checked_at is None or now - self._checked_at >= CHECK_SECONDS:
            self._folders.clear()
            self._checked_at = now
        keys = {
            (model, each.version, each.identity): each for model, want in wanted.items() for each in want.candidates
        }
        self._pulls = {key: pull for key, pull in self._pulls.items() if key in keys or not pull.future.done()}
        started = [pull for key, candidate in keys.items() if (pull := self._start(key, candidate, now)) is not None]
        self._wait([pull.future for pull in started], patience)
        for key in keys:
            self._finish(key, now)
        problems: list[Problem] = []
        models = {name: self._settle(name, want, problems) for name, want in wanted.items()}
        for gone in self._served.keys() - wanted.keys():
            self._remember(gone, None)
        self._repin({files for key in keys if (files := self._files_of(key)) is not None})
        return Snapshot(MappingProxyType(models), tuple(problems), True)

    def _wait(self, futures: Collection[Future[Pinned]], patience: float | None) -> None:
        pending: Collection[Future[Pinned]] = futures
        while pending and not self._is_closed.is_set():
            slice_seconds = _SLICE_SECONDS if patience is None else min(patience, _SLICE_SECONDS)
            pending = wait(pending, slice_seconds).not_done
            if patience is not None and (patience := patience - slice_seconds) <= 0:
                return

    # One version

    def _start(self, key: _Key, candidate: Candidate, now: float) -> _Pull | None:
        """The pull that is under way for a version; begun if it is due. None when there is nothing to wait for."""
        pull = self._pulls.get(key)
        if pull is not None:
            if not pull.reason:
                return pull
            if pull.retry_at is None or pull.retry_at > now:
                return None
        model, version, identity = key
        pinned = self._pinned.get((model, version))
        if pull is None and pinned is not None and pinned.identity == identity and self._folder(pinned.files):
            return None
        call = partial(self._bring, model, candidate, pinned)
        self._pulls[key] = _Pull(self._pool.submit(call), pull.attempts if pull else 0)
        return self._pulls[key]

    def _bring(self, model: str, candidate: Candidate, pinned: Pinned | None) -> Pinned:
        """Runs in a thread of the pool."""
        if pinned is not None and pinned.identity != candidate.identity:
            raise VersionChanged(model, candidate.version, pinned.identity, candidate.identity)
        brought = Pinned(candidate.identity, tuple(sorted(candidate.bring(pinned.files if pinned else None))))
        self._ledger.pin(model, candidate.version, brought)
        return brought

    def _finish(self, key: _Key, now: float) -> None:
        pull = self._pulls.get(key)
        if pull is None or pull.reason or not pull.future.done():
            return
        error = pull.future.exception()
        if error is None:
            self.counts["pulled"] += 1
            self._pinned[key[0], key[1]] = pull.future.result()
            del self._pulls[key]
            return
        self.counts["failed"] += 1
        self.counts["lies"] += isinstance(error, VersionChanged | DigestMismatch)
        self.counts["refused"] += isinstance(error, ArtifactRefused)
        pull.attempts += 1
        pull.reason = sentence(error)
        is_final = isinstance(error, ArtifactRefused | VersionChanged) and not isinstance(error, DigestMismatch)
        pause = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0 ** min(pull.attempts - 1, 30))
        pull.retry_at = None if is_final else now + pause

    # One model

    def _settle(self, model: str, want: Wanted, problems: list[Problem]) -> ModelListing:
        """What is wanted when all of it is at hand; what was served last otherwise; what there is, failing that."""
        problems += [Problem(model, reason) for reason in (*want.reasons, *want.notes)]
        ready: dict[int, Pinned] = {}
        reasons, is_awaited = list(want.reasons), False
        for each in want.candidates:
            pull = self._pulls.get((model, each.version, each.identity))
            pinned = self._pinned.get((model, each.version))
            if pull is None and pinned is not None and pinned.identity == each.identity:
                ready[each.version] = pinned
            elif pull is not None and pull.reason:
                problems.append(Problem(f"{model}/{each.version}", pull.reason))
                reasons.append(f"version {each.version}: {pull.reason}")
            else:
                reasons.append(f"version {each.version} is on its way")
                is_awaited = True
        configs = {each.version: each.config for each in want.candidates if each.config is not None}
        served = Served(
            ready, want.config, want.is_chosen, want.load_on_demand,
            {version: config for version, config in configs.items() if version in ready},
        )  # fmt: skip
        if not reasons:
            listing = self._listing(model, served)
            if listing is not None and listing.versions.keys() == _numbers(ready):
                self._remember(model, served)
                return listing
            reasons.append("its files are not all there")
        last = self._served.get(model)
        may_stay = last is None or want.may_stay is None or want.may_stay.issuperset(last.versions)
        if last is not None and may_stay:
            listing = self._listing(model, last)
            if listing is not None and listing.versions.keys() == _numbers(last.versions):
                return listing
        # A listing with a problem leaves alone what is loaded; one without dismisses it.
        problem = "; ".join(reasons) if may_stay else ""
        listing = self._listing(model, served, problem) or ModelListing(model, self._cache.root, is_chosen=True)
        return replace(listing, is_awaited=is_awaited)

    def _remember(self, model: str, served: Served | None) -> None:
        if self._served.get(model) == served:
            return
        try:
            self._ledger.serve(model, served)
        except RegistryError:
            return  # tried again at the next look; what was remembered before is still good
        if served is None:
            del self._served[model]
        else:
            self._served[model] = served

    def _listing(self, model: str, served: Served, problem: str = "") -> ModelListing | None:
        versions: dict[int, VersionListing] = {}
        beside: VersionListing | None = None
        for version, pinned in sorted(served.versions.items()):
            if (folder := self._folder(pinned.files)) is not None:
                digests = MappingProxyType({entry.path: entry.sha256 for entry in pinned.files})
                try:
                    stamps = _stamps(folder, pinned.files)
                except OSError:  # somebody clears the cache at this moment
                    self._folders.pop(pinned.files, None)
                    continue
                listed = VersionListing(version, folder, stamps, digests, served.configs.get(version))
                if version < 0:
                    beside = listed
                else:
                    versions[version] = listed
        if not versions and not problem and served.versions:
            return None
        newest = versions[max(versions)] if versions else None
        # Where there is nothing beside the versions, each may bring its labels and warm-up data with it.
        companion = beside or newest
        path, companions = (companion.path, companion.files) if companion else (self._cache.root, ())
        return ModelListing(
            model, path, MappingProxyType(versions), served.config, companions, problem, is_chosen=served.is_chosen,
            load_on_demand=served.load_on_demand,
        )  # fmt: skip

    def _folder(self, files: tuple[FileEntry, ...]) -> Path | None:
        folder = self._folders.get(files)
        if folder is None and (folder := self._cache.find(files)) is not None:
            self._folders[files] = folder
        return folder

    # Pins

    def _files_of(self, key: _Key) -> tuple[FileEntry, ...] | None:
        """The files of a wanted version that is here."""
        model, version, identity = key
        pinned = self._pinned.get((model, version))
        return pinned.files if pinned is not None and pinned.identity == identity else None

    def _repin(self, wanted: Collection[tuple[FileEntry, ...]] = ()) -> None:
        listed = {pinned.files for served in self._served.values() for pinned in served.versions.values()}
        listed.update(wanted)
        self._swap_pins(self._listed, listed)
        self._listed = listed

    def _swap_pins(self, before: set[tuple[FileEntry, ...]], after: set[tuple[FileEntry, ...]]) -> None:
        for files in after - before:
            self._cache.pin(files)
        for files in before - after:
            self._cache.unpin(files)
            self._folders.pop(files, None)  # from now on it may be evicted


def _numbers(versions: Mapping[int, Pinned]) -> set[int]:
    return {version for version in versions if version > 0}


def _stamps(folder: Path, files: tuple[FileEntry, ...]) -> tuple[FileStamp, ...]:
    stamps = []
    for entry in files:
        status = os.stat(folder / entry.path)
        stamps.append(FileStamp(entry.path, status.st_size, status.st_mtime_ns, status.st_ino))
    return tuple(stamps)
