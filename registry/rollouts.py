"""Rollouts as the catalog keeps them: which two versions, by which plan, how far, who leads, and what each replica has
seen. Plans, statuses and evidence are JSON values that are kept and not understood: what follows from them is decided
elsewhere. Every change but a lease and the passing of time has its audit entry, and that is the rollout's history.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from sqlalchemy import Connection, Row, Update, delete, func, insert, select, update

from registry.audit import AuditEntry
from registry.catalog_log import AuditLog, entry_of
from registry.catalog_moves import move
from registry.catalog_rows import RolloutBrief, rollout_target, version_target
from registry.catalog_schema import (
    Database,
    aliases,
    audit,
    models,
    rollout_evidence,
    rollout_labels,
    rollouts,
    versions,
)
from registry.errors import AliasConflict, NotFound, RequestKeyReused, RolloutChanged, RolloutUnderWay, VersionRejected
from registry.manifest import canonical_json
from registry.names import check_alias

Doc = Mapping[str, Any]
AliasEnd = Literal["", "promote", "restore"]
"""What a change of a rollout does to its alias: nothing; points it at the canary; puts it back to stable."""


@dataclass(frozen=True)
class RolloutRow:
    """One rollout at one moment."""

    id: str
    model: str
    stable: int
    canary: int
    alias: str
    alias_generation: int
    """Of the alias at the start; 0 when there was none."""
    is_proposal: bool
    """Whether a move of the alias began it: the alias points at the canary already."""
    settled_generation: int | None
    """Of the alias, when this rollout has moved it or found it to be good."""
    state: str
    is_active: bool
    plan: Doc = field(repr=False)
    status: Doc = field(repr=False)
    generation: int
    """One more with each change that has an audit entry."""
    leader: str
    lease_until: float
    """Seconds since the epoch, by the database's clock."""
    announced: int
    """The newest generation that those who asked for it were told of."""
    created_at: str
    created_by: str
    reason: str


@dataclass(frozen=True)
class NewRollout:
    """What a rollout begins with."""

    model: str
    stable: int
    canary: int
    alias: str
    plan: Doc
    status: Doc
    state: str
    request_key: str = ""
    """Of the caller: the same key again begins no second one."""
    proposed_generation: int | None = None
    """Of the alias's move that this follows; None when nobody has moved it."""


@dataclass(frozen=True)
class Change:
    """What a rollout comes to next."""

    action: str
    """The word for it in the history, such as `step`, `pause` or `rollback`."""
    state: str
    is_active: bool
    status: Doc
    reason: str = ""
    facts: Doc = field(default_factory=dict)
    """What it was decided by, for the audit log."""
    alias: AliasEnd = ""


