"""What is lost, and when: a gateway between two writes, a full disk, a database that comes back older, versions and
aliases that somebody changes under a rollout. Abort wins, nothing begins twice, and no canary gets more traffic."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from manifests import manifest
from rollout_house import MODEL, PLAN, Gateway, House
from sqlalchemy import create_engine, text

from gateway.rollouts.feedback import Label
from gateway.rollouts.journal import Journal, JournalDamaged
from gateway.rollouts.plan_reader import read_plan
from gateway.rollouts.plan_writer import to_plain
from gateway.rollouts.service import RolloutService
from gateway.settings import RolloutsSettings
from registry.catalog import Catalog
from registry.errors import CatalogUnavailable
from registry.policies import ModelPolicy
from registry.rollouts import RolloutRow, RolloutStore

QUEUE = PLAN | {"onNewTarget": "queue"}
QUICK = {"strategy": "allAtOnce", "terminationWait": "7s"}


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    house = House(tmp_path)
    yield house
    house.close()


class Killed(BaseException):
    """The process ends here."""


def once(monkeypatch: pytest.MonkeyPatch, owner: type, name: str, error: BaseException) -> None:
    """The next call fails; those after it work."""
    real: Callable[..., Any] = getattr(owner, name)

    def fail(*_: object, **__: object) -> None:
        monkeypatch.setattr(owner, name, real)
        raise error

    monkeypatch.setattr(owner, name, fail)


def promoted(house: House, plan: dict[str, Any] = PLAN) -> str:
    """A rollout whose old version is still loaded."""
    id = house.begin(plan=plan)
    house.service.command(id, "promote", None, "sure")
    house.turn(2)
    assert house.state(id) == "terminating"
    return id


def test_a_rollback_is_remembered_before_the_catalog_is_told(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    house.begin()
    house.serve(2)
    house.gateway.plane.traffic(10, failed=5)
    once(monkeypatch, RolloutStore, "change", Killed())
    with pytest.raises(BaseException):  # noqa: B017, PT011
        house.turn()
    house.is_down = True
    house.gateway.crash()
    house.gateway.models.load({1, 2})
    assert house.gateway.plane.weight == 0.0


def test_a_rollback_decided_while_the_promotion_is_read_puts_the_alias_back(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    id = house.begin()
    house.serve(2)
    house.service.command(id, "promote", None, "sure")
    real = RolloutStore.active

    def active(store: RolloutStore) -> list[RolloutRow]:
        rows = real(store)
        house.gateway.plane.traffic(10, failed=5)
        return rows

    monkeypatch.setattr(RolloutStore, "active", active)
    house.gateway.turn()
    monkeypatch.undo()
    house.turn(2)
    assert (house.state(id), house.champion) == ("rolled_back", 1)
    assert house.gateway.models.ready == {1}


def test_an_abort_that_comes_after_the_end_elsewhere_is_told(house: House, caplog: pytest.LogCaptureFixture) -> None:
    id = house.begin(plan=PLAN | {"terminationWait": "0s"})
    house.serve(2)
    house.gateway.is_partitioned = True
    house.gateway.abort(id)
    house.service.command(id, "promote", None, "sure")
    house.gateway.is_partitioned = False
    house.turn(2)
    assert (house.state(id), house.champion) == ("promoted", 2)
    assert "promotion was over elsewhere" in caplog.text


def test_a_journal_of_another_release_is_named(house: House) -> None:
    house.begin()
    file = house.folder / house.gateway.name / "rollouts.json"
    file.write_text(file.read_text().replace('"setWeight"', '"setWait"'))
    with pytest.raises(JournalDamaged, match="setWait"):
        house.gateway.crash()


def test_with_a_full_disk_an_abort_is_in_force_and_recorded(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    id = house.begin()
    house.serve(2)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Journal, "save", full)
    assert house.gateway.abort(id)["state"] == "rolled_back"
    house.turn(2)
    assert (house.state(id), house.gateway.plane.routes) == ("rolled_back", {})


class TestDatabasePutBack:
    """An older copy of it, which knows nothing of the rollout."""

    def put_back(self, house: House) -> None:
        house.catalog.close()
        house.catalog = Catalog(f"sqlite:///{house.folder}/older.db", clock=house.clock)
        for words in ("one", "two", "three"):
            house.catalog.add_version(manifest(words), "ann")
        house.catalog.move_alias(MODEL, "champion", 1, actor="ann")

    def test_the_canary_has_no_traffic_and_the_next_rollout_goes_on(self, house: House) -> None:
        house.begin()
        house.serve(2)
        self.put_back(house)
        house.turn()
        assert house.gateway.plane.weight == 0.0
        id = house.begin(3)
        house.serve(60)
        assert house.state(id) in ("terminating", "promoted")

    def test_a_rollback_that_was_owed_stays_in_force(self, house: House) -> None:
        house.begin()
        house.serve(2)
        house.is_down = True
        house.gateway.plane.traffic(10, failed=5)
        house.turn()
        house.is_down = False
        self.put_back(house)
        house.turn(3)
        assert house.gateway.plane.weight == 0.0
        assert house.gateway.models.ready == {1}

    def test_what_was_promoted_goes_on_serving(self, house: House) -> None:
        promoted(house)
        self.put_back(house)
        asyncio.run(house.gateway._turn())
        assert house.gateway.plane.routes[MODEL].stable == 2


def test_a_rollout_that_makes_no_sense_stops_no_other(house: House, caplog: pytest.LogCaptureFixture) -> None:
    house.begin()
    house.serve(2)
    engine = create_engine(f"sqlite:///{house.folder}/catalog.db")
    with engine.begin() as connection:
        connection.execute(text("UPDATE rollouts SET plan = '{\"of\": \"tomorrow\"}'"))
    engine.dispose()
    fresh = Gateway(house, "fresh")
    fresh.start()
    house.gateways.append(fresh)
    house.turn(3)
    assert caplog.text.count("makes no sense") == 1
    assert house.gateway.plane.weight == 0.1, "as it was last understood"
    assert (fresh.plane.routes, fresh.models.ready) == ({}, {1})
    assert fresh.plane.aliases == {MODEL: {"champion": 1}}, "the rest of the look is done"


class TestQueued:
    def queue(self, house: House, plan: dict[str, Any] | None = QUICK) -> str:
        first = house.begin(2, QUEUE)
        house.service.start(MODEL, 3, alias=None, plan=plan, reason="", key="")
        return first

    def second(self, house: House) -> dict[str, Any]:
        newest, *others = house.service.of_model(MODEL)
        assert len(others) == 1, "one was begun, and once"
        assert newest["to"] == 3
        return newest

    def test_begins_by_the_plan_that_it_was_asked_for_with(self, house: House) -> None:
        house.gateway.abort(self.queue(house))
        house.turn(2)
        assert self.second(house)["plan"] == to_plain(read_plan(QUICK))

    @pytest.mark.parametrize("error", [CatalogUnavailable("the catalog", "refused"), Killed()])
    def test_begins_though_the_gateway_or_the_catalog_is_lost_between(
        self, house: House, monkeypatch: pytest.MonkeyPatch, error: BaseException
    ) -> None:
        first = self.queue(house)
        once(monkeypatch, RolloutService, "start", error)
        if isinstance(error, Killed):
            house.service.command(first, "abort", None, "")
            with pytest.raises(BaseException):  # noqa: B017, PT011
                house.turn()
            house.gateway.crash()
        else:
            house.gateway.abort(first)
        house.turn(3)
        assert self.second(house)["active"]

    def test_begins_when_the_one_before_was_ended_by_the_command_line(self, house: House) -> None:
        house.service.command(self.queue(house), "abort", None, "")
        house.turn(2)
        assert self.second(house)["active"]

    def test_begins_once_though_three_gateways_see_to_it(self, tmp_path: Path) -> None:
        house = House(tmp_path / "three", gateways=3)
        house.service.command(self.queue(house), "abort", None, "")
        house.turn(3)
        assert self.second(house)["active"]
        house.close()

    def test_one_that_may_not_begin_any_more_is_told_and_left(
        self, house: House, caplog: pytest.LogCaptureFixture
    ) -> None:
        first = self.queue(house)
        house.catalog.reject(MODEL, 3, "bob")
        house.gateway.abort(first)
        house.turn(3)
        assert [one["id"] for one in house.service.of_model(MODEL)] == [first]
        assert caplog.text.count("cannot begin") == 1


def test_the_same_key_again_finds_the_rollout_that_it_began_though_that_is_over(house: House) -> None:
    asked = {"alias": None, "plan": PLAN, "reason": "", "key": "build 7"}
    id = house.service.start(MODEL, 2, **asked)["id"]
    house.turn(3)
    house.service.command(id, "promote", None, "")
    house.turn(20)
    again = house.service.start(MODEL, 2, **asked)
    assert (again["id"], again["outcome"], again["active"]) == (id, "promoted", False)


class TestLabels:
    PLAN = PLAN | {"guards": {"labels": {}}}
    WRONG = tuple(Label(str(number), 2, False, None) for number in range(3))

    def give(self, gateway: Gateway) -> int:
        return asyncio.run(gateway.controller.give_feedback(MODEL, self.WRONG))

    def wrong(self, house: House, id: str) -> int:
        (guard,) = [guard for guard in house.service.get(id)["guards"] if guard["name"] == "labels"]
        return int(guard["canary_events"])

    def test_that_two_gateways_are_told_of_count_once(self, tmp_path: Path) -> None:
        house = House(tmp_path / "two", gateways=2)
        id = house.begin(2, self.PLAN)
        house.serve(8)
        assert [self.give(gateway) for gateway in house.gateways] == [3, 0]
        house.turn(2)
        assert self.wrong(house, id) == 3
        house.close()

    def test_that_were_counted_are_in_the_catalog_and_do_not_count_again_after_a_crash(self, house: House) -> None:
        id = house.begin(2, self.PLAN)
        house.serve(8)
        assert self.give(house.gateway) == 3
        house.gateway.crash()
        house.turn(3)
        assert self.give(house.gateway) == 0
        assert self.wrong(house, id) == 3

    def test_count_when_they_are_told_again_after_the_catalog_was_away(self, house: House) -> None:
        house.begin(2, self.PLAN)
        house.serve(8)
        house.is_down = True
        with pytest.raises(CatalogUnavailable):
            self.give(house.gateway)
        house.is_down = False
        assert self.give(house.gateway) == 3


class TestProposalUnderWay:
    @pytest.fixture
    def id(self, house: House) -> str:
        house.catalog.set_policy(MODEL, ModelPolicy(on_alias_move="propose"), "ann")
        row = house.catalog.move_alias(MODEL, "champion", 2, actor="bob")
        id: str = house.service.follow(MODEL, 1, 2, "champion", row.generation)["id"]
        house.turn(3)
        return id

    def test_a_new_target_is_compared_with_what_serves_and_not_with_what_was_proposed(
        self, house: House, id: str
    ) -> None:
        begun = house.service.start(MODEL, 3, alias=None, plan=PLAN, reason="", key="")
        assert (begun["from"], begun["to"]) == (1, 3)
        assert (house.state(id), house.champion) == ("rolled_back", 1)
        house.turn(3)
        assert house.gateway.plane.routes[MODEL].stable == 1


class TestOldVersionRejectedAfterThePromotion:
    def test_nobody_waits_for_it(self, house: House) -> None:
        id = promoted(house)
        house.catalog.reject(MODEL, 1, "bob")
        house.turn()
        assert (house.state(id), house.champion) == ("promoted", 2)

    def test_an_abort_leaves_the_promoted_version_and_says_why(self, house: House) -> None:
        id = promoted(house)
        house.catalog.reject(MODEL, 1, "bob")
        house.gateway.abort(id)
        house.turn()
        assert (house.state(id), house.champion) == ("promoted", 2)
        assert "nothing to go back to" in house.service.get(id)["reason"]
        assert house.gateway.models.ready == {2}


def test_an_alias_that_is_moved_back_after_the_promotion_is_a_rollback(house: House) -> None:
    id = promoted(house)
    house.catalog.move_alias(MODEL, "champion", 1, actor="bob")
    house.turn()
    assert (house.state(id), house.champion, house.gateway.plane.weight) == ("rolled_back", 1, 0.0)
    house.turn(2)
    assert (house.gateway.models.ready, house.champion) == ({1}, 1)
    assert house.catalog.verify_audit() is None


def test_time_that_two_leaders_have_seen_counts_once(tmp_path: Path) -> None:
    house = House(tmp_path, gateways=2)
    id = house.begin()
    one, other = house.gateways
    for gateway in house.gateways:
        gateway.controller._settings = RolloutsSettings(lease_seconds=1.0)
    house.turn()
    before = house.service.get(id)["elapsed_seconds"]
    for seconds, gateway in ((1.1, other), (0.4, one), (0.5, other), (0.9, other)):
        house.clock.time += seconds
        gateway.turn()
    asyncio.run(other.controller.close())
    house.clock.time += 0.1
    for _ in range(2):
        one.turn()
    assert house.service.get(id)["leader"] == one.controller.replica
    assert before < house.service.get(id)["elapsed_seconds"] <= before + 3.0
    house.close()
