"""Every place that versions come from, behind one face: what somebody does to it, and what a gateway sees of it."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import obstore
from cache_house import contents, entries
from fake_mlflow import FakeMlflow
from mlflow_server import ONNX_MLMODEL, MlflowServer
from postgresql_server import PostgreSQLServer
from s3_server import S3Server

from gateway.registry_sources import chosen_by_config
from registry.artifacts import ArtifactStore
from registry.cache import CacheLimits, ContentCache
from registry.catalog import Catalog
from registry.errors import CatalogUnavailable
from registry.ledger import Ledger
from registry.manifest import Manifest, TensorSpec
from registry.object_artifacts import ObjectArtifacts, open_bucket
from registry.sources import Source
from registry.sources.catalog import CatalogSource
from registry.sources.directory import DirectorySource
from registry.sources.mlflow import MlflowSource, Reference
from registry.sources.mlflow_client import MlflowAccess
from registry.sources.object_store import ObjectStoreSource
from registry.sources.settling import Settling

MODEL = "fraud"
Files = Mapping[str, bytes]


class Place(Protocol):
    """What somebody does to one source. Versions count from 1."""

    def publish(self, version: int, files: Files) -> None: ...
    def choose(self, version: int) -> None:
        """By alias, or by policy where there are none."""

    def withdraw(self, version: int) -> None: ...
    def rewrite(self, version: int, path: str, data: bytes) -> None:
        """Other bytes under the same version: what no honest source does."""

    def stop(self) -> None: ...
    def start(self) -> None: ...
    def source(self, cache: ContentCache, **options: Any) -> Source: ...


class Gateway:
    """What one gateway believes of a place, over as many looks as a test takes; each a minute after the last."""

    def __init__(self, place: Place, folder: Path, **limits: int) -> None:
        self._now = 1000.0
        self.cache = ContentCache(folder / "cache", CacheLimits(**limits))
        bounds = {"patience": 30.0, "answer_seconds": 30.0, "clock": lambda: self._now}
        self.source: Any = place.source(self.cache, **bounds)
        if hasattr(self.source, "open"):
            self.source.open()
        self._settling = Settling()

    def look(self) -> dict[int, dict[str, bytes]]:
        """The versions that are to be served, with their bytes. Raises SourceUnavailable."""
        for _ in range(2):
            self._now += 60
            self._settling.observe(self.source.scan())
        return {version: contents(self._listing.versions[version].path) for version in self.versions}

    @property
    def versions(self) -> list[int]:
        """Those that are to be served, as far as is believed now."""
        if MODEL not in self._settling.believed.models:
            return []
        listing = self._listing
        if listing.is_chosen:
            return sorted(listing.versions)
        return sorted(chosen_by_config(MODEL, listing.config, listing.versions))

    @property
    def reasons(self) -> str:
        return "; ".join(f"{each.path}: {each.reason}" for each in self._settling.believed.problems)

    @property
    def _listing(self) -> Any:
        return self._settling.believed.models[MODEL]

    def forget_bytes(self, version: int) -> None:
        """As an eviction does."""
        self.cache.discard(self.source.replica._pinned[MODEL, version].files)

    def close(self) -> None:
        if hasattr(self.source, "close"):
            self.source.close()


class DirectoryPlace:
    def __init__(self, folder: Path) -> None:
        self._root = folder / "repository"
        self._root.mkdir()

    def publish(self, version: int, files: Files) -> None:
        for path, data in files.items():
            to = self._root / MODEL / str(version) / path
            to.parent.mkdir(parents=True, exist_ok=True)
            to.write_bytes(data)

    def choose(self, version: int) -> None:
        (self._root / MODEL / "config.pbtxt").write_text(f"version_policy {{ specific {{ versions: {version} }} }}")

    def withdraw(self, version: int) -> None:
        shutil.rmtree(self._root / MODEL / str(version))

    def rewrite(self, version: int, path: str, data: bytes) -> None:
        (self._root / MODEL / str(version) / path).write_bytes(data)

    def stop(self) -> None:
        self._root.rename(self._root.with_name("away"))

    def start(self) -> None:
        self._root.with_name("away").rename(self._root)

    def source(self, cache: ContentCache, **options: Any) -> Source:
        return DirectorySource(self._root)


class CatalogPlace:
    """Over any database and any store; `servers` are what both need."""

    def __init__(
        self,
        url: str,
        store: ArtifactStore,
        folder: Path,
        *servers: PostgreSQLServer | S3Server,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._url, self._store, self._folder, self._servers, self._clock = url, store, folder, servers, clock
        self._catalog = Catalog(url, clock=clock)
        self._is_down = False
        self._sources: list[CatalogSource] = []
        self._shas: dict[tuple[int, str], str] = {}

    def publish(self, version: int, files: Files) -> None:
        made = entries(files)
        for entry in made:
            (self._folder / "upload").write_bytes(files[entry.path])
            self._store.put(self._folder / "upload", entry.sha256)
            self._shas[version, entry.path] = entry.sha256
        tensors = (TensorSpec("x", "FP32", (-1, 1)),)
        row, _ = self._catalog.add_version(Manifest(MODEL, made, inputs=tensors, outputs=tensors), "ann")
        assert row.version == version

    def choose(self, version: int) -> None:
        self._catalog.move_alias(MODEL, "champion", version, actor="ann")

    def withdraw(self, version: int) -> None:
        self._catalog.reject(MODEL, version, "ben")

    def rewrite(self, version: int, path: str, data: bytes) -> None:
        sha = self._shas[version, path]
        if isinstance(self._store, ObjectArtifacts):
            bucket = open_bucket(self._store.place, self._store.place, dict(self._options))
            (key,) = [meta["path"] for page in obstore.list(bucket) for meta in page if meta["path"].endswith(sha)]
            obstore.put(bucket, key, data)
        else:
            (file,) = (each for each in self._folder.rglob(sha) if "cache" not in each.parts)
            file.chmod(0o644)
            file.write_bytes(data)

    @property
    def _options(self) -> dict[str, str]:
        return next(server.options for server in self._servers if isinstance(server, S3Server))

    def stop(self) -> None:
        self._is_down = True
        for source in self._sources if not self._servers else ():  # as when every connection is lost
            if source._catalog is not None:
                source._catalog.close()
                source._catalog = None
        for server in self._servers:
            server.stop()

    def start(self) -> None:
        self._is_down = False
        for server in self._servers:
            server.start()

    def close(self) -> None:
        self._catalog.close()

    def _connect(self) -> Catalog:
        if self._is_down and not self._servers:
            raise CatalogUnavailable("the catalog", "connection refused")
        return Catalog(self._url, clock=self._clock)

    def source(self, cache: ContentCache, **options: Any) -> Source:
        ledger = Ledger(cache.root / "ledger", "it")
        source = CatalogSource(
            "the catalog", self._connect, lambda: self._store, cache, ledger, lambda *_: False, **options
        )
        self._sources.append(source)
        return source


class ObjectsPlace:
    def __init__(self, server: S3Server) -> None:
        self._server, self._url = server, f"{server.bucket_url()}/models"
        self._bucket = self._connect()

    def _connect(self) -> Any:
        return open_bucket(self._url, self._url, dict(self._server.options))

    def publish(self, version: int, files: Files) -> None:
        for path, data in files.items():
            self.rewrite(version, path, data)

    def choose(self, version: int) -> None:
        text = f"version_policy {{ specific {{ versions: {version} }} }}"
        obstore.put(self._bucket, f"{MODEL}/config.pbtxt", text.encode())

    def withdraw(self, version: int) -> None:
        found = [meta["path"] for page in obstore.list(self._bucket, f"{MODEL}/{version}") for meta in page]
        obstore.delete(self._bucket, found)

    def rewrite(self, version: int, path: str, data: bytes) -> None:
        obstore.put(self._bucket, f"{MODEL}/{version}/{path}", data)

    def stop(self) -> None:
        self._server.stop()

    def start(self) -> None:
        self._server.start()

    def source(self, cache: ContentCache, **options: Any) -> Source:
        ledger = Ledger(cache.root / "ledger", "it")
        return ObjectStoreSource(
            self._url, self._connect, cache, ledger, chosen_by_config, settle_seconds=0.0, **options
        )


class MlflowPlace:
    """By the latest version until one is chosen, and by the alias champion after that."""

    def __init__(self, server: MlflowServer | FakeMlflow, *, url: str = "") -> None:
        """`url`: where gateways reach the server, if not directly."""
        self._server, self._url = server, url or server.url
        server.delete_model(MODEL)  # of a test before
        self._roots: dict[int, str] = {}
        self._reference = Reference.parse(f"{MODEL}/latest")

    def publish(self, version: int, files: Files) -> None:
        mlmodel = {"MLmodel": ONNX_MLMODEL.format(data="model.onnx").encode()}
        assert self._server.register(MODEL, {**mlmodel, **files}) == version
        self._roots[version] = self._server.root

    def choose(self, version: int) -> None:
        self._server.alias(MODEL, "champion", version)
        self._reference = Reference.parse(MODEL)

    def withdraw(self, version: int) -> None:
        self._server.delete_version(MODEL, version)

    def rewrite(self, version: int, path: str, data: bytes) -> None:
        self._server.upload(f"{self._roots[version]}/{path}", data)

    def stop(self) -> None:
        self._server.stop()

    def start(self) -> None:
        self._server.start()

    def source(self, cache: ContentCache, **options: Any) -> Source:
        ledger = Ledger(cache.root / "ledger", "it")
        return MlflowSource(self._url, (self._reference,), MlflowAccess(), cache, ledger, **options)
