"""The folders of a cache, and the few steps that change them. After a crash between any two of them, a version is whole
or absent, and so is an object.

    objects/ab/abcdef…     verified files by their SHA-256, read-only
    versions/<key>/files/  hard links to objects (copies where links cannot be), under the names that the version gives
    versions/<key>/files.json   those names; its time of change is the turn at which the version was last used
    partial/<sha256>       an object that is not verified yet; with the suffix `.part`, what was fetched of it so far
    temp/                  what is being put together or taken apart: emptied by `open`

Nothing here decides what to keep, and nothing takes a lock.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from registry.artifacts import PART_SUFFIX, sync_folder
from registry.errors import DigestMismatch, LimitExceeded
from registry.manifest import FileEntry, check_path, is_sha256
from registry.staging import digest_of

_RECORD = "files.json"
_FILES = "files"


@dataclass(frozen=True)
class Held:
    """A version on disk."""

    files: tuple[FileEntry, ...]
    used_at: int
    """The turn at which it was last used: larger is later."""


class CacheDisk:
    """The folders below one root. Made by `open`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._objects, self._versions = root / "objects", root / "versions"
        self._partial, self._temp = root / "partial", root / "temp"

    def open(self) -> tuple[dict[str, int], dict[str, Held]]:
        """Clears away what a crash left; returns the sizes of objects, and the versions. Reads no object: they were
        verified before they got their names, and whoever copies one for use compares its digest again."""
        self.make_folders()
        for path in self._temp.iterdir():
            _remove(path)
        objects = {
            path.name: path.stat().st_size
            for path in self._objects.glob("??/*")
            if is_sha256(path.name) and path.parent.name == path.name[:2]
        }
        versions: dict[str, Held] = {}
        for path in self._versions.iterdir():
            held = self._read(path)
            if held is None or any(entry.sha256 not in objects for entry in held.files):
                self.remove_version(path.name)
            else:
                versions[path.name] = held
        return objects, versions

    def make_folders(self) -> None:
        for folder in (self._objects, self._versions, self._partial, self._temp):
            folder.mkdir(parents=True, exist_ok=True)

    def has_object(self, sha256: str, size: int) -> bool:
        """Whether an object is still there, as large as it was: somebody may have cleared the folder."""
        try:
            status = os.lstat(self._object_path(sha256))
        except OSError:
            return False
        return stat.S_ISREG(status.st_mode) and status.st_size == size

    def version_path(self, key: str) -> Path:
        return self._versions / key / _FILES

    def is_intact(self, key: str, files: Iterable[FileEntry]) -> bool:
        """Whether every file of a version is there, as large as it was. Reads no contents."""
        folder = self.version_path(key)
        try:
            for entry in files:
                status = os.lstat(folder / entry.path)
                if not stat.S_ISREG(status.st_mode) or status.st_size != entry.size:
                    return False
        except OSError:
            return False
        return True

    def partial_path(self, sha256: str) -> Path:
        return self._partial / sha256

    def partials(self) -> dict[str, int]:
        """What is there of unfinished objects, in bytes."""
        found: dict[str, int] = {}
        for entry in os.scandir(self._partial):
            with suppress(FileNotFoundError):  # it was finished meanwhile
                sha256 = entry.name.removesuffix(PART_SUFFIX)
                found[sha256] = found.get(sha256, 0) + entry.stat(follow_symlinks=False).st_size
        return found

    def remove_partial(self, sha256: str) -> None:
        _remove(self._partial / sha256)
        _remove(self._partial / (sha256 + PART_SUFFIX))

    def admit(self, entry: FileEntry) -> None:
        """Makes an object of the partial file, if it is the one that the entry names; otherwise removes it.

        Raises DigestMismatch.
        """
        partial = self._partial / entry.sha256
        with open(os.open(partial, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as file:
            status = os.fstat(file.fileno())
            is_file = stat.S_ISREG(status.st_mode) and status.st_size == entry.size
            found = hashlib.file_digest(file, "sha256").hexdigest() if is_file else f"{status.st_size} bytes"
            if found == entry.sha256:
                os.fchmod(file.fileno(), 0o444)
                os.fsync(file.fileno())
        if found != entry.sha256:
            _remove(partial)
            raise DigestMismatch(entry.path, entry.sha256, found)
        target = self._object_path(entry.sha256)
        target.parent.mkdir(exist_ok=True)
        os.rename(partial, target)
        sync_folder(target.parent)

    def assemble(self, key: str, files: tuple[FileEntry, ...], used_at: int) -> Path:
        """Makes a version of objects that are all there."""
        made = Path(tempfile.mkdtemp(dir=self._temp))
        try:
            folders = {made / _FILES}
            for entry in files:
                path = made / _FILES / entry.path
                path.parent.mkdir(parents=True, exist_ok=True)
                folders.update(parent for parent in path.parents if made in parent.parents)
                _place(self._object_path(entry.sha256), path)
            record = made / _RECORD
            record.write_text(json.dumps([[entry.path, entry.sha256, entry.size] for entry in files]))
            _sync_file(record)
            os.utime(record, ns=(used_at, used_at))
            for folder in sorted(folders, reverse=True):
                sync_folder(folder)
            sync_folder(made)
            os.chmod(made, 0o755)
            os.rename(made, self._versions / key)
        except BaseException:
            _remove(made)
            raise
        sync_folder(self._versions)
        return self.version_path(key)

    def make_scratch(self) -> Path:
        """An empty folder, which the next `open` removes if nobody does before."""
        return Path(tempfile.mkdtemp(dir=self._temp))

    def remove_scratch(self, folder: Path) -> None:
        _remove(folder)

    def touch(self, key: str, used_at: int) -> None:
        os.utime(self._versions / key / _RECORD, ns=(used_at, used_at))

    def remove_version(self, key: str) -> None:
        """Out of sight first, so that no crash leaves half of it."""
        grave = self.make_scratch()
        with suppress(FileNotFoundError):
            os.rename(self._versions / key, grave / "version")
        _remove(grave)

    def remove_object(self, sha256: str) -> None:
        _remove(self._object_path(sha256))

    def _object_path(self, sha256: str) -> Path:
        return self._objects / sha256[:2] / sha256

    def _read(self, path: Path) -> Held | None:
        """None for what no `assemble` made."""
        try:
            rows = json.loads((path / _RECORD).read_text())
            files = tuple(FileEntry(str(name), str(sha256), int(size)) for name, sha256, size in rows)
            used_at = (path / _RECORD).stat().st_mtime_ns
        except (OSError, ValueError, TypeError):
            return None
        is_it = path.name == key_of(files) and self.is_intact(path.name, files)
        return Held(files, used_at) if is_it else None


def key_of(files: Iterable[FileEntry]) -> str:
    """What the folder of a version is called: the same names and bytes are the same version."""
    return digest_of({entry.path: entry.sha256 for entry in files})


def check_files(files: Iterable[FileEntry], *, max_files: int, max_bytes: int) -> tuple[FileEntry, ...]:
    """The files of a version, in order, once it is sure that their names are safe and they are not too many or large.

    Raises UnsafePath and LimitExceeded.
    """
    checked = tuple(sorted(files))
    for entry in checked:
        check_path(entry.path)
        assert is_sha256(entry.sha256), "this is a bug: a file without a digest"
    total = sum(entry.size for entry in checked)
    for what, found, limit in (("files", len(checked), max_files), ("bytes", total, max_bytes)):
        if found > limit:
            raise LimitExceeded("", what, found, limit)
    return checked


def _place(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without links, or too many of them
        shutil.copyfile(source, target)
        _sync_file(target)
        os.chmod(target, 0o444)


def _remove(path: Path) -> None:
    """Whatever it is, if it is there. Never follows a link."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    except IsADirectoryError:
        shutil.rmtree(path, ignore_errors=True)


def _sync_file(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())
