"""What a cache of versions promises: whole or absent, verified, shared, bounded, and kept while in use."""

from __future__ import annotations

import errno
import os
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cache_house import FakeStore, contents, entries, sha256

from registry.artifacts import LocalArtifacts
from registry.cache import CacheLimits, ContentCache
from registry.errors import CacheFull, DigestMismatch, LimitExceeded, NotFound, PullFailed, StoreUnavailable, UnsafePath
from registry.manifest import FileEntry

A = {"model.onnx": b"a" * 100}
B = {"model.onnx": b"b" * 100, "weights/0.bin": b"w" * 50}
C = {"other.onnx": b"a" * 100, "weights/0.bin": b"w" * 50}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def opened(root: Path, **limits: int) -> ContentCache:
    cache = ContentCache(root, CacheLimits(**limits))
    cache.open()
    return cache


def test_a_version_is_pulled_with_the_names_and_bytes_that_it_has(root: Path):
    folder = opened(root).pull(entries(B), FakeStore(B))
    assert contents(folder) == B


def test_a_version_that_is_here_is_not_fetched_again(root: Path):
    cache, store = opened(root), FakeStore(A)
    folder = cache.pull(entries(A), store)
    assert cache.pull(entries(A), store) == folder == cache.find(entries(A))
    assert len(store.fetched) == 1
    assert (cache.usage().hits, cache.usage().misses) == (1, 1)


def test_what_is_not_here_is_not_found(root: Path):
    assert opened(root).find(entries(A)) is None


def test_it_survives_a_restart(root: Path):
    folder = opened(root).pull(entries(B), FakeStore(B))
    cache = opened(root)
    assert cache.find(entries(B)) == folder
    assert cache.usage().bytes == 150


def test_files_cannot_be_written_to(root: Path):
    folder = opened(root).pull(entries(A), FakeStore(A))
    assert (folder / "model.onnx").stat().st_mode & 0o222 == 0


def test_equal_files_are_fetched_and_kept_once(root: Path):
    cache, store = opened(root), FakeStore(A, B, C)
    for version in (A, B, C):
        assert contents(cache.pull(entries(version), store)) == version
    assert len(store.fetched) == 3
    assert cache.usage().bytes == 250


def test_equal_files_of_one_version_are_fetched_once(root: Path):
    twice = {"a.bin": b"same", "b.bin": b"same"}
    store = FakeStore(twice)
    assert contents(opened(root).pull(entries(twice), store)) == twice
    assert len(store.fetched) == 1


def test_versions_that_share_files_may_be_pulled_at_once(root: Path):
    cache, store = opened(root), FakeStore(B, C)
    with ThreadPoolExecutor(8) as pool:
        folders = list(pool.map(lambda version: cache.pull(entries(version), store), [B, C] * 8))
    assert [contents(folder) for folder in folders] == [B, C] * 8
    assert sorted(store.fetched) == sorted({entry.sha256 for version in (B, C) for entry in entries(version)})


def test_no_more_files_are_fetched_at_once_than_allowed(root: Path):
    many = {f"{number}.bin": bytes([number]) for number in range(12)}
    store = FakeStore(many)
    store.gate = threading.Event()
    cache = opened(root, parallelism=3)
    with ThreadPoolExecutor(1) as pool:
        pull = pool.submit(cache.pull, entries(many), store)
        while store.running < 3:
            pass
        store.gate.set()
        assert contents(pull.result(30)) == many
    assert store.most_running == 3


def test_the_bandwidth_is_shared_among_fetches(root: Path):
    store = FakeStore(A)
    opened(root, parallelism=4, bytes_per_second=1000).pull(entries(A), store)
    assert store.limits == [250]


def test_a_broken_pull_goes_on_where_it_stopped(root: Path):
    cache, store = opened(root), FakeStore(A)
    store.cut_after = 40
    with pytest.raises(StoreUnavailable):
        cache.pull(entries(A), store)
    assert cache.find(entries(A)) is None
    assert contents(cache.pull(entries(A), store)) == A
    assert store.offsets == [0, 40]


