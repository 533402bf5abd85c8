"""Rollouts in the catalog: one at a time a model, changed by whoever knows their generation, led by one replica."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from manifests import manifest
from sqlalchemy import create_engine, text

from registry.catalog import Catalog
from registry.errors import (
    AliasConflict,
    NotFound,
    RegistryError,
    RequestKeyReused,
    RolloutChanged,
    RolloutUnderWay,
    VersionRejected,
)
from registry.rollouts import Change, NewRollout, RolloutRow


@pytest.fixture(autouse=True)
def _versions(catalog: Catalog) -> None:
    for words in ("one", "two", "three"):
        catalog.add_version(manifest(words), "ann")
    catalog.move_alias("fraud", "champion", 1, actor="ann")


def new(**fields: Any) -> NewRollout:
    values = {"model": "fraud", "stable": 1, "canary": 2, "alias": "champion", "plan": {"steps": []}, "status": {},
              "state": "pending"}  # fmt: skip
    return NewRollout(**values | fields)


def begin(catalog: Catalog, **fields: Any) -> RolloutRow:
    return catalog.rollouts.start(new(**fields), "ann", reason="better")


def step(state: str = "baking", **fields: Any) -> Change:
    return Change(**{"action": "step", "state": state, "is_active": True, "status": {"weight": 0.05}} | fields)


PROMOTION = step("promoted", action="promote", is_active=False, alias="promote")
ROLLBACK = step("rolledBack", action="rollback", is_active=False, alias="restore")


def pointer(catalog: Catalog) -> tuple[int | None, int]:
    (row,) = catalog.aliases("fraud")
    return row.version, row.generation


def test_a_rollout_is_what_it_was_begun_with(catalog: Catalog) -> None:
    row = begin(catalog)
    assert (row.model, row.stable, row.canary, row.alias, row.alias_generation) == ("fraud", 1, 2, "champion", 1)
    assert (row.state, row.is_active, row.generation, row.plan, row.is_proposal) == ("pending", True, 1, {"steps": []},
                                                                                   False)  # fmt: skip
    assert (row.created_by, row.reason) == ("ann", "better")
    assert catalog.rollouts.get(row.id) == row
    assert catalog.rollouts.active() == catalog.rollouts.of_model("fraud") == [row]


def test_a_model_has_one_rollout_at_a_time(catalog: Catalog) -> None:
    row = begin(catalog)
    with pytest.raises(RolloutUnderWay) as error:
        begin(catalog, canary=3)
    assert error.value.id == row.id
    catalog.rollouts.change(row.id, 1, ROLLBACK, "ann")
    assert begin(catalog, canary=3).canary == 3


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"model": "nobody"}, NotFound),
        ({"canary": 9}, NotFound),
        ({"stable": 9}, NotFound),
        ({"canary": 3}, VersionRejected),
        ({"proposed_generation": 7}, AliasConflict),
    ],
)
def test_what_cannot_be_rolled_out_is_refused(catalog: Catalog, fields: Any, error: type[RegistryError]) -> None:
    catalog.reject("fraud", 3, "bob")
    with pytest.raises(error):
        begin(catalog, **fields)
    assert catalog.rollouts.active() == []


def test_the_same_request_again_begins_nothing(catalog: Catalog) -> None:
    row = begin(catalog, request_key="build 7")
    assert begin(catalog, request_key="build 7") == row
    catalog.rollouts.change(row.id, 1, ROLLBACK, "ann")
    assert begin(catalog, request_key="build 7").id == row.id
    with pytest.raises(RequestKeyReused):
        begin(catalog, request_key="build 7", canary=3)


def test_of_many_who_start_at_once_one_wins(catalog: Catalog) -> None:
    def attempt(_: int) -> str:
        try:
            return begin(catalog).id
        except RolloutUnderWay as error:
            return error.id

    with ThreadPoolExecutor(6) as pool:
        assert len(set(pool.map(attempt, range(12)))) == 1
    assert len(catalog.rollouts.of_model("fraud")) == 1


def test_who_knows_another_generation_changes_nothing(catalog: Catalog) -> None:
    row = begin(catalog)
    changed = catalog.rollouts.change(row.id, 1, step(), "ann")
    assert (changed.generation, changed.state, changed.status) == (2, "baking", {"weight": 0.05})
    with pytest.raises(RolloutChanged) as error:
        catalog.rollouts.change(row.id, 1, ROLLBACK, "bob")
    assert (error.value.expected, error.value.generation) == (1, 2)
    assert catalog.rollouts.get(row.id) == changed


def test_a_promotion_moves_the_alias_with_it(catalog: Catalog) -> None:
    row = begin(catalog)
    done = catalog.rollouts.change(row.id, 1, PROMOTION, "sluice")
    assert (done.state, done.is_active, pointer(catalog)) == ("promoted", False, (2, 2))
    overview = catalog.overview()
    assert (overview.rollouts, overview.settled) == ({}, {("fraud", "champion"): 2})


def test_a_promotion_makes_an_alias_that_was_not_there(catalog: Catalog) -> None:
    row = begin(catalog, alias="live")
    catalog.rollouts.change(row.id, 1, PROMOTION, "sluice")
    assert {one.alias: one.version for one in catalog.aliases("fraud")} == {"champion": 1, "live": 2}


def test_a_promotion_past_somebody_who_moved_the_alias_changes_nothing(catalog: Catalog) -> None:
    row = begin(catalog)
    catalog.move_alias("fraud", "champion", 3, actor="bob")
    with pytest.raises(AliasConflict):
        catalog.rollouts.change(row.id, 1, PROMOTION, "sluice")
    assert (catalog.rollouts.get(row.id), pointer(catalog)) == (row, (3, 2))


def test_a_promotion_of_a_version_that_was_rejected_changes_nothing(catalog: Catalog) -> None:
    row = begin(catalog)
    catalog.reject("fraud", 2, "bob")
    with pytest.raises(VersionRejected):
        catalog.rollouts.change(row.id, 1, PROMOTION, "sluice")
    assert (catalog.rollouts.get(row.id), pointer(catalog)) == (row, (1, 1))


class TestProposals:
    def test_are_followed_once_and_put_back_when_they_fail(self, catalog: Catalog) -> None:
        catalog.move_alias("fraud", "champion", 2, actor="ann")
        row = begin(catalog, proposed_generation=2)
        assert (row.is_proposal, row.alias_generation) == (True, 2)
        catalog.rollouts.change(row.id, 1, ROLLBACK, "sluice")
        assert pointer(catalog) == (1, 3)
        assert begin(catalog, proposed_generation=2).id == row.id

    def test_that_are_promoted_leave_the_alias_where_it_is(self, catalog: Catalog) -> None:
        catalog.move_alias("fraud", "champion", 2, actor="ann")
        row = begin(catalog, proposed_generation=2)
        catalog.rollouts.change(row.id, 1, PROMOTION, "sluice")
        assert pointer(catalog) == (2, 2)
        assert catalog.overview().settled == {("fraud", "champion"): 2}

    def test_whose_alias_somebody_moved_meanwhile_leave_it_there(self, catalog: Catalog) -> None:
        catalog.move_alias("fraud", "champion", 2, actor="ann")
        row = begin(catalog, proposed_generation=2)
        catalog.move_alias("fraud", "champion", 3, actor="bob")
        assert catalog.rollouts.change(row.id, 1, ROLLBACK, "sluice").state == "rolledBack"
        assert pointer(catalog) == (3, 3)


    def test_leave_no_alias_at_a_version_that_failed_when_the_old_one_was_rejected(self, catalog: Catalog) -> None:
        catalog.move_alias("fraud", "champion", 2, actor="ann")
        row = begin(catalog, proposed_generation=2)
        catalog.reject("fraud", 1, "bob")
        assert catalog.rollouts.change(row.id, 1, ROLLBACK, "sluice").state == "rolledBack"
        assert catalog.aliases("fraud") == []
        assert catalog.verify_audit() is None


def test_there_is_no_way_back_from_a_promotion_to_a_version_that_was_rejected(catalog: Catalog) -> None:
    row = begin(catalog)
    catalog.rollouts.change(row.id, 1, step("terminating", alias="promote"), "sluice")
    catalog.reject("fraud", 1, "bob")
    with pytest.raises(VersionRejected):
        catalog.rollouts.change(row.id, 2, ROLLBACK, "sluice")
    assert (catalog.rollouts.get(row.id).state, pointer(catalog)) == ("terminating", (2, 2))


def test_the_rollout_under_way_is_the_newest_though_a_clock_was_put_back(tmp_path: Path) -> None:
    now = [2e9]
    with closing(Catalog(f"sqlite:///{tmp_path}/catalog.db", clock=lambda: now[0])) as catalog:
        for words in ("one", "two"):
            catalog.add_version(manifest(words), "ann")
        catalog.rollouts.change(begin(catalog).id, 1, ROLLBACK, "ann")
        now[0] -= 3600
        second = begin(catalog)
        assert catalog.rollouts.of_model("fraud", limit=1) == [second]


def test_the_history_is_the_audit_log(catalog: Catalog) -> None:
    row = begin(catalog)
    catalog.rollouts.change(row.id, 1, step(facts={"evidence": {"failures": 120.5}}), "sluice")
    catalog.rollouts.change(row.id, 2, ROLLBACK, "sluice")
    history = catalog.rollouts.history(row.id)
    assert [entry.action for entry in history] == ["rollout.start", "rollout.step", "rollout.rollback"]
    assert history[1].after["evidence"] == {"failures": 120.5}
    assert catalog.verify_audit() is None
    with pytest.raises(NotFound):
        catalog.rollouts.history("nothing")


def test_a_state_that_was_changed_past_the_log_shows(catalog: Catalog, database_url: str) -> None:
    row = begin(catalog)
    engine = create_engine(database_url)
    with engine.begin() as connection:
        connection.execute(text("UPDATE rollouts SET state = 'promoted'"))
    engine.dispose()
    bad = catalog.verify_audit()
    assert bad is not None
    assert row.id in bad.reason


class TestLeases:
    @pytest.fixture
    def row(self, catalog: Catalog) -> RolloutRow:
        return begin(catalog)

    def lead(self, catalog: Catalog, row: RolloutRow, replica: str, seconds: float = 60.0, generation: int = 1) -> bool:
        return catalog.rollouts.lead(row.id, replica, seconds, {"elapsed": 1.0}, generation)

    def test_are_one_replicas_until_they_end(self, catalog: Catalog, row: RolloutRow) -> None:
        assert self.lead(catalog, row, "a", seconds=60.0)
        assert not self.lead(catalog, row, "b")
        assert self.lead(catalog, row, "a", seconds=-1.0)
        assert self.lead(catalog, row, "b")
        assert not self.lead(catalog, row, "a")
        assert catalog.rollouts.get(row.id).leader == "b"

    def test_end_though_the_clock_was_put_back(self, tmp_path: Path) -> None:
        now = [2e9]
        with closing(Catalog(f"sqlite:///{tmp_path}/catalog.db", clock=lambda: now[0])) as catalog:
            for words in ("one", "two"):
                catalog.add_version(manifest(words), "ann")
            row = begin(catalog)
            assert self.lead(catalog, row, "a", seconds=5.0)
            now[0] -= 3600
            assert self.lead(catalog, row, "b", seconds=5.0)
            assert not self.lead(catalog, row, "a", seconds=5.0)

    def test_that_are_given_up_are_free_at_once(self, catalog: Catalog, row: RolloutRow) -> None:
        assert self.lead(catalog, row, "a")
        catalog.rollouts.release("a")
        assert self.lead(catalog, row, "b")

    def test_change_neither_the_log_nor_the_generation(self, catalog: Catalog, row: RolloutRow) -> None:
        token = catalog.change_token()
        assert self.lead(catalog, row, "a")
        after = catalog.rollouts.get(row.id)
        assert (catalog.change_token(), after.generation, after.status) == (token, 1, {"elapsed": 1.0})

    def test_are_not_given_to_who_knows_another_generation_or_when_it_is_over(
        self, catalog: Catalog, row: RolloutRow
    ) -> None:
        assert not self.lead(catalog, row, "a", generation=2)
        catalog.rollouts.change(row.id, 1, ROLLBACK, "ann")
        assert not self.lead(catalog, row, "a", generation=2)


def test_changes_stay_unannounced_until_somebody_says_otherwise_also_when_the_rollout_is_over(
    catalog: Catalog,
) -> None:
    row = begin(catalog)
    catalog.rollouts.announced(row.id, 1)
    assert catalog.rollouts.unannounced() == []
    catalog.rollouts.change(row.id, 1, ROLLBACK, "ann")
    assert [(one.generation, one.announced) for one in catalog.rollouts.unannounced()] == [(2, 1)]
    assert catalog.rollouts.lead_announcing(row.id, "a", 60.0)
    assert not catalog.rollouts.lead_announcing(row.id, "b", 60.0)
    catalog.rollouts.announced(row.id, 2)
    assert catalog.rollouts.unannounced() == []


class TestLabels:
    def test_are_taken_once_whoever_is_told(self, catalog: Catalog) -> None:
        row = begin(catalog)
        assert catalog.rollouts.take_labels(row.id, ["a", "b"]) == {"a", "b"}
        assert catalog.rollouts.take_labels(row.id, ["b", "c", "c"]) == {"c"}
        assert catalog.rollouts.take_labels(row.id, []) == frozenset()

    def test_are_taken_once_by_many_at_the_same_time(self, catalog: Catalog) -> None:
        row = begin(catalog)
        ids = [str(number) for number in range(50)]
        with ThreadPoolExecutor(6) as pool:
            taken = list(pool.map(lambda _: catalog.rollouts.take_labels(row.id, ids), range(6)))
        assert sum(map(len, taken)) == 50

    def test_of_what_is_over_are_not_taken_and_forgotten(self, catalog: Catalog, database_url: str) -> None:
        row = begin(catalog)
        catalog.rollouts.take_labels(row.id, ["a"])
        catalog.rollouts.change(row.id, 1, ROLLBACK, "ann")
        assert catalog.rollouts.take_labels(row.id, ["b"]) == frozenset()
        engine = create_engine(database_url)
        with engine.begin() as connection:
            assert connection.execute(text("SELECT count(*) FROM rollout_labels")).scalar() == 0
        engine.dispose()


def test_each_replica_has_its_own_evidence(catalog: Catalog) -> None:
    row = begin(catalog)
    catalog.rollouts.put_evidence(row.id, "a", {"failed": 1})
    catalog.rollouts.put_evidence(row.id, "b", {"failed": 5})
    catalog.rollouts.put_evidence(row.id, "a", {"failed": 2})
    assert catalog.rollouts.evidence([row.id, "other"]) == {
        row.id: {"a": {"failed": 2}, "b": {"failed": 5}},
        "other": {},
    }
