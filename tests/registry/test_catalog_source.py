"""What a gateway sees of a Sluice catalog: what each policy wants, whole and verified, or what was there before."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cache_house import FakeStore, contents, sha256
from manifests import manifest
from sqlalchemy import create_engine, text

from registry.cache import CacheLimits, ContentCache
from registry.catalog import Catalog
from registry.errors import CatalogUnavailable, SourceUnavailable
from registry.ledger import Ledger, Served
from registry.policies import ApprovalPolicy, ModelPolicy
from registry.rollouts import AliasEnd, Change, NewRollout
from registry.sources import Snapshot
from registry.sources.catalog import CatalogSource, Proposal
from registry.sources.settling import Settling

MODEL = "fraud"


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class House:
    """A catalog, a store, and gateways' views of them, one after the other."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = f"sqlite:///{folder}/catalog.db"
        self.catalog = Catalog(self.url)
        self.store = FakeStore()
        self.clock = Clock()
        self.is_database_down = False
        self.connected = 0
        self.sources: list[CatalogSource] = []

    def publish(self, words: str, model: str = MODEL, alias: str | None = None, **fields: Any) -> int:
        data = words.encode()
        self.store.objects[sha256(data)] = data
        row, _ = self.catalog.add_version(manifest(words, model, **fields), "ann", alias=alias)
        return row.version

    def move(self, version: int | None, alias: str = "champion") -> None:
        self.catalog.move_alias(MODEL, alias, version, actor="ann")

    def policy(self, **fields: Any) -> None:
        self.catalog.set_policy(MODEL, ModelPolicy(**fields), "ann")

    def connect(self) -> Catalog:
        self.connected += 1
        if self.is_database_down:
            raise CatalogUnavailable("the catalog", "connection refused")
        return Catalog(self.url)

    def start(self, patience: float | None = 10.0, **limits: int) -> CatalogSource:
        """As a gateway that starts."""
        cache = ContentCache(self.folder / "cache", CacheLimits(**limits))
        source = CatalogSource(
            "the catalog", self.connect, lambda: self.store, cache, Ledger(cache.root / "ledger", "it"),
            lambda manifest, bundle, key: bundle == key, patience=patience, clock=self.clock,
        )  # fmt: skip
        source.open()
        self.sources.append(source)
        return source

    def close(self) -> None:
        for source in self.sources:
            source.close()
        self.catalog.close()


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    house = House(tmp_path)
    yield house
    house.close()


def listed(snapshot: Snapshot, model: str = MODEL) -> dict[int, dict[str, bytes]]:
    return {version: contents(each.path) for version, each in snapshot.models[model].versions.items()}


def numbers(snapshot: Snapshot, model: str = MODEL) -> list[int]:
    return sorted(snapshot.models[model].versions)


def reasons(snapshot: Snapshot) -> str:
    return "; ".join(f"{problem.path}: {problem.reason}" for problem in snapshot.problems)


def test_an_empty_catalog_holds_no_model(house: House):
    assert house.start().scan() == Snapshot(is_consistent=True)


def test_the_latest_version_is_listed_with_its_bytes_and_digests(house: House):
    house.publish("one")
    house.publish("two")
    snapshot = house.start().scan()
    assert listed(snapshot) == {2: {"model.onnx": b"two"}}
    listing = snapshot.models[MODEL]
    assert listing.versions[2].digests == {"model.onnx": sha256(b"two")}
    assert listing.is_chosen
    assert snapshot.is_consistent
    assert snapshot.problems == ()


def test_the_champion_is_listed_where_there_is_one(house: House):
    house.publish("one", alias="champion")
    house.publish("two")
    assert numbers(house.start().scan()) == [1]


@pytest.mark.parametrize(
    ("served_by", "wanted"),
    [
        ("default", [4]), ("latest", [4]), ("latest:2", [3, 4]), ("all", [1, 2, 3, 4]), ("versions:1,3", [1, 3]),
        ("alias:candidate", [2]), ("alias:nobody", []),
    ],
)  # fmt: skip
def test_each_policy_has_its_versions(house: House, served_by: str, wanted: list[int]):
    for number in range(1, 5):
        house.publish(str(number))
    house.move(2, "candidate")
    house.policy(served_by=served_by)
    assert numbers(house.start().scan()) == wanted


