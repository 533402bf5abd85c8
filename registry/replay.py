"""What the catalog's tables must hold when the audit log is all that ever happened: a row that was changed past the log
contradicts the entry that wrote it last."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any

from sqlalchemy import Connection, select

from registry.audit import AuditEntry, BadEntry
from registry.catalog_rows import alias_target, rollout_target, version_target
from registry.catalog_schema import aliases, checks, models, rollouts, signatures, versions
from registry.errors import InvalidPolicy
from registry.policies import ModelPolicy

Facts = dict[tuple[str, str], tuple[int, Any]]
"""By kind and target: the entry that said so last, and what it said."""


_FACTS = ("digest", "identity", "author", "created_at")
_ROLLOUT_FACTS = ("state", "generation", "is_active")


def check_state(entries: Iterable[AuditEntry], connection: Connection) -> BadEntry | None:
    """The entry that the tables contradict, the first such one; None when they agree.

    Something in the tables that no entry speaks of is reported as contradicting entry 0.
    """
    said = _replay(entries)
    found = _read(connection)
    bad = [
        BadEntry(said.get(key, (0, None))[0], f"the catalog's {key[0]} of {key[1]} is not what was logged")
        for key in said.keys() | found.keys()
        if said.get(key, (0, None))[1] != found.get(key)
    ]
    return min(bad, key=lambda entry: (entry.seq, entry.reason), default=None)


def _replay(entries: Iterable[AuditEntry]) -> Facts:
    said: Facts = {}
    for entry in entries:
        target, after = entry.target, entry.after
        if entry.action == "policy.set":
            said["policy", target] = (entry.seq, ModelPolicy.from_dict(after).to_dict())
        elif entry.action == "version.add":
            said.setdefault(("policy", target.rpartition("/")[0]), (entry.seq, ModelPolicy().to_dict()))
            said["version", target] = (entry.seq, [after[name] for name in _FACTS])
            said["stage", target] = (entry.seq, after["stage"])
        elif entry.action in ("version.approve", "version.reject"):
            said["stage", target] = (entry.seq, after["stage"])
        elif entry.action == "alias.move":
            said["alias", target] = (entry.seq, [after["version"], after["generation"]])
        elif entry.action == "signature.add":
            said["signature", f"{target} {after['sha256']}"] = (entry.seq, True)
        elif entry.action == "check.record":
            said["check", f"{target} {entry.seq}"] = (entry.seq, [after["name"], after["subject"], after["is_passed"]])
        elif entry.action.startswith("rollout."):
            said["rollout", target] = (entry.seq, [after[name] for name in _ROLLOUT_FACTS])
    return said


def _read(connection: Connection) -> dict[tuple[str, str], Any]:
    found: dict[tuple[str, str], Any] = {}
    for row in connection.execute(select(models)):
        found["policy", row.name] = _policy(row.policy)
    for row in connection.execute(select(versions)):
        target = version_target(row.model, row.version)
        digest = hashlib.sha256(row.manifest.encode()).hexdigest()
        same = digest if digest == row.digest else f"{digest} named {row.digest}"
        found["version", target] = [same, row.identity, row.author, row.created_at]
        found["stage", target] = row.stage
    for row in connection.execute(select(aliases)):
        found["alias", alias_target(row.model, row.alias)] = [row.version, row.generation]
    for row in connection.execute(select(signatures)):
        sha256 = hashlib.sha256(row.bundle.encode()).hexdigest()
        found["signature", f"{version_target(row.model, row.version)} {row.sha256}"] = sha256 == row.sha256
    for row in connection.execute(select(checks)):
        target = version_target(row.model, row.version)
        found["check", f"{target} {row.seq}"] = [row.name, row.subject, bool(row.is_passed)]
    for row in connection.execute(select(rollouts)):
        found["rollout", rollout_target(row.id)] = [row.state, row.generation, bool(row.is_active)]
    return found


def _policy(text: str) -> Any:
    try:
        return ModelPolicy.from_dict(json.loads(text)).to_dict()
    except (ValueError, InvalidPolicy):
        return text