class RolloutStore:
    """All rollouts of one catalog; `Catalog.rollouts`. May be used from any thread, and by several processes at once.

    Every method raises CatalogUnavailable when the database cannot be reached.
    """

    def __init__(self, database: Database, log: AuditLog, clock: Callable[[], float]) -> None:
        self._database, self._log, self._clock = database, log, clock

    # What is there

    def get(self, id: str) -> RolloutRow:
        """Raises NotFound."""
        with self._database.reading() as connection:
            return _get(connection, id)

    def active(self) -> list[RolloutRow]:
        """Those under way, of all models."""
        with self._database.reading() as connection:
            found = select(rollouts).where(rollouts.c.is_active).order_by(rollouts.c.created_at, rollouts.c.id)
            return [_row(row) for row in connection.execute(found)]

    def of_model(self, model: str, limit: int = 100) -> list[RolloutRow]:
        """The one under way first, then the newest. Raises NotFound when there is no such model."""
        with self._database.reading() as connection:
            if connection.execute(select(models.c.name).where(models.c.name == model)).scalar() is None:
                raise NotFound("model", model)
            found = select(rollouts).where(rollouts.c.model == model)
            # Not by time alone: the clock of whoever began the last one may have been behind.
            order = (rollouts.c.is_active.desc(), rollouts.c.created_at.desc(), rollouts.c.id.desc())
            newest = found.order_by(*order).limit(limit)
            return [_row(row) for row in connection.execute(newest)]

    def history(self, id: str) -> list[AuditEntry]:
        """Every change, the oldest first. Raises NotFound."""
        with self._database.reading() as connection:
            _get(connection, id)
            found = select(audit).where(audit.c.target == rollout_target(id)).order_by(audit.c.seq)
            return [entry_of(row) for row in connection.execute(found)]

    def begun(self, key: str, model: str, canary: int, alias: str, plan: Doc) -> RolloutRow | None:
        """What this request key has begun already. Raises RequestKeyReused when that was something else."""
        with self._database.reading() as connection:
            return _begun_by(connection, key, model, canary, alias, plan)

    # Changing

    def start(self, new: NewRollout, actor: str, *, reason: str = "") -> RolloutRow:
        """Begins a rollout. The same request key with the same versions gives the one that it began before, and so
        does the same move of an alias.

        Raises:
            NotFound: no such model or version.
            RolloutUnderWay: the model has one.
            VersionRejected: the canary was rejected.
            RequestKeyReused: the key was used to ask for something else.
            AliasConflict: the alias has moved on from the move that this was to follow.
            InvalidName: of the alias.
        """
        check_alias(new.alias)
        with self._database.writing() as connection:
            if (before := _begun_before(connection, new)) is not None:
                return before
            for version in (new.stable, new.canary):
                _require_version(connection, new.model, version, may_be_rejected=version == new.stable)
            under_way = select(rollouts.c.id).where(rollouts.c.model == new.model, rollouts.c.is_active)
            if (other := connection.execute(under_way).scalar()) is not None:
                raise RolloutUnderWay(new.model, other)
            pointer = connection.execute(select(aliases).filter_by(model=new.model, alias=new.alias)).one_or_none()
            generation = int(pointer.generation) if pointer else 0
            if new.proposed_generation not in (None, generation):
                current = pointer.version if pointer else None
                raise AliasConflict(new.model, new.alias, int(new.proposed_generation or 0), generation, current)
            id = uuid.uuid4().hex[:12]
            values = {
                "id": id,
                "model": new.model,
                "stable": new.stable,
                "canary": new.canary,
                "alias": new.alias,
                "alias_generation": generation,
                "is_proposal": new.proposed_generation is not None,
                "state": new.state,
                "is_active": True,
                "plan": canonical_json(new.plan),
                "status": canonical_json(new.status),
                "generation": 1,
                "leader": "",
                "lease_until": 0.0,
                "announced": 0,
                "created_at": self._log.now(),
                "created_by": actor,
                "reason": reason,
                "request_key": new.request_key,
            }
            connection.execute(insert(rollouts).values(values))
            after = {name: values[name] for name in _LOGGED} | {"plan": new.plan}
            self._log.append(connection, actor, "rollout.start", rollout_target(id), None, after, reason)
            return _get(connection, id)

    def change(self, id: str, expected: int, change: Change, actor: str) -> RolloutRow:
        """Takes a rollout one generation further, and does to its alias what the change says, all or nothing. An alias
        to be put back that somebody has moved meanwhile stays where they put it; one that would be put back to a
        rejected version points at none, unless the canary was promoted.

        Raises:
            NotFound: no such rollout.
            RolloutChanged: it is of another generation than expected.
            AliasConflict: a promotion, and somebody has moved the alias since the rollout began.
            VersionRejected: a promotion of a version that was rejected, or back from a promotion to one.
        """
        with self._database.writing() as connection:
            row = _get(connection, id)
            if row.generation != expected:
                raise RolloutChanged(id, expected, row.generation)
            values: dict[str, Any] = {
                "state": change.state,
                "is_active": change.is_active,
                "status": canonical_json(change.status),
                "generation": expected + 1,
            }
            if change.alias:
                values |= self._end_alias(connection, row, change, actor)
            connection.execute(update(rollouts).where(rollouts.c.id == id).values(values))
            before = {"state": row.state, "generation": row.generation}
            after = {"state": change.state, "generation": expected + 1, "is_active": change.is_active, **change.facts}
            action = f"rollout.{change.action}"
            self._log.append(connection, actor, action, rollout_target(id), before, after, change.reason)
            if not change.is_active:
                connection.execute(delete(rollout_labels).where(rollout_labels.c.rollout == id))
            return _get(connection, id)

    def _end_alias(self, connection: Connection, row: RolloutRow, change: Change, actor: str) -> dict[str, Any]:
        to = row.canary if change.alias == "promote" else row.stable
        why = f"rollout {row.id}: {change.reason or change.action}"
        expected = row.settled_generation or row.alias_generation
        try:
            moved = move(connection, self._log, row.model, row.alias, to, expected, actor, why)
        except AliasConflict:
            if change.alias == "promote":
                raise
            return {}
        except VersionRejected:
            if change.alias == "promote" or row.settled_generation is not None:
                raise
            moved = move(connection, self._log, row.model, row.alias, None, expected, actor, why)
        return {"settled_generation": moved.generation}

    # Leading, and what was seen

    def lead(self, id: str, replica: str, seconds: float, status: Doc, generation: int) -> bool:
        """Takes or renews the lease for so many seconds, unless another replica has it, and notes how long the present
        step has lasted. False when another has it, or the rollout is of another generation or over."""
        with self._database.noting() as connection:
            taking = self._taking(connection, id, replica, seconds)
            mine = taking.where(rollouts.c.generation == generation, rollouts.c.is_active)
            return connection.execute(mine.values(status=canonical_json(status))).rowcount == 1

    def unannounced(self) -> list[RolloutRow]:
        """Those, over or not, with changes that nobody was told of yet."""
        with self._database.reading() as connection:
            found = select(rollouts).where(rollouts.c.announced < rollouts.c.generation)
            return [_row(row) for row in connection.execute(found.order_by(rollouts.c.created_at, rollouts.c.id))]

    def lead_announcing(self, id: str, replica: str, seconds: float) -> bool:
        """Takes or renews the lease of a rollout that may be over, unless another replica has it."""
        with self._database.noting() as connection:
            return connection.execute(self._taking(connection, id, replica, seconds)).rowcount == 1

    def announced(self, id: str, generation: int) -> None:
        """Everybody was told of this generation and those before."""
        with self._database.noting() as connection:
            told = update(rollouts).where(rollouts.c.id == id, rollouts.c.announced < generation)
            connection.execute(told.values(announced=generation))

    def _taking(self, connection: Connection, id: str, replica: str, seconds: float) -> Update:
        now = self._database.now(connection, self._clock)
        # A lease that lasts longer than a new one would was taken before the clock was put back.
        is_over = (rollouts.c.lease_until < now) | (rollouts.c.lease_until > now + seconds)
        is_free = rollouts.c.leader.in_(["", replica]) | is_over
        return update(rollouts).where(rollouts.c.id == id, is_free).values(leader=replica, lease_until=now + seconds)

    def release(self, replica: str) -> None:
        """Gives up every lease: another replica may lead at once."""
        with self._database.noting() as connection:
            mine = update(rollouts).where(rollouts.c.leader == replica, rollouts.c.is_active)
            connection.execute(mine.values(leader="", lease_until=0.0))

    def put_evidence(self, id: str, replica: str, evidence: Doc) -> None:
        """Replaces what this replica has seen."""
        key, text = {"rollout": id, "replica": replica}, canonical_json(evidence)
        with self._database.noting() as connection:
            found = connection.execute(update(rollout_evidence).filter_by(**key).values(evidence=text))
            if found.rowcount == 0:
                connection.execute(insert(rollout_evidence).values(evidence=text, **key))

    def take_labels(self, id: str, request_ids: list[str]) -> frozenset[str]:
        """Those that nobody has taken before, for this rollout; none when it is over. They are taken now."""
        wanted = set(request_ids)
        if not wanted:
            return frozenset()
        with self._database.noting() as connection:
            # One after the other, by the lock on the rollout.
            of = select(rollouts.c.is_active).where(rollouts.c.id == id).with_for_update()
            if not connection.execute(of).scalar():
                return frozenset()
            known = select(rollout_labels.c.request_id).where(rollout_labels.c.rollout == id)
            wanted -= set(connection.execute(known.where(rollout_labels.c.request_id.in_(wanted))).scalars())
            if wanted:
                rows = [{"rollout": id, "request_id": request_id} for request_id in sorted(wanted)]
                connection.execute(insert(rollout_labels), rows)
        return frozenset(wanted)

    def evidence(self, ids: list[str]) -> dict[str, dict[str, Doc]]:
        """What the replicas have seen, by rollout and replica."""
        seen: dict[str, dict[str, Doc]] = {id: {} for id in ids}
        with self._database.reading() as connection:
            found = select(rollout_evidence).where(rollout_evidence.c.rollout.in_(ids))
            for row in connection.execute(found):
                seen[row.rollout][row.replica] = json.loads(row.evidence)
        return seen


