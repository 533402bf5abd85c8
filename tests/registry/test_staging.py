"""Private copies of versions."""

import hashlib
import os
from pathlib import Path

import pytest

from registry.errors import ChangedWhileRead, StagingFailed
from registry.sources import ModelListing
from registry.sources.directory import DirectorySource
from registry.staging import Staging, digest


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for path, text in {"m/1/model.onnx": "model", "m/1/data/w.bin": "weights", "m/labels.txt": "a\nb"}.items():
        (tmp_path / "repository" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "repository" / path).write_text(text)
    return tmp_path / "repository"


@pytest.fixture
def model(root: Path) -> ModelListing:
    return DirectorySource(root).scan().models["m"]


@pytest.fixture
def staging(tmp_path: Path):
    staging = Staging(tmp_path / "cache")
    staging.open()
    yield staging
    staging.close()


def copies(staging: Staging) -> list[str]:
    return [path.name for path in staging.root.rglob("*") if path.is_file() and path.name != "lock"]


def test_a_version_is_copied_with_its_companions(staging: Staging, model: ModelListing):
    staged = staging.take(model.versions[1], model.path, model.companions)
    assert (staged.version_path / "model.onnx").read_text() == "model"
    assert (staged.version_path / "data/w.bin").read_text() == "weights"
    assert (staged.folder / "labels.txt").read_text() == "a\nb"
    assert staged.files["model.onnx"] == hashlib.sha256(b"model").hexdigest()
    assert staged.companions["labels.txt"] == hashlib.sha256(b"a\nb").hexdigest()


def test_a_copy_does_not_change_with_the_original(staging: Staging, model: ModelListing, root: Path):
    staged = staging.take(model.versions[1], model.path)
    (root / "m/1/model.onnx").write_text("other")
    assert (staged.version_path / "model.onnx").read_text() == "model"


def test_the_digest_is_that_of_the_files_where_they_lie(staging: Staging, model: ModelListing, root: Path):
    staged = staging.take(model.versions[1], model.path)
    assert staged.digest == digest(model.versions[1])
    lines = "".join(
        f"{hashlib.sha256(text).hexdigest()}  {path}\n"
        for path, text in ((("data/w.bin"), b"weights"), ("model.onnx", b"model"))
    )
    assert staged.digest == hashlib.sha256(lines.encode()).hexdigest()


def test_a_file_that_is_not_as_announced_is_refused_and_leaves_nothing(
    staging: Staging, model: ModelListing, root: Path
):
    (root / "m/1/model.onnx").write_text("changed since")
    with pytest.raises(ChangedWhileRead) as error:
        staging.take(model.versions[1], model.path)
    assert error.value.path.endswith("model.onnx")
    with pytest.raises(ChangedWhileRead):
        digest(model.versions[1])
    assert copies(staging) == []


def test_a_file_that_is_gone_is_refused(staging: Staging, model: ModelListing, root: Path):
    os.unlink(root / "m/1/data/w.bin")
    with pytest.raises(ChangedWhileRead):
        staging.take(model.versions[1], model.path)


def test_a_file_that_changes_while_it_is_read_is_refused(
    staging: Staging, model: ModelListing, root: Path, monkeypatch: pytest.MonkeyPatch
):
    read = os.read

    def read_and_write(descriptor: int, size: int) -> bytes:
        chunk = read(descriptor, size)
        if not chunk:
            (root / "m/1/model.onnx").write_text("model, longer")
        return chunk

    monkeypatch.setattr(os, "read", read_and_write)
    with pytest.raises(ChangedWhileRead):
        staging.take(model.versions[1], model.path)


def test_dropping_removes_a_copy_and_twice_is_fine(staging: Staging, model: ModelListing):
    staged = staging.take(model.versions[1], model.path)
    other = staging.take(model.versions[1], model.path)
    for _ in range(2):
        staging.drop(staged)
    assert not staged.folder.exists()
    assert other.folder.exists()


def test_closing_removes_everything(staging: Staging, model: ModelListing):
    staging.take(model.versions[1], model.path)
    for _ in range(2):
        staging.close()
    assert list(staging.root.iterdir()) == []
    with pytest.raises(StagingFailed):
        staging.take(model.versions[1], model.path)


def test_what_an_ended_process_left_is_removed_and_what_a_running_one_has_is_not(
    staging: Staging, model: ModelListing, tmp_path: Path
):
    kept = staging.take(model.versions[1], model.path)
    left = tmp_path / "cache" / "process-ended"
    left.mkdir()
    (left / "lock").touch()
    (left / "copy").touch()
    second = Staging(tmp_path / "cache")
    second.open()
    assert not left.exists()
    assert kept.folder.exists()
    second.close()
    assert kept.folder.exists()


def test_a_root_that_cannot_be_made_is_refused(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(StagingFailed):
        Staging(tmp_path / "file" / "cache").open()
