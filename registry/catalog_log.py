"""Writing the audit log: the entry of a change, chained to the one before, inside the transaction of that change."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, Row, insert, select, update

from registry.audit import AuditEntry, Head
from registry.catalog_schema import audit, head
from registry.manifest import canonical_json


class AuditLog:
    """Appends entries. `clock` gives seconds since the epoch."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock

    def now(self) -> str:
        return datetime.fromtimestamp(self._clock(), UTC).isoformat(timespec="milliseconds")

    def append(
        self, connection: Connection, actor: str, action: str, target: str, before: object, after: object, reason: str
    ) -> int:
        """Logs one change in a transaction of `Database.writing`; its number."""
        last = head_of(connection)
        entry = AuditEntry(last.seq + 1, self.now(), actor, action, target, before, after, reason, last.hash).sealed()
        values = entry.to_dict() | {"before": canonical_json(before), "after": canonical_json(after)}
        connection.execute(insert(audit).values(values))
        connection.execute(update(head).where(head.c.id == 1).values(seq=entry.seq, hash=entry.hash))
        return entry.seq


def head_of(connection: Connection) -> Head:
    row = connection.execute(select(head.c.seq, head.c.hash).where(head.c.id == 1)).one()
    return Head(int(row.seq), row.hash)


def entry_of(row: Row[Any]) -> AuditEntry:
    values = row._asdict()
    return AuditEntry(**values | {"before": json.loads(row.before), "after": json.loads(row.after)})
