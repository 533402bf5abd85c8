"""What a catalog holds, model by model, by a few plain statements that both databases understand. It does not know the
library that everything else asks a catalog by: a listing of a file starts several times faster without it."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from registry.errors import CatalogTooNew, CatalogUnavailable
from registry.policies import ModelPolicy
from registry.redaction import redact

SCHEMA_VERSION = 3
"""Of the tables that this release knows."""
WAIT_SECONDS = 10
"""How long anybody waits for those who write before they give up."""

_LATEST = """
SELECT versions.model, counted.versions, counted.latest, counted.pending, versions.created_at
FROM versions JOIN (
    SELECT model, count(*) AS versions, max(version) AS latest,
        sum(CASE WHEN stage = 'pending' THEN 1 ELSE 0 END) AS pending
    FROM versions GROUP BY model
) AS counted ON versions.model = counted.model AND versions.version = counted.latest
"""
_ALIASES = "SELECT model, alias, version FROM aliases WHERE version IS NOT NULL ORDER BY model, alias"
_MODELS = "SELECT name, policy FROM models ORDER BY name"

Select = Callable[[str], Iterable[Any]]
"""The rows that a statement finds."""


class ListedModel(NamedTuple):
    """One model, as a list shows it."""

    name: str
    versions: int
    latest: int | None
    pending: int
    aliases: dict[str, int]
    served_by: str
    published_at: str | None


def list_models(select: Select) -> list[ListedModel]:
    """Every model, in the order of their names. `select` answers within one transaction."""
    latest = {model: rest for model, *rest in select(_LATEST)}
    aliases: dict[str, dict[str, int]] = {}
    for model, alias, version in select(_ALIASES):
        aliases.setdefault(model, {})[alias] = version
    served_by: dict[str, str] = {}  # by policy: most models have the same
    listed = []
    for name, policy in select(_MODELS):
        if policy not in served_by:
            served_by[policy] = ModelPolicy.from_dict(json.loads(policy)).served_by
        versions, number, pending, published_at = latest.get(name, (0, None, 0, None))
        pointing = aliases.get(name, {})
        listed.append(ListedModel(name, versions, number, int(pending), pointing, served_by[policy], published_at))
    return listed


def list_file(path: Path) -> list[ListedModel]:
    """Every model of the catalog in a file that is there; as it was at one moment.

    Raises:
        CatalogUnavailable: it cannot be read.
        CatalogTooNew: a later release wrote it.
    """
    try:
        with contextlib.closing(_opened(path)) as connection:
            connection.execute("BEGIN")
            if not _has_tables(connection):  # another process is about to make them
                return []
            (found,) = connection.execute("SELECT schema_version FROM head").fetchone()
            if found > SCHEMA_VERSION:
                raise CatalogTooNew(str(path), found, SCHEMA_VERSION)
            return list_models(connection.execute)
    except sqlite3.Error as error:
        raise CatalogUnavailable(str(path), redact(str(error))) from error


def _opened(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", WAIT_SECONDS, isolation_level=None, uri=True)


def _has_tables(connection: sqlite3.Connection) -> bool:
    return connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'head'").fetchone() is not None