def test_a_moved_alias_is_followed_at_the_next_look(house: House):
    house.publish("one", alias="champion")
    source = house.start()
    assert numbers(source.scan()) == [1]
    house.publish("two", alias="champion")
    assert numbers(source.scan()) == [2]
    house.move(1)
    assert numbers(source.scan()) == [1]
    house.move(None)
    assert numbers(source.scan()) == [2]


def test_the_configuration_is_the_versions_own(house: House):
    house.publish("one", config_text="max_batch_size: 1")
    source = house.start()
    assert source.scan().models[MODEL].config == b"max_batch_size: 1"
    house.publish("two")
    assert source.scan().models[MODEL].config is None


def test_each_version_of_a_rollout_has_its_own_configuration_also_after_a_restart_without_the_catalog(house: House):
    house.publish("one", alias="champion", config_text="max_batch_size: 1")
    house.publish("two", config_text="max_batch_size: 2")
    house.publish("three")
    expected = {1: b"max_batch_size: 1", 2: b"max_batch_size: 2", 3: b""}
    source = house.start()
    source.admit({MODEL: frozenset({1, 2, 3})})

    def configs(snapshot: Snapshot) -> dict[int, bytes | None]:
        return {version: each.config for version, each in snapshot.models[MODEL].versions.items()}

    assert configs(source.scan()) == expected
    source.close()
    house.is_database_down = True
    assert configs(house.start().scan()) == expected


def test_a_ledger_of_before_versions_had_configurations_of_their_own_is_read(tmp_path: Path):
    with contextlib.closing(sqlite3.connect(tmp_path / "ledger")) as old:
        old.execute("CREATE TABLE served (source TEXT, model TEXT, versions TEXT, config BLOB, is_chosen INTEGER, "
                    "PRIMARY KEY (source, model))")  # fmt: skip
        old.execute("INSERT INTO served VALUES ('it', 'fraud', '[]', NULL, 1)")
        old.commit()
    ledger = Ledger(tmp_path / "ledger", "it")
    ledger.open()
    assert ledger.served() == {"fraud": Served()}
    ledger.serve("fraud", Served(configs={3: b"max_batch_size: 1"}))
    assert ledger.served() == {"fraud": Served(configs={3: b"max_batch_size: 1"})}
    ledger.close()


def test_files_of_a_version_may_be_its_labels(house: House):
    house.publish("one")
    assert [stamp.path for stamp in house.start().scan().models[MODEL].companions] == ["model.onnx"]


def test_a_look_at_an_unchanged_catalog_is_the_same_snapshot_and_fetches_nothing(house: House):
    house.publish("one")
    source = house.start()
    first = source.scan()
    assert source.scan() is first
    assert len(house.store.fetched) == 1
    assert house.connected == 1


def test_a_version_that_is_on_its_way_does_not_hold_up_what_is_there(house: House):
    house.publish("one", alias="champion")
    source = house.start(patience=0.0)
    while not source.scan().models[MODEL].versions:
        pass
    house.store.gate = threading.Event()
    house.publish("two", alias="champion")
    house.publish("other", "other")
    snapshot = source.scan()
    assert numbers(snapshot) == [1]
    assert "on its way" in snapshot.models["other"].problem
    assert snapshot.models["other"].is_awaited, "a server that starts waits for it"
    assert source.health().pending == 2
    house.store.gate.set()
    while numbers(source.scan()) != [2] or source.health().pending:
        pass
    assert numbers(source.scan(), "other") == [1]


# Away


def test_a_store_that_is_away_keeps_what_is_served_and_is_told(house: House):
    house.publish("one", alias="champion")
    source = house.start()
    source.scan()
    house.store.is_down = True
    house.publish("two", alias="champion")
    snapshot = source.scan()
    assert numbers(snapshot) == [1]
    assert reasons(snapshot) == "fraud/2: memory: down"
    assert source.scan().problems == snapshot.problems, "the same words at each look: it is told once"
    house.store.is_down = False
    house.clock.now += 1
    assert numbers(source.scan()) == [2]
    assert source.scan().problems == ()


