"""The catalog: which models exist, their versions, where their aliases point, who vouches for what, and the log of it
all. Every change is one transaction together with its audit entry, and writers come one after the other, so that
concurrent ones neither lose a change nor break the chain. It knows no artifact store. Everything blocks: call it in a
thread.
"""

from __future__ import annotations

import hashlib
import json
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from types import MappingProxyType

from sqlalchemy import Connection, delete, func, insert, select, update

from registry.audit import AuditEntry, BadEntry, Head, check_chain
from registry.catalog_log import AuditLog, entry_of, head_of
from registry.catalog_moves import move
from registry.catalog_reading import some_version_rows, version_rows
from registry.catalog_rows import (
    AliasMoveRow,
    AliasRow,
    ModelRow,
    Overview,
    VersionBrief,
    VersionRow,
    alias_target,
    version_target,
)
from registry.catalog_schema import Database, aliases, audit, checks, head, models, pushes, signatures, versions
from registry.errors import AuthorMayNotApprove, NotFound, PolicyConflict, PushExpired
from registry.listing import ListedModel, list_models
from registry.manifest import Manifest, canonical_json
from registry.names import check_alias, check_name
from registry.policies import ModelPolicy, Stage
from registry.replay import check_state
from registry.rollouts import RolloutStore, active_rollouts, settled_generations

PUSH_SECONDS = 24 * 3600
"""How long the objects of a push that never ended are kept for it."""


