"""A corpus of hostile artifacts, by every way in: each is refused by a named error, and nothing is written outside."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hostile
import models
import obstore
import pytest
from cache_house import FakeStore, contents, sha256
from hostile import HOSTILE
from live_plane import LivePlane
from manifests import manifest
from s3_server import S3Server

import registry.conversion
from gateway.cli.conversion import converted
from gateway.registry_sources import chosen_by_config
from registry import errors
from registry.artifacts import LocalArtifacts
from registry.cache import CacheLimits, ContentCache
from registry.catalog import Catalog
from registry.errors import (
    ArtifactRefused,
    ConversionFailed,
    InvalidModel,
    LimitExceeded,
    LinkRefused,
    NotFound,
    UnsafeFormat,
    UnsupportedFormat,
)
from registry.ledger import Ledger
from registry.lineage import Lineage
from registry.manifest import canonical_json
from registry.model_folder import read_model_folder
from registry.object_artifacts import open_bucket
from registry.publish import push
from registry.sources.catalog import CatalogSource
from registry.sources.object_store import ObjectStoreSource

ROOT = "/api/v1/registry"
CORPUS = pytest.mark.parametrize(
    ("make", "error"), HOSTILE, ids=[f"{number} {make.__name__}" for number, (make, _) in enumerate(HOSTILE)]
)

# What cannot be sent as a file: links and the like, names that JSON has no letters for, gigabytes, nothing at all.
NO_FILES = {
    hostile.linked_file, hostile.linked_model, hostile.pipe, hostile.unix_socket, hostile.undecodable_name,
    hostile.sparse_giant, hostile.giant_model, hostile.empty,
}  # fmt: skip


def tree(folder: Path) -> dict[str, tuple[int, int]]:
    """Everything below a folder, with sizes and times of change."""
    found = {}
    for path in folder.rglob("*"):
        status = path.lstat()
        found[str(path.relative_to(folder))] = (status.st_size, status.st_mtime_ns)
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "outside" / "model"
    folder.mkdir(parents=True)
    return folder


@CORPUS
def test_a_push_refuses_it_by_name_and_stores_nothing(
    tmp_path: Path, folder: Path, make: Callable[[Path], None], error: type[ArtifactRefused]
) -> None:
    make(folder)
    before = tree(tmp_path / "outside")
    data = tmp_path / "data"
    data.mkdir()
    with contextlib.closing(Catalog(f"sqlite:///{data / 'catalog.db'}")) as catalog:
        with pytest.raises(ArtifactRefused) as refused:
            push(catalog, LocalArtifacts(data / "artifacts"), folder, "m", actor="mallory", lineage=Lineage())
        assert type(refused.value) in (error, UnsafeFormat), refused.value
        assert type(refused.value).__name__ in vars(errors)
        with pytest.raises(NotFound):
            catalog.model("m")
    assert {path.name.partition("-")[0] for path in data.iterdir()} <= {"catalog.db"}
    assert tree(tmp_path / "outside") == before


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[LivePlane]:
    data = tmp_path / "data"
    data.mkdir()
    with LivePlane(data, max_bytes=16 << 20).running() as plane:
        yield plane


def send(plane: LivePlane, files: dict[str, bytes]) -> tuple[int, Any]:
    """As a client that checks nothing sends files."""
    entries = []
    for path, data in files.items():
        digest = hashlib.sha256(data).hexdigest()
        status, answer, _ = plane.ask("PUT", f"{ROOT}/objects/{digest}", body=data)
        assert status in (200, 201), answer
        entries.append({"path": path, "sha256": digest, "size": len(data)})
    status, answer, _ = plane.ask("POST", f"{ROOT}/models/m/versions", {"files": entries})
    return status, answer


def is_published(plane: LivePlane) -> bool:
    return plane.ask("GET", f"{ROOT}/models/m/versions")[0] != 404


@pytest.mark.parametrize("make", [make for make, _ in HOSTILE if make not in NO_FILES])
def test_a_gateway_that_is_sent_it_refuses_it_and_goes_on(
    tmp_path: Path, folder: Path, plane: LivePlane, make: Callable[[Path], None]
) -> None:
    make(folder)
    before = tree(tmp_path / "outside")
    status, problem = send(plane, contents(folder))
    assert 400 <= status < 500, problem
    assert problem["type"].startswith("urn:sluice:problem:")
    assert problem["detail"]
    assert not is_published(plane)
    assert plane.ask("GET", f"{ROOT}/models")[0] == 200
    assert list((plane.data_dir / "uploads").iterdir()) == [], "nothing of it is left in the work folder"
    assert tree(tmp_path / "outside") == before


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("../model.onnx", "artifact-refused"),
        ("/etc/cron.d/x", "artifact-refused"),
        ("a/../../x", "artifact-refused"),
        (".ssh/authorized_keys", "artifact-refused"),
        ("a\\..\\x", "artifact-refused"),
        ("a/" * 20 + "x", "artifact-refused"),
        ("x" * 300, "artifact-refused"),
        ("a//x", "artifact-refused"),
        ("", "artifact-refused"),
        ("a\x00b", "invalid-request"),
    ],
)
def test_a_manifest_with_a_path_that_leads_out_is_refused(plane: LivePlane, path: str, kind: str) -> None:
    before = tree(plane.data_dir.parent)
    model = models.tabular().SerializeToString()
    status, problem = send(plane, {"model.onnx": model, path: b"owned"})
    assert status in (400, 422)
    assert problem["type"] == f"urn:sluice:problem:{kind}"
    assert not is_published(plane)
    made = tree(plane.data_dir.parent).keys() - before.keys()
    assert all(name.startswith(("data/artifacts", "data/uploads", "data/catalog.db")) for name in made), made


def test_wrong_digests_and_sizes_are_refused(plane: LivePlane) -> None:
    model = models.tabular().SerializeToString()
    digest = hashlib.sha256(model).hexdigest()
    status, problem, _ = plane.ask("PUT", f"{ROOT}/objects/{'0' * 64}", body=model)
    assert (status, problem["type"]) == (422, "urn:sluice:problem:digest-mismatch")
    assert plane.ask("PUT", f"{ROOT}/objects/{digest}", body=model)[0] == 201
    for size in (len(model) - 1, len(model) + 1):
        entry = {"path": "model.onnx", "sha256": digest, "size": size}
        status, problem, _ = plane.ask("POST", f"{ROOT}/models/m/versions", {"files": [entry]})
        assert (status, problem["type"]) == (422, "urn:sluice:problem:digest-mismatch")
    assert not is_published(plane)


# What is converted before it is published

FORGED_SCHEMA = json.dumps(
    {"__class__": "system", "__module__": "os", "__loader__": "FunctionNode", "content": "os.system"}
).encode()


@pytest.mark.parametrize(
    ("name", "content", "error"),
    [
        ("model.skops", hostile.archive({"schema.json": b"{}"}), ConversionFailed),
        ("model.skops", hostile.archive({"schema.json": b"[" * 100_000}), ConversionFailed),
        ("model.skops", hostile.archive({"schema.json": b"{}", "../../escape": b"x"}), ConversionFailed),
        ("model.skops", hostile.archive({"schema.json": FORGED_SCHEMA}), ArtifactRefused),
        ("model.skops", b"PK\x03\x04" + b"\0" * 100, UnsupportedFormat),
        ("model.pt2", hostile.archive({"m/data.pkl": b"cos\nsystem\n(S'id'\ntR."}), ConversionFailed),
        ("model.pt", hostile.archive({"m/data.pkl": b"x"}), UnsafeFormat),
        ("model.skops", hostile.archive({"data.pkl": b"x"}), UnsafeFormat),
        ("lightgbm.txt", b"tree\nversion=v4\nnum_class=99999999999\n", ConversionFailed),
        ("lightgbm.txt", b"tree\nversion=v4\n" + b"\xff" * 10_000, ConversionFailed),
        ("xgboost.json", b'{"learner": {"gradient_booster": ' + b"[" * 50_000, ConversionFailed),
        ("xgboost.json", b'{"learner": {}}', ConversionFailed),
        ("xgboost.ubj", b"{L\0\0\0\0\0\0\0\x07learner{L\x7f\xff\xff\xff\xff\xff\xff\xff", ConversionFailed),
        ("model.onnx", hostile.archive({"schema.json": b"{}"}), ConversionFailed),
    ],
)
def test_a_source_that_is_forged_is_refused_by_name_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: bytes, error: type[ArtifactRefused]
) -> None:
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(work))
    source = tmp_path / "outside" / name
    source.parent.mkdir()
    source.write_bytes(content)
    before = tree(source.parent)
    with pytest.raises(ArtifactRefused) as refused, converted(source) as found:
        read_model_folder(found.path)
    assert isinstance(refused.value, error), refused.value
    assert type(refused.value).__name__ in vars(errors)
    assert tree(source.parent) == before
    assert list(work.iterdir()) == []


def test_an_archive_that_unpacks_to_too_much_is_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry.conversion, "MAX_SOURCE_BYTES", 256 << 20)
    source = tmp_path / "model.skops"
    source.write_bytes(hostile.bomb("schema.json", 300 << 20))
    assert source.stat().st_size < 4 << 20
    with pytest.raises(LimitExceeded) as refused, converted(source):
        pass
    assert refused.value.what == "bytes when unpacked"


def test_an_archive_of_very_many_files_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry.conversion, "MAX_ARCHIVE_FILES", 100)
    source = tmp_path / "model.skops"
    source.write_bytes(hostile.archive({"schema.json": b"{}"} | {str(number): b"" for number in range(101)}))
    with pytest.raises(LimitExceeded) as refused, converted(source):
        pass
    assert refused.value.what == "files in the archive"


@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_a_source_that_is_no_plain_file_is_refused(tmp_path: Path, kind: str) -> None:
    source = tmp_path / "model.skops"
    if kind == "link":
        source.symlink_to("/etc/passwd")
    else:
        os.mkfifo(source)
    with pytest.raises(LinkRefused), converted(source):
        pass


# What is pulled from a source


class Pull:
    """A catalog that somebody forged, and a gateway's view of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.database = folder / "catalog.db"
        self.catalog = Catalog(f"sqlite:///{self.database}")
        self.store = FakeStore()
        self.publish("good")
        cache = ContentCache(folder / "cache", CacheLimits(max_version_bytes=1000, max_files=8))
        self.source = CatalogSource(
            "the catalog", lambda: Catalog(f"sqlite:///{self.database}"), lambda: self.store, cache,
            Ledger(cache.root / "ledger", "it"), lambda *_: True, patience=10.0,
        )  # fmt: skip
        self.source.open()
        assert sorted(self.source.scan().models["fraud"].versions) == [1]

    def publish(self, words: str) -> None:
        self.store.objects[sha256(words.encode())] = words.encode()
        self.catalog.add_version(manifest(words, "fraud"), "ann")

    def forge(self, files: list[dict[str, Any]]) -> None:
        """Writes another manifest, with a digest that fits, over that of a new version."""
        self.publish("second")
        with contextlib.closing(sqlite3.connect(self.database)) as database:
            (text,) = database.execute("select manifest from versions where version = 2").fetchone()
            forged = canonical_json({**json.loads(text), "files": files})
            digest = hashlib.sha256(forged.encode()).hexdigest()
            database.execute("update versions set manifest = ?, digest = ? where version = 2", (forged, digest))
            database.commit()

    def close(self) -> None:
        self.source.close()
        self.catalog.close()