def test_attempts_at_a_store_that_is_away_become_rarer(house: House):
    house.publish("one")
    house.store.is_down = True
    source = house.start()
    for _ in range(600):
        source.scan()
        house.clock.now += 0.5
    assert 8 <= len(house.store.fetched) <= 14


def test_a_restart_without_the_database_serves_what_was_served_last(house: House):
    house.publish("one", alias="champion", config_text="max_batch_size: 1")
    house.publish("two")
    before = house.start().scan()
    house.is_database_down = True
    source = house.start()
    snapshot = source.scan()
    assert snapshot.models == before.models
    assert "served from the cache" in reasons(snapshot)
    with pytest.raises(SourceUnavailable):
        source.scan()
    house.is_database_down = False
    house.move(2)
    assert numbers(source.scan()) == [2]


def test_a_restart_without_the_store_serves_what_is_in_the_cache(house: House):
    house.publish("one", alias="champion")
    house.start().scan()
    house.store.is_down = True
    assert numbers(house.start().scan()) == [1]


def test_a_restart_without_the_store_serves_the_last_version_where_the_wanted_one_never_came(house: House):
    house.publish("one", alias="champion")
    house.start().scan()
    house.store.is_down = True
    house.publish("two", alias="champion")
    snapshot = house.start().scan()
    assert numbers(snapshot) == [1]
    assert "fraud/2" in reasons(snapshot)


def test_a_first_start_without_the_database_holds_nothing_to_serve(house: House):
    house.is_database_down = True
    with pytest.raises(SourceUnavailable):
        house.start().scan()


def test_a_database_that_does_not_answer_is_not_waited_for(house: House):
    house.publish("one")
    source = house.start()
    source.scan()
    hang = threading.Event()
    source._answer_seconds = 0.05
    source.look = lambda last: hang.wait(30) and last  # type: ignore[assignment, method-assign]
    for _ in range(2):
        with pytest.raises(SourceUnavailable, match="no answer"):
            source.scan()
    hang.set()
    source._answer_seconds = 5
    assert numbers(source.scan()) == [1]


def test_an_older_copy_of_the_database_is_not_followed(house: House):
    house.publish("one", alias="champion")
    house.publish("two", alias="champion")
    source = house.start()
    source.scan()
    with create_engine(house.url).begin() as connection:
        connection.execute(text("UPDATE head SET seq = 1"))
    with pytest.raises(SourceUnavailable, match="less than before"):
        source.scan()


# Lies


def test_other_bytes_than_the_manifest_names_are_refused_counted_and_told(house: House):
    house.publish("one", alias="champion")
    source = house.start()
    source.scan()
    house.publish("two", alias="champion")
    house.store.objects[sha256(b"two")] = b"2wo"
    snapshot = source.scan()
    assert numbers(snapshot) == [1]
    assert "refused" in reasons(snapshot)
    assert source.health().counts["lies"] == 1
    house.store.objects[sha256(b"two")] = b"two"
    house.clock.now += 1
    assert numbers(source.scan()) == [2]


def rewrite(house: House, words: str, version: int = 1) -> None:
    """What only somebody with the database in their hands can do."""
    other = manifest(words)
    house.store.objects[sha256(words.encode())] = words.encode()
    with create_engine(house.url).begin() as connection:
        connection.execute(
            text("UPDATE versions SET manifest = :m, digest = :d WHERE version = :v"),
            {"m": other.to_json(), "d": other.digest, "v": version},
        )


@pytest.mark.parametrize("is_restarted", [False, True])
def test_a_version_that_the_catalog_rewrote_is_refused_and_what_is_served_stays(house: House, is_restarted: bool):
    house.publish("one", alias="champion")
    source = house.start()
    source.scan()
    rewrite(house, "another one")
    house.publish("unrelated", "other")
    snapshot = (house.start() if is_restarted else source).scan()
    assert listed(snapshot) == {1: {"model.onnx": b"one"}}
    assert "the source changed what it is" in reasons(snapshot)
    assert numbers(snapshot, "other") == [1]
    assert house.sources[-1].health().counts["lies"] == 1


