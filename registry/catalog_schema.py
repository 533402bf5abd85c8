"""The catalog's tables, and the engine that reads and writes them: SQLite in one file, or PostgreSQL when gateways
share it. Here is what differs between the two; `catalog` says what is done with the tables."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    Engine,
    Float,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    create_engine,
    event,
    insert,
    make_url,
    select,
    text,
    update,
)
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, SQLAlchemyError

from registry.audit import GENESIS
from registry.errors import CatalogTooNew, CatalogUnavailable
from registry.listing import SCHEMA_VERSION, WAIT_SECONDS
from registry.redaction import redact

ANSWER_SECONDS = 4.0 * WAIT_SECONDS
"""How long anybody waits for one answer of a server: longer than the server lets a statement take."""

_LOCK = 0x51_01_CE  # the advisory lock of those who make the tables
_WRITES = "sluice_writes"

metadata = MetaData()

head = Table(
    "head",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("schema_version", Integer, nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("hash", Text, nullable=False),
)
"""One row. Whoever writes anything takes its lock first, so writers come one after the other."""

models = Table(
    "models",
    metadata,
    Column("name", Text, primary_key=True),
    Column("policy", Text, nullable=False),
    Column("created_at", Text, nullable=False),
)

versions = Table(
    "versions",
    metadata,
    Column("model", Text, primary_key=True),
    Column("version", BigInteger, primary_key=True, autoincrement=False),
    Column("manifest", Text, nullable=False),
    Column("digest", Text, nullable=False),
    Column("identity", Text, nullable=False),
    Column("stage", Text, nullable=False),
    Column("author", Text, nullable=False),
    Column("created_at", Text, nullable=False),
    ForeignKeyConstraint(["model"], ["models.name"]),
    UniqueConstraint("model", "identity"),
)

aliases = Table(
    "aliases",
    metadata,
    Column("model", Text, primary_key=True),
    Column("alias", Text, primary_key=True),
    Column("version", BigInteger),
    Column("generation", BigInteger, nullable=False),
    ForeignKeyConstraint(["model", "version"], ["versions.model", "versions.version"]),
)
"""A removed alias keeps its row, without a version: its generation goes on."""

signatures = Table(
    "signatures",
    metadata,
    Column("model", Text, primary_key=True),
    Column("version", BigInteger, primary_key=True, autoincrement=False),
    Column("sha256", Text, primary_key=True),
    Column("bundle", Text, nullable=False),
    ForeignKeyConstraint(["model", "version"], ["versions.model", "versions.version"]),
)

checks = Table(
    "checks",
    metadata,
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("model", Text, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("name", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("is_passed", Boolean, nullable=False),
    Column("detail", Text, nullable=False),
    ForeignKeyConstraint(["model", "version"], ["versions.model", "versions.version"]),
    Index("checks_by_version", "model", "version"),
)
"""`seq` is that of the audit entry."""

pushes = Table(
    "pushes",
    metadata,
    Column("id", Text, primary_key=True),
    Column("expires_at", BigInteger, nullable=False),
    Column("objects", Text, nullable=False),
)
"""Objects that a push under way has stored or is about to: not garbage, though no version has them yet."""

audit = Table(
    "audit",
    metadata,
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("at", Text, nullable=False),
    Column("actor", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("target", Text, nullable=False),
    Column("before", Text, nullable=False),
    Column("after", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("previous", Text, nullable=False),
    Column("hash", Text, nullable=False),
    Index("audit_by_target", "target", "seq"),
)

rollouts = Table(
    "rollouts",
    metadata,
    Column("id", Text, primary_key=True),
    Column("model", Text, nullable=False),
    Column("stable", BigInteger, nullable=False),
    Column("canary", BigInteger, nullable=False),
    Column("alias", Text, nullable=False),
    Column("alias_generation", BigInteger, nullable=False),
    Column("is_proposal", Boolean, nullable=False),
    Column("settled_generation", BigInteger),
    Column("state", Text, nullable=False),
    Column("is_active", Boolean, nullable=False),
    Column("plan", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("generation", BigInteger, nullable=False),
    Column("leader", Text, nullable=False),
    Column("lease_until", Float, nullable=False),
    Column("announced", BigInteger, nullable=False),
    Column("created_at", Text, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("request_key", Text, nullable=False),
    ForeignKeyConstraint(["model", "stable"], ["versions.model", "versions.version"]),
    ForeignKeyConstraint(["model", "canary"], ["versions.model", "versions.version"]),
    Index("rollouts_by_model", "model", "created_at"),
)
"""`alias_generation` is that of the alias at the start, `settled_generation` that of the alias when it was promoted.
Leader, lease, the generation that was announced last, and by `status` how long the present step has lasted, change
without an audit entry."""

rollout_evidence = Table(
    "rollout_evidence",
    metadata,
    Column("rollout", Text, primary_key=True),
    Column("replica", Text, primary_key=True),
    Column("evidence", Text, nullable=False),
    ForeignKeyConstraint(["rollout"], ["rollouts.id"]),
)
"""What each replica has seen: each writes its own row alone, so nobody waits for anybody."""

rollout_labels = Table(
    "rollout_labels",
    metadata,
    Column("rollout", Text, primary_key=True),
    Column("request_id", Text, primary_key=True),
    ForeignKeyConstraint(["rollout"], ["rollouts.id"]),
)
"""Whose answers were found wrong already, for as long as the rollout is under way: each is evidence once, whichever
replica is told, and again after a restart."""


class Database:
    """An engine whose transactions either only read, one snapshot, or write, one after the other.

    Args:
        url: as SQLAlchemy writes it; `sqlite:///…` or `postgresql+psycopg://…`.

    Raises:
        CatalogUnavailable: a URL that nothing here can open.
    """

    def __init__(self, url: str) -> None:
        try:
            parsed = make_url(url)
            self.place = parsed.render_as_string(hide_password=True)
            self._is_sqlite = parsed.get_backend_name() == "sqlite"
            if self._is_sqlite and parsed.database:
                Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
            self._engine = _sqlite(url) if self._is_sqlite else _postgresql(url)
        except (ArgumentError, NoSuchModuleError, ImportError) as error:
            reason = f"not a database URL that works here: {type(error).__name__}"
            raise CatalogUnavailable("the catalog", reason) from error
        except OSError as error:
            raise CatalogUnavailable(self.place, error.strerror or str(error)) from error
        self._writer = self._engine.execution_options(**{_WRITES: True})

    def open(self) -> None:
        """Makes the tables where there are none. Several processes may do so at once.

        Raises:
            CatalogUnavailable: the database cannot be reached.
            CatalogTooNew: a later release has changed the tables.
        """
        if self._is_sqlite:
            self._patiently(self._enter_wal)
        self._patiently(self._make_tables)

    def close(self) -> None:
        """Closes every connection. Idempotent."""
        self._engine.dispose()

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A transaction that sees one moment.

        Raises:
            CatalogUnavailable: the database cannot be reached.
        """
        with self._errors(), self._engine.connect() as connection:
            if not self._is_sqlite:
                connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
            with connection.begin():
                yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction that nobody else writes beside. It is kept when the block ends, and dropped when it raises.

        Raises:
            CatalogUnavailable: the database cannot be reached or has no room. Whether the change was kept is unknown
                when that happens at the very end.
        """
        with self._errors(), self._writer.connect() as connection, connection.begin():
            connection.execute(select(head.c.seq).where(head.c.id == 1).with_for_update())
            yield connection

    @contextmanager
    def noting(self) -> Iterator[Connection]:
        """A transaction for rows that carry no audit entry: it does not wait for those who write the log.

        Raises:
            CatalogUnavailable: as `writing` does.
        """
        with self._errors(), self._writer.connect() as connection, connection.begin():
            yield connection

    def now(self, connection: Connection, clock: Callable[[], float]) -> float:
        """Seconds since the epoch by the clock that all who share the database have in common: a server's own; where
        the database is a file, `clock`."""
        if self._is_sqlite:
            return clock()
        return float(connection.execute(text("SELECT extract(epoch FROM clock_timestamp())")).scalar_one())

    def _enter_wal(self) -> None:
        # Outside of any transaction, where SQLite wants it.
        with self._errors():
            connection = self._engine.raw_connection()
            try:
                connection.cursor().execute("PRAGMA journal_mode = WAL")
            finally:
                connection.close()

    def _make_tables(self) -> None:
        with self._errors(), self._writer.connect() as connection, connection.begin():
            if not self._is_sqlite:
                connection.execute(text(f"SELECT pg_advisory_xact_lock({_LOCK})"))
            metadata.create_all(connection)
            found = connection.execute(select(head.c.schema_version).where(head.c.id == 1)).scalar()
            if found is None:
                connection.execute(insert(head).values(id=1, schema_version=SCHEMA_VERSION, seq=0, hash=GENESIS))
            elif found > SCHEMA_VERSION:
                raise CatalogTooNew(self.place, found, SCHEMA_VERSION)
            elif found < SCHEMA_VERSION:  # so far, later schemas only add tables
                connection.execute(update(head).where(head.c.id == 1).values(schema_version=SCHEMA_VERSION))

    def _patiently(self, act: Callable[[], None]) -> None:
        """SQLite answers "busy" at once, without waiting, while others change the journal's mode."""
        until = time.monotonic() + WAIT_SECONDS
        while True:
            try:
                return act()
            except CatalogUnavailable as error:
                if not self._is_sqlite or "locked" not in error.reason or time.monotonic() > until:
                    raise
                time.sleep(0.02)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except DBAPIError as error:
            # The driver's words only: SQLAlchemy's own quote statements and their parameters.
            raise CatalogUnavailable(self.place, redact(str(error.orig))) from error
        except SQLAlchemyError as error:
            raise CatalogUnavailable(self.place, type(error).__name__) from error
        except sqlite3.Error as error:  # what is asked as soon as a connection is there is not asked by SQLAlchemy
            raise CatalogUnavailable(self.place, redact(str(error))) from error


