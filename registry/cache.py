"""Versions on local disk: pulled once, verified before they get a name, shared file by file, and let go when there is
no more room.

The cache knows no catalog and no model. What is pinned is never evicted; of the rest, what was used least recently goes
first. Every method blocks and may be called from any thread.
"""

from __future__ import annotations

import errno
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import wait
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from registry.cache_disk import CacheDisk, Held, check_files, key_of
from registry.daemon_pool import DaemonPool
from registry.errors import CacheFull, PullFailed, RegistryError
from registry.manifest import FileEntry
from registry.redaction import redact

MIB = 1 << 20


Files = tuple[FileEntry, ...]
"""What a version is made of; its manifest has them."""


class Fetching(Protocol):
    """The part of an artifact store that a pull needs."""

    def fetch(
        self, sha256: str, size: int, to: Path, *, resume: bool = True, limit_bytes_per_second: float | None = None
    ) -> None:
        """Writes the object to `to`; goes on where an earlier call stopped, when it may resume and can."""


@dataclass(frozen=True)
class CacheLimits:
    """What one cache takes in.

    `max_bytes` is for everything on disk together; a pull that needs more than eviction can free is refused.
    """

    max_bytes: int = 64 << 30
    max_version_bytes: int = 32 << 30
    max_files: int = 4096
    parallelism: int = 4
    """Files that are fetched at once, over all pulls."""
    bytes_per_second: int = 0
    """For all fetches together; 0 sets no limit."""


@dataclass(frozen=True)
class CacheUsage:
    """A moment's figures, and counts since the start."""

    bytes: int
    max_bytes: int
    versions: int
    pinned: int
    hits: int
    misses: int
    evictions: int
    failures: int