def test_a_manifest_that_does_not_have_its_digest_is_refused(house: House):
    house.publish("one", alias="champion")
    with create_engine(house.url).begin() as connection:
        connection.execute(text("UPDATE versions SET digest = :d"), {"d": "0" * 64})
    snapshot = house.start().scan()
    assert numbers(snapshot) == []
    assert "digest" in reasons(snapshot)


def test_what_is_loaded_stays_when_its_cached_files_are_gone_and_the_store_is_away(house: House):
    house.publish("one")
    source, settling = house.start(), Settling()
    believed = settling.observe(source.scan())
    shutil.rmtree(house.folder / "cache")
    house.store.is_down = True
    house.clock.now += 60
    after = settling.observe(source.scan())
    assert after.models[MODEL].versions == believed.models[MODEL].versions
    assert "fraud/1" in reasons(after)
    house.store.is_down = False
    house.clock.now += 60
    assert listed(source.scan()) == {1: {"model.onnx": b"one"}}


def test_damaged_files_are_pulled_again(house: House):
    house.publish("one")
    source = house.start()
    folder = source.scan().models[MODEL].versions[1].path
    (folder / "model.onnx").unlink()
    house.clock.now += 60
    assert listed(source.scan()) == {1: {"model.onnx": b"one"}}


# Governance


def test_a_champion_that_is_not_approved_waits_and_what_is_served_stays(house: House):
    house.publish("one", alias="champion")
    house.catalog.approve(MODEL, 1, "ben")
    house.policy(approval=ApprovalPolicy(require_approval=True))
    source = house.start()
    assert numbers(source.scan()) == [1]
    house.publish("two", alias="champion")
    snapshot = source.scan()
    assert numbers(snapshot) == [1]
    assert reasons(snapshot) == "fraud: version 2 may not be served: not approved yet"
    house.catalog.approve(MODEL, 2, "ben")
    assert numbers(source.scan()) == [2]


def test_the_latest_is_the_latest_that_may_be_served(house: House):
    house.publish("one")
    house.publish("two")
    house.policy(served_by="latest", approval=ApprovalPolicy(require_approval=True))
    source = house.start()
    assert numbers(source.scan()) == []
    house.catalog.approve(MODEL, 1, "ben")
    assert numbers(source.scan()) == [1]
    house.catalog.approve(MODEL, 2, "ben")
    assert numbers(source.scan()) == [2]
    house.catalog.reject(MODEL, 2, "ben")
    assert numbers(source.scan()) == [1]


def test_a_rejected_version_is_not_served_any_more_whatever_points_at_it(house: House):
    house.publish("one", alias="champion")
    source, settling = house.start(), Settling()
    assert numbers(settling.observe(source.scan())) == [1]
    house.catalog.reject(MODEL, 1, "ben")
    believed = settling.observe(source.scan())
    assert numbers(believed) == []
    assert believed.models[MODEL].problem == ""


def test_a_signature_that_came_later_counts(house: House):
    house.publish("one")
    house.policy(approval=ApprovalPolicy(signed_by=("key",)))
    source = house.start()
    assert numbers(source.scan()) == []
    house.catalog.add_signature(MODEL, 1, "key", "ann")
    assert numbers(source.scan()) == [1]


def test_a_move_that_is_a_proposal_leaves_what_serves_and_is_told(house: House):
    house.publish("one", alias="champion")
    house.policy(on_alias_move="propose")
    source = house.start()
    assert numbers(source.scan()) == [1]
    house.publish("two", alias="champion")
    assert numbers(source.scan()) == [1]
    assert source.proposals() == (Proposal(MODEL, "champion", 2, frozenset({1}), 2),)
    assert numbers(house.start().scan()) == [1]
    house.policy(on_alias_move="swap")
    assert numbers(source.scan()) == [2]
    assert source.proposals() == ()


