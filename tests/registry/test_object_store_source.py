"""What a gateway sees of a model repository in a bucket, on a server that speaks S3."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import obstore
import pytest
from cache_house import contents, sha256
from s3_server import S3Server

from gateway.registry_sources import chosen_by_config
from registry.cache import CacheLimits, ContentCache
from registry.errors import SourceUnavailable
from registry.ledger import Ledger
from registry.object_artifacts import open_bucket
from registry.sources import Snapshot
from registry.sources.object_store import SETTLE_SECONDS, ObjectStoreSource
from registry.sources.settling import Settling


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Bucket:
    """A prefix of a bucket, and gateways' views of it."""

    def __init__(self, server: S3Server, folder: Path, prefix: str = "models") -> None:
        self.server, self.folder = server, folder
        self.url = f"{server.bucket_url()}/{prefix}".rstrip("/")
        self.client = open_bucket(self.url, self.url, dict(server.options))
        self.clock = Clock()
        self.sources: list[ObjectStoreSource] = []

    def put(self, files: Mapping[str, str]) -> None:
        for path, text in files.items():
            obstore.put(self.client, path, text.encode())

    def start(self, settle_seconds: float = 0.0, **limits: int) -> ObjectStoreSource:
        cache = ContentCache(self.folder / "cache", CacheLimits(**limits))
        source = ObjectStoreSource(
            self.url, lambda: open_bucket(self.url, self.url, dict(self.server.options)), cache,
            Ledger(cache.root / "ledger", self.url), chosen_by_config, settle_seconds=settle_seconds, patience=30.0,
            answer_seconds=30.0, clock=self.clock,
        )  # fmt: skip
        source.open()
        self.sources.append(source)
        return source

    def close(self) -> None:
        for source in self.sources:
            source.close()


@pytest.fixture
def bucket(s3: S3Server, tmp_path: Path) -> Iterator[Bucket]:
    bucket = Bucket(s3, tmp_path)
    yield bucket
    bucket.close()


def listed(snapshot: Snapshot, model: str) -> dict[int, dict[str, bytes]]:
    return {version: contents(each.path) for version, each in snapshot.models[model].versions.items()}


def reasons(snapshot: Snapshot) -> str:
    return "; ".join(f"{problem.path}: {problem.reason}" for problem in snapshot.problems)


def test_models_versions_and_configurations_are_found(bucket: Bucket):
    bucket.put({
        "a/1/model.onnx": "a1", "a/12/model.onnx": "a12", "a/12/weights/0.bin": "w", "b/3/model.onnx": "b3",
        "a/config.pbtxt": "version_policy { all {} }", "README.md": "of nobody",
    })  # fmt: skip
    snapshot = bucket.start().scan()
    assert listed(snapshot, "a") == {1: {"model.onnx": b"a1"}, 12: {"model.onnx": b"a12", "weights/0.bin": b"w"}}
    assert listed(snapshot, "b") == {3: {"model.onnx": b"b3"}}
    assert snapshot.models["a"].config == b"version_policy { all {} }"
    assert snapshot.models["a"].versions[1].digests == {"model.onnx": sha256(b"a1")}
    assert not snapshot.models["a"].is_chosen, "the version policy in its configuration decides"
    assert snapshot.problems == ()


def test_only_versions_that_the_policy_wants_are_brought_here(bucket: Bucket):
    bucket.put({f"a/{version}/model.onnx": f"{version}" for version in (1, 2, 3)})
    assert list(bucket.start().scan().models["a"].versions) == [3]


def test_labels_and_warm_up_data_come_along_and_may_change(bucket: Bucket):
    bucket.put({"a/1/model.onnx": "a1", "a/labels.txt": "one", "a/warmup/x.bin": "x", "a/notes/any.txt": "no"})
    source = bucket.start()
    model = source.scan().models["a"]
    assert [stamp.path for stamp in model.companions] == ["labels.txt", "warmup/x.bin"]
    assert (model.path / "labels.txt").read_bytes() == b"one"
    bucket.put({"a/labels.txt": "two"})
    after = source.scan().models["a"]
    assert (after.path / "labels.txt").read_bytes() == b"two"
    assert after.versions == model.versions


def test_an_unchanged_bucket_is_the_same_snapshot(bucket: Bucket):
    bucket.put({"a/1/model.onnx": "a1"})
    source = bucket.start()
    assert source.scan() is source.scan()


def test_a_new_version_is_taken_when_its_upload_has_held_still(bucket: Bucket):
    bucket.put({"a/1/model.onnx": "a1"})
    source = bucket.start(SETTLE_SECONDS)
    assert listed(source.scan(), "a") == {}
    bucket.clock.now += SETTLE_SECONDS
    assert listed(source.scan(), "a") == {1: {"model.onnx": b"a1"}}
    bucket.put({"a/2/model.onnx": "a2"})
    snapshot = source.scan()
    assert list(snapshot.models["a"].versions) == [1]
    assert "still being uploaded" in reasons(snapshot)
    bucket.clock.now += SETTLE_SECONDS / 2
    bucket.put({"a/2/weights.bin": "w2"})
    source.scan()
    bucket.clock.now += SETTLE_SECONDS / 2
    assert list(source.scan().models["a"].versions) == [1]
    bucket.clock.now += SETTLE_SECONDS / 2
    assert listed(source.scan(), "a") == {2: {"model.onnx": b"a2", "weights.bin": b"w2"}}


