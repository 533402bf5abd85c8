"""A real PostgreSQL server from the system's packages, run by an unprivileged user below a temporary folder, reached
through a Unix socket."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import psycopg
from sanitized import plain_environment

USER = "sluice"
_START_SECONDS = 60


class PostgreSQLServer:
    """One server with its data. It can be stopped and started again; `database_url` makes an empty database."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="sluice-postgresql-"))
        self._process: subprocess.Popen[bytes] | None = None
        self._numbers = count(1)
        # The server refuses to run as root; the package brings a user of its own.
        self._user = "postgres" if os.geteuid() == 0 else None
        if self._user:
            shutil.chown(self.folder, self._user, self._user)
        options = ["-A", "trust", "-U", USER, "-E", "UTF8", "--locale=C.UTF-8", "--no-sync"]
        self._run("initdb", "-D", str(self.folder / "data"), *options)

    def start(self) -> None:
        settings = (
            "listen_addresses=",
            "fsync=off",
            "shared_buffers=16MB",
            "max_connections=100",
            "logging_collector=off",
        )
        flags = [part for setting in settings for part in ("-c", setting)]
        log = open(self.folder / "log", "ab")  # noqa: SIM115
        with log:
            self._process = subprocess.Popen(
                [program("postgres"), "-D", str(self.folder / "data"), "-k", str(self.folder), *flags],
                stdout=log,
                stderr=log,
                user=self._user,
                group=self._user,
                cwd="/",
                env=plain_environment(),
            )
        until = time.monotonic() + _START_SECONDS
        while True:
            try:
                psycopg.connect(self._conninfo("postgres"), connect_timeout=5).close()
                return
            except psycopg.OperationalError:
                if self._process.poll() is not None or time.monotonic() > until:
                    raise RuntimeError((self.folder / "log").read_text()) from None
                time.sleep(0.05)

    def stop(self, *, at_once: bool = False) -> None:
        """Ends the server; `at_once` as a crash would, otherwise after ending its connections."""
        if self._process is not None:
            self._process.kill() if at_once else self._process.send_signal(2)
            self._process.wait(timeout=30)
            self._process = None
            if at_once:  # what it leaves behind would stop the next start
                (self.folder / "data" / "postmaster.pid").unlink(missing_ok=True)

    def database_url(self) -> str:
        """Of a new, empty database."""
        name = f"test_{next(self._numbers)}"
        with psycopg.connect(self._conninfo("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}".encode())
        return f"postgresql+psycopg://{USER}@/{name}?host={self.folder}"

    def _conninfo(self, database: str) -> str:
        return f"host={self.folder} user={USER} dbname={database}"

    def _run(self, name: str, *arguments: str) -> None:
        command = [program(name), *arguments]
        environment = plain_environment()
        subprocess.run(
            command, check=True, capture_output=True, user=self._user, group=self._user, cwd="/", env=environment
        )


def program(name: str) -> str:
    """The path of one of the server's programs: Debian keeps them off the search path."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: float(path.parts[4]))
    path = str(found[-1]) if found else shutil.which(name)
    assert path, f"{name} is missing: install the package postgresql"
    return path


@contextmanager
def postgresql_server() -> Iterator[PostgreSQLServer]:
    server = PostgreSQLServer()
    try:
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(server.folder, ignore_errors=True)
