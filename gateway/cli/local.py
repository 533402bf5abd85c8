"""The registry of a data folder, opened in this process, with the person at the terminal as the one who acts."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from gateway.admin.registry_service import Doc, RegistryService, to_published
from gateway.cli.registry import Publication, Report
from gateway.registry_places import catalog_url, open_artifacts
from gateway.settings import Settings
from registry.catalog import Catalog


class LocalRegistry(RegistryService):
    """What `gateway.cli.registry.Registry` says."""

    def push(self, publication: Publication, report: Report) -> Doc:
        from registry.publish import push  # reads models, which others need not

        result = push(
            self.catalog,
            self.store,
            publication.path,
            publication.model,
            actor=self.actor,
            alias=publication.alias,
            tags=publication.tags,
            card=publication.card,
            metrics=publication.metrics,
            lineage=publication.lineage,
            sign_key=publication.sign_key,
            reason=publication.reason,
            progress=report,
        )
        return to_published(result, publication.alias)


@contextlib.contextmanager
def opened(settings: Settings, actor: str) -> Iterator[LocalRegistry]:
    """The registry that the settings name; RegistryError or SettingsError when it cannot be opened."""
    with contextlib.closing(Catalog(catalog_url(settings))) as catalog:
        yield LocalRegistry(catalog, open_artifacts(settings), actor)
