"""A push that is killed at any step: afterwards the version is whole or absent, and pushing again completes it."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path

import models
import pytest
from cache_house import sha256
from dying import CRASHED, DONE, FAILED, Step, in_a_process_that_dies_at_steps
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, event

import registry.artifacts
from gateway.admin.publishing import Publication, publish
from gateway.admin.registry_service import RegistryService
from registry.artifacts import LocalArtifacts, hash_file
from registry.catalog import Catalog
from registry.errors import NotFound
from registry.manifest import FileEntry, Lineage
from registry.publish import collect, push

NAME, ALIAS = "fraud", "champion"
Push = Callable[[Catalog, LocalArtifacts, Path, Path], None]


def push_from_here(catalog: Catalog, store: LocalArtifacts, root: Path, folder: Path) -> None:
    """As `sluice push --data-dir` does."""
    push(catalog, store, folder, NAME, actor="ada", alias=ALIAS, lineage=Lineage())


def push_from_elsewhere(catalog: Catalog, store: LocalArtifacts, root: Path, folder: Path) -> None:
    """As a gateway does that was sent the files: stores them, then puts them together and publishes."""
    files = [
        FileEntry(str(path.relative_to(folder)), *hash_file(path)) for path in folder.rglob("*") if path.is_file()
    ]
    for file in files:
        store.put(folder / file.path, file.sha256)
    publication = Publication(NAME, tuple(files), None, ALIAS, {}, {}, {}, Lineage(), (), "")
    publish(RegistryService(catalog, store, "ada"), publication, root / "uploads")


def do(work: Push, url: str, root: Path, folder: Path) -> None:
    with closing(Catalog(url)) as catalog:
        work(catalog, LocalArtifacts(root / "artifacts"), root, folder)


def do_in_steps(work: Push, url: str, root: Path, folder: Path, step: Step) -> None:
    """With a step before each statement and commit of the database, and in the middle of each chunk that is written."""

    def statement(*_: object) -> None:
        step()

    write = registry.artifacts._write

    def write_in_halves(file: object, chunk: bytes) -> None:
        write(file, chunk[: len(chunk) // 2])  # type: ignore[arg-type]
        step()
        write(file, chunk[len(chunk) // 2 :])  # type: ignore[arg-type]

    event.listen(Engine, "before_cursor_execute", statement)
    event.listen(Engine, "commit", statement)
    registry.artifacts._write = write_in_halves
    do(work, url, root, folder)


def check_whole_or_absent(url: str, root: Path, folder: Path) -> None:
    """What somebody finds who comes after the crash."""
    store = LocalArtifacts(root / "artifacts")
    for found in store.list():
        with store.open(found.sha256) as reader:
            assert sha256(reader.read()) == found.sha256
    with closing(Catalog(url)) as catalog:
        assert catalog.verify_audit() is None
        try:
            rows = catalog.versions(NAME)
            pointers = {row.alias: row.version for row in catalog.aliases(NAME)}
        except NotFound:
            return
    assert [row.version for row in rows] == [1]
    assert pointers == {ALIAS: 1}, "the version and its alias came together"
    whole = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert {file.path for file in rows[0].manifest.files} == whole.keys()
    for file in rows[0].manifest.files:
        with store.open(file.sha256) as reader:
            assert reader.read() == whole[file.path]


def check_completed(work: Push, url: str, root: Path, folder: Path) -> None:
    """Pushing again leaves one version, and collecting leaves what it is made of."""
    do(work, url, root, folder)
    check_whole_or_absent(url, root, folder)
    store = LocalArtifacts(root / "artifacts")
    with closing(Catalog(url)) as catalog:
        collect(catalog, store, before=time.time() + 60)
        kept = {file.sha256 for file in catalog.version(NAME, 1).manifest.files}
    assert {found.sha256 for found in store.list()} == kept
    assert list((root / "artifacts" / "tmp").iterdir()) == [], "no halves are left"


def folder_of(place: Path, extra: dict[str, bytes]) -> Path:
    models.external(place / "model.onnx", "weights/0.bin")
    for name, data in extra.items():
        (place / name).write_bytes(data)
    return place


@pytest.mark.heavy
@pytest.mark.timeout(400)
@pytest.mark.parametrize("work", [push_from_here, push_from_elsewhere])
def test_every_single_step_of_a_push_may_be_the_last(tmp_path: Path, work: Push) -> None:
    folder = folder_of(tmp_path / "model", {"labels.txt": b"yes\nno\n"})
    outcomes = []
    for at in range(1, 400):
        root = tmp_path / f"data-{at}"
        root.mkdir()
        url = f"sqlite:///{root / 'catalog.db'}"
        outcomes.append(in_a_process_that_dies_at_steps(at, root, partial(do_in_steps, work, url, root, folder)))
        assert outcomes[-1] != FAILED
        check_whole_or_absent(url, root, folder)
        check_completed(work, url, root, folder)
        if outcomes[-1] == DONE:
            break
    assert outcomes[-1] == DONE
    assert outcomes.count(CRASHED) > 40


@pytest.mark.heavy
@pytest.mark.timeout(400)
def test_every_single_statement_of_a_push_to_a_shared_database_may_be_the_last(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    folder = folder_of(tmp_path / "model", {})
    server = request.getfixturevalue("postgresql")
    outcomes = []
    for at in range(1, 400, 3):
        root = tmp_path / f"data-{at}"
        root.mkdir()
        url = server.database_url()
        steps = partial(do_in_steps, push_from_here, url, root, folder)
        outcomes.append(in_a_process_that_dies_at_steps(at, root, steps))
        assert outcomes[-1] != FAILED
        check_whole_or_absent(url, root, folder)
        check_completed(push_from_here, url, root, folder)
        if outcomes[-1] == DONE:
            break
    assert outcomes[-1] == DONE
    assert outcomes.count(CRASHED) > 10


extras = st.dictionaries(
    st.sampled_from(["labels.txt", "vocabulary.txt", "weights/1.bin"]),
    st.sampled_from([b"", b"1" * 10, b"2" * 2_000_000]),
)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(extra=extras, moments=st.lists(st.integers(1, 90), min_size=1, max_size=3), is_local=st.booleans())
def test_after_crashes_one_after_the_other_the_version_is_whole_or_absent(
    extra: dict[str, bytes], moments: list[int], is_local: bool
) -> None:
    work: Push = push_from_here if is_local else push_from_elsewhere
    with tempfile.TemporaryDirectory() as place:
        folder, root = folder_of(Path(place) / "model", extra), Path(place) / "data"
        root.mkdir()
        url = f"sqlite:///{root / 'catalog.db'}"
        for at in moments:
            steps = partial(do_in_steps, work, url, root, folder)
            assert in_a_process_that_dies_at_steps(at, root, steps) in (DONE, CRASHED)
            check_whole_or_absent(url, root, folder)
        check_completed(work, url, root, folder)