class Catalog:
    """One catalog. May be used from any thread, and by several processes at once.

    Args:
        url: `sqlite:///PATH` or `postgresql+psycopg://…`.
        clock: seconds since the epoch.

    Raises:
        CatalogUnavailable: the database cannot be reached or used. So does every method.
        CatalogTooNew: a later release wrote it.
    """

    def __init__(self, url: str, *, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._database = Database(url)
        self._log = AuditLog(clock)
        self.rollouts = RolloutStore(self._database, self._log, clock)
        try:
            self._database.open()
        except BaseException:
            self._database.close()
            raise

    @property
    def place(self) -> str:
        """Where this is, for people: without the password."""
        return self._database.place

    def close(self) -> None:
        """Closes every connection. Idempotent."""
        self._database.close()

    # What is there

    def change_token(self) -> int:
        """A number that grows with every change. Cheap: one row."""
        with self._database.reading() as connection:
            return int(connection.execute(select(head.c.seq)).scalar_one())

    def overview(self) -> Overview:
        """Everything but the manifests, as it was at one moment."""
        with self._database.reading() as connection:
            token = int(connection.execute(select(head.c.seq)).scalar_one())
            found = {
                row.name: ModelRow(row.name, ModelPolicy.from_dict(json.loads(row.policy)), row.created_at)
                for row in connection.execute(select(models).order_by(models.c.name))
            }
            briefs: dict[str, list[VersionBrief]] = {name: [] for name in found}
            columns = [versions.c[name] for name in ("model", "version", "digest", "stage", "created_at", "author")]
            for row in connection.execute(select(*columns).order_by(versions.c.model, versions.c.version)):
                briefs[row.model].append(VersionBrief(*row))
            pointers: dict[str, dict[str, AliasRow]] = {name: {} for name in found}
            for row in connection.execute(select(aliases).where(aliases.c.version.is_not(None))):
                pointers[row.model][row.alias] = AliasRow(row.model, row.alias, row.version, row.generation)
            rolling, settled = active_rollouts(connection), settled_generations(connection)
        return Overview(
            token,
            MappingProxyType(found),
            MappingProxyType({name: tuple(rows) for name, rows in briefs.items()}),
            MappingProxyType({name: MappingProxyType(rows) for name, rows in pointers.items()}),
            MappingProxyType(rolling),
            MappingProxyType(settled),
        )

    def listing(self) -> list[ListedModel]:
        """Every model with what its versions and aliases come to, in the order of their names."""
        with self._database.reading() as connection:
            return list_models(connection.exec_driver_sql)

    def models(self) -> list[ModelRow]:
        """Every model, in the order of their names."""
        with self._database.reading() as connection:
            rows = connection.execute(select(models).order_by(models.c.name)).all()
        return [ModelRow(row.name, ModelPolicy.from_dict(json.loads(row.policy)), row.created_at) for row in rows]

    def model(self, name: str) -> ModelRow:
        """One model. Raises NotFound."""
        with self._database.reading() as connection:
            return _model(connection, name)

    def versions(self, model: str) -> list[VersionRow]:
        """Every version of a model, the oldest first. Raises NotFound when there is no such model."""
        with self._database.reading() as connection:
            _model(connection, model)
            return version_rows(connection, model)

    def version(self, model: str, version: int) -> VersionRow:
        """One version. Raises NotFound."""
        with self._database.reading() as connection:
            return _version(connection, model, version)

    def some_versions(self, keys: Collection[tuple[str, int]]) -> list[VersionRow]:
        """Those of the named versions, by model and number, that there are: in few statements, however many."""
        with self._database.reading() as connection:
            return some_version_rows(connection, keys)

    def aliases(self, model: str) -> list[AliasRow]:
        """Every alias that points somewhere, in the order of their names. Raises NotFound for the model."""
        with self._database.reading() as connection:
            _model(connection, model)
            found = select(aliases).where(aliases.c.model == model, aliases.c.version.is_not(None))
            rows = connection.execute(found.order_by(aliases.c.alias)).all()
        return [AliasRow(row.model, row.alias, row.version, row.generation) for row in rows]

    def alias_history(self, model: str, alias: str) -> list[AliasMoveRow]:
        """Every move of an alias, the oldest first; its end too. Empty when there never was one."""
        target = alias_target(model, alias)
        with self._database.reading() as connection:
            found = select(audit).where(audit.c.target == target, audit.c.action == "alias.move")
            rows = [entry_of(row) for row in connection.execute(found.order_by(audit.c.seq))]
        return [AliasMoveRow.from_entry(model, alias, entry) for entry in rows]

    # Publishing

    def begin_push(self, objects: Iterable[str], actor: str) -> str:
        """Says that these objects are about to be stored, so that nobody takes them for garbage. Returns an id for
        `add_version` or `end_push`; it expires a day after the last `keep_push`."""
        push = uuid.uuid4().hex
        expires_at = int(self._clock()) + PUSH_SECONDS
        row = {"id": push, "expires_at": expires_at, "objects": canonical_json(sorted(set(objects)))}
        with self._database.writing() as connection:
            connection.execute(delete(pushes).where(pushes.c.expires_at < int(self._clock())))
            connection.execute(insert(pushes).values(row))
        return push

    def keep_push(self, push: str) -> None:
        """Says that a push goes on: its day begins anew. Raises PushExpired when that is too late."""
        with self._database.writing() as connection:
            self._require_push(connection, push)
            expires_at = int(self._clock()) + PUSH_SECONDS
            connection.execute(update(pushes).where(pushes.c.id == push).values(expires_at=expires_at))

    def end_push(self, push: str) -> None:
        """Gives up a push. One that has ended is as good."""
        with self._database.writing() as connection:
            connection.execute(delete(pushes).where(pushes.c.id == push))

    def add_version(
        self,
        manifest: Manifest,
        actor: str,
        *,
        alias: str | None = None,
        signatures: Iterable[str] = (),
        push: str = "",
        reason: str = "",
    ) -> tuple[VersionRow, bool]:
        """Adds the next version of a model, and the model with its first; moves an alias to it and ends the push in the
        same transaction.

        Returns:
            The version, and whether it is new: a manifest with the files and the configuration of a version that is
            there adds none. Its signatures and the alias still count.

        Raises:
            InvalidName: of the alias.
            VersionRejected: the same version is there, was rejected, and an alias was to point at it.
            PushExpired: the objects were no longer kept for the push.
        """
        if alias is not None:
            check_alias(alias)
        with self._database.writing() as connection:
            if push:
                self._require_push(connection, push)
            known = select(versions.c.version).where(
                versions.c.model == manifest.model, versions.c.identity == manifest.identity
            )
            version = connection.execute(known).scalar()
            is_new = version is None
            if version is None:
                version = self._insert_version(connection, manifest, actor, reason)
            for bundle in signatures:
                self._add_signature(connection, manifest.model, version, bundle, actor, reason)
            if alias is not None:
                move(connection, self._log, manifest.model, alias, version, None, actor, reason)
            if push:
                connection.execute(delete(pushes).where(pushes.c.id == push))
            return _version(connection, manifest.model, version), is_new

    @contextmanager
    def collecting(self) -> Iterator[frozenset[str]]:
        """Digests of all objects that must be kept. Until the block ends nothing is published and no push begins, so
        what is not among them may be deleted."""
        with self._database.writing() as connection:
            rows = connection.execute(select(pushes.c.objects).where(pushes.c.expires_at >= int(self._clock())))
            under_way = {digest for row in rows for digest in json.loads(row.objects)}
            yield _referenced(connection) | under_way

    # Vouching

    def move_alias(
        self,
        model: str,
        alias: str,
        version: int | None,
        *,
        actor: str,
        expected: int | None = None,
        reason: str = "",
    ) -> AliasRow:
        """Points an alias at a version, or at nothing.

        Args:
            expected: the generation that the caller knows; 0 when it knows of no such alias. None moves it anyway.

        Returns:
            The alias after the move. Where it pointed there already, it is as it was, and nothing is logged.

        Raises:
            AliasConflict: it is of another generation than expected.
            NotFound: no such model, version, or alias to remove.
            VersionRejected: the version was rejected.
            InvalidName: nothing can be called that.
        """
        check_alias(alias)
        with self._database.writing() as connection:
            _model(connection, model)
            return move(connection, self._log, model, alias, version, expected, actor, reason)

    def set_policy(
        self, model: str, policy: ModelPolicy, actor: str, *, expected: str | None = None, reason: str = ""
    ) -> ModelRow:
        """Replaces the policy of a model; makes the model when there is none.

        Args:
            expected: digest of the policy that the caller knows; empty when it knows of no such model. None replaces
                whatever is there.

        Raises:
            InvalidName: nothing can be called that.
            PolicyConflict: it is another policy than expected.
        """
        check_name(model)
        with self._database.writing() as connection:
            row = connection.execute(select(models).where(models.c.name == model)).one_or_none()
            before = None if row is None else json.loads(row.policy)
            found = "" if before is None else ModelPolicy.from_dict(before).digest
            if expected is not None and expected != found:
                raise PolicyConflict(model, expected, found)
            after = policy.to_dict()
            if row is None:
                self._insert_model(connection, model, policy)
            elif before != after:
                changed = update(models).where(models.c.name == model)
                connection.execute(changed.values(policy=canonical_json(after)))
            if before != after:
                self._log.append(connection, actor, "policy.set", model, before, after, reason)
            return _model(connection, model)

    def approve(self, model: str, version: int, actor: str, reason: str = "") -> VersionRow:
        """Approves a version, also one that was rejected.

        Raises:
            NotFound: no such version.
            AuthorMayNotApprove: the actor published it.
        """
        return self._set_stage(model, version, "approved", actor, reason)

    def reject(self, model: str, version: int, actor: str, reason: str = "") -> VersionRow:
        """Rejects a version: it is not served any more, whatever points at it. Raises NotFound."""
        return self._set_stage(model, version, "rejected", actor, reason)

    def add_signature(self, model: str, version: int, bundle: str, actor: str, *, reason: str = "") -> VersionRow:
        """Adds a signature of a version, unverified: who trusts it is for policies to say. Raises NotFound."""
        with self._database.writing() as connection:
            _version(connection, model, version)
            self._add_signature(connection, model, version, bundle, actor, reason)
            return _version(connection, model, version)

    def record_check(
        self, model: str, version: int, name: str, subject: str, is_passed: bool, actor: str, *, detail: str = ""
    ) -> VersionRow:
        """Records the outcome of a check, such as that of a golden set. The newest of a name and subject counts. Raises
        NotFound."""
        with self._database.writing() as connection:
            _version(connection, model, version)
            after = {"name": name, "subject": subject, "is_passed": is_passed, "detail": detail}
            seq = self._log.append(connection, actor, "check.record", version_target(model, version), None, after, "")
            connection.execute(insert(checks).values(seq=seq, model=model, version=version, **after))
            return _version(connection, model, version)

    # The log

    def audit(self, after: int = 0, limit: int | None = 1000, *, target: str | None = None) -> list[AuditEntry]:
        """Entries of the log behind `after`, in order; of one target or of all."""
        found = select(audit).where(audit.c.seq > after).order_by(audit.c.seq).limit(limit)
        if target is not None:
            found = found.where(audit.c.target == target)
        with self._database.reading() as connection:
            return [entry_of(row) for row in connection.execute(found)]

    def audit_head(self) -> Head:
        """Number and hash of the newest entry: keep it elsewhere, and hand it to `verify_audit` later."""
        with self._database.reading() as connection:
            return head_of(connection)

    def verify_audit(self, anchors: Iterable[Head] = ()) -> BadEntry | None:
        """The first entry that is not as it was written, or the entry that the catalog's state contradicts; None when
        everything is as the log says."""
        with self._database.reading() as connection:
            entries: list[AuditEntry] = []
            for row in connection.execute(select(audit).order_by(audit.c.seq)):
                try:
                    entries.append(entry_of(row))
                except ValueError:
                    return BadEntry(row.seq, "not readable")
            bad = check_chain(entries, head_of(connection), anchors)
            return bad or check_state(entries, connection)

    # Inside a transaction

    def _require_push(self, connection: Connection, push: str) -> None:
        alive = select(pushes.c.id).where(pushes.c.id == push, pushes.c.expires_at >= int(self._clock()))
        if connection.execute(alive).scalar() is None:
            raise PushExpired

    def _insert_model(self, connection: Connection, name: str, policy: ModelPolicy) -> None:
        values = {"name": name, "policy": canonical_json(policy.to_dict()), "created_at": self._log.now()}
        connection.execute(insert(models).values(values))

    def _insert_version(self, connection: Connection, manifest: Manifest, actor: str, reason: str) -> int:
        name = manifest.model
        if connection.execute(select(models.c.name).where(models.c.name == name)).scalar() is None:
            self._insert_model(connection, name, ModelPolicy())
        last = connection.execute(select(func.max(versions.c.version)).where(versions.c.model == name)).scalar()
        version = int(last or 0) + 1
        facts = {
            "digest": manifest.digest,
            "identity": manifest.identity,
            "stage": "pending",
            "author": actor,
            "created_at": self._log.now(),
        }
        values = {"model": name, "version": version, "manifest": manifest.to_json(), **facts}
        connection.execute(insert(versions).values(values))
        self._log.append(connection, actor, "version.add", version_target(name, version), None, facts, reason)
        return version

    def _add_signature(
        self, connection: Connection, model: str, version: int, bundle: str, actor: str, reason: str
    ) -> None:
        sha256 = hashlib.sha256(bundle.encode()).hexdigest()
        key = {"model": model, "version": version, "sha256": sha256}
        known = select(signatures.c.sha256).filter_by(**key)
        if connection.execute(known).scalar() is None:
            connection.execute(insert(signatures).values(bundle=bundle, **key))
            target = version_target(model, version)
            self._log.append(connection, actor, "signature.add", target, None, {"sha256": sha256}, reason)

    def _set_stage(self, model: str, version: int, stage: Stage, actor: str, reason: str) -> VersionRow:
        with self._database.writing() as connection:
            row = _version(connection, model, version)
            if stage == "approved" and actor in (row.author, row.manifest.lineage.author):
                raise AuthorMayNotApprove(model, version, actor)
            if row.stage != stage:
                connection.execute(update(versions).filter_by(model=model, version=version).values(stage=stage))
                action = "version.approve" if stage == "approved" else "version.reject"
                facts = {"digest": row.digest}
                before, after = {"stage": row.stage, **facts}, {"stage": stage, **facts}
                self._log.append(connection, actor, action, version_target(model, version), before, after, reason)
            return _version(connection, model, version)


def _model(connection: Connection, name: str) -> ModelRow:
    row = connection.execute(select(models).where(models.c.name == name)).one_or_none()
    if row is None:
        raise NotFound("model", name)
    return ModelRow(row.name, ModelPolicy.from_dict(json.loads(row.policy)), row.created_at)


def _version(connection: Connection, model: str, version: int) -> VersionRow:
    for row in version_rows(connection, model, version):
        return row
    raise NotFound("version", version_target(model, version))


def _referenced(connection: Connection) -> frozenset[str]:
    found: set[str] = set()
    for (text,) in connection.execute(select(versions.c.manifest)):
        found.update(entry["sha256"] for entry in json.loads(text)["files"])
    for (text,) in connection.execute(select(models.c.policy)):
        if (golden := ModelPolicy.from_dict(json.loads(text)).approval.golden) is not None:
            found.add(golden.sha256)
    return frozenset(found)