def _sqlite(url: str) -> Engine:
    engine = create_engine(url, connect_args={"timeout": WAIT_SECONDS})

    @event.listens_for(engine, "connect")
    def configure(connection: Any, _record: object) -> None:
        connection.isolation_level = None  # transactions begin below, not where the driver guesses
        cursor = connection.cursor()
        for pragma in (f"busy_timeout = {WAIT_SECONDS * 1000}", "synchronous = FULL", "foreign_keys = ON"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get(_WRITES)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _postgresql(url: str) -> Engine:
    from registry.bounded_postgresql import BoundedConnection  # the driver is loaded only by who has such a database

    wait = WAIT_SECONDS * 1000
    engine = create_engine(
        url,
        pool_pre_ping=True,
        pool_recycle=300,
        connect_args={
            "connect_timeout": WAIT_SECONDS,
            "tcp_user_timeout": wait,
            # A server that is gone while an answer is awaited is noticed in half a minute.
            "keepalives_idle": 10,
            "keepalives_interval": 5,
            "keepalives_count": 4,
            "application_name": "sluice",
            "options": f"-c lock_timeout={wait} -c statement_timeout={3 * wait} "
            f"-c idle_in_transaction_session_timeout={6 * wait}",
        },
    )

    @event.listens_for(engine, "do_connect")
    def connect(_dialect: object, _record: object, arguments: list[Any], options: dict[str, Any]) -> Any:
        connection = BoundedConnection.connect(*arguments, **options)
        connection.answer_seconds = ANSWER_SECONDS
        return connection

    return engine
