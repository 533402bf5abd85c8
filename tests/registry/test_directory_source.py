"""What a model repository directory is seen to hold."""

import os
import shutil
from pathlib import Path

import pytest

from registry.errors import SourceUnavailable
from registry.sources import Snapshot
from registry.sources.directory import MAX_FILES, DirectorySource, is_model_name
from registry.sources.settling import Changes, diff


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "repository"
    folder.mkdir()
    return folder


def put(path: Path, text: str = "model") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def scan(root: Path) -> Snapshot:
    return DirectorySource(root).scan()


def versions(snapshot: Snapshot) -> dict[str, list[int]]:
    return {name: sorted(model.versions) for name, model in snapshot.models.items()}


def problems(snapshot: Snapshot) -> dict[str, str]:
    return {problem.path: problem.reason for problem in snapshot.problems}


def test_models_and_versions_are_found(root: Path):
    for path in ("a/1/model.onnx", "a/12/model.onnx", "b/3/model.onnx"):
        put(root / path)
    snapshot = scan(root)
    assert versions(snapshot) == {"a": [1, 12], "b": [3]}
    assert snapshot.problems == ()
    listing = snapshot.models["a"].versions[12]
    assert listing.path.resolve() == (root / "a" / "12").resolve()
    assert [stamp.path for stamp in listing.files] == ["model.onnx"]


def test_files_in_folders_of_a_version_belong_to_it(root: Path):
    put(root / "a/1/model.onnx/model.onnx")
    put(root / "a/1/model.onnx/weights/0.bin")
    files = scan(root).models["a"].versions[1].files
    assert [stamp.path for stamp in files] == ["model.onnx/model.onnx", "model.onnx/weights/0.bin"]


def test_the_configuration_and_the_files_beside_it_are_the_models(root: Path):
    put(root / "a/1/model.onnx")
    put(root / "a/config.pbtxt", "max_batch_size: 4")
    put(root / "a/labels.txt")
    put(root / "a/warmup/x.bin")
    put(root / "a/notes/any.txt")
    model = scan(root).models["a"]
    assert model.config == b"max_batch_size: 4"
    assert [stamp.path for stamp in model.companions] == ["labels.txt", "warmup/x.bin"]


def test_a_version_without_a_file_is_none(root: Path):
    (root / "a/1").mkdir(parents=True)
    assert versions(scan(root)) == {}


def test_a_folder_with_neither_versions_nor_configuration_is_no_model(root: Path):
    put(root / "scripts/run.sh")
    assert scan(root) == Snapshot({}, ())


def test_a_configuration_alone_makes_a_model_without_versions(root: Path):
    put(root / "a/config.pbtxt", "")
    assert versions(scan(root)) == {"a": []}


@pytest.mark.parametrize("name", ["0", "01", "1234567890123456789"])
def test_a_version_is_a_number_without_leading_zero(root: Path, name: str):
    put(root / "a/1/model.onnx")
    put(root / f"a/{name}/model.onnx")
    snapshot = scan(root)
    assert versions(snapshot) == {"a": [1]}
    assert "leading zeros" in problems(snapshot)[f"a/{name}"]


@pytest.mark.parametrize("name", ["v1", "1.0", "-1", "１", "configs", "²"])
def test_other_folders_of_a_model_are_not_versions(root: Path, name: str):
    put(root / "a/1/model.onnx")
    put(root / f"a/{name}/model.onnx")
    snapshot = scan(root)
    assert versions(snapshot) == {"a": [1]}
    assert snapshot.problems == ()


@pytest.mark.parametrize("name", ["a", "café au lait", "A-b_c.1+2", "1", "x" * 255, "模型"])
def test_a_model_may_have_any_printable_name(name: str):
    assert is_model_name(name)


@pytest.mark.parametrize("name", ["", ".", "..", ".hidden", "a/b", "a\nb", "a\0", "x" * 256, "\udcff"])
def test_other_names_are_refused(name: str):
    assert not is_model_name(name)


def test_a_name_that_does_not_print_is_reported(root: Path):
    put(root / "a\tb/1/model.onnx")
    snapshot = scan(root)
    assert versions(snapshot) == {}
    assert "a\tb" in problems(snapshot)


def test_what_begins_with_a_dot_is_nobodys_business(root: Path):
    put(root / ".git/1/model.onnx")
    put(root / "a/.1/model.onnx")
    put(root / "a/1/.partial")
    put(root / "a/config.pbtxt", "")
    assert scan(root).models["a"].versions == {}
    assert versions(scan(root)) == {"a": []}


@pytest.mark.parametrize("at", ["a", "a/1", "a/1/model.onnx", "a/config.pbtxt", "a/labels.txt"])
def test_a_link_that_leads_out_is_refused(root: Path, tmp_path: Path, at: str):
    for path in ("a/1/model.onnx", "a/config.pbtxt", "a/labels.txt"):
        put(root / path)
        put(tmp_path / "outside" / path)
    inside, outside = root / at, tmp_path / "outside" / at
    shutil.rmtree(inside) if inside.is_dir() else inside.unlink()
    inside.symlink_to(outside)
    snapshot = scan(root)
    assert problems(snapshot) == {at: "a symbolic link that leads out of the repository"}
    model = snapshot.models.get("a")
    if at.startswith("a/1") or at == "a":
        assert model is None or model.versions == {}
    elif model is not None:
        assert model.config is None or model.companions == ()


