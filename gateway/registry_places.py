"""Where the settings say that the registry is: its database, and its store of artifacts."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote, urlsplit, urlunsplit

from gateway.errors import SettingsError
from gateway.settings import Settings
from registry.artifacts import ArtifactStore, open_store

CATALOG_FILENAME, ARTIFACTS_FOLDER = "catalog.db", "artifacts"


def catalog_url(settings: Settings) -> str:
    """As SQLAlchemy reads it, the password in it. SettingsError when the file of the password cannot be read."""
    url = settings.registry.database_url
    if not url:
        return f"sqlite:///{_inside(settings, CATALOG_FILENAME)}"
    file = settings.registry.database_password_file
    return url if file is None else _with_password(url, _read(file))


def catalog_file(settings: Settings) -> Path | None:
    """The file of a catalog that is one in the data folder."""
    return None if settings.registry.database_url else _inside(settings, CATALOG_FILENAME)


def is_catalog_there(settings: Settings) -> bool:
    """Whether opening it would make nothing and ask no other machine."""
    file = catalog_file(settings)
    return file is not None and file.is_file()


def open_artifacts(settings: Settings) -> ArtifactStore:
    """SettingsError for an option that is none."""
    url = settings.registry.artifacts_url or str(_inside(settings, ARTIFACTS_FOLDER))
    options = dict(_option(text) for text in settings.registry.artifacts_options)
    return open_store(url, options=options)


def _inside(settings: Settings, name: str) -> Path:
    return settings.data_dir.absolute() / name


def _option(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise SettingsError("registry.artifacts_options", f"takes name=value, not {text!r}")
    return name.strip(), value.strip()


def _read(file: Path) -> str:
    try:
        return file.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError("registry.database_password_file", f"{file} cannot be read: {error}") from None


def _with_password(url: str, password: str) -> str:
    parts = urlsplit(url)
    user, _, host = parts.netloc.rpartition("@")
    user = user.partition(":")[0]
    return urlunsplit(parts._replace(netloc=f"{user}:{quote(password, safe='')}@{host}"))
