"""What other processes do to a catalog while a test looks on."""

from __future__ import annotations

from manifests import manifest

from registry.catalog import Catalog
from registry.errors import AliasConflict


def add_versions(url: str, names: list[str]) -> list[int]:
    """Opens the catalog and adds a version for each; returns their numbers."""
    catalog = Catalog(url)
    try:
        return [catalog.add_version(manifest(name), "ada")[0].version for name in names]
    finally:
        catalog.close()


def win_alias(url: str, version: int, expected: int) -> bool:
    """Tries to move the alias champion once; returns whether it did."""
    catalog = Catalog(url)
    try:
        catalog.move_alias("fraud", "champion", version, expected=expected, actor=f"process {version}")
    except AliasConflict:
        return False
    finally:
        catalog.close()
    return True


def add_versions_forever(url: str) -> None:
    """Until it is killed."""
    catalog = Catalog(url)
    number = 0
    while True:
        number += 1
        catalog.add_version(manifest(f"version {number}"), "ada", alias="latest-one")
