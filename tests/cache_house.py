"""What tests of the cache and of remote sources share: contents, and a store that does as it is told."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping
from pathlib import Path

from registry.artifacts import PART_SUFFIX
from registry.errors import NotFound, StoreUnavailable
from registry.manifest import FileEntry


def entries(files: Mapping[str, bytes]) -> tuple[FileEntry, ...]:
    return tuple(sorted(FileEntry(path, sha256(data), len(data)) for path, data in files.items()))


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class FakeStore:
    """Objects in memory. Unlike a real store it verifies nothing, so that whoever asks must."""

    place = "memory"

    def __init__(self, *files: Mapping[str, bytes]) -> None:
        self.objects = {sha256(data): data for version in files for data in version.values()}
        self.fetched: list[str] = []
        self.offsets: list[int] = []
        self.limits: list[float | None] = []
        self.is_down = False
        self.cut_after: int | None = None
        """Bytes after which a fetch breaks off, once."""
        self.gate: threading.Event | None = None
        """Fetches wait for it."""
        self.running = self.most_running = 0
        self._lock = threading.Lock()

    def fetch(
        self, sha256: str, size: int, to: Path, *, resume: bool = True, limit_bytes_per_second: float | None = None
    ) -> None:
        with self._lock:
            self.fetched.append(sha256)
            self.limits.append(limit_bytes_per_second)
            self.running += 1
            self.most_running = max(self.most_running, self.running)
        try:
            if self.gate is not None:
                self.gate.wait(30)
            if self.is_down:
                raise StoreUnavailable(self.place, "down")
            if sha256 not in self.objects:
                raise NotFound("object", sha256)
            self._write(self.objects[sha256], to)
        finally:
            with self._lock:
                self.running -= 1

    def _write(self, data: bytes, to: Path) -> None:
        part = to.with_name(to.name + PART_SUFFIX)
        with part.open("ab") as file:
            self.offsets.append(file.tell())
            end = len(data) if self.cut_after is None else file.tell() + self.cut_after
            file.write(data[file.tell() : end])
        if end < len(data):
            self.cut_after = None
            raise StoreUnavailable(self.place, "connection lost")
        part.rename(to)
