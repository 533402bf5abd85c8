"""The registry's API and the tokens, as a gateway's settings ask for them."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from gateway.admin.registry_api import Parts, RegistryApi
from gateway.admin.tokens import FILENAME, Keyring
from gateway.admin.webhook import MlflowWebhook, read_secret
from gateway.registry_places import catalog_url, open_artifacts
from gateway.settings import Settings
from registry.catalog import Catalog

UPLOADS_FOLDER = "uploads"


class Origin(Protocol):
    """What to show of where a gateway's versions come from."""

    def health(self) -> list[Any]: ...
    def usage(self) -> Any: ...


def registry_parts(settings: Settings) -> Parts:
    """The catalog and the store of the settings; nothing is opened before somebody asks."""
    return Parts(lambda: Catalog(catalog_url(settings)), lambda: open_artifacts(settings))


def registry_api(parts: Parts, settings: Settings, data_dir: Path, origin: Origin) -> RegistryApi:
    folder, max_bytes = data_dir / UPLOADS_FOLDER, settings.registry.max_version_bytes
    return RegistryApi(parts, folder, max_bytes, origin.health, origin.usage)


def mlflow_webhook(settings: Settings, look: Callable[[], None]) -> MlflowWebhook | None:
    """None where MLflow is not the source, or has no secret. SettingsError for a secret that is none."""
    file = settings.registry.mlflow_webhook_secret_file
    is_source = settings.model_repository is None and settings.registry.source == "mlflow"
    return None if file is None or not is_source else MlflowWebhook(read_secret(file), look)


def keyring(data_dir: Path) -> Keyring:
    """The tokens of the data folder, as they are at any time."""
    return Keyring(data_dir / FILENAME, time.time)
