"""The registry of a data folder, opened in this process, with the person at the terminal as the one who acts."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from gateway.admin.registry_service import RegistryService
from gateway.registry_places import catalog_file, catalog_url, open_artifacts
from gateway.settings import Settings
from registry.catalog import Catalog


@contextlib.contextmanager
def opened(settings: Settings, actor: str) -> Iterator[RegistryService]:
    """The service over what the settings name; RegistryError when it cannot be opened."""
    with contextlib.closing(Catalog(catalog_url(settings))) as catalog:
        yield RegistryService(catalog, open_artifacts(settings), actor)


def is_there(settings: Settings) -> bool:
    """Whether opening it would make nothing and ask no other machine."""
    file = catalog_file(settings)
    return file is not None and file.is_file()