def test_a_known_version_is_there_at_once_after_a_restart(bucket: Bucket):
    bucket.put({"a/1/model.onnx": "a1"})
    bucket.start().scan()
    assert list(bucket.start(SETTLE_SECONDS).scan().models["a"].versions) == [1]


@pytest.mark.parametrize("is_restarted", [False, True])
def test_other_bytes_under_the_same_version_are_refused_and_the_first_stay(bucket: Bucket, is_restarted: bool):
    bucket.put({"a/1/model.onnx": "a1"})
    source = bucket.start()
    source.scan()
    bucket.put({"a/1/model.onnx": "changed"})
    snapshot = (bucket.start() if is_restarted else source).scan()
    assert listed(snapshot, "a") == {1: {"model.onnx": b"a1"}}
    assert "the source changed what it is" in reasons(snapshot)
    assert bucket.sources[-1].health().counts["lies"] == 1


def test_what_was_evicted_must_come_back_with_the_digests_that_it_had(bucket: Bucket):
    bucket.put({"a/1/model.onnx": "a1"})
    source = bucket.start()
    source.scan()
    bucket.put({"a/2/model.onnx": "a2"})
    source.scan()
    source.cache.discard(tuple(source.replica._pinned["a", 1].files))
    bucket.put({"a/config.pbtxt": "version_policy { specific { versions: 1 } }"})
    assert listed(source.scan(), "a") == {1: {"model.onnx": b"a1"}}


@pytest.mark.parametrize("key", ["a/1/..%2Fx", "a/1/b\\c", "a/1/.hidden", "a/1/" + "x/" * 12 + "x"])
def test_names_that_no_file_may_have_are_refused_and_nothing_is_written(bucket: Bucket, key: str):
    bucket.put({"a/1/model.onnx": "a1", "b/1/model.onnx": "b1"})
    before = bucket.start().scan()
    bucket.put({key.replace("a/1/", "a/2/"): "odd", "a/2/model.onnx": "a2"})
    snapshot = bucket.start().scan()
    assert snapshot.models == before.models
    assert "refused" in reasons(snapshot)


def test_a_configuration_that_cannot_be_read_is_passed_on_as_it_is(bucket: Bucket):
    bucket.put({"a/1/model.onnx": "a1", "a/config.pbtxt": "nonsense ]["})
    assert bucket.start().scan().models["a"].config == b"nonsense ]["


def test_an_empty_bucket_holds_no_model(bucket: Bucket):
    assert bucket.start().scan().models == {}


def test_a_bucket_that_is_suddenly_empty_is_not_believed(bucket: Bucket):
    bucket.put({"a/1/model.onnx": "a1"})
    source = bucket.start()
    source.scan()
    obstore.delete(bucket.client, "a/1/model.onnx")
    with pytest.raises(SourceUnavailable, match="no model any more"):
        source.scan()


def test_a_model_that_is_gone_is_not_listed(bucket: Bucket):
    bucket.put({"a/1/model.onnx": "a1", "b/1/model.onnx": "b1"})
    source = bucket.start()
    source.scan()
    obstore.delete(bucket.client, "a/1/model.onnx")
    assert list(source.scan().models) == ["b"]


def test_what_the_source_forgets_settling_keeps_on_trying(bucket: Bucket):
    bucket.put({"a/1/model.onnx": "a1"})
    settling = Settling()
    believed = settling.observe(bucket.start().scan())
    assert settling.is_settled
    assert list(believed.models) == ["a"]


def test_a_bucket_that_pachyderm_serves_has_the_repositorys_own_folders(s3: S3Server, tmp_path: Path):
    """Its gateway names buckets `branch.repository.project`, or with a commit in front, and has no prefix."""
    bucket = Bucket(s3, tmp_path, prefix="")
    bucket.put({"fraud/1/model.onnx": "f1"})
    try:
        assert listed(bucket.start().scan(), "fraud") == {1: {"model.onnx": b"f1"}}
    finally:
        bucket.close()


def test_a_version_aware_dvc_remote_has_the_repositorys_own_folders(s3: S3Server, tmp_path: Path):
    """Files lie under the names that they have in the workspace, beside whatever else is tracked."""
    remote = Bucket(s3, tmp_path, prefix="dvc")
    remote.put({"repository/fraud/1/model.onnx": "f1", "repository/fraud/1/weights.bin": "w", "data/train.csv": "1,2"})
    remote.url += "/repository"
    try:
        assert listed(remote.start().scan(), "fraud") == {1: {"model.onnx": b"f1", "weights.bin": b"w"}}
    finally:
        remote.close()
