"""The same sentences for every place that versions come from, each on the real thing."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fake_mlflow import fake_mlflow
from mlflow_server import MlflowServer, mlflow_server
from source_places import CatalogPlace, DirectoryPlace, Gateway, MlflowPlace, ObjectsPlace, Place

from registry.artifacts import LocalArtifacts
from registry.errors import SourceUnavailable
from registry.object_artifacts import ObjectArtifacts

ONE, TWO = {"model.onnx": b"one", "weights/0.bin": b"w1"}, {"model.onnx": b"two"}
# Installing and starting an MLflow server takes minutes: `make test-heavy`.
MLFLOW = pytest.param("mlflow", marks=[pytest.mark.heavy, pytest.mark.timeout(400)])
REMOTE = ["catalog, SQLite and a folder", "catalog, PostgreSQL and S3", "bucket", "mlflow, faked", MLFLOW]
Start = Callable[..., Gateway]


@pytest.fixture(scope="module")
def mlflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    with mlflow_server(tmp_path_factory.mktemp("mlflow")) as server:
        yield server


def made(kind: str, request: pytest.FixtureRequest, folder: Path) -> Iterator[Place]:
    match kind:
        case "directory":
            yield DirectoryPlace(folder)
        case "catalog, SQLite and a folder":
            place = CatalogPlace(f"sqlite:///{folder}/catalog.db", LocalArtifacts(folder / "artifacts"), folder)
            with contextlib.closing(place):
                yield place
        case "catalog, PostgreSQL and S3":
            s3, postgresql = request.getfixturevalue("s3"), request.getfixturevalue("postgresql")
            store = ObjectArtifacts(f"{s3.bucket_url()}/artifacts", options=s3.options)
            with contextlib.closing(CatalogPlace(postgresql.database_url(), store, folder, postgresql, s3)) as place:
                yield place
        case "bucket":
            yield ObjectsPlace(request.getfixturevalue("s3"))
        case "mlflow, faked":
            with fake_mlflow() as server:
                yield MlflowPlace(server)
        case _:
            yield MlflowPlace(request.getfixturevalue("mlflow"))


@pytest.fixture(params=["directory", *REMOTE])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """Any source."""
    yield from made(request.param, request, tmp_path)


@pytest.fixture(params=REMOTE)
def remote(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """Any source whose versions are brought here."""
    yield from made(request.param, request, tmp_path)


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Starts a gateway; the next one is the same after a restart, on the same disk."""
    monkeypatch.setattr("registry.object_artifacts.RETRY_SECONDS", 1)
    started: list[Gateway] = []

    def start(place: Place, **limits: int) -> Gateway:
        for before in started:
            before.close()
        started.append(Gateway(place, tmp_path / "gateway", **limits))
        return started[-1]

    yield start
    for each in started:
        each.close()


def test_a_new_version_appears(place: Place, start: Start):
    place.publish(1, ONE)
    gateway = start(place)
    assert gateway.look() == {1: ONE}
    place.publish(2, TWO)
    assert gateway.look() == {2: TWO}
    assert gateway.reasons == ""


def test_a_choice_is_followed_forth_and_back(place: Place, start: Start):
    place.publish(1, ONE)
    place.publish(2, TWO)
    place.choose(1)
    gateway = start(place)
    for version, files in ((1, ONE), (2, TWO), (1, ONE)):
        place.choose(version)
        assert gateway.look() == {version: files}


def test_a_version_that_is_withdrawn_gives_way_to_the_one_before(place: Place, start: Start):
    place.publish(1, ONE)
    place.publish(2, TWO)
    gateway = start(place)
    assert gateway.look() == {2: TWO}
    place.withdraw(2)
    assert gateway.look() == {1: ONE}


def test_a_source_that_is_down_changes_nothing_and_is_followed_when_it_is_back(place: Place, start: Start):
    place.publish(1, ONE)
    gateway = start(place)
    assert gateway.look() == {1: ONE}
    place.stop()
    try:
        with pytest.raises(SourceUnavailable) as told:
            gateway.look()
        assert "secret" not in str(told.value)
        assert gateway.versions == [1]
    finally:
        place.start()
    place.publish(2, TWO)
    assert gateway.look() == {2: TWO}


def test_a_gateway_restarts_from_its_cache_with_everything_down(remote: Place, start: Start):
    remote.publish(1, ONE)
    assert start(remote).look() == {1: ONE}
    remote.stop()
    try:
        gateway = start(remote)
        with pytest.raises(SourceUnavailable):
            gateway.look()  # the first scan shows what was served last, the second that nobody answers
        assert gateway.versions == [1]
        assert "served from the cache" in gateway.reasons
        assert not gateway.source.health().is_reachable
    finally:
        remote.start()
    remote.publish(2, TWO)
    assert gateway.look() == {2: TWO}


@pytest.mark.parametrize("is_restarted", [False, True], ids=["running", "restarted"])
def test_other_bytes_under_the_same_version_are_refused_reported_and_counted(
    remote: Place, start: Start, is_restarted: bool
):
    remote.publish(1, ONE)
    gateway = start(remote)
    assert gateway.look() == {1: ONE}
    remote.rewrite(1, "model.onnx", b"2wo")
    gateway.forget_bytes(1)
    if is_restarted:
        gateway = start(remote)
    gateway.look()
    assert "should have digest" in gateway.reasons or "the source changed what it is" in gateway.reasons
    assert gateway.source.health().counts["lies"] >= 1
    assert gateway.versions == ([] if is_restarted else [1]), "what is loaded stays; what is not is not loaded"
    remote.rewrite(1, "model.onnx", ONE["model.onnx"])
    gateway = start(remote)
    assert gateway.look() == {1: ONE}


def test_a_version_that_lies_leaves_the_one_before_it_served(remote: Place, start: Start):
    remote.publish(1, ONE)
    remote.publish(2, TWO)
    remote.choose(2)
    gateway = start(remote)
    assert gateway.look() == {2: TWO}
    remote.choose(1)
    assert gateway.look() == {1: ONE}
    remote.rewrite(2, "model.onnx", b"3wo")
    gateway.forget_bytes(2)
    remote.choose(2)
    assert gateway.look() == {1: ONE}
    assert gateway.source.health().counts["lies"] >= 1


@pytest.mark.parametrize("limits", [{"max_files": 1}, {"max_version_bytes": 4}], ids=["files", "bytes"])
def test_too_much_is_refused_before_it_is_written(remote: Place, start: Start, tmp_path: Path, limits: dict[str, int]):
    remote.publish(1, ONE)
    gateway = start(remote, **limits)
    assert gateway.look() == {}
    assert "at most" in gateway.reasons
    assert gateway.source.health().counts["refused"] >= 1
    assert [path for path in (tmp_path / "gateway/cache/objects").rglob("*") if path.is_file()] == []
