"""A wall clock that jumps forth and back by years: what is published, followed, led and kept goes by other things."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from pathlib import Path

import models
import pytest
from source_places import MODEL, CatalogPlace, Gateway

from registry.artifacts import LocalArtifacts
from registry.catalog import Catalog
from registry.publish import collect, push
from registry.rollouts import NewRollout

START, YEAR = 1_700_000_000.0, 365 * 86400.0
JUMPS = (10 * YEAR, -30 * YEAR, 0.0, -60.0, 25 * YEAR, -1.0)


class JumpingClock:
    """Jumps whenever it is looked at, or when it is told to."""

    def __init__(self, *, by_itself: bool = False) -> None:
        self.now = START
        self._jumps = itertools.cycle(JUMPS) if by_itself else itertools.repeat(0.0)

    def __call__(self) -> float:
        self.now = max(self.now + next(self._jumps), 0.0)
        return self.now


@pytest.fixture
def place(database_url: str, tmp_path: Path) -> Iterator[CatalogPlace]:
    store = LocalArtifacts(tmp_path / "artifacts")
    with contextlib.closing(CatalogPlace(database_url, store, tmp_path, clock=JumpingClock(by_itself=True))) as place:
        yield place


def test_a_gateway_follows_every_version_and_every_move_in_their_order(
    place: CatalogPlace, database_url: str, tmp_path: Path
) -> None:
    gateway = Gateway(place, tmp_path / "gateway")
    with contextlib.closing(gateway):
        for number in range(1, 8):
            files = {"model.onnx": b"%d" % number}
            place.publish(number, files)
            assert gateway.look() == {number: files}
        for number in (3, 7, 1):
            place.choose(number)
            assert gateway.look() == {number: {"model.onnx": b"%d" % number}}
    with contextlib.closing(Catalog(database_url)) as catalog:
        assert catalog.verify_audit() is None
        assert [move.version for move in catalog.alias_history(MODEL, "champion")] == [3, 7, 1]


@pytest.mark.parametrize("jump", JUMPS)
def test_a_push_is_whole_whichever_way_the_clock_jumps_while_it_lasts(
    tmp_path: Path, database_url: str, jump: float
) -> None:
    clock = JumpingClock()

    class Store(LocalArtifacts):
        """The clock jumps while the first file is on its way, and somebody collects what nobody names."""

        def put(self, path: Path, sha256: str) -> bool:
            if clock.now == START:
                clock.now += jump or 1.0
            collect(catalog, self, before=2.0**40)
            return super().put(path, sha256)

    folder = tmp_path / "model"
    models.external(folder / "model.onnx", "weights.bin")
    store = Store(tmp_path / "artifacts")
    with contextlib.closing(Catalog(database_url, clock=clock)) as catalog:
        result = push(catalog, store, folder, MODEL, actor="ann", clock=clock)
        stored = {one.sha256 for one in store.list()}
        assert {file.sha256 for file in result.row.manifest.files} <= stored


def test_one_replica_leads_at_a_time_and_goes_on_leading_whichever_way_the_clock_jumps(tmp_path: Path) -> None:
    """Over a file, where the clock is that of the machine."""
    clock = JumpingClock()
    with contextlib.closing(Catalog(f"sqlite:///{tmp_path}/catalog.db", clock=clock)) as catalog:
        for number in (1, 2):
            path = models.save(models.version_of(number), tmp_path / str(number) / "model.onnx")
            push(catalog, LocalArtifacts(tmp_path / "artifacts"), path, MODEL, actor="ann", alias="champion")
        rollout = catalog.rollouts.start(NewRollout(MODEL, 1, 2, "champion", {}, {}, "waiting"), "ann")
        leads = lambda replica: catalog.rollouts.lead(rollout.id, replica, 5.0, {}, rollout.generation)  # noqa: E731
        assert leads("one")
        for jump in JUMPS:
            clock.now += jump
            assert leads("one"), "whoever leads renews"
            assert not leads("two")
        clock.now += 10 * YEAR
        assert leads("two"), "to everybody but the leader a jump forth is time that went by"
        assert not leads("one")
