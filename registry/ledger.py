"""What one gateway remembers of its sources: what each version was when it was first seen, and what was served last.

The first makes a source that gives other bytes under the same version noticed; the second lets a gateway serve when it
starts while the source is away. It is a SQLite file beside the cache, so every change is whole or absent.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from registry.errors import PullFailed, VersionChanged
from registry.manifest import FileEntry

_TABLES = """
    CREATE TABLE IF NOT EXISTS seen (
        source TEXT NOT NULL, model TEXT NOT NULL, version INTEGER NOT NULL,
        identity TEXT NOT NULL, files TEXT NOT NULL,
        PRIMARY KEY (source, model, version)
    ) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS served (
        source TEXT NOT NULL, model TEXT NOT NULL, versions TEXT NOT NULL, config BLOB, is_chosen INTEGER NOT NULL,
        load_on_demand INTEGER NOT NULL DEFAULT 0, configs TEXT NOT NULL DEFAULT '{}',
        PRIMARY KEY (source, model)
    ) WITHOUT ROWID;
"""
_ADDED = {
    "load_on_demand": "INTEGER NOT NULL DEFAULT 0",
    "configs": "TEXT NOT NULL DEFAULT '{}'",
}
"""For a file that was made before there were these columns; in the order in which they came."""


@dataclass(frozen=True)
class Pinned:
    """What a version was when it was first seen: by the source's own word, and by the digests of its files."""

    identity: str
    files: tuple[FileEntry, ...]


@dataclass(frozen=True)
class Served:
    """What was last listed of a model, all of it at hand."""

    versions: Mapping[int, Pinned] = field(default_factory=dict)
    config: bytes | None = None
    is_chosen: bool = True
    load_on_demand: bool = False
    configs: Mapping[int, bytes] = field(default_factory=dict)
    """By version, of those that have one of their own."""


class Ledger:
    """The records of one source in one file, which sources may share. Thread-safe.

    Args:
        source: tells one source from another; what was seen of one says nothing about another.
    """

    def __init__(self, path: Path, source: str) -> None:
        self.path = path
        self._source = source
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None

    def open(self) -> None:
        """Raises PullFailed when the file cannot be used."""
        with self._errors():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(self.path, check_same_thread=False, isolation_level=None, timeout=10)
            self._connection.execute("PRAGMA synchronous = FULL")
            self._connection.executescript(_TABLES)
            columns = {row[1] for row in self._connection.execute("PRAGMA table_info(served)")}
            for name, kind in _ADDED.items():
                if name not in columns:
                    self._connection.execute(f"ALTER TABLE served ADD COLUMN {name} {kind}")

    def close(self) -> None:
        """Idempotent."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
            self._connection = None

    def seen(self) -> dict[tuple[str, int], Pinned]:
        """Every version that was ever pinned."""
        rows = self._query("SELECT model, version, identity, files FROM seen WHERE source = ?", self._source)
        return {(model, version): Pinned(identity, _from_json(files)) for model, version, identity, files in rows}

    def pin(self, model: str, version: int, pinned: Pinned) -> None:
        """What the version is from now on.

        Raises:
            VersionChanged: it is something else already.
            PullFailed: it cannot be written down.
        """
        values = (self._source, model, version, pinned.identity, _to_json(pinned.files))
        self._query("INSERT INTO seen VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING", *values)
        rows = self._query(
            "SELECT identity, files FROM seen WHERE source = ? AND model = ? AND version = ?", *values[:3]
        )
        (identity, files) = rows[0]
        if Pinned(identity, _from_json(files)) != pinned:
            raise VersionChanged(model, version, identity, pinned.identity)

    def served(self) -> dict[str, Served]:
        """What was served last, by model."""
        seen = self.seen()
        rows = self._query(
            "SELECT model, versions, config, is_chosen, load_on_demand, configs FROM served WHERE source = ?",
            self._source,
        )
        return {
            model: Served(
                {version: seen[model, version] for version in json.loads(versions) if (model, version) in seen},
                config,
                bool(is_chosen),
                bool(load_on_demand),
                {int(version): text.encode() for version, text in json.loads(configs).items()},
            )
            for model, versions, config, is_chosen, load_on_demand, configs in rows
        }

    def serve(self, model: str, served: Served | None) -> None:
        """From now on this is served of a model; None: nothing is. Its versions are pinned before."""
        if served is None:
            self._query("DELETE FROM served WHERE source = ? AND model = ?", self._source, model)
            return
        configs = json.dumps({version: config.decode() for version, config in served.configs.items()})
        values = (self._source, model, json.dumps(sorted(served.versions)), served.config, served.is_chosen,
                  served.load_on_demand, configs)  # fmt: skip
        columns = "source, model, versions, config, is_chosen, load_on_demand, configs"
        self._query(f"INSERT OR REPLACE INTO served ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?)", *values)

    def _query(self, statement: str, *values: object) -> list[Any]:
        with self._lock, self._errors():
            assert self._connection is not None, "this is a bug: the ledger is not open"
            return self._connection.execute(statement, values).fetchall()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise PullFailed("", f"the cache's ledger {self.path} cannot be used: {error}") from error


def _to_json(files: tuple[FileEntry, ...]) -> str:
    return json.dumps([[entry.path, entry.sha256, entry.size] for entry in sorted(files)])


def _from_json(text: str) -> tuple[FileEntry, ...]:
    return tuple(FileEntry(path, sha256, size) for path, sha256, size in json.loads(text))
