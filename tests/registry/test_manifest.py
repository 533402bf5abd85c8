from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from manifests import manifest

from registry.errors import ArtifactRefused, InvalidManifest, UnsafePath
from registry.manifest import FileEntry, Lineage, Manifest, TensorSpec, check_path
from registry.staging import digest_of

NAMES = st.text("abcXYZ019_.-", min_size=1, max_size=12).filter(lambda name: name[0] not in ".-")
PATHS = st.lists(NAMES, min_size=1, max_size=4).map("/".join)
DIGESTS = st.integers(0, 2**256 - 1).map("{:064x}".format)
JSON: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
SPECS = st.lists(
    st.builds(
        TensorSpec, st.text(), st.sampled_from(["FP32", "BYTES"]), st.lists(st.integers(-1, 99), max_size=16).map(tuple)
    ),
    max_size=3,
    unique_by=lambda spec: spec.name,
).map(tuple)


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    paths = draw(st.lists(PATHS, min_size=1, max_size=4, unique_by=lambda path: path.split("/")[0]))
    return Manifest(
        model=draw(NAMES),
        files=tuple(FileEntry(path, draw(DIGESTS), draw(st.integers(0, 2**40))) for path in paths),
        inputs=draw(SPECS),
        outputs=draw(SPECS),
        operators=draw(st.dictionaries(st.text(), st.integers(0, 99), max_size=3)),
        opset=draw(st.integers(0, 30)),
        config_text=draw(st.none() | st.text()),
        tags=draw(st.dictionaries(st.text(), st.text(), max_size=3)),
        card=draw(st.dictionaries(st.text(), JSON, max_size=3)),
        lineage=Lineage(git_commit=draw(st.text()), git_dirty=draw(st.booleans()), data_ref=draw(st.text())),
        metrics=draw(st.dictionaries(st.text(), st.floats(allow_nan=False, allow_infinity=False), max_size=3)),
    )


@given(manifests())
def test_json_reads_back_as_it_was_and_is_written_in_one_way_only(value: Manifest) -> None:
    text = value.to_json()
    assert Manifest.from_json(text) == value
    assert Manifest.from_json(text.encode()).to_json() == text
    assert text.isascii()
    assert text == json.dumps(json.loads(text), sort_keys=True, separators=(",", ":"))


@given(st.lists(PATHS, min_size=2, max_size=4, unique_by=lambda path: path.split("/")[0]), st.data())
def test_the_content_digest_is_of_the_files_and_nothing_else(paths: list[str], data: st.DataObject) -> None:
    files = [FileEntry(path, data.draw(DIGESTS), 1) for path in paths]
    first = Manifest("a", tuple(files), tags={"x": "1"})
    second = Manifest("b", tuple(reversed(files)), config_text="", lineage=Lineage(author="ada"))
    assert first.files == second.files
    assert first.content_digest == second.content_digest == digest_of({file.path: file.sha256 for file in files})
    assert first.digest != second.digest
    assert first.content_digest != Manifest("a", tuple(files[1:])).content_digest


def test_versions_are_the_same_by_their_files_and_configuration() -> None:
    first = manifest()
    assert first.identity == manifest(tags={"a": "b"}, lineage=Lineage(author="x")).identity
    others = [manifest("other"), manifest(config_text=""), manifest(config_text="max_batch_size: 1")]
    assert len({first.identity, *(other.identity for other in others)}) == 4


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/etc/passwd",
        "..",
        "../model.onnx",
        "a/../b",
        "a/..",
        "./a",
        "a//b",
        "a/",
        ".hidden",
        "a/.git/config",
        "a\\b",
        "C:\\a",
        "a\nb",
        "a\0b",
        "\u202egnp.onnx",
        "e\u0301",
        "\ud800",
        " a",
        "a ",
        "x" * 256,
        "/".join("abcdefghij"),
        "a/" * 600 + "b",
    ],
)
def test_a_path_that_leaves_the_folder_or_is_odd_is_refused(path: str) -> None:
    with pytest.raises(UnsafePath):
        check_path(path)
    with pytest.raises(UnsafePath):
        Manifest("fraud", (FileEntry(path, "0" * 64, 1),))


@pytest.mark.parametrize(
    "path", ["model.onnx", "weights/layer 1.bin", "onnx__MatMul_12", "é.txt", "a/b/c/d/e/f/g/h/i", "x" * 255, "a..b"]
)
def test_a_plain_path_is_taken(path: str) -> None:
    assert check_path(path) == path


