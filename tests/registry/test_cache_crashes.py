"""A gateway that is killed at any step of a pull or an eviction: afterwards every version is whole or absent."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from cache_house import FakeStore, contents, entries, sha256
from dying import CRASHED, DONE, FAILED, in_a_process_that_dies
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from registry.artifacts import LocalArtifacts
from registry.cache import CacheLimits, ContentCache
from registry.cache_disk import key_of

Version = dict[str, bytes]

versions = st.dictionaries(
    st.sampled_from(["model.onnx", "a.bin", "weights/0.bin", "weights/1.bin"]),
    st.sampled_from([b"1" * 10, b"2" * 20, b"3" * 30, b"4" * 3_000_000]),
    min_size=1,
)


def pull_all(root: Path, store: FakeStore | LocalArtifacts, pulls: Sequence[Version]) -> None:
    cache = ContentCache(root, CacheLimits(max_bytes=4_000_000))
    cache.open()
    for version in pulls:
        assert contents(cache.pull(entries(version), store)) == version


def check_whole_or_absent(root: Path, pulls: Sequence[Version]) -> None:
    """What a gateway finds that starts after the crash, and what it leaves on the disk."""
    cache = ContentCache(root, CacheLimits(max_bytes=4_000_000))
    cache.open()
    assert not list((root / "temp").iterdir())
    known = {key_of(entries(version)): version for version in pulls}
    for folder in (root / "versions").iterdir():
        assert contents(folder / "files") == known[folder.name]
    for path in (root / "objects").rglob("*"):
        assert path.is_dir() or sha256(path.read_bytes()) == path.name


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(pulls=st.lists(versions, min_size=1, max_size=3), at=st.integers(1, 120), again=st.integers(1, 120))
def test_after_a_crash_at_any_step_every_version_is_whole_or_absent(pulls: list[Version], at: int, again: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root, store = Path(folder) / "cache", FakeStore(*pulls)
        for moment in (at, again):
            assert in_a_process_that_dies(moment, root, lambda: pull_all(root, store, pulls)) in (DONE, CRASHED)
            check_whole_or_absent(root, pulls)
        pull_all(root, store, pulls)


@pytest.mark.heavy
def test_every_single_step_of_one_pull_with_an_eviction_may_be_the_last(tmp_path: Path) -> None:
    first, second = {"model.onnx": b"4" * 3_000_000, "a.bin": b"1" * 10}, {"model.onnx": b"5" * 3_000_000}
    store = LocalArtifacts(tmp_path / "artifacts")
    for data in (*first.values(), *second.values()):
        (tmp_path / "file").write_bytes(data)
        store.put(tmp_path / "file", sha256(data))
    outcomes = []
    for at in range(1, 200):
        root = tmp_path / f"cache-{at}"
        outcomes.append(in_a_process_that_dies(at, root, lambda root=root: pull_all(root, store, [first, second])))
        assert outcomes[-1] != FAILED
        check_whole_or_absent(root, [first, second])
        pull_all(root, store, [first, second])
        if outcomes[-1] == DONE:
            break
    assert outcomes[-1] == DONE
    assert outcomes.count(CRASHED) > 40
