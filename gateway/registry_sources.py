"""Which source a gateway serves from, built from its settings; and what a running gateway tells it.

The only place that knows both the settings and the sources. Secrets go from here into the clients of sources and stores
and nowhere else: workers are started without them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from gateway.errors import ConfigError, SettingsError, StartFailed
from gateway.followed import wanted_versions
from gateway.models import Models
from gateway.registry_places import catalog_url, open_artifacts
from gateway.settings import ModelsSettings, RegistrySettings, Settings
from registry.cache import CacheLimits, CacheUsage, ContentCache
from registry.errors import InvalidPolicy, RegistryError, SourceUnavailable
from registry.ledger import Ledger
from registry.manifest import Manifest
from registry.policy import Latest
from registry.redaction import without_user
from registry.sources import Snapshot, Source
from registry.sources.directory import DirectorySource
from registry.sources.health import SourceHealth
from registry.sources.mlflow_client import MlflowAccess

if TYPE_CHECKING:
    from registry.sources.catalog import CatalogSource

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
        mlflow: what the environment says about MLflow.
    """

    def __init__(self, settings: Settings, data_dir: Path, mlflow: MlflowAccess) -> None:
        """SettingsError for what cannot be a source."""
        self.cache: ContentCache | None = None
        self.remote: RemoteSource | None = None
        self.catalog: CatalogSource | None = None
        """When the Sluice catalog is what is served."""
        self.models_settings: ModelsSettings = settings.models
        if settings.model_repository is not None:
            self.source: Source = DirectorySource(settings.model_repository)
            return
        self.cache = ContentCache(data_dir / "cache", _limits(settings.registry))
        is_polled = settings.models.control_mode == "poll"
        patience, seconds = LOOK_PATIENCE if is_polled else None, settings.registry.remote_poll_seconds
        match settings.registry.source:
            case "catalog":
                self.remote = self.catalog = _catalog(settings, self.cache, patience)
                seconds = settings.registry.poll_seconds
            case "mlflow":
                self.remote = _mlflow(settings.registry, mlflow, self.cache, patience)
            case "objects":
                self.remote = _objects(settings.registry, self.cache, patience)
        self.source = self.remote
        self.models_settings = replace(settings.models, poll_seconds=seconds)

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


def _catalog(settings: Settings, cache: ContentCache, patience: float | None) -> CatalogSource:
    from registry.catalog import Catalog  # the database is loaded only by who opens it
    from registry.sources.catalog import CatalogSource

    url = catalog_url(settings)
    place = without_user(url)
    return CatalogSource(
        place,
        lambda: Catalog(url),
        lambda: open_artifacts(settings),
        cache,
        _ledger(cache, f"catalog {place}"),
        _is_signed_by,
        patience=patience,
    )


def _mlflow(
    settings: RegistrySettings, access: MlflowAccess, cache: ContentCache, patience: float | None
) -> RemoteSource:
    from registry.sources.mlflow import MlflowSource, Reference

    url = settings.mlflow_url or access.url
    if not url:
        raise SettingsError("registry.mlflow_url", "is needed by registry.source mlflow")
    if not settings.mlflow_models:
        raise SettingsError("registry.mlflow_models", "names no model")
    try:
        references = tuple(Reference.parse(text) for text in settings.mlflow_models)
        if len({each.name for each in references}) != len(references):
            raise SettingsError("registry.mlflow_models", "names a model twice")
        place = without_user(url)
        return MlflowSource(url, references, access, cache, _ledger(cache, f"mlflow {place}"), patience=patience)
    except InvalidPolicy as error:
        reason = f"takes name@alias, name/3, name/latest or name, not {error.value!r}"
        raise SettingsError("registry.mlflow_models", reason) from None
    except SourceUnavailable as error:
        raise SettingsError("registry.mlflow_url", error.reason) from None


def _objects(settings: RegistrySettings, cache: ContentCache, patience: float | None) -> RemoteSource:
    from registry.object_artifacts import open_bucket
    from registry.sources.object_store import SETTLE_SECONDS, ObjectStoreSource

    url = settings.objects_url
    if not url:
        raise SettingsError("registry.objects_url", "is needed by registry.source objects")
    options = dict(_option(text) for text in settings.objects_options)
    place = without_user(url)
    return ObjectStoreSource(
        url,
        lambda: open_bucket(place, url, dict(options)),
        cache,
        _ledger(cache, f"objects {place}"),
        chosen_by_config,
        settle_seconds=0.0 if patience is None else SETTLE_SECONDS,
        patience=patience,
    )


def _option(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise SettingsError("registry.objects_options", "takes name=value")
    return name.strip(), value.strip()


def chosen_by_config(model: str, config: bytes | None, versions: Collection[int]) -> frozenset[int]:
    """Which versions the version policy in a config.pbtxt wants; the latest where it cannot be read."""
    try:
        return wanted_versions(model, config).choose(versions)
    except ConfigError:
        return Latest().choose(versions)


def _ledger(cache: ContentCache, source: str) -> Ledger:
    return Ledger(cache.root / "ledger.sqlite", source)


def _is_signed_by(manifest: Manifest, signature: str, key: str) -> bool:
    from registry.signing import is_signed_by  # only where a policy names keys: the library is large

    return is_signed_by(manifest, signature, key)
