from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from s3_server import S3Server

import registry.artifacts
from registry.artifacts import ArtifactStore, LocalArtifacts, Pace, hash_file, open_store, receive
from registry.errors import ChangedWhileRead, DigestMismatch, LinkRefused, NotFound, StoreUnavailable
from registry.object_artifacts import ObjectArtifacts

ABSENT = "0" * 64
MIB = 1 << 20


@pytest.fixture
def write(tmp_path: Path) -> Callable[[bytes], tuple[Path, str]]:
    def write(data: bytes) -> tuple[Path, str]:
        path = tmp_path / "source" / hashlib.sha256(data).hexdigest()[:12]
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
        return path, hashlib.sha256(data).hexdigest()

    return write


Write = Callable[[bytes], tuple[Path, str]]


@pytest.mark.parametrize("size", [0, 1, 3 * MIB + 1, 11 * MIB])
def test_what_is_put_is_fetched_and_read(store: ArtifactStore, write: Write, tmp_path: Path, size: int) -> None:
    data = os.urandom(size)
    path, sha256 = write(data)
    assert not store.has(sha256)
    assert store.put(path, sha256)
    assert store.has(sha256)
    store.fetch(sha256, size, tmp_path / "to" / "file")
    assert (tmp_path / "to" / "file").read_bytes() == data
    assert os.listdir(tmp_path / "to") == ["file"]
    with store.open(sha256) as reader:
        assert reader.read() == data


def test_equal_files_are_stored_once(store: ArtifactStore, write: Write, tmp_path: Path) -> None:
    path, sha256 = write(b"weights")
    copy = tmp_path / "copy"
    copy.write_bytes(b"weights")
    assert [store.put(path, sha256), store.put(copy, sha256)] == [True, False]
    assert [(found.sha256, found.size) for found in store.list()] == [(sha256, 7)]


@pytest.mark.parametrize("size", [10, 12 * MIB])
def test_other_bytes_than_announced_are_not_stored(store: ArtifactStore, write: Write, size: int) -> None:
    path, _ = write(os.urandom(size))
    with pytest.raises(DigestMismatch):
        store.put(path, ABSENT)
    assert not store.has(ABSENT)
    assert list(store.list()) == []


def test_other_bytes_under_a_digest_that_is_stored_are_noticed_too(store: ArtifactStore, write: Write) -> None:
    path, sha256 = write(b"weights")
    store.put(path, sha256)
    other, _ = write(b"weightz")
    with pytest.raises(DigestMismatch):
        store.put(other, sha256)


def test_only_plain_files_are_stored(store: ArtifactStore, write: Write, tmp_path: Path) -> None:
    path, sha256 = write(b"weights")
    (tmp_path / "link").symlink_to(path)
    os.mkfifo(tmp_path / "pipe")
    for odd in ("link", "pipe"):
        with pytest.raises(LinkRefused):
            store.put(tmp_path / odd, sha256)
    assert not store.has(sha256)


