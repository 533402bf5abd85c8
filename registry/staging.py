"""A private copy of the bytes of one version, made and digested in one pass.

A serving instance may be started again at any time, so what it is started from must be what was loaded first: not
replaced, not rewritten, not gone with an unmounted repository. Everything here blocks: call it in a thread.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import IO

from registry.errors import ChangedWhileRead, NotAsVouchedFor, StagingFailed
from registry.sources import FileStamp, VersionListing

_CHUNK_BYTES = 1 << 20
_PREFIX = "process-"
_LOCK = "lock"


@dataclass(frozen=True)
class Staged:
    """A copied version. `folder` holds its files in `version/` and the companions beside that folder."""

    folder: Path
    files: Mapping[str, str]
    """SHA-256 of each of the version's files, in hexadecimal, by relative path."""
    companions: Mapping[str, str]

    @property
    def version_path(self) -> Path:
        return self.folder / "version"

    @property
    def digest(self) -> str:
        return digest_of(self.files)


def digest_of(files: Mapping[str, str]) -> str:
    """One SHA-256 for a set of files: over the lines `<digest>  <path>` in the order of the paths."""
    lines = "".join(f"{digest}  {path}\n" for path, digest in sorted(files.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


class Staging:
    """The folder that one running process keeps its copies in, below one that processes may share.

    Args:
        root: made when absent.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        # Ours, from `open` to `close`; the lock on its lock file says that it is in use.
        self._folder: Path | None = None
        self._lock: IO[bytes] | None = None

    def open(self) -> None:
        """Makes a folder for this process, and removes those of processes that ended without `close`.

        Raises:
            StagingFailed: the root cannot be written to.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            self._folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=self.root))
            self._lock = _locked(self._folder / _LOCK, create=True)
            others = [path for path in self.root.glob(f"{_PREFIX}*") if path != self._folder]
        except OSError as error:
            raise StagingFailed(str(self.root), error.strerror or str(error)) from error
        for path in others:
            lock = _locked(path / _LOCK, create=False)
            if lock is not None:
                shutil.rmtree(path, ignore_errors=True)
                lock.close()

    def close(self) -> None:
        """Removes every copy. Idempotent."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
        if self._lock is not None:
            self._lock.close()
        self._folder = self._lock = None

    def take(self, listing: VersionListing, model_path: Path, companions: Iterable[FileStamp] = ()) -> Staged:
        """Copies a version, and `companions` from `model_path`; checks that the files are the ones announced.

        Raises:
            ChangedWhileRead: a file is not as its stamp says, before or after it was read.
            NotAsVouchedFor: the copy of a file has another digest than the listing says.
            StagingFailed: it cannot be read, or there is no room.
        """
        if self._folder is None:
            raise StagingFailed(str(self.root), "not open")
        try:
            folder = Path(tempfile.mkdtemp(dir=self._folder))
        except OSError as error:
            raise StagingFailed(str(self.root), error.strerror or str(error)) from error
        try:
            files = {stamp.path: _copy(listing.path, stamp, folder / "version") for stamp in listing.files}
            others = {stamp.path: _copy(model_path, stamp, folder) for stamp in companions}
            if listing.digests is not None:
                _compare(listing.path, files, listing.digests)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return Staged(folder, MappingProxyType(files), MappingProxyType(others))

    def drop(self, staged: Staged) -> None:
        """Removes a copy. Twice is as good as once."""
        shutil.rmtree(staged.folder, ignore_errors=True)


def _compare(folder: Path, found: Mapping[str, str], expected: Mapping[str, str]) -> None:
    wrong = next((path for path in found.keys() | expected.keys() if found.get(path) != expected.get(path)), None)
    if wrong is not None:
        raise NotAsVouchedFor(str(folder / wrong))


def _locked(path: Path, *, create: bool) -> IO[bytes] | None:
    """The file, open and locked until it is closed; None when somebody else holds the lock, or there is no file."""
    try:
        file = open(path, "xb" if create else "rb")
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file


def digest(listing: VersionListing) -> str:
    """The digest of a version where it lies. Raises as `Staging.take` does."""
    return digest_of({stamp.path: _copy(listing.path, stamp, None) for stamp in listing.files})


def _copy(source: Path, stamp: FileStamp, target: Path | None) -> str:
    """Copies one file below `source` to the same place below `target` (None: nowhere); returns its SHA-256."""
    path = source / stamp.path
    try:
        with open(path, "rb") as reader:
            if not _is_as_announced(reader.fileno(), stamp):
                raise ChangedWhileRead(str(path))
            if target is None:
                found = hashlib.file_digest(reader, "sha256").hexdigest()
            else:
                found = _copy_into(reader.fileno(), target / stamp.path)
            if not _is_as_announced(reader.fileno(), stamp):
                raise ChangedWhileRead(str(path))
            return found
    except FileNotFoundError:
        raise ChangedWhileRead(str(path)) from None
    except OSError as error:
        raise StagingFailed(str(path), error.strerror or str(error)) from error


def _copy_into(reader: int, path: Path) -> str:
    sha = hashlib.sha256()
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "xb", buffering=0) as writer:
        while chunk := os.read(reader, _CHUNK_BYTES):
            sha.update(chunk)
            view = memoryview(chunk)
            while view:
                view = view[writer.write(view) :]
        os.fchmod(writer.fileno(), 0o444)
    return sha.hexdigest()


def _is_as_announced(descriptor: int, stamp: FileStamp) -> bool:
    status = os.fstat(descriptor)
    return (status.st_size, status.st_mtime_ns, status.st_ino) == (stamp.size, stamp.mtime_ns, stamp.inode)
