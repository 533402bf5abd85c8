"""Versions whose source knows no SHA-256: digested as they first come, and held to those digests ever after.

A source describes its files by what it has (a path, a size, a tag such as an ETag) and hands out their bytes from an
offset on. Nothing here knows its protocol.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from registry.artifacts import Pace, receive
from registry.cache import ContentCache
from registry.errors import DigestMismatch, LimitExceeded, NotFound, PullFailed
from registry.manifest import FileEntry, check_path

Chunks = Callable[["RemoteFile", int], Iterator[bytes]]
"""The bytes of a file from an offset on. Raises what its source raises."""


@dataclass(frozen=True, order=True)
class RemoteFile:
    """One file of a version, as its source lists it.

    `path` is relative to the version's folder; `key` is what the source calls it; `tag` changes when it is replaced, ""
    where the source has no such thing.
    """

    path: str
    key: str
    size: int
    tag: str = ""


def identity_of(files: tuple[RemoteFile, ...]) -> str:
    """What the source itself says that a version is: one digest over the names, sizes and tags."""
    lines = "".join(f"{file.path}\0{file.size}\0{file.tag}\n" for file in sorted(files))
    return f"listing:{hashlib.sha256(lines.encode()).hexdigest()}"


def bring(
    cache: ContentCache,
    files: tuple[RemoteFile, ...],
    pinned: tuple[FileEntry, ...] | None,
    chunks: Chunks,
    *,
    clock: Callable[[], float],
    sleep: Callable[[float], None],
) -> tuple[FileEntry, ...]:
    """Brings a version into the cache; returns its files with their digests.

    Args:
        pinned: the digests that are expected; None at first sight.

    Raises:
        UnsafePath, LimitExceeded: before a byte was asked for.
        DigestMismatch: not the bytes that were pinned, or not as many as announced.
        PullFailed: as `ContentCache.pull` does.
    """
    _check(cache, files)
    if pinned is not None:
        if [file.path for file in sorted(files)] != [entry.path for entry in sorted(pinned)]:
            raise DigestMismatch("the list of files", "the one that was pinned", "another")
        cache.pull(pinned, _Store(files, pinned, chunks))
        return pinned
    with cache.scratch(sum(file.size for file in files)) as folder:
        entries = []
        for number, file in enumerate(files):
            limit = cache.limits.bytes_per_second / cache.limits.parallelism
            pace = Pace(limit) if limit else None
            entries.append(_download(file, folder / str(number), chunks, pace, clock, sleep))
        found = tuple(sorted(entries))
        places = {entry.sha256: folder / str(number) for number, entry in enumerate(entries)}
        cache.pull(found, _Moved(places), instead_of=folder)
        return found


def _check(cache: ContentCache, files: tuple[RemoteFile, ...]) -> None:
    for file in files:
        check_path(file.path)
    limits = cache.limits
    total = sum(file.size for file in files)
    for what, count, limit in (("files", len(files), limits.max_files), ("bytes", total, limits.max_version_bytes)):
        if count > limit:
            raise LimitExceeded("", what, count, limit)


def _download(
    file: RemoteFile,
    to: Path,
    chunks: Chunks,
    pace: Pace | None,
    clock: Callable[[], float],
    sleep: Callable[[float], None],
) -> FileEntry:
    """One file, digested on its way to the disk; the connection may break a few times."""
    sha, arrived = hashlib.sha256(), 0
    with open(to, "xb", buffering=0) as target:
        for attempt in range(_ATTEMPTS):
            try:
                for chunk in chunks(file, arrived):
                    arrived += len(chunk)
                    if arrived > file.size:
                        raise DigestMismatch(file.path, f"{file.size} bytes", "more")
                    sha.update(chunk)
                    view = memoryview(chunk)
                    while view:
                        view = view[target.write(view) :]
                    if pace is not None and (delay := pace.wait(len(chunk), clock())) > 0:
                        sleep(delay)
                break
            except PullFailed:
                if attempt == _ATTEMPTS - 1:
                    raise
        if arrived != file.size:
            raise PullFailed(file.path, f"broke off after {arrived} of {file.size} bytes")
        os.fsync(target.fileno())
    return FileEntry(file.path, sha.hexdigest(), file.size)


_ATTEMPTS = 3


class _Moved:
    """A store of files that lie there already."""

    def __init__(self, places: dict[str, Path]) -> None:
        self._places = places

    def fetch(
        self, sha256: str, size: int, to: Path, *, resume: bool = True, limit_bytes_per_second: float | None = None
    ) -> None:
        shutil.move(self._places[sha256], to)


class _Store:
    """The files of a version by the digests that they were pinned to."""

    def __init__(self, files: tuple[RemoteFile, ...], pinned: tuple[FileEntry, ...], chunks: Chunks) -> None:
        by_path = {file.path: file for file in files}
        self._files = {entry.sha256: by_path[entry.path] for entry in pinned}
        self._chunks = chunks

    def fetch(
        self, sha256: str, size: int, to: Path, *, resume: bool = True, limit_bytes_per_second: float | None = None
    ) -> None:
        file = self._files.get(sha256)
        if file is None:
            raise NotFound("object", sha256)
        receive(
            lambda offset: self._chunks(file, offset),
            sha256,
            size,
            to,
            resume=resume,
            limit_bytes_per_second=limit_bytes_per_second,
            progress=None,
        )
