"""Versions as the catalog's tables hold them, with what vouches for each: one or many for the same few statements."""

from __future__ import annotations

from collections.abc import Callable, Collection

from sqlalchemy import ColumnElement, Connection, Table, and_, select, tuple_

from registry.catalog_rows import CheckRow, VersionRow
from registry.catalog_schema import checks, signatures, versions

KEYS_AT_ONCE = 400
"""Versions that one statement names: databases bound the parameters of one."""


def some_version_rows(connection: Connection, keys: Collection[tuple[str, int]]) -> list[VersionRow]:
    """Those of the versions, named by model and number, that there are."""
    asked = sorted(keys)
    found: list[VersionRow] = []
    for start in range(0, len(asked), KEYS_AT_ONCE):
        some = asked[start : start + KEYS_AT_ONCE]
        found += _rows_of(connection, lambda table, some=some: tuple_(table.c.model, table.c.version).in_(some))  # type: ignore[misc]
    return found


def version_rows(connection: Connection, model: str, version: int | None = None) -> list[VersionRow]:
    """Every version of a model, the oldest first; or one of them, in a list."""

    def only(table: Table) -> ColumnElement[bool]:
        of_model = table.c.model == model
        return of_model if version is None else and_(of_model, table.c.version == version)

    return _rows_of(connection, only)


def _rows_of(connection: Connection, only: Callable[[Table], ColumnElement[bool]]) -> list[VersionRow]:
    """The versions for which `only` holds, of the tables that say something about versions."""
    signed: dict[tuple[str, int], list[str]] = {}
    for row in connection.execute(select(signatures).where(only(signatures)).order_by(signatures.c.sha256)):
        signed.setdefault((row.model, row.version), []).append(row.bundle)
    checked: dict[tuple[str, int], list[CheckRow]] = {}
    for row in connection.execute(select(checks).where(only(checks)).order_by(checks.c.seq)):
        found = CheckRow(row.name, row.subject, bool(row.is_passed), row.detail)
        checked.setdefault((row.model, row.version), []).append(found)
    return [
        VersionRow(
            row.model,
            row.version,
            row.digest,
            row.stage,
            row.created_at,
            row.author,
            row.manifest,
            tuple(signed.get((row.model, row.version), ())),
            tuple(checked.get((row.model, row.version), ())),
        )
        for row in connection.execute(select(versions).where(only(versions)).order_by(versions.c.version))
    ]
