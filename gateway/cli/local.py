"""The registry of a data folder, opened in this process, with the person at the terminal as the one who acts."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from gateway.admin.registry_service import Doc, RegistryService
from gateway.cli.registry import Publication, Report
from gateway.registry_places import catalog_url, open_artifacts
from gateway.settings import Settings
from registry.artifacts import hash_file
from registry.catalog import Catalog
from registry.golden import read_golden_set
from registry.publish import PushResult, push


class LocalRegistry(RegistryService):
    """What `gateway.cli.registry.Registry` says."""

    @property
    def place(self) -> str:
        return super().place.removeprefix("sqlite:///")

    def push(self, publication: Publication, report: Report) -> Doc:
        def publish_as(alias: str | None) -> PushResult:
            return push(
                self.catalog,
                self.store,
                publication.path,
                publication.model,
                actor=self.actor,
                alias=alias,
                tags=publication.tags,
                card=publication.card,
                metrics=publication.metrics,
                lineage=publication.lineage,
                sign_key=publication.sign_key,
                reason=publication.reason,
                progress=report,
            )

        return self.publish(publish_as, publication.model, publication.alias, publication.reason)

    def put_golden_set(self, path: Path) -> Doc:
        read_golden_set(path.read_bytes())
        sha256, size = hash_file(path)
        self.store.put(path, sha256)
        return {"sha256": sha256, "size": size}


@contextlib.contextmanager
def opened(settings: Settings, actor: str) -> Iterator[LocalRegistry]:
    """The registry that the settings name; RegistryError or SettingsError when it cannot be opened."""
    with contextlib.closing(Catalog(catalog_url(settings))) as catalog:
        yield LocalRegistry(catalog, open_artifacts(settings), actor)
