"""What a catalog holds, model by model: of a catalog that is open, and of its file alone."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

import pytest
from manifests import manifest

from registry.catalog import Catalog
from registry.errors import CatalogTooNew, CatalogUnavailable
from registry.listing import list_file
from registry.policies import ModelPolicy


def test_the_listing_says_what_versions_and_aliases_come_to(catalog: Catalog) -> None:
    for content in "ab":
        catalog.add_version(manifest(content), "ada", alias="candidate")
    catalog.approve("fraud", 1, "bob")
    catalog.move_alias("fraud", "champion", 1, actor="ada")
    catalog.move_alias("fraud", "old", 1, actor="ada")
    catalog.move_alias("fraud", "old", None, actor="ada")
    catalog.set_policy("churn", ModelPolicy("latest:2"), "ada")
    published_at = catalog.version("fraud", 2).created_at
    assert catalog.listing() == [
        ("churn", 0, None, 0, {}, "latest:2", None),
        ("fraud", 2, 2, 1, {"candidate": 2, "champion": 1}, "default", published_at),
    ]


def test_a_file_is_listed_as_the_catalog_in_it(tmp_path: Path) -> None:
    with contextlib.closing(Catalog(f"sqlite:///{tmp_path}/c# %41.db")) as catalog:
        catalog.add_version(manifest(), "ada", alias="champion")
        [file] = [path for path in tmp_path.iterdir() if path.suffix == ".db"]
        assert list_file(file) == catalog.listing() != []


def test_a_file_of_a_later_release_is_not_listed(tmp_path: Path) -> None:
    Catalog(f"sqlite:///{tmp_path}/c.db").close()
    with contextlib.closing(sqlite3.connect(tmp_path / "c.db", isolation_level=None)) as connection:
        connection.execute("UPDATE head SET schema_version = 99")
    with pytest.raises(CatalogTooNew):
        list_file(tmp_path / "c.db")


def test_a_file_that_is_no_catalog_is_not_listed(tmp_path: Path) -> None:
    (tmp_path / "c.db").write_bytes(b"something else" * 100)
    with pytest.raises(CatalogUnavailable):
        list_file(tmp_path / "c.db")
    with pytest.raises(CatalogUnavailable):
        list_file(tmp_path / "missing.db")
    assert not (tmp_path / "missing.db").exists()


def test_a_file_that_another_process_makes_just_now_holds_nothing_yet(tmp_path: Path) -> None:
    (tmp_path / "c.db").touch()
    assert list_file(tmp_path / "c.db") == []
