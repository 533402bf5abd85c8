"""Content-addressed stores of bytes: an object is named by its SHA-256, so equal files are kept once and a wrong byte
is noticed whenever it matters. Here are the interface, the way in which objects are fetched, and the store in a local
directory. Nothing here knows what the bytes mean. Everything blocks: call it in a thread.
"""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, BinaryIO, Protocol
from urllib.parse import urlsplit

from registry.errors import ChangedWhileRead, DigestMismatch, LinkRefused, NotFound, StoreUnavailable
from registry.manifest import is_sha256

CHUNK_BYTES = 1 << 20
PART_SUFFIX = ".part"
_UNFINISHED = "tmp"

Progress = Callable[[int], None]
"""Called with the number of bytes that have arrived since the last call."""


@dataclass(frozen=True, order=True)
class StoredObject:
    """One object of a store, as its listing has it. `modified_at` is in seconds since the epoch."""

    sha256: str
    size: int
    modified_at: float


class ArtifactStore(Protocol):
    """A place where objects are kept under their digests. Every method may raise StoreUnavailable. Stores inherit
    `fetch`."""

    @property
    def place(self) -> str:
        """Where this is, for people: without secrets."""

    def put(self, path: Path, sha256: str) -> bool:
        """Stores a file; returns whether it was new. The object is there whole or not at all, also after a crash.

        Raises:
            DigestMismatch: the file has other bytes; nothing was stored.
            LinkRefused: not a plain file.
        """

    def open(self, sha256: str) -> BinaryIO:
        """A reader of the object's bytes as they are stored: unverified. Raises NotFound."""

    def fetch(
        self,
        sha256: str,
        size: int,
        to: Path,
        *,
        resume: bool = True,
        limit_bytes_per_second: float | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Copies an object to a file that is there only when its bytes were verified. Until then they lie beside it,
        with the suffix `.part`; with `resume` they are continued from what is already there.

        Raises:
            NotFound: no such object.
            DigestMismatch: other bytes, or another number of them, than announced; nothing was left behind.
            StoreUnavailable: the store failed; what has arrived lies ready to be resumed.
        """
        receive(
            lambda offset: self.chunks(sha256, offset),
            sha256,
            size,
            to,
            resume=resume,
            limit_bytes_per_second=limit_bytes_per_second,
            progress=progress,
        )

    def chunks(self, sha256: str, offset: int) -> Iterator[bytes]:
        """The object's bytes from an offset on, unverified. Raises NotFound."""

    def has(self, sha256: str) -> bool:
        """Whether the object is there."""

    def delete(self, sha256: str) -> None:
        """Removes an object. One that is not there is as good."""

    def list(self) -> Iterator[StoredObject]:
        """Every object, in no order."""

    def remove_unfinished(self, before: float) -> None:
        """Removes what is left of calls of `put` that were cut off and last wrote before a moment, in seconds since the
        epoch. A store that shows nothing of them has nothing to do."""


def open_store(url: str, *, options: dict[str, str] | None = None) -> ArtifactStore:
    """The store at a URL: `s3://`, `gs://`, `az://`, or a directory as `file://` or a plain path.

    Args:
        options: of an object store, such as `endpoint` and `region`; see `ObjectArtifacts`.
    """
    scheme = urlsplit(url).scheme
    if scheme in ("", "file"):
        return LocalArtifacts(Path(urlsplit(url).path if scheme else url))
    from registry.object_artifacts import ObjectArtifacts

    return ObjectArtifacts(url, options=options)


def hash_file(path: Path, progress: Progress | None = None) -> tuple[str, int]:
    """SHA-256 and size of a plain file.

    Raises:
        LinkRefused: not a plain file.
        ChangedWhileRead: it was written to meanwhile.
        OSError: it cannot be read.
    """
    sha, size = hashlib.sha256(), 0
    for chunk in read_file(path):
        sha.update(chunk)
        size += len(chunk)
        if progress:
            progress(len(chunk))
    return sha.hexdigest(), size


def read_file(path: Path) -> Iterator[bytes]:
    """The chunks of a plain file. Raises as `hash_file` does; a change is noticed at the end."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if path.is_symlink():
            raise LinkRefused(str(path), "symbolic link") from error
        raise
    with open(descriptor, "rb", buffering=0) as file:
        before = os.fstat(descriptor)
        if not stat.S_ISREG(before.st_mode):
            raise LinkRefused(str(path), "special file")
        arrived = 0
        while arrived <= before.st_size and (chunk := file.read(CHUNK_BYTES)):
            arrived += len(chunk)
            yield chunk
        if (before.st_size, before.st_mtime_ns) != (arrived, os.fstat(descriptor).st_mtime_ns):
            raise ChangedWhileRead(str(path))


class Pace:
    """How long to wait so that bytes pass no faster than allowed. Decides from the times it is told."""

    def __init__(self, bytes_per_second: float) -> None:
        self._bytes_per_second = bytes_per_second
        # When everything that has passed so far may have passed at the earliest.
        self._due: float | None = None

    def wait(self, count: int, now: float) -> float:
        """Seconds to wait before the next bytes, after `count` have passed."""
        due = now if self._due is None else max(self._due, now)
        self._due = due + count / self._bytes_per_second
        return self._due - now


def receive(
    chunks_from: Callable[[int], Iterator[bytes]],
    sha256: str,
    size: int,
    to: Path,
    *,
    resume: bool,
    limit_bytes_per_second: float | None,
    progress: Progress | None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """`ArtifactStore.fetch` for a store that can be read from an offset on."""
    part = to.with_name(to.name + PART_SUFFIX)
    if not resume:
        part.unlink(missing_ok=True)
    pace = Pace(limit_bytes_per_second) if limit_bytes_per_second else None
    was_resumed = part.exists()
    try:
        _receive(chunks_from, sha256, size, part, pace, progress, clock, sleep)
    except DigestMismatch:
        part.unlink(missing_ok=True)
        if not was_resumed:
            raise
        # What lay there may have been damaged, or another object's: once more, from the start.
        try:
            _receive(chunks_from, sha256, size, part, pace, progress, clock, sleep)
        except DigestMismatch:
            part.unlink(missing_ok=True)
            raise
    os.chmod(part, 0o444)
    os.replace(part, to)
    sync_folder(to.parent)


def _receive(
    chunks_from: Callable[[int], Iterator[bytes]],
    sha256: str,
    size: int,
    part: Path,
    pace: Pace | None,
    progress: Progress | None,
    clock: Callable[[], float],
    sleep: Callable[[float], None],
) -> None:
    sha = hashlib.sha256()
    part.parent.mkdir(parents=True, exist_ok=True)
    with open(os.open(part, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600), "r+b", buffering=0) as file:
        arrived = 0
        while chunk := file.read(CHUNK_BYTES):
            sha.update(chunk)
            arrived += len(chunk)
        if arrived < size or not arrived:
            for chunk in chunks_from(arrived):
                arrived += len(chunk)
                if arrived > size:
                    break
                _write(file, chunk)
                sha.update(chunk)
                if progress:
                    progress(len(chunk))
                if pace and arrived < size and (delay := pace.wait(len(chunk), clock())) > 0:
                    sleep(delay)
        if arrived != size:
            raise DigestMismatch(sha256, f"{size} bytes", f"{arrived} bytes" if arrived < size else "more")
        if sha.hexdigest() != sha256:
            raise DigestMismatch(sha256, sha256, sha.hexdigest())
        os.fsync(file.fileno())


def _write(file: IO[bytes], chunk: bytes) -> None:
    view = memoryview(chunk)
    while view:
        view = view[file.write(view) :]


def sync_folder(path: Path) -> None:
    """What was made, renamed or removed in a folder is on disk when this returns."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class LocalArtifacts(ArtifactStore):
    """A store in a directory: `objects/ab/abcdef…`. Processes may share it.

    Args:
        root: made at the first `put`.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def place(self) -> str:
        return str(self.root)

    def put(self, path: Path, sha256: str) -> bool:
        target = self._path(sha256)
        with self._as_unavailable():
            if not target.parent.is_dir():
                target.parent.mkdir(parents=True, exist_ok=True)
                sync_folder(target.parent.parent)
            (self.root / _UNFINISHED).mkdir(exist_ok=True)
        if target.exists() and _is_intact(target, sha256):
            if (found := hash_file(path)[0]) != sha256:
                raise DigestMismatch(str(path), sha256, found)
            return False
        with self._as_unavailable():
            descriptor, name = tempfile.mkstemp(dir=self.root / _UNFINISHED)
        try:
            with open(descriptor, "wb", buffering=0) as file:
                sha = hashlib.sha256()
                for chunk in read_file(path):
                    sha.update(chunk)
                    with self._as_unavailable():
                        _write(file, chunk)
                if sha.hexdigest() != sha256:
                    raise DigestMismatch(str(path), sha256, sha.hexdigest())
                with self._as_unavailable():
                    os.fchmod(descriptor, 0o444)
                    os.fsync(descriptor)
            with self._as_unavailable():
                os.replace(name, target)
                sync_folder(target.parent)
        finally:
            with suppress(FileNotFoundError):
                os.unlink(name)
        return True

    def open(self, sha256: str) -> BinaryIO:
        with self._as_unavailable():
            try:
                return open(self._path(sha256), "rb")
            except FileNotFoundError:
                raise NotFound("object", sha256) from None

    def has(self, sha256: str) -> bool:
        with self._as_unavailable():
            return os.path.isfile(self._path(sha256))

    def delete(self, sha256: str) -> None:
        with self._as_unavailable():
            self._path(sha256).unlink(missing_ok=True)

    def list(self) -> Iterator[StoredObject]:
        with self._as_unavailable():
            folders = sorted((self.root / "objects").glob("??"))
        for folder in folders:
            with self._as_unavailable(), os.scandir(folder) as entries:
                found = [entry for entry in entries if is_sha256(entry.name)]
            for entry in found:
                with suppress(FileNotFoundError):
                    status = entry.stat()
                    yield StoredObject(entry.name, status.st_size, status.st_mtime)

    def remove_unfinished(self, before: float) -> None:
        with self._as_unavailable():
            for path in (self.root / _UNFINISHED).glob("*"):
                with suppress(FileNotFoundError):
                    if path.stat().st_mtime < before:
                        path.unlink()

    def chunks(self, sha256: str, offset: int) -> Iterator[bytes]:
        with self.open(sha256) as file:
            file.seek(offset)
            while chunk := file.read(CHUNK_BYTES):
                yield chunk

    def _path(self, sha256: str) -> Path:
        if not is_sha256(sha256):
            raise NotFound("object", sha256)
        return self.root / "objects" / sha256[:2] / sha256

    @contextmanager
    def _as_unavailable(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StoreUnavailable(self.place, error.strerror or str(error)) from error


def _is_intact(path: Path, sha256: str) -> bool:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == sha256
    except OSError:
        return False
