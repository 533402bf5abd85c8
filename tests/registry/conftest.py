"""Real databases and stores for the registry's tests: the same tests run over each kind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from postgresql_server import PostgreSQLServer, postgresql_server
from s3_server import S3Server, s3_server

from registry.artifacts import ArtifactStore, LocalArtifacts
from registry.catalog import Catalog
from registry.object_artifacts import ObjectArtifacts


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgreSQLServer]:
    """A PostgreSQL server. Whoever stops it starts it again."""
    with postgresql_server() as server:
        yield server


@pytest.fixture(scope="session")
def s3() -> Iterator[S3Server]:
    """A server that speaks S3. Whoever stops it starts it again."""
    with s3_server() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database, of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/catalog.db"
    server: PostgreSQLServer = request.getfixturevalue("postgresql")
    return server.database_url()


@pytest.fixture
def catalog(database_url: str) -> Iterator[Catalog]:
    """An empty catalog, over each kind of database."""
    catalog = Catalog(database_url)
    yield catalog
    catalog.close()


@pytest.fixture(params=["local", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ArtifactStore:
    """An empty artifact store, of each kind."""
    if request.param == "local":
        return LocalArtifacts(tmp_path / "artifacts")
    server: S3Server = request.getfixturevalue("s3")
    return ObjectArtifacts(f"{server.bucket_url()}/artifacts", options=server.options)
