"""A private copy of the bytes of one version, made and digested in one pass.

A serving instance may be started again at any time, so what it is started from must be what was loaded first: not
replaced, not rewritten, not gone with an unmounted repository. Everything here blocks: call it in a thread.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from registry.errors import ChangedWhileRead, StagingFailed
from registry.sources import FileStamp, VersionListing

_CHUNK_BYTES = 1 << 20
_FOLDER = re.compile(r"staged-.+")


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
    """The folder that copies are kept in.

    Args:
        root: made when absent. Belongs to one running process: what an earlier one left there is removed.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def prepare(self) -> None:
        """Makes the folder and empties it of leftovers. Call it once, before the first `take`."""
        self.root.mkdir(parents=True, exist_ok=True)
        for entry in self.root.iterdir():
            if _FOLDER.fullmatch(entry.name):
                shutil.rmtree(entry, ignore_errors=True)

    def take(self, listing: VersionListing, model_path: Path, companions: Iterable[FileStamp] = ()) -> Staged:
        """Copies a version, and `companions` from `model_path`; checks that the files are the ones announced.

        Raises:
            ChangedWhileRead: a file is not as its stamp says, before or after it was read.
            StagingFailed: it cannot be read, or there is no room.
        """
        folder = Path(tempfile.mkdtemp(prefix="staged-", dir=self.root))
        try:
            files = {stamp.path: _copy(listing.path, stamp, folder / "version") for stamp in listing.files}
            others = {stamp.path: _copy(model_path, stamp, folder) for stamp in companions}
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return Staged(folder, MappingProxyType(files), MappingProxyType(others))

    def drop(self, staged: Staged) -> None:
        """Removes a copy. Twice is as good as once."""
        shutil.rmtree(staged.folder, ignore_errors=True)


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