def test_other_bytes_than_vouched_for_are_refused_and_leave_nothing(root: Path):
    cache, store = opened(root), FakeStore(A)
    store.objects[sha256(A["model.onnx"])] = b"x" * 100
    with pytest.raises(DigestMismatch):
        cache.pull(entries(A), store)
    assert cache.find(entries(A)) is None
    assert cache.usage().bytes == 0
    assert [path for path in root.rglob("*") if path.is_file()] == []


def test_another_size_than_vouched_for_is_refused(root: Path):
    store = FakeStore(A)
    store.objects[sha256(A["model.onnx"])] = b"a" * 99
    with pytest.raises(DigestMismatch):
        opened(root).pull(entries(A), store)


def test_an_object_that_is_not_there_fails_the_pull_alone(root: Path):
    cache, store = opened(root), FakeStore(A)
    with pytest.raises(NotFound):
        cache.pull(entries(B), store)
    assert contents(cache.pull(entries(A), store)) == A


@pytest.mark.parametrize("path", ["../x", "/etc/x", "a/../b", "a//b", ".hidden", "a\\b", "a/\n", "/".join("x" * 30)])
def test_names_that_lead_elsewhere_are_refused_before_anything_is_fetched(root: Path, path: str):
    store = FakeStore()
    with pytest.raises(UnsafePath):
        opened(root).pull((FileEntry(path, "0" * 64, 1),), store)
    assert store.fetched == []


def test_too_many_files_or_bytes_are_refused_before_anything_is_fetched(root: Path):
    store = FakeStore(B)
    with pytest.raises(LimitExceeded, match="files"):
        opened(root, max_files=1).pull(entries(B), store)
    with pytest.raises(LimitExceeded, match="bytes"):
        opened(root, max_version_bytes=149).pull(entries(B), store)
    assert store.fetched == []


@pytest.fixture
def three() -> list[dict[str, bytes]]:
    return [{"model.onnx": bytes([number]) * 100} for number in range(3)]


def test_what_was_used_least_recently_goes_first(root: Path, three: list[dict[str, bytes]]):
    cache, store = opened(root, max_bytes=200), FakeStore(*three)
    cache.pull(entries(three[0]), store)
    cache.pull(entries(three[1]), store)
    cache.find(entries(three[0]))
    cache.pull(entries(three[2]), store)
    assert [cache.find(entries(each)) is not None for each in three] == [True, False, True]
    assert cache.usage().bytes == 200
    assert cache.usage().evictions == 1


def test_the_order_of_use_survives_a_restart(root: Path, three: list[dict[str, bytes]]):
    store = FakeStore(*three)
    cache = opened(root, max_bytes=200)
    cache.pull(entries(three[0]), store)
    cache.pull(entries(three[1]), store)
    cache.find(entries(three[0]))
    opened(root, max_bytes=200).pull(entries(three[2]), store)
    assert opened(root).find(entries(three[0])) is not None
    assert opened(root).find(entries(three[1])) is None


def test_what_is_pinned_is_never_evicted(root: Path, three: list[dict[str, bytes]]):
    cache, store = opened(root, max_bytes=200), FakeStore(*three)
    for each in three[:2]:
        cache.pull(entries(each), store)
        cache.pin(entries(each))
    with pytest.raises(CacheFull):
        cache.pull(entries(three[2]), store)
    assert len(store.fetched) == 2
    cache.unpin(entries(three[1]))
    cache.pull(entries(three[2]), store)
    assert [cache.find(entries(each)) is not None for each in three] == [True, False, True]


def test_pins_are_counted(root: Path, three: list[dict[str, bytes]]):
    cache, store = opened(root, max_bytes=100), FakeStore(*three)
    cache.pull(entries(three[0]), store)
    cache.pin(entries(three[0]))
    cache.pin(entries(three[0]))
    cache.unpin(entries(three[0]))
    with pytest.raises(CacheFull):
        cache.pull(entries(three[1]), store)


def test_a_file_that_another_version_has_too_outlives_the_eviction_of_one(root: Path):
    cache, store = opened(root, max_bytes=250), FakeStore(A, B, {"x": b"x" * 100})
    cache.pull(entries(B), store)
    cache.pull(entries(C), FakeStore(C))
    cache.pull(entries({"x": b"x" * 100}), store)
    assert cache.find(entries(B)) is None
    assert contents(cache.pull(entries(C), store)) == C