@pytest.fixture
def pull(tmp_path: Path) -> Iterator[Pull]:
    pull = Pull(tmp_path)
    yield pull
    pull.close()


ENTRY = {"path": "model.onnx", "sha256": sha256(b"second"), "size": 6}


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ([ENTRY, {**ENTRY, "path": "../../escape"}], "hidden or relative component"),
        ([{**ENTRY, "path": "/etc/cron.d/x"}], "absolute"),
        ([{**ENTRY, "path": "a\\b"}], "backslash"),
        ([ENTRY, {**ENTRY, "path": "model.onnx/x"}], "a path is a file and a folder"),
        ([ENTRY, ENTRY], "occurs twice"),
        ([{**ENTRY, "size": 1 << 40}], "at most 1000"),
        ([{**ENTRY, "path": f"{number}.bin"} for number in range(9)], "at most 8"),
        ([{**ENTRY, "size": 5}], "digest"),
        ([{**ENTRY, "sha256": sha256(b"other")}], "is not there"),
        ([{**ENTRY, "sha256": "../../../etc/passwd"}], "hexadecimal"),
        ([{**ENTRY, "mode": 0o4755}], "unknown"),
        ([], "files"),
    ],
)
def test_a_forged_manifest_brings_nothing_here_and_what_serves_stays(
    pull: Pull, files: list[dict[str, Any]], said: str
) -> None:
    pull.forge(files)
    before = tree(pull.folder)
    snapshot = pull.source.scan()
    assert sorted(snapshot.models["fraud"].versions) == [1]
    told = "; ".join(f"{problem.path}: {problem.reason}" for problem in snapshot.problems)
    assert said in told, told
    made = {name for name in tree(pull.folder).keys() - before.keys() if not name.startswith("catalog.db")}
    assert all(name.startswith("cache/") for name in made), made
    assert not list((pull.folder / "cache").rglob("escape"))