GOOD: dict[str, Any] = json.loads(manifest(tags={"a": "b"}, metrics={"auc": 0.9}).to_json())


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"model": "../x"}, "model"),
        ({"model": 7}, "model"),
        ({"format": "pickle"}, "format"),
        ({"files": []}, "files"),
        ({"files": {}}, "files"),
        ({"files": [7]}, "files"),
        ({"files": [{"path": "a", "sha256": "0" * 64}]}, "files"),
        ({"files": [{"path": "a", "sha256": "0" * 64, "size": 1, "mode": 4}]}, "files.mode"),
        ({"files": [{"path": "a", "sha256": "0" * 63, "size": 1}]}, "files.sha256"),
        ({"files": [{"path": "a", "sha256": "A" * 64, "size": 1}]}, "files.sha256"),
        ({"files": [{"path": "a", "sha256": None, "size": 1}]}, "files.sha256"),
        ({"files": [{"path": "a", "sha256": "0" * 64, "size": -1}]}, "files.size"),
        ({"files": [{"path": "a", "sha256": "0" * 64, "size": True}]}, "files.size"),
        ({"files": [{"path": "a", "sha256": "0" * 64, "size": 1.5}]}, "files.size"),
        ({"files": [{"path": 7, "sha256": "0" * 64, "size": 1}]}, "files.path"),
        ({"files": [{"path": "a", "sha256": "0" * 64, "size": 1}] * 2}, "files.path"),
        (
            {"files": [{"path": path, "sha256": "0" * 64, "size": 1} for path in ("a", "a/b")]},
            "files.path",
        ),
        ({"inputs": [{"name": "x", "datatype": "FP32", "shape": "ab"}]}, "inputs.shape"),
        ({"inputs": [{"name": "x", "datatype": "FP32", "shape": [-2]}]}, "inputs.shape"),
        ({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1] * 17}]}, "inputs.shape"),
        ({"inputs": [{"name": 1, "datatype": "FP32", "shape": []}]}, "inputs.name"),
        ({"outputs": [{"name": "x", "datatype": "FP32", "shape": []}] * 2}, "outputs"),
        ({"operators": {"Add": -1}}, "operators"),
        ({"operators": []}, "operators"),
        ({"opset": "17"}, "opset"),
        ({"config_text": 1}, "config_text"),
        ({"tags": {"a": 1}}, "tags"),
        ({"metrics": {"a": "1"}}, "metrics"),
        ({"lineage": {"git_dirty": "yes"}}, "lineage.git_dirty"),
        ({"lineage": {"git_commit": 1}}, "lineage.git_commit"),
        ({"lineage": {"created_at": "yesterday"}}, "lineage.created_at"),
        ({"lineage": {"created_at": "2026-01-01T00:00:00+02:00"}}, "lineage.created_at"),
        ({"lineage": {"colour": "red"}}, "lineage.colour"),
        ({"signature": "x"}, "signature"),
    ],
)
def test_a_strange_field_is_named(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidManifest) as error:
        Manifest.from_json(json.dumps(GOOD | changes))
    assert error.value.field == field


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "7",
        "{",
        '{"model": NaN}',
        '{"model": "a", "model": "b"}',
        "[" * 100_000,
        b"\xff\xfe",
        json.dumps(GOOD).replace("0.9", "1e999"),
        " " * (5 << 20),
    ],
)
def test_what_is_no_manifest_is_refused(text: str | bytes) -> None:
    with pytest.raises(InvalidManifest):
        Manifest.from_json(text)


@given(st.data())
def test_no_change_of_a_manifest_gets_past_its_checks_unnoticed(data: st.DataObject) -> None:
    plain = json.loads(json.dumps(GOOD))
    name = data.draw(st.sampled_from(sorted(plain)))
    plain[name] = data.draw(JSON)
    try:
        value = Manifest.from_json(json.dumps(plain))
    except ArtifactRefused:
        return
    assert Manifest.from_json(value.to_json()) == value


def test_what_a_manifest_holds_cannot_be_changed() -> None:
    tags = {"a": "b"}
    value = manifest(tags=tags)
    tags["a"] = "c"
    assert value.tags == {"a": "b"}
    with pytest.raises(TypeError):
        value.tags["a"] = "c"  # type: ignore[index]


def test_fields_that_came_later_leave_the_digests_of_older_manifests_alone() -> None:
    older = manifest("a", lineage=Lineage(source="model.onnx"))
    assert "converter" not in older.to_json()
    assert Manifest.from_json(older.to_json()).digest == older.digest
    newer = manifest("a", lineage=Lineage(source="m.skops", source_sha256="0" * 64, converter="skl2onnx 1.20.0"))
    assert Manifest.from_json(newer.to_json()) == newer
    assert newer.identity == older.identity