def test_a_version_larger_than_the_whole_cache_evicts_and_fetches_nothing_it_need_not(root: Path):
    cache, store = opened(root, max_bytes=120), FakeStore(A, B)
    cache.pin(entries(A))
    cache.pull(entries(A), store)
    with pytest.raises(CacheFull):
        cache.pull(entries(B), store)
    assert cache.find(entries(A)) is not None


def test_a_damaged_version_is_pulled_again(root: Path):
    cache, store = opened(root), FakeStore(B)
    folder = cache.pull(entries(B), store)
    (folder / "weights/0.bin").unlink()
    assert cache.find(entries(B)) is None
    assert contents(cache.pull(entries(B), store)) == B


def test_a_version_whose_bytes_are_in_doubt_can_be_discarded(root: Path):
    cache, store = opened(root), FakeStore(A, B)
    for each in (A, B):
        cache.pull(entries(each), store)
    cache.discard(entries(B))
    assert cache.find(entries(B)) is None
    assert contents(cache.pull(entries(A), store)) == A
    assert contents(cache.pull(entries(B), store)) == B
    assert len(store.fetched) == 5


def test_a_full_disk_is_told_and_nothing_half_is_left(root: Path, monkeypatch: pytest.MonkeyPatch):
    cache, store = opened(root), FakeStore(A)

    def fail(*args: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("registry.cache_disk.os.rename", fail)
        with pytest.raises(PullFailed, match="no space left"):
            cache.pull(entries(A), store)
    assert cache.find(entries(A)) is None
    assert contents(cache.pull(entries(A), store)) == A


def test_a_file_system_without_links_gets_copies(root: Path, monkeypatch: pytest.MonkeyPatch):
    def fail(*args: object, **options: object) -> None:
        raise PermissionError(errno.EPERM, "no links")

    monkeypatch.setattr("registry.cache_disk.os.link", fail)
    cache = opened(root)
    assert contents(cache.pull(entries(B), FakeStore(B))) == B
    assert contents(cache.pull(entries(C), FakeStore(C))) == C


def test_a_library_that_fails_in_its_own_way_fails_the_pull_without_its_secrets(root: Path):
    class Odd(FakeStore):
        def fetch(self, *args: object, **options: object) -> None:
            raise ValueError("GET https://user:hunter2@host/x?sig=hunter3 password=hunter4")

    with pytest.raises(PullFailed) as caught:
        opened(root).pull(entries(A), Odd())
    assert "hunter" not in caught.value.reason
    assert "ValueError" in caught.value.reason


def test_a_real_store_works_as_well(root: Path, tmp_path: Path):
    store = LocalArtifacts(tmp_path / "artifacts")
    for path, data in B.items():
        (tmp_path / "file").write_bytes(data)
        store.put(tmp_path / "file", sha256(data))
        assert path
    assert contents(opened(root).pull(entries(B), store)) == B


def test_a_closed_cache_fetches_nothing(root: Path):
    cache, store = opened(root), FakeStore(A, B)
    cache.pull(entries(A), store)
    cache.close()
    cache.close()
    assert contents(cache.pull(entries(A), store)) == A
    with pytest.raises(PullFailed, match="closed"):
        cache.pull(entries(B), store)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda version: (version / "files.json").write_text("[]"),
        lambda version: (version / "files.json").write_text("{"),
        lambda version: (version / "files.json").write_text('[["../../x", "00", 1]]'),
        lambda version: (version / "files.json").unlink(),
        lambda version: shutil.rmtree(version / "files"),
        lambda version: version.rename(version.with_name("0" * 64)),
    ],
)
def test_what_is_not_a_whole_version_is_cleared_away_at_the_start(root: Path, spoil: Callable[[Path], object]):
    folder = opened(root).pull(entries(B), FakeStore(B))
    spoil(folder.parent)
    cache = opened(root)
    assert cache.usage().versions == 0
    assert contents(cache.pull(entries(B), FakeStore(B))) == B