def test_a_store_with_other_bytes_under_a_digest_is_refused_and_what_serves_stays(pull: Pull) -> None:
    pull.publish("second")
    pull.store.objects[sha256(b"second")] = b"pwnd!!"
    snapshot = pull.source.scan()
    assert sorted(snapshot.models["fraud"].versions) == [1]
    assert "pwnd" not in str(contents(pull.folder / "cache" / "versions"))


@pytest.mark.parametrize("name", ["..%2F..%2Fescape", ".hidden", "a\\b"])
def test_a_bucket_with_names_that_lead_out_brings_nothing_here(s3: S3Server, tmp_path: Path, name: str) -> None:
    url = f"{s3.bucket_url()}/models"
    client = open_bucket(url, url, dict(s3.options))
    model = models.tabular().SerializeToString()
    for key in ("fraud/1/model.onnx", "fraud/2/model.onnx", f"fraud/2/{name}"):
        obstore.put(client, key, model)
    cache = ContentCache(tmp_path / "cache", CacheLimits())
    source = ObjectStoreSource(
        url, lambda: open_bucket(url, url, dict(s3.options)), cache, Ledger(cache.root / "ledger", url),
        chosen_by_config, settle_seconds=0.0, patience=30.0, answer_seconds=30.0,
    )  # fmt: skip
    source.open()
    try:
        snapshot = source.scan()
    finally:
        source.close()
    assert 2 not in snapshot.models["fraud"].versions
    assert any("refused" in problem.reason for problem in snapshot.problems)
    assert {path.name for path in tmp_path.iterdir()} == {"cache"}


def test_what_is_refused_by_name_has_a_sentence_of_its_own() -> None:
    from gateway.admin.problems import from_error

    made = InvalidModel("model.onnx", "has no graph")
    assert from_error(made).detail == "model.onnx is no valid ONNX model: has no graph"
    for kind in ArtifactRefused.__subclasses__():
        arguments = kind.__init__.__code__.co_varnames[1 : kind.__init__.__code__.co_argcount]
        problem = from_error(kind(*("x" for _ in arguments)))
        assert problem.status < 500, kind
        assert problem.detail != "the files are refused", kind
