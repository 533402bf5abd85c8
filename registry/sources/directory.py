"""A model repository directory as a source: `<root>/<model>/<version>/...`, with `config.pbtxt` beside the versions.

The scanner reads names and stamps, and of contents only config.pbtxt. What it leaves out it reports as a problem: names
that do not print, versions with a leading zero, symbolic links that lead out of the root. Names that begin with a dot
are nobody's business.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from types import MappingProxyType

from registry.errors import SourceUnavailable
from registry.sources import FileStamp, ModelListing, Problem, Snapshot, VersionListing

CONFIG_FILENAME = "config.pbtxt"
MAX_CONFIG_BYTES = 1 << 20
MAX_NAME = 255
MAX_FILES = 4096
"""Files of one version."""
MAX_DEPTH = 8
"""Folders below a version's own."""

_VERSION = re.compile(r"[1-9][0-9]{0,17}")
_NUMERIC = re.compile(r"[0-9]+")
_WARMUP = "warmup"


def is_model_name(name: str) -> bool:
    """Whether a folder of that name can be a model. A name is opaque: one path component of printable characters, not
    led by a dot."""
    return 0 < len(name) <= MAX_NAME and name.isprintable() and "/" not in name and not name.startswith(".")


class DirectorySource:
    """One model repository directory.

    Args:
        root: the directory. It may be absent, now or later: `scan` then says so.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        # Device and inode of the root when it last held something: an unmounted file system leaves an empty folder.
        self._identity: tuple[int, int] | None = None

    def scan(self) -> Snapshot:
        try:
            real_root = os.path.realpath(self.root, strict=True)
            status = os.stat(real_root)
            entries = _entries(real_root)
        except OSError as error:
            raise SourceUnavailable(str(self.root), error.strerror or str(error)) from error
        identity = (status.st_dev, status.st_ino)
        if entries:
            self._identity = identity
        elif self._identity is not None and self._identity != identity:
            raise SourceUnavailable(str(self.root), "empty, and not the directory that it was")
        walk = _Walk(real_root)
        models = {entry.name: model for entry in entries if (model := walk.model(self.root, entry)) is not None}
        return Snapshot(MappingProxyType(models), tuple(walk.problems))


class _Walk:
    """One walk over the repository; collects problems on the way."""

    def __init__(self, real_root: str) -> None:
        self._real_root = real_root
        self.problems: list[Problem] = []

    def model(self, root: Path, entry: os.DirEntry[str]) -> ModelListing | None:
        name = entry.name
        try:
            if not self._is_inside(entry, name) or not entry.is_dir():
                return None
            if not is_model_name(name):
                self._report(name, "not a model name: it has characters that do not print")
                return None
            return self._listing(root / name, name)
        except FileNotFoundError:
            return None  # went away while it was looked at
        except OSError as error:
            reason = f"cannot be read: {error.strerror or error}"
            self._report(name, reason)
            return ModelListing(name, root / name, problem=reason)

    def _listing(self, path: Path, name: str) -> ModelListing | None:
        versions: dict[int, VersionListing] = {}
        companions: list[FileStamp] = []
        config: bytes | None = None
        for entry in _entries(path):
            shown = f"{name}/{entry.name}"
            if not self._is_inside(entry, shown):
                continue
            if entry.name == CONFIG_FILENAME:
                config = _read_config(entry.path)
            elif _NUMERIC.fullmatch(entry.name):
                if (listing := self._version(entry, shown)) is not None:
                    versions[listing.version] = listing
            elif entry.is_file():
                companions.append(_stamp(entry.name, entry.stat()))
            elif entry.name == _WARMUP and entry.is_dir():
                companions += self._files(entry.path, f"{_WARMUP}/", name, 0)
        if not versions and config is None:
            return None  # some folder; or a model whose first version is yet to come
        return ModelListing(name, path, MappingProxyType(versions), config, tuple(sorted(companions)))

    def _version(self, entry: os.DirEntry[str], shown: str) -> VersionListing | None:
        if not entry.is_dir():
            return None
        if not _VERSION.fullmatch(entry.name):
            self._report(shown, "a version is a number from 1 on, without leading zeros, of at most 18 digits")
            return None
        files: list[FileStamp] = []
        for stamp in self._files(entry.path, "", shown, MAX_DEPTH):
            files.append(stamp)
            if len(files) > MAX_FILES:
                self._report(shown, f"holds more than {MAX_FILES} files")
                return None
        return VersionListing(int(entry.name), Path(entry.path), tuple(sorted(files))) if files else None

    def _files(self, folder: str, prefix: str, shown: str, depth: int) -> Iterator[FileStamp]:
        for entry in _entries(folder):
            relative = f"{prefix}{entry.name}"
            if not self._is_inside(entry, f"{shown}/{relative}"):
                continue
            try:
                if entry.is_file():
                    yield _stamp(relative, entry.stat())
                elif entry.is_dir() and depth > 0:
                    yield from self._files(entry.path, f"{relative}/", shown, depth - 1)
                elif entry.is_dir():
                    self._report(f"{shown}/{relative}", "folders are nested too deep; not looked into")
            except FileNotFoundError:
                continue  # went away while it was looked at

    def _is_inside(self, entry: os.DirEntry[str], shown: str) -> bool:
        """Whether what the entry leads to lies below the root, and the entry not in it; reports it when not. The folder
        of the entry is known to be below the root."""
        if not entry.is_symlink():
            return True
        real = os.path.realpath(entry.path)
        if not real.startswith(self._real_root.rstrip(os.sep) + os.sep):
            self._report(shown, "a symbolic link that leads out of the repository")
            return False
        if f"{os.path.realpath(os.path.dirname(entry.path))}/".startswith(f"{real}/"):
            self._report(shown, "a symbolic link to a folder that it is in")
            return False
        return True

    def _report(self, path: str, reason: str) -> None:
        self.problems.append(Problem(path, reason))


def _entries(folder: str | Path) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name)


def _read_config(path: str) -> bytes | None:
    """At most one byte more than a reader accepts, so that it can tell. Never waits for the writer of a pipe."""
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise OSError(errno.EINVAL, f"{CONFIG_FILENAME} is not a file")
            return file.read(MAX_CONFIG_BYTES + 1)
    except FileNotFoundError:
        return None


def _stamp(path: str, status: os.stat_result) -> FileStamp:
    return FileStamp(path, status.st_size, status.st_mtime_ns, status.st_ino)