class ContentCache:
    """All versions below `root`. One process at a time may have it open.

    Args:
        root: made when absent.
    """

    def __init__(self, root: Path, limits: CacheLimits = CacheLimits()) -> None:
        self.root, self.limits = root, limits
        self._disk = CacheDisk(root)
        self._pool = DaemonPool(limits.parallelism, "fetch")
        # All below is changed under the lock, which is never held during a fetch.
        self._lock = threading.RLock()
        self._objects: dict[str, int] = {}
        self._versions: dict[str, Held] = {}
        # How many versions on disk hold an object, and how many pulls under way need it.
        self._references: Counter[str] = Counter()
        self._claims: Counter[str] = Counter()
        # Sizes of objects that are being fetched.
        self._expected: dict[str, int] = {}
        self._pins: Counter[str] = Counter()
        self._busy: dict[str, tuple[threading.Lock, int]] = {}
        self._turn = 0
        self._counts: Counter[str] = Counter()

    def open(self) -> None:
        """Takes over what an earlier process left; half-made things are cleared away. OSError when the root cannot be
        used."""
        with self._lock:
            self._objects, self._versions = self._disk.open()
            self._references = Counter(sha256 for held in self._versions.values() for sha256 in _objects_of(held.files))
            self._turn = max((held.used_at for held in self._versions.values()), default=0)

    def close(self) -> None:
        """Nothing is fetched any more; a pull that waits fails. What is on disk stays. Idempotent."""
        self._pool.close()

    def find(self, files: Files) -> Path | None:
        """The folder of a version that is here, whole; it counts as used. Reads no bytes of it."""
        files = self._checked(files)
        key = key_of(files)
        with self._lock:
            if key not in self._versions:
                return None
            if not self._disk.is_intact(key, files):
                self._disk.make_folders()
                self._drop(key)
                return None
            self._turn += 1
            self._disk.touch(key, self._turn)
            self._versions[key] = Held(files, self._turn)
            return self._disk.version_path(key)

    def pull(self, files: Files, store: Fetching, *, instead_of: Path | None = None) -> Path:
        """The folder of a version, fetched if it is not here. Its files are read-only and have the digests that
        `files` name.

        Args:
            instead_of: a scratch folder whose room this takes over.

        Raises:
            UnsafePath, LimitExceeded: names, counts or sizes that are not allowed.
            DigestMismatch: the store gave other bytes.
            CacheFull: what is pinned leaves no room.
            PullFailed: anything else, such as a store that cannot be reached or a full disk. Another attempt goes on
                where this one stopped.
        """
        files = self._checked(files)
        key = key_of(files)
        with self._alone(key):
            if (folder := self.find(files)) is not None:
                self._counts["hits"] += 1
                return folder
            self._counts["misses"] += 1
            with self._lock:
                self._expected.pop(str(instead_of), None)
            try:
                self._disk.make_folders()
                with self._claimed(files):
                    self._fetch_all(files, store)
                    return self._assemble(key, files)
            except OSError as error:
                self._counts["failures"] += 1
                raise PullFailed("", _os_reason(error)) from error
            except RegistryError:
                self._counts["failures"] += 1
                raise

    @contextmanager
    def scratch(self, needed: int) -> Iterator[Path]:
        """A folder for `needed` bytes whose digests are not known yet, on the same disk; gone when the block ends.

        Raises CacheFull and PullFailed.
        """
        try:
            with self._lock:
                folder = self._disk.make_scratch()
                key = str(folder)
                self._expected[key] = needed
            try:
                self._make_room(needed)
                yield folder
            finally:
                with self._lock:
                    self._expected.pop(key, None)
                self._disk.remove_scratch(folder)
        except OSError as error:
            raise PullFailed("", _os_reason(error)) from error

    def pin(self, files: Files) -> None:
        """What is made of these files stays until as many `unpin`. It need not be here yet."""
        with self._lock:
            self._pins[key_of(files)] += 1

    def unpin(self, files: Files) -> None:
        key = key_of(files)
        with self._lock:
            self._pins[key] -= 1
            if self._pins[key] <= 0:
                del self._pins[key]

    def discard(self, files: Files) -> None:
        """Removes a version and every object of it, for one whose bytes are in doubt. Pinned or not."""
        with self._lock:
            key = key_of(files)
            if key in self._versions:
                self._drop(key)
            for sha256 in _objects_of(files) & self._objects.keys():
                if not self._claims[sha256]:
                    for other in [other for other, held in self._versions.items() if sha256 in _objects_of(held.files)]:
                        self._drop(other)
                    self._remove_object(sha256)

    def usage(self) -> CacheUsage:
        with self._lock:
            counts = {name: self._counts[name] for name in ("hits", "misses", "evictions", "failures")}
            pinned = sum(key in self._pins for key in self._versions)
            return CacheUsage(self._used(), self.limits.max_bytes, len(self._versions), pinned, **counts)

    # One pull

    def _checked(self, files: Files) -> Files:
        limits = self.limits
        return check_files(files, max_files=limits.max_files, max_bytes=limits.max_version_bytes)

    @contextmanager
    def _claimed(self, files: Files) -> Iterator[None]:
        """Makes room for what is missing, and keeps the objects of a version from eviction meanwhile."""
        shas = _objects_of(files)
        with self._lock:
            self._claims.update(shas)
            missing = {entry.sha256: entry.size for entry in files if entry.sha256 not in self._objects}
            self._expected.update(missing)
        try:
            self._make_room(sum(missing.values()))
            yield
        finally:
            with self._lock:
                self._claims.subtract(shas)
                self._claims += Counter()
                for sha256 in shas - self._claims.keys():
                    self._expected.pop(sha256, None)

    def _fetch_all(self, files: Files, store: Fetching) -> None:
        entries = {entry.sha256: entry for entry in files}.values()
        try:
            fetches = [self._pool.submit(partial(self._fetch, entry, store)) for entry in entries]
        except RuntimeError:
            raise PullFailed("", "the cache is closed") from None
        wait(fetches)
        for fetch in fetches:
            if fetch.cancelled():
                raise PullFailed("", "the cache is closed")
            if (error := fetch.exception()) is not None:
                raise error

    def _fetch(self, entry: FileEntry, store: Fetching) -> None:
        with self._alone(entry.sha256):
            if entry.sha256 in self._objects:
                if self._disk.has_object(entry.sha256, entry.size):
                    return
                with self._lock:
                    del self._objects[entry.sha256]
                    self._expected[entry.sha256] = entry.size
            share = self.limits.bytes_per_second / self.limits.parallelism
            to = self._disk.partial_path(entry.sha256)
            try:
                store.fetch(entry.sha256, entry.size, to, limit_bytes_per_second=share or None)
            except RegistryError:
                raise
            except OSError as error:
                raise PullFailed(entry.path, _os_reason(error)) from error
            except Exception as error:  # whatever the library behind the store raises
                raise PullFailed(entry.path, redact(f"{type(error).__name__}: {error}")) from None
            self._disk.admit(entry)
            with self._lock:
                self._objects[entry.sha256] = entry.size
                self._expected.pop(entry.sha256, None)

    def _assemble(self, key: str, files: Files) -> Path:
        with self._lock:
            self._turn += 1
            turn = self._turn
        folder = self._disk.assemble(key, files, turn)
        with self._lock:
            self._versions[key] = Held(files, turn)
            self._references.update(_objects_of(files))
        return folder

    @contextmanager
    def _alone(self, key: str) -> Iterator[None]:
        """One thread at a time for each key."""
        with self._lock:
            lock, users = self._busy.get(key, (threading.Lock(), 0))
            self._busy[key] = (lock, users + 1)
        try:
            with lock:
                yield
        finally:
            with self._lock:
                lock, users = self._busy.pop(key)
                if users > 1:
                    self._busy[key] = (lock, users - 1)

    # Room

    def _used(self) -> int:
        """What lies on disk, and what is about to."""
        unfinished = {sha256: size for sha256, size in self._disk.partials().items() if sha256 not in self._expected}
        return sum(self._objects.values()) + sum(self._expected.values()) + sum(unfinished.values())

    def _make_room(self, needed: int) -> None:
        """Lets go of unfinished objects that nobody waits for, then of objects without a version, then of versions.

        Raises CacheFull, after nothing more can go.
        """
        with self._lock:
            excess = self._used() - self.limits.max_bytes
            for sha256, size in self._disk.partials().items():
                if excess > 0 and sha256 not in self._expected:
                    self._disk.remove_partial(sha256)
                    excess -= size
            excess -= self._remove_unreferenced() if excess > 0 else 0
            candidates = sorted((held.used_at, key) for key, held in self._versions.items() if key not in self._pins)
            for _, key in candidates:
                if excess <= 0:
                    return
                self._drop(key)
                self._counts["evictions"] += 1
                excess -= self._remove_unreferenced()
            if excess > 0:
                raise CacheFull(needed, self.limits.max_bytes)

    def _drop(self, key: str) -> None:
        held = self._versions.pop(key)
        self._references.subtract(_objects_of(held.files))
        self._references += Counter()
        self._disk.remove_version(key)

    def _remove_unreferenced(self) -> int:
        """The bytes that this freed."""
        loose = self._objects.keys() - self._references.keys() - self._claims.keys()
        return sum(self._remove_object(sha256) for sha256 in loose)

    def _remove_object(self, sha256: str) -> int:
        self._disk.remove_object(sha256)
        return self._objects.pop(sha256)


def _objects_of(files: Iterable[FileEntry]) -> set[str]:
    return {entry.sha256 for entry in files}


def _os_reason(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "no space left on the disk of the cache"
    return redact(error.strerror or str(error) or type(error).__name__)
