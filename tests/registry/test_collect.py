"""Collecting garbage: what anything names stays, whatever happens meanwhile."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import models
import pytest

from registry.artifacts import LocalArtifacts
from registry.catalog import Catalog
from registry.manifest import FileEntry, Manifest, TensorSpec
from registry.policies import ApprovalPolicy, GoldenSet, ModelPolicy
from registry.publish import COLLECT_SECONDS, collect, publish, push
from registry.rollouts import NewRollout

LATER = 2.0**40


def stored(store: LocalArtifacts, folder: Path, *texts: str) -> set[str]:
    digests = set()
    for text in texts:
        path = folder / text
        path.write_text(text)
        digests.add(hashlib.sha256(text.encode()).hexdigest())
        store.put(path, hashlib.sha256(text.encode()).hexdigest())
    return digests


def digests(store: LocalArtifacts) -> set[str]:
    return {one.sha256 for one in store.list()}


def test_versions_of_a_rollout_versions_without_an_alias_and_golden_sets_stay(tmp_path: Path, catalog: Catalog) -> None:
    store = LocalArtifacts(tmp_path / "artifacts")
    for number in (1, 2, 3):
        path = models.save(models.version_of(number), tmp_path / str(number) / "model.onnx")
        push(catalog, store, path, "fraud", actor="ann", alias="champion")
    catalog.rollouts.start(NewRollout("fraud", 3, 1, "champion", {}, {}, "waiting"), "ann")
    catalog.reject("fraud", 2, "bob")
    (golden,) = stored(store, tmp_path, "a golden set")
    catalog.set_policy("fraud", ModelPolicy(approval=ApprovalPolicy(golden=GoldenSet(golden, 12))), "ann")
    kept = digests(store)
    garbage = stored(store, tmp_path, "left by a push")
    assert {one.sha256 for one in collect(catalog, store, before=LATER)} == garbage
    assert digests(store) == kept


def test_a_slow_store_holds_nobody_up_and_what_a_push_names_meanwhile_stays(
    tmp_path: Path, catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0

    class SlowStore(LocalArtifacts):
        def delete(self, sha256: str) -> None:
            nonlocal now
            now += COLLECT_SECONDS
            super().delete(sha256)

    store = SlowStore(tmp_path / "artifacts")
    stored(store, tmp_path, "a", "b", "c")
    collecting, looks = catalog.collecting, 0

    @contextmanager
    def interrupted() -> Iterator[frozenset[str]]:
        nonlocal looks
        looks += 1
        if looks == 3:  # the first only lists, the second has deleted one
            catalog.begin_push(digests(store), "ann")
        with collecting() as kept:
            yield kept

    monkeypatch.setattr(catalog, "collecting", interrupted)
    gone = collect(catalog, store, before=LATER, clock=lambda: now)
    assert (len(gone), len(digests(store))) == (1, 2)


@pytest.mark.parametrize(("hours", "puts"), [(20, 3), (30, 6)], ids=["each within a day", "one longer than a day"])
def test_a_push_that_lasts_for_days_is_whole_whatever_is_collected_meanwhile(
    tmp_path: Path, hours: int, puts: int
) -> None:
    now = [1_000_000.0]
    texts = ("a", "b", "c")
    sent: list[str] = []

    class SlowStore(LocalArtifacts):
        """While a file is on its way, hours go by, and somebody collects all that nobody names."""

        def put(self, path: Path, sha256: str) -> bool:
            sent.append(path.name)
            if len(sent) <= len(texts):
                now[0] += hours * 3600
                collect(catalog, self, before=LATER)
            return super().put(path, sha256)

    with contextlib.closing(Catalog(f"sqlite:///{tmp_path}/catalog.db", clock=lambda: now[0])) as catalog:
        for text in texts:
            (tmp_path / text).write_text(text)
        files = tuple(FileEntry(text, hashlib.sha256(text.encode()).hexdigest(), 1) for text in texts)
        tensors = (TensorSpec("x", "FP32", (-1, 1)),)
        made = Manifest("fraud", files, inputs=tensors, outputs=tensors)
        store = SlowStore(tmp_path / "artifacts")
        paths = {text: tmp_path / text for text in texts}
        result = publish(catalog, store, made, paths, actor="ann", clock=lambda: now[0])
        assert {entry.sha256 for entry in result.row.manifest.files} <= digests(store)
    assert len(sent) == puts