def test_what_is_not_there_is_not_found(store: ArtifactStore, tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        store.open(ABSENT)
    with pytest.raises(NotFound):
        store.fetch(ABSENT, 10, tmp_path / "to")
    assert not (tmp_path / "to").exists()
    for odd in ("", "../../etc/passwd", "A" * 64, "0" * 63):
        with pytest.raises(NotFound):
            store.open(odd)


def test_what_was_deleted_is_gone_and_deleting_again_is_as_good(store: ArtifactStore, write: Write) -> None:
    path, sha256 = write(b"weights")
    store.put(path, sha256)
    for _ in range(2):
        store.delete(sha256)
    assert not store.has(sha256)
    assert list(store.list()) == []


def test_a_size_that_was_announced_wrongly_leaves_nothing(store: ArtifactStore, write: Write, tmp_path: Path) -> None:
    path, sha256 = write(b"weights")
    store.put(path, sha256)
    for size in (0, 6, 8, 1 << 40):
        with pytest.raises(DigestMismatch):
            store.fetch(sha256, size, tmp_path / "to" / "file")
        assert os.listdir(tmp_path / "to") == []


def test_a_fetch_goes_on_from_what_is_there(store: ArtifactStore, write: Write, tmp_path: Path) -> None:
    data = os.urandom(3 * MIB)
    path, sha256 = write(data)
    store.put(path, sha256)
    for there in (0, 1, MIB, len(data)):
        (tmp_path / "file.part").write_bytes(data[:there])
        arrived: list[int] = []
        store.fetch(sha256, len(data), tmp_path / "file", progress=arrived.append)
        assert sum(arrived) == len(data) - there
        assert (tmp_path / "file").read_bytes() == data


@pytest.mark.parametrize("there", [b"\0" * 100, b"\0" * (2 * MIB), b"x" * (3 * MIB), b"x" * (4 * MIB)])
def test_a_damaged_beginning_is_fetched_anew(store: ArtifactStore, write: Write, tmp_path: Path, there: bytes) -> None:
    data = os.urandom(3 * MIB)
    path, sha256 = write(data)
    store.put(path, sha256)
    (tmp_path / "file.part").write_bytes(there)
    store.fetch(sha256, len(data), tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == data


def test_without_resuming_a_fetch_begins_at_the_start(store: ArtifactStore, write: Write, tmp_path: Path) -> None:
    path, sha256 = write(b"weights")
    store.put(path, sha256)
    (tmp_path / "file.part").write_bytes(b"wei")
    arrived: list[int] = []
    store.fetch(sha256, 7, tmp_path / "file", resume=False, progress=arrived.append)
    assert sum(arrived) == 7


def test_a_link_where_the_part_should_be_is_not_followed(store: ArtifactStore, write: Write, tmp_path: Path) -> None:
    path, sha256 = write(b"weights")
    store.put(path, sha256)
    (tmp_path / "victim").write_bytes(b"")
    (tmp_path / "file.part").symlink_to(tmp_path / "victim")
    with pytest.raises(OSError, match="symbolic"):
        store.fetch(sha256, 7, tmp_path / "file")
    assert (tmp_path / "victim").read_bytes() == b""


class TestLocal:
    @pytest.fixture
    def store(self, tmp_path: Path) -> LocalArtifacts:
        return LocalArtifacts(tmp_path / "artifacts")

    def test_a_damaged_object_is_noticed_and_healed_by_the_next_put(
        self, store: LocalArtifacts, write: Write, tmp_path: Path
    ) -> None:
        path, sha256 = write(b"weights")
        store.put(path, sha256)
        (stored,) = (tmp_path / "artifacts" / "objects").glob("*/*")
        os.chmod(stored, 0o644)
        stored.write_bytes(b"weightz")
        with pytest.raises(DigestMismatch):
            store.fetch(sha256, 7, tmp_path / "to")
        assert store.put(path, sha256)
        store.fetch(sha256, 7, tmp_path / "to")

    def test_objects_cannot_be_written_to(self, store: LocalArtifacts, write: Write, tmp_path: Path) -> None:
        store.put(*write(b"weights"))
        (stored,) = (tmp_path / "artifacts" / "objects").glob("*/*")
        assert stored.stat().st_mode & 0o222 == 0

    def test_a_full_disk_is_the_stores_failure_and_leaves_nothing(
        self, store: LocalArtifacts, write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(*_arguments: object) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        path, sha256 = write(b"weights")
        for step in ("_write", "sync_folder"):
            with monkeypatch.context() as patch:
                patch.setattr(registry.artifacts, step, full)
                with pytest.raises(StoreUnavailable, match="No space left"):
                    store.put(path, sha256)
            assert os.listdir(tmp_path / "artifacts" / "tmp") == []
        assert store.put(path, sha256) in (True, False)
        store.fetch(sha256, 7, tmp_path / "to")

    def test_a_place_that_cannot_be_written_to_is_unavailable(self, write: Write) -> None:
        with pytest.raises(StoreUnavailable):
            LocalArtifacts(Path("/proc/nowhere")).put(*write(b"weights"))

    def test_a_url_of_a_directory_opens_it(self, tmp_path: Path) -> None:
        for url in (str(tmp_path), f"file://{tmp_path}"):
            store = open_store(url)
            assert isinstance(store, LocalArtifacts)
            assert store.root == tmp_path

    def test_a_file_that_is_written_to_while_it_is_hashed_is_noticed(self, write: Write) -> None:
        path, _ = write(b"x" * (3 * MIB))

        def grow(_count: int) -> None:
            with open(path, "ab") as file:
                file.write(b"x")

        with pytest.raises(ChangedWhileRead):
            hash_file(path, grow)


class TestBucket:
    def test_a_server_that_is_down_is_unavailable_and_then_is_not(
        self, s3: S3Server, write: Write, tmp_path: Path
    ) -> None:
        store = ObjectArtifacts(s3.bucket_url(), options=s3.options)
        path, sha256 = write(b"weights")
        store.put(path, sha256)
        s3.stop()
        try:
            for act in (
                lambda: store.has(sha256),
                lambda: store.put(path, sha256),
                lambda: store.fetch(sha256, 7, tmp_path / "to"),
                lambda: store.delete(sha256),
                lambda: list(store.list()),
            ):
                with pytest.raises(StoreUnavailable) as error:
                    act()
                assert "test-secret" not in str(error.value)
        finally:
            s3.start()
        store.fetch(sha256, 7, tmp_path / "to")

    def test_a_bucket_that_does_not_exist_has_nothing_and_takes_nothing(self, s3: S3Server, write: Write) -> None:
        store = ObjectArtifacts("s3://nowhere", options=s3.options)
        assert not store.has(ABSENT)
        with pytest.raises(StoreUnavailable):
            store.put(*write(b"weights"))

    def test_options_that_make_no_sense_are_refused(self) -> None:
        for url, options in (("s3://a", {"colour": "red"}), ("ftp://a/b", {}), ("s3://", {})):
            with pytest.raises(StoreUnavailable):
                ObjectArtifacts(url, options=options)

    def test_plain_http_has_to_be_allowed(self, s3: S3Server) -> None:
        options = s3.options | {"allow_http": "false"}
        with pytest.raises(StoreUnavailable):
            ObjectArtifacts("s3://bucket", options=options).has(ABSENT)

    def test_a_url_of_a_bucket_opens_it(self, s3: S3Server) -> None:
        store = open_store("s3://bucket/prefix", options=s3.options)
        assert isinstance(store, ObjectArtifacts)
        assert store.place == "s3://bucket/prefix"


class FakeClock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_bytes_arrive_no_faster_than_allowed(tmp_path: Path) -> None:
    clock = FakeClock()
    data = os.urandom(1000)

    def chunks(offset: int) -> Iterator[bytes]:
        return (data[start : start + 100] for start in range(offset, 1000, 100))

    sha256 = hashlib.sha256(data).hexdigest()
    receive(
        chunks,
        sha256,
        1000,
        tmp_path / "to",
        resume=True,
        limit_bytes_per_second=50,
        progress=None,
        clock=clock,
        sleep=clock.sleep,
    )
    assert clock.now - 100 == pytest.approx(18, abs=0.01)  # nothing is waited for behind the last bytes


def test_a_pause_is_not_made_up_for() -> None:
    pace = Pace(10)
    assert pace.wait(10, now=0) == 1
    assert pace.wait(10, now=0.5) == 1.5
    assert pace.wait(10, now=100) == 1


def test_a_source_that_never_ends_is_cut_off_at_the_announced_size(tmp_path: Path) -> None:
    def endless(_offset: int) -> Iterator[bytes]:
        while True:
            yield b"x" * 1000

    with pytest.raises(DigestMismatch):
        receive(endless, ABSENT, 5000, tmp_path / "to", resume=True, limit_bytes_per_second=None, progress=None)
    assert list(tmp_path.iterdir()) == []


def test_what_arrived_before_the_source_failed_is_kept_for_the_next_time(tmp_path: Path) -> None:
    data = b"0123456789"

    def failing(offset: int) -> Iterator[bytes]:
        yield data[offset : offset + 3]
        raise StoreUnavailable("somewhere", "gone")

    for arrived in (3, 6, 9):
        with pytest.raises(StoreUnavailable):
            receive(
                failing,
                hashlib.sha256(data).hexdigest(),
                10,
                tmp_path / "to",
                resume=True,
                limit_bytes_per_second=None,
                progress=None,
            )
        assert (tmp_path / "to.part").read_bytes() == data[:arrived]


def test_halves_of_objects_go_when_they_are_old_enough(tmp_path: Path, write: Write) -> None:
    store = LocalArtifacts(tmp_path / "artifacts")
    path, sha256 = write(b"whole")
    store.put(path, sha256)
    half = tmp_path / "artifacts" / "tmp" / "half"
    half.write_bytes(b"who")
    written = half.stat().st_mtime
    store.remove_unfinished(written)
    assert half.exists(), "its push may be under way"
    store.remove_unfinished(written + 1)
    assert not half.exists()
    assert store.has(sha256)
