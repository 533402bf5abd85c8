"""Which source a gateway serves from, built from its settings; and what a running gateway tells it.

The only place that knows both the settings and the sources. Secrets go from here into the clients of sources and stores
and nowhere else: workers are started without them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from gateway.errors import SettingsError, StartFailed
from gateway.models import Models
from gateway.registry_places import catalog_url, open_artifacts
from gateway.settings import ModelsSettings, RegistrySettings, Settings
from registry.cache import CacheLimits, CacheUsage, ContentCache
from registry.errors import RegistryError
from registry.ledger import Ledger
from registry.manifest import Manifest
from registry.redaction import without_user
from registry.sources import Snapshot, Source
from registry.sources.directory import DirectorySource
from registry.sources.health import SourceHealth

LOOK_PATIENCE = 0.3
"""Seconds that one look waits for versions on their way here, where there will be another look."""


class RemoteSource(Source, Protocol):
    """A source that is opened and closed, and whose versions are brought into a cache."""

    def scan(self) -> Snapshot: ...
    def open(self) -> None: ...
    def close(self) -> None: ...
    def hold(self, loaded: Mapping[str, tuple[int, ...]]) -> None: ...
    def health(self) -> SourceHealth: ...


class Origin:
    """The source of one gateway, from before its models run until after they have stopped.

    Args:
        data_dir: where the cache is, and the catalog when it is this gateway's own.
    """

    def __init__(self, settings: Settings, data_dir: Path) -> None:
        """SettingsError for what cannot be a source."""
        self.cache: ContentCache | None = None
        self.remote: RemoteSource | None = None
        self.models_settings: ModelsSettings = settings.models
        if settings.model_repository is not None:
            self.source: Source = DirectorySource(settings.model_repository)
            return
        self.cache = ContentCache(data_dir / "cache", _limits(settings.registry))
        is_polled = settings.models.control_mode == "poll"
        self.remote = _remote(settings, data_dir, self.cache, LOOK_PATIENCE if is_polled else None)
        self.source = self.remote
        self.models_settings = replace(settings.models, poll_seconds=settings.registry.poll_seconds)

    async def open(self) -> None:
        """Raises StartFailed when the cache cannot be used."""
        if self.remote is None:
            return
        try:
            await asyncio.to_thread(self.remote.open)
        except OSError as error:
            raise StartFailed("the registry's cache", error.strerror or str(error)) from error
        except RegistryError as error:
            raise StartFailed("the registry's cache", str(error)) from error

    async def close(self) -> None:
        """A scan under way ends soon. Idempotent."""
        if self.remote is not None:
            await asyncio.to_thread(self.remote.close)

    def health(self) -> list[SourceHealth]:
        """Of what is asked over a network; a directory says how it is by its listing."""
        return [] if self.remote is None else [self.remote.health()]

    def usage(self) -> CacheUsage | None:
        """Of the cache; None where files are served from where they lie."""
        return None if self.cache is None else self.cache.usage()

    def follow(self, models: Models[Any]) -> Callable[[], None]:
        """Has the cache keep what is loaded; returns what undoes this."""
        remote = self.remote
        if remote is None:
            return lambda: None
        held: dict[str, tuple[int, ...]] = {}

        def hold() -> None:
            nonlocal held
            loaded: dict[str, tuple[int, ...]] = {}
            for row in models.index(is_ready=True):
                loaded[row.name] = (*loaded.get(row.name, ()), int(row.version))
            if loaded != held:
                held = loaded
                asyncio.get_running_loop().run_in_executor(None, remote.hold, loaded)

        return models.subscribe(hold)


def _limits(settings: RegistrySettings) -> CacheLimits:
    return CacheLimits(
        max_bytes=settings.cache_bytes,
        max_version_bytes=settings.max_version_bytes,
        max_files=settings.max_files,
        parallelism=settings.pull_parallelism,
        bytes_per_second=settings.pull_bytes_per_second,
    )


def _remote(settings: Settings, data_dir: Path, cache: ContentCache, patience: float | None) -> RemoteSource:
    match settings.registry.source:
        case "catalog":
            return _catalog(settings, cache, patience)
        case other:
            raise SettingsError("registry.source", f"{other} is not available")


def _catalog(settings: Settings, cache: ContentCache, patience: float | None) -> RemoteSource:
    from registry.catalog import Catalog  # the database is loaded only by who opens it
    from registry.sources.catalog import CatalogSource

    url = catalog_url(settings)
    place = without_user(url)
    return CatalogSource(
        place,
        lambda: Catalog(url),
        lambda: open_artifacts(settings),
        cache,
        Ledger(cache.root / "ledger.sqlite", f"catalog {place}"),
        _is_signed_by,
        patience=patience,
    )


def _is_signed_by(manifest: Manifest, signature: str, key: str) -> bool:
    from registry.signing import is_signed_by  # only where a policy names keys: the library is large

    return is_signed_by(manifest, signature, key)