_LOGGED = ("model", "stable", "canary", "alias", "alias_generation", "state", "is_active", "generation", "created_by")


def active_rollouts(connection: Connection) -> dict[str, RolloutBrief]:
    """Those under way, by model."""
    columns = [rollouts.c[name] for name in ("id", "model", "stable", "canary")]
    found = connection.execute(select(*columns).where(rollouts.c.is_active))
    return {row.model: RolloutBrief(*row) for row in found}


def settled_generations(connection: Connection) -> dict[tuple[str, str], int]:
    """By model and alias: the newest move that a rollout has made."""
    newest = select(rollouts.c.model, rollouts.c.alias, func.max(rollouts.c.settled_generation).label("generation"))
    found = newest.where(rollouts.c.settled_generation.is_not(None)).group_by(rollouts.c.model, rollouts.c.alias)
    return {(row.model, row.alias): int(row.generation) for row in connection.execute(found)}


def _begun_before(connection: Connection, new: NewRollout) -> RolloutRow | None:
    if new.proposed_generation is not None:
        return _of_proposal(connection, new.model, new.alias, new.proposed_generation)
    return _begun_by(connection, new.request_key, new.model, new.canary, new.alias, new.plan)


def _begun_by(
    connection: Connection, key: str, model: str, canary: int, alias: str, plan: Doc
) -> RolloutRow | None:  # fmt: skip
    found = connection.execute(select(rollouts).where(rollouts.c.request_key == key)).first() if key else None
    if found is None:
        return None
    row = _row(found)
    if (row.model, row.canary, row.alias) != (model, canary, alias) or row.plan != plan:
        raise RequestKeyReused(key)
    return row


def _of_proposal(connection: Connection, model: str, alias: str, generation: int) -> RolloutRow | None:
    key = {"model": model, "alias": alias, "alias_generation": generation, "is_proposal": True}
    found = connection.execute(select(rollouts).filter_by(**key)).first()
    return None if found is None else _row(found)


def _require_version(connection: Connection, model: str, version: int, *, may_be_rejected: bool) -> None:
    if connection.execute(select(models.c.name).where(models.c.name == model)).scalar() is None:
        raise NotFound("model", model)
    stage = connection.execute(select(versions.c.stage).filter_by(model=model, version=version)).scalar()
    if stage is None:
        raise NotFound("version", version_target(model, version))
    if stage == "rejected" and not may_be_rejected:
        raise VersionRejected(model, version)


def _get(connection: Connection, id: str) -> RolloutRow:
    row = connection.execute(select(rollouts).where(rollouts.c.id == id)).one_or_none()
    if row is None:
        raise NotFound("rollout", id)
    return _row(row)


def _row(row: Row[Any]) -> RolloutRow:
    values = row._asdict()
    del values["request_key"]
    return RolloutRow(**values | {"plan": json.loads(row.plan), "status": json.loads(row.status)})
