"""Moving an alias inside a transaction, with its audit entry: for whoever moves one alone, and for what moves one with
something else, such as a push or the end of a rollout."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, insert, select, update

from registry.catalog_log import AuditLog
from registry.catalog_rows import AliasRow, alias_target, version_target
from registry.catalog_schema import aliases, versions
from registry.errors import AliasConflict, NotFound, VersionRejected


def move(
    connection: Connection,
    log: AuditLog,
    model: str,
    alias: str,
    version: int | None,
    expected: int | None,
    actor: str,
    reason: str,
) -> AliasRow:
    """What `Catalog.move_alias` says; the transaction is one of `Database.writing`."""
    row = connection.execute(select(aliases).filter_by(model=model, alias=alias)).one_or_none()
    current = row.version if row else None
    generation = int(row.generation) if row else 0
    if expected is not None and expected != generation and not (expected == 0 and current is None):
        raise AliasConflict(model, alias, expected, generation, current)
    if version is None and current is None:
        raise NotFound("alias", alias_target(model, alias))
    after = None if version is None else _pointer(connection, model, version)
    if current == version:
        return AliasRow(model, alias, version, generation)
    before = None if current is None else _pointer(connection, model, current, allow_rejected=True)
    moved = {"version": version, "generation": generation + 1}
    if row is None:
        connection.execute(insert(aliases).values(model=model, alias=alias, **moved))
    else:
        connection.execute(update(aliases).filter_by(model=model, alias=alias).values(moved))
    facts = {"generation": generation + 1, **(after or {"version": None})}
    log.append(connection, actor, "alias.move", alias_target(model, alias), before, facts, reason)
    return AliasRow(model, alias, version, generation + 1)


def _pointer(connection: Connection, model: str, version: int, *, allow_rejected: bool = False) -> dict[str, Any]:
    row = connection.execute(
        select(versions.c.digest, versions.c.stage).filter_by(model=model, version=version)
    ).one_or_none()
    if row is None:
        raise NotFound("version", version_target(model, version))
    if row.stage == "rejected" and not allow_rejected:
        raise VersionRejected(model, version)
    return {"version": version, "digest": row.digest}