def roll_out(house: House, **fields: Any) -> str:
    values = {"model": MODEL, "stable": 1, "canary": 2, "alias": "champion", "plan": {}, "status": {}, "state": "p"}
    return house.catalog.rollouts.start(NewRollout(**values | fields), "ann").id


def end(house: House, id: str, alias: AliasEnd) -> None:
    house.catalog.rollouts.change(id, 1, Change("end", "over", False, {}, alias=alias), "ann")


def test_the_canary_of_a_rollout_is_wanted_when_its_route_is_there_and_not_before(house: House):
    house.publish("one", alias="champion")
    house.publish("two")
    source = house.start()
    id = roll_out(house)
    assert numbers(source.scan()) == [1]
    source.admit({MODEL: frozenset({1, 2})})
    assert numbers(source.scan()) == [1, 2]
    end(house, id, "promote")
    assert numbers(source.scan()) == [1, 2]
    source.admit({})
    assert numbers(source.scan()) == [2]


def test_a_canary_that_is_rejected_leaves_the_stable_version_alone(house: House):
    house.publish("one", alias="champion")
    house.publish("two")
    source = house.start()
    roll_out(house)
    source.admit({MODEL: frozenset({1, 2})})
    assert numbers(source.scan()) == [1, 2]
    house.catalog.reject(MODEL, 2, "bob")
    snapshot = source.scan()
    assert numbers(snapshot) == [1]
    assert any("rejected" in problem.reason for problem in snapshot.problems)


def test_while_a_proposal_is_rolled_out_a_gateway_that_starts_serves_the_stable_version(house: House):
    house.publish("one", alias="champion")
    house.policy(on_alias_move="propose")
    house.publish("two", alias="champion")
    roll_out(house, proposed_generation=2)
    shutil.rmtree(house.folder / "cache", ignore_errors=True)
    assert numbers(house.start().scan()) == [1]


def test_a_move_that_a_rollout_made_is_no_proposal_for_a_gateway_that_missed_it(house: House):
    house.publish("one", alias="champion")
    house.policy(on_alias_move="propose")
    source = house.start()
    assert numbers(source.scan()) == [1]
    house.publish("two")
    end(house, roll_out(house), "promote")
    assert numbers(source.scan()) == [2]
    assert source.proposals() == ()


# The cache


def test_what_is_listed_or_held_is_never_evicted(house: House):
    house.publish("1" * 40)
    house.publish("2" * 40)
    house.move(1)
    source = house.start(max_bytes=100)
    source.scan()
    source.hold({MODEL: (1,)})
    house.move(2)
    assert numbers(source.scan()) == [2]
    house.publish("3" * 40, alias="champion")
    snapshot = source.scan()
    assert numbers(snapshot) == [2]
    assert "leaves no room" in reasons(snapshot)
    source.hold({MODEL: (2,)})
    house.clock.now += 1
    assert numbers(source.scan()) == [3]


@pytest.mark.parametrize("patience", [0.0, None])
def test_a_scan_that_waits_ends_when_the_source_is_closed(house: House, patience: float | None):
    house.publish("one")
    house.store.gate = threading.Event()
    source = house.start(patience=patience)
    scanning = threading.Thread(target=source.scan)
    scanning.start()
    while not house.store.running:
        pass
    source.close()
    scanning.join(10)
    assert not scanning.is_alive()
    house.store.gate.set()


def test_many_models_cost_one_number_a_look(house: House, monkeypatch: pytest.MonkeyPatch):
    for number in range(50):
        house.publish(f"{number}", f"model-{number}")
    source = house.start()
    assert len(source.scan().models) == 50
    asked: list[str] = []

    def counted(name: str) -> Callable[..., object]:
        original = getattr(Catalog, name)
        return lambda self, *arguments: (asked.append(name), original(self, *arguments))[1]

    for name in ("overview", "version", "change_token"):
        monkeypatch.setattr(Catalog, name, counted(name))
    for _ in range(10):
        source.scan()
    assert asked == ["change_token"] * 10
    house.publish("more", "model-7")
    source.scan()
    assert asked[10:] == ["change_token", "overview", "version"]