def test_a_link_that_stays_inside_is_followed(root: Path):
    put(root / "a/1/model.onnx")
    (root / "b").symlink_to(root / "a")
    (root / "a/2").symlink_to("1")
    put(root / "a/3/real.onnx")
    (root / "a/3/model.onnx").symlink_to("../1/model.onnx")
    assert versions(scan(root)) == {"a": [1, 2, 3], "b": [1, 2, 3]}


def test_the_root_itself_may_be_a_link(root: Path, tmp_path: Path):
    put(root / "a/1/model.onnx")
    (tmp_path / "link").symlink_to(root)
    assert versions(scan(tmp_path / "link")) == {"a": [1]}


def test_a_link_in_a_circle_ends(root: Path):
    put(root / "a/1/model.onnx")
    (root / "a/1/again").symlink_to(root / "a/1")
    (root / "a/1/nowhere").symlink_to(root / "a/1/missing")
    (root / "self").symlink_to(root / "self")
    snapshot = scan(root)
    assert snapshot.models["self"].problem
    assert [stamp.path for stamp in snapshot.models["a"].versions[1].files] == ["model.onnx"]
    assert problems(snapshot)["a/1/again"] == "a symbolic link to a folder that it is in"


def test_a_pipe_is_not_waited_for(root: Path):
    put(root / "a/1/model.onnx")
    os.mkfifo(root / "a/1/pipe")
    os.mkfifo(root / "a/config.pbtxt")
    model = scan(root).models["a"]
    assert model.problem
    assert "config.pbtxt is not a file" in model.problem


def test_a_version_with_very_many_files_is_refused(root: Path):
    (root / "a/1").mkdir(parents=True)
    for number in range(MAX_FILES + 1):
        (root / f"a/1/{number}").touch()
    snapshot = scan(root)
    assert versions(snapshot) == {}
    assert f"more than {MAX_FILES} files" in problems(snapshot)["a/1"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_model_that_cannot_be_read_says_so(root: Path):
    put(root / "a/1/model.onnx")
    (root / "a").chmod(0)
    try:
        assert "cannot be read" in scan(root).models["a"].problem
    finally:
        (root / "a").chmod(0o700)


def test_a_model_whose_configuration_is_a_folder_has_a_problem(root: Path):
    put(root / "a/1/model.onnx")
    (root / "a/config.pbtxt").mkdir()
    assert "cannot be read" in scan(root).models["a"].problem


def test_an_absent_repository_says_so_and_recovers(root: Path):
    put(root / "a/1/model.onnx")
    source = DirectorySource(root)
    before = source.scan()
    root.rename(root.with_name("away"))
    for _ in range(2):
        with pytest.raises(SourceUnavailable) as error:
            source.scan()
        assert error.value.place == str(root)
    root.with_name("away").rename(root)
    assert source.scan() == before


def test_a_file_in_place_of_the_repository_says_so(tmp_path: Path):
    with pytest.raises(SourceUnavailable):
        scan(put(tmp_path / "repository"))


def test_another_empty_directory_in_its_place_is_a_repository_that_is_away(root: Path):
    put(root / "a/1/model.onnx")
    source = DirectorySource(root)
    source.scan()
    root.rename(root.with_name("unmounted"))
    root.mkdir()
    with pytest.raises(SourceUnavailable):
        source.scan()


def test_a_repository_that_was_emptied_is_empty(root: Path):
    put(root / "a/1/model.onnx")
    source = DirectorySource(root)
    source.scan()
    shutil.rmtree(root / "a")
    assert source.scan() == Snapshot({}, ())


def test_a_repository_that_starts_empty_is_empty(root: Path):
    assert scan(root) == Snapshot({}, ())


def test_equal_contents_give_equal_snapshots(root: Path):
    put(root / "a/1/model.onnx")
    assert scan(root) == scan(root)


def test_additions_removals_and_changes_are_told_apart(root: Path):
    for path in ("a/1/model.onnx", "a/2/model.onnx", "b/1/model.onnx"):
        put(root / path)
    before = scan(root)
    put(root / "a/3/model.onnx")
    shutil.rmtree(root / "a/1")
    put(root / "a/2/model.onnx", "longer than before")
    put(root / "b/config.pbtxt", "")
    changes = diff(before, scan(root))
    assert changes == Changes(frozenset({("a", 3)}), frozenset({("a", 1)}), frozenset({("a", 2)}), frozenset({"b"}))
    assert changes
    assert not diff(before, before)


@pytest.mark.parametrize("change", ["size", "time", "inode"])
def test_each_mark_of_a_changed_file_is_seen(root: Path, change: str):
    path = put(root / "a/1/model.onnx")
    os.utime(path, ns=(1, 1_000_000_000))
    before = scan(root)
    if change == "size":
        path.write_text("other")
        path.write_text("longer text")
        os.utime(path, ns=(1, 1_000_000_000))
    elif change == "time":
        os.utime(path, ns=(1, 1_000_000_001))
    else:
        copy = put(root / "copy")
        os.utime(copy, ns=(1, 1_000_000_000))
        copy.rename(path)
    assert diff(before, scan(root)).changed == {("a", 1)}
