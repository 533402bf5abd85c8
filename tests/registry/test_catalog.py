from __future__ import annotations

import contextlib
import json
import multiprocessing
import re
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import pytest
from catalog_processes import add_versions, add_versions_forever, win_alias
from fault_proxy import fault_proxy
from manifests import manifest
from postgresql_server import PostgreSQLServer
from sqlalchemy import create_engine, text

from registry.catalog import Catalog
from registry.errors import (
    AliasConflict,
    AuthorMayNotApprove,
    CatalogTooNew,
    CatalogUnavailable,
    InvalidManifest,
    InvalidName,
    NotFound,
    PolicyConflict,
    PushExpired,
    VersionRejected,
)
from registry.listing import SCHEMA_VERSION
from registry.manifest import Lineage
from registry.policies import ApprovalPolicy, GoldenSet, ModelPolicy


@pytest.fixture
def processes() -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(4, multiprocessing.get_context("forkserver")) as pool:
        yield pool


class TestVersions:
    def test_count_1_2_3_a_model(self, catalog: Catalog) -> None:
        numbers = [catalog.add_version(manifest(text), "ada")[0].version for text in "abc"]
        other, _ = catalog.add_version(manifest("a", model="churn"), "ada")
        assert (numbers, other.version) == ([1, 2, 3], 1)
        assert [row.name for row in catalog.models()] == ["churn", "fraud"]

    def test_are_what_was_added(self, catalog: Catalog) -> None:
        added = manifest("a", tags={"team": "risk"}, card={"owner": "ada", "auc": 0.9}, config_text='name: "fraud"\n')
        row, is_new = catalog.add_version(added, "ada", signatures=["bundle"])
        assert is_new
        assert row == catalog.version("fraud", 1) == catalog.versions("fraud")[0]
        assert (row.manifest, row.digest, row.stage, row.author) == (added, added.digest, "pending", "ada")
        assert row.signatures == ("bundle",)

    def test_are_read_together_as_they_are_one_by_one(self, catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in "abc":
            catalog.add_version(manifest(name), "ada")
        catalog.add_version(manifest("a", model="churn"), "ada", signatures=["a bundle"])
        catalog.record_check("fraud", 2, "golden", "a set", is_passed=True, detail="", actor="ada")
        monkeypatch.setattr("registry.catalog_reading.KEYS_AT_ONCE", 2)
        found = catalog.some_versions({("fraud", 1), ("fraud", 2), ("churn", 1), ("churn", 7), ("gone", 1)})
        expected = [catalog.version(*key) for key in (("churn", 1), ("fraud", 1), ("fraud", 2))]
        assert sorted(found, key=lambda row: (row.model, row.version)) == expected
        assert catalog.some_versions(()) == []

    def test_with_the_same_files_are_the_same_version_whoever_adds_them_again(self, catalog: Catalog) -> None:
        first, _ = catalog.add_version(manifest("a"), "ada")
        again, is_new = catalog.add_version(manifest("a", tags={"try": "2"}), "bob", alias="champion")
        assert (again, is_new) == (first, False)
        assert [row.version for row in catalog.aliases("fraud")] == [1]

    def test_with_another_configuration_are_another_version(self, catalog: Catalog) -> None:
        catalog.add_version(manifest("a"), "ada")
        assert catalog.add_version(manifest("a", config_text="max_batch_size: 8"), "ada")[0].version == 2

    def test_that_do_not_exist_are_not_found(self, catalog: Catalog) -> None:
        catalog.add_version(manifest(), "ada")
        for ask in (
            lambda: catalog.version("fraud", 2),
            lambda: catalog.version("nobody", 1),
            lambda: catalog.versions("nobody"),
            lambda: catalog.aliases("nobody"),
            lambda: catalog.model("nobody"),
            lambda: catalog.approve("fraud", 2, "bob"),
            lambda: catalog.move_alias("fraud", "champion", 2, actor="ada"),
            lambda: catalog.move_alias("nobody", "champion", 1, actor="ada"),
            lambda: catalog.add_signature("fraud", 2, "bundle", "ada"),
        ):
            with pytest.raises(NotFound):
                ask()

    def test_added_by_many_threads_have_a_number_each(self, catalog: Catalog) -> None:
        with ThreadPoolExecutor(8) as pool:
            added = list(
                pool.map(lambda i: catalog.add_version(manifest(f"{i // 2}"), f"{i}", alias="last"), range(40))
            )
        assert sorted(row.version for row, is_new in added if is_new) == list(range(1, 21))
        assert sum(is_new for _, is_new in added) == 20
        assert catalog.verify_audit() is None

    def test_added_by_many_processes_that_open_the_catalog_at_once_have_a_number_each(
        self, database_url: str, processes: ProcessPoolExecutor
    ) -> None:
        work = [processes.submit(add_versions, database_url, [f"{i} {j}" for j in range(6)]) for i in range(4)]
        numbers = sorted(number for done in work for number in done.result())
        assert numbers == list(range(1, 25))
        catalog = Catalog(database_url)
        assert catalog.verify_audit() is None
        catalog.close()

    def test_are_whole_or_absent_when_the_process_that_adds_them_is_killed(self, database_url: str) -> None:
        catalog = Catalog(database_url)
        for round in range(3):
            before = catalog.change_token()
            process = multiprocessing.get_context("forkserver").Process(
                target=add_versions_forever, args=(database_url,), daemon=True
            )
            process.start()
            while catalog.change_token() < before + 3 * (round + 1):
                assert process.is_alive()
            process.kill()
            process.join()
            assert catalog.verify_audit() is None
            rows = catalog.versions("fraud")
            assert [row.version for row in rows] == list(range(1, len(rows) + 1))
            assert catalog.add_version(manifest(f"after {round}"), "bob")[1]
        catalog.close()


class TestAliases:
    @pytest.fixture
    def catalog(self, catalog: Catalog) -> Catalog:
        for words in "abc":
            catalog.add_version(manifest(words), "ada")
        return catalog

    def test_point_at_versions_and_keep_their_history(self, catalog: Catalog) -> None:
        catalog.move_alias("fraud", "champion", 1, actor="ada", reason="first")
        row = catalog.move_alias("fraud", "champion", 3, actor="bob", reason="better")
        assert (row.version, row.generation) == (3, 2)
        assert catalog.aliases("fraud") == [row]
        history = catalog.alias_history("fraud", "champion")
        assert [(move.before, move.version, move.generation) for move in history] == [(None, 1, 1), (1, 3, 2)]
        assert [(move.actor, move.reason) for move in history] == [("ada", "first"), ("bob", "better")]

    def test_move_only_from_the_generation_that_the_caller_knows(self, catalog: Catalog) -> None:
        catalog.move_alias("fraud", "champion", 1, actor="ada", expected=0)
        catalog.move_alias("fraud", "champion", 2, actor="ada", expected=1)
        for expected in (0, 1, 3):
            with pytest.raises(AliasConflict) as conflict:
                catalog.move_alias("fraud", "champion", 3, actor="bob", expected=expected)
            assert (conflict.value.generation, conflict.value.version) == (2, 2)

    def test_to_where_they_point_already_change_nothing(self, catalog: Catalog) -> None:
        catalog.move_alias("fraud", "champion", 1, actor="ada")
        token = catalog.change_token()
        assert catalog.move_alias("fraud", "champion", 1, actor="ada", expected=1).generation == 1
        assert catalog.change_token() == token

    def test_that_were_removed_go_on_with_their_generations(self, catalog: Catalog) -> None:
        catalog.move_alias("fraud", "champion", 1, actor="ada")
        assert catalog.move_alias("fraud", "champion", None, actor="ada").generation == 2
        assert catalog.aliases("fraud") == []
        with pytest.raises(NotFound):
            catalog.move_alias("fraud", "champion", None, actor="ada")
        assert catalog.move_alias("fraud", "champion", 2, actor="ada", expected=0).generation == 3
        assert [move.version for move in catalog.alias_history("fraud", "champion")] == [1, None, 2]

    def test_have_names_that_nobody_takes_for_a_version_or_a_path(self, catalog: Catalog) -> None:
        for name in ("", "1", "007", "a/b", "..", ".a", "a b", "ä", "a" * 129, "a@b"):
            with pytest.raises(InvalidName):
                catalog.move_alias("fraud", name, 1, actor="ada")
            with pytest.raises(InvalidName):
                catalog.add_version(manifest("d"), "ada", alias=name)
        assert len(catalog.versions("fraud")) == 3

    def test_wanted_by_many_processes_go_to_one(self, database_url: str, catalog: Catalog) -> None:
        with ProcessPoolExecutor(3, multiprocessing.get_context("forkserver")) as pool:
            won = [pool.submit(win_alias, database_url, version, 0) for version in (1, 2, 3)]
            outcomes = [work.result() for work in won]
        assert sum(outcomes) == 1
        assert catalog.aliases("fraud")[0].version == outcomes.index(True) + 1

    def test_incremented_by_many_threads_lose_no_move(self, catalog: Catalog) -> None:
        def move_once(version: int) -> None:
            while True:
                generation = next((row.generation for row in catalog.aliases("fraud")), 0)
                target = 1 + generation % 3
                try:
                    catalog.move_alias("fraud", "champion", target, expected=generation, actor=str(version))
                    return
                except AliasConflict:
                    continue

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(move_once, range(20)))
        assert catalog.aliases("fraud")[0].generation == 20
        assert len(catalog.alias_history("fraud", "champion")) == 20


class TestApproval:
    def test_is_by_somebody_other_than_the_author(self, catalog: Catalog) -> None:
        catalog.add_version(manifest("a", lineage=Lineage(author="grace")), "ada")
        for author in ("ada", "grace"):
            with pytest.raises(AuthorMayNotApprove):
                catalog.approve("fraud", 1, author)
        assert catalog.approve("fraud", 1, "bob", "looks right").stage == "approved"
        entry = catalog.audit()[-1]
        assert (entry.action, entry.actor, entry.target, entry.reason) == (
            "version.approve",
            "bob",
            "fraud/1",
            "looks right",
        )
        assert (entry.before["stage"], entry.after["stage"]) == ("pending", "approved")
        assert entry.after["digest"] == catalog.version("fraud", 1).digest

    def test_can_be_taken_back_by_anybody(self, catalog: Catalog) -> None:
        catalog.add_version(manifest(), "ada", alias="champion")
        catalog.approve("fraud", 1, "bob")
        assert catalog.reject("fraud", 1, "ada").stage == "rejected"
        with pytest.raises(VersionRejected):
            catalog.move_alias("fraud", "candidate", 1, actor="ada")
        assert catalog.approve("fraud", 1, "bob").stage == "approved"

    def test_twice_is_logged_once(self, catalog: Catalog) -> None:
        catalog.add_version(manifest(), "ada")
        catalog.approve("fraud", 1, "bob")
        token = catalog.change_token()
        catalog.approve("fraud", 1, "carol")
        assert catalog.change_token() == token

    def test_needs_what_the_policy_says(self, catalog: Catalog) -> None:
        approval = ApprovalPolicy(True, ("PEM",), ("onnx",), ("owner",), GoldenSet("0" * 64, 10))
        policy = ModelPolicy("alias:live", "propose", approval, load_on_demand=True)
        row = catalog.set_policy("fraud", policy, "ada", reason="rules")
        assert row == catalog.model("fraud") == catalog.models()[0]
        assert (row.policy, row.served_by, row.on_alias_move) == (policy, "alias:live", "propose")
        assert catalog.versions("fraud") == []
        with catalog.collecting() as kept:
            assert kept == {"0" * 64}, "what a policy asks for is no garbage"

    def test_a_policy_is_replaced_only_by_who_knows_it(self, catalog: Catalog) -> None:
        first = catalog.set_policy("fraud", ModelPolicy("latest:2"), "ada", expected="").policy
        second = catalog.set_policy("fraud", ModelPolicy("all"), "bob", expected=first.digest).policy
        for expected in (first.digest, ""):
            with pytest.raises(PolicyConflict) as refused:
                catalog.set_policy("fraud", ModelPolicy("latest:3"), "ada", expected=expected)
            assert (refused.value.expected, refused.value.found) == (expected, second.digest)
        with pytest.raises(PolicyConflict):
            catalog.set_policy("other", ModelPolicy(), "ada", expected=first.digest)
        assert catalog.model("fraud").policy == ModelPolicy("all")
        assert [row.name for row in catalog.models()] == ["fraud"]

    def test_of_two_who_replace_a_policy_at_once_one_is_told(self, catalog: Catalog) -> None:
        known = catalog.set_policy("fraud", ModelPolicy(), "ada").policy.digest

        def replace(served_by: str) -> bool:
            try:
                catalog.set_policy("fraud", ModelPolicy(served_by), "ada", expected=known)
            except PolicyConflict:
                return False
            return True

        with ThreadPoolExecutor(4) as pool:
            done = list(pool.map(replace, ["all", "latest:2", "latest:3", "latest:4"]))
        assert done.count(True) == 1
        assert catalog.model("fraud").served_by == ["all", "latest:2", "latest:3", "latest:4"][done.index(True)]

    def test_checks_are_kept_in_order(self, catalog: Catalog) -> None:
        catalog.add_version(manifest(), "ada")
        catalog.record_check("fraud", 1, "golden", "set", False, "ci", detail="3 of 10 differ")
        row = catalog.record_check("fraud", 1, "golden", "set", True, "ci")
        assert [(check.is_passed, check.detail) for check in row.checks] == [(False, "3 of 10 differ"), (True, "")]

    def test_signatures_are_kept_once(self, catalog: Catalog) -> None:
        catalog.add_version(manifest(), "ada", signatures=["one"])
        catalog.add_signature("fraud", 1, "one", "ada")
        assert sorted(catalog.add_signature("fraud", 1, "two", "bob").signatures) == ["one", "two"]


class TestWatching:
    def test_the_token_grows_with_every_change_and_with_nothing_else(self, catalog: Catalog) -> None:
        changes = [
            lambda: catalog.add_version(manifest("a"), "ada"),
            lambda: catalog.add_version(manifest("b"), "ada", alias="champion"),
            lambda: catalog.move_alias("fraud", "champion", 1, actor="ada"),
            lambda: catalog.set_policy("fraud", ModelPolicy("all"), "ada"),
            lambda: catalog.approve("fraud", 1, "bob"),
            lambda: catalog.add_signature("fraud", 1, "bundle", "ada"),
        ]
        token = catalog.change_token()
        for change in changes:
            change()
            before, token = token, catalog.change_token()
            assert token > before
        for change in (*changes[:1], lambda: catalog.set_policy("fraud", ModelPolicy("all"), "bob"), catalog.overview):
            change()
        assert catalog.change_token() == token

    def test_the_overview_is_of_one_moment(self, catalog: Catalog) -> None:
        catalog.add_version(manifest("a"), "ada", alias="champion")
        catalog.set_policy("empty", ModelPolicy(), "ada")
        overview = catalog.overview()
        assert overview.token == catalog.change_token()
        assert set(overview.models) == {"empty", "fraud"}
        assert [brief.version for brief in overview.versions["fraud"]] == [1]
        assert (overview.versions["empty"], dict(overview.aliases["empty"])) == ((), {})
        assert overview.aliases["fraud"]["champion"].version == 1

    def test_an_overview_while_others_write_is_never_half_of_a_change(self, catalog: Catalog) -> None:
        with ThreadPoolExecutor(1) as pool:
            writing = pool.submit(
                lambda: [catalog.add_version(manifest(f"{i}"), "ada", alias="last") for i in range(30)]
            )
            while not writing.done():
                overview = catalog.overview()
                if "fraud" in overview.models:
                    assert overview.aliases["fraud"]["last"].version == overview.versions["fraud"][-1].version
            writing.result()


class TestDatabase:
    def test_keeps_everything_over_a_restart(self, database_url: str) -> None:
        first = Catalog(database_url)
        first.add_version(manifest(), "ada", alias="champion")
        expected = first.overview()
        first.close()
        second = Catalog(database_url)
        assert second.overview() == expected
        second.close()

    def test_of_a_later_release_is_left_alone(self, tmp_path: Path) -> None:
        Catalog(f"sqlite:///{tmp_path}/c.db").close()
        with sqlite3.connect(tmp_path / "c.db") as connection:
            connection.execute("UPDATE head SET schema_version = 99")
        connection.close()
        with pytest.raises(CatalogTooNew) as error:
            Catalog(f"sqlite:///{tmp_path}/c.db")
        assert (error.value.found, error.value.known) == (99, SCHEMA_VERSION)

    def test_of_the_first_release_is_brought_up_to_date_with_all_that_it_holds(self, database_url: str) -> None:
        first = Catalog(database_url)
        row, _ = first.add_version(manifest(), "ada", alias="champion")
        first.close()
        engine = create_engine(database_url)
        with engine.begin() as connection:
            for table in ("rollout_labels", "rollout_evidence", "rollouts"):
                connection.execute(text(f"DROP TABLE {table}"))
            connection.execute(text("UPDATE head SET schema_version = 1"))
        second = Catalog(database_url)
        assert second.version("fraud", 1) == row
        assert second.rollouts.active() == []
        assert second.verify_audit() is None
        second.close()
        with engine.connect() as connection:
            assert connection.execute(text("SELECT schema_version FROM head")).scalar() == SCHEMA_VERSION
        engine.dispose()

    @pytest.mark.parametrize(
        "url", ["nonsense", "oracle://x", "mongodb://a:secret@b/c", "sqlite:////proc/nowhere/catalog.db"]
    )
    def test_that_cannot_be_used_says_so(self, url: str) -> None:
        with pytest.raises(CatalogUnavailable) as error:
            Catalog(url)
        assert "secret" not in str(error.value)

    def test_that_cannot_be_reached_says_so_without_the_password(self) -> None:
        with pytest.raises(CatalogUnavailable) as error:
            Catalog("postgresql+psycopg://ada:hunter2@127.0.0.1:9/catalog")
        assert "hunter2" not in str(error.value)
        assert "127.0.0.1" in str(error.value)

    def test_without_room_changes_nothing(self, tmp_path: Path) -> None:
        catalog = Catalog(f"sqlite:///{tmp_path}/c.db")
        catalog.add_version(manifest("a"), "ada")
        with catalog._database.reading() as connection:
            pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
        catalog.close()

        def fill(connection: sqlite3.Connection, _record: object) -> None:
            connection.execute(f"PRAGMA max_page_count = {pages}")

        from sqlalchemy import event

        event.listen(catalog._database._engine, "connect", fill)
        with pytest.raises(CatalogUnavailable, match="full"):
            catalog.add_version(manifest("b", card={"text": "x" * 100_000}), "ada")
        event.remove(catalog._database._engine, "connect", fill)
        catalog.close()
        assert [row.version for row in catalog.versions("fraud")] == [1]
        assert catalog.verify_audit() is None
        catalog.close()

    def test_that_restarts_is_used_again(self, postgresql: PostgreSQLServer) -> None:
        catalog = Catalog(postgresql.database_url())
        catalog.add_version(manifest("a"), "ada")
        for at_once in (False, True):
            postgresql.stop(at_once=at_once)
            try:
                with pytest.raises(CatalogUnavailable):
                    catalog.change_token()
            finally:
                postgresql.start()
            assert catalog.change_token() == 1
        assert catalog.add_version(manifest("b"), "ada")[0].version == 2
        catalog.close()

    def test_that_holds_no_manifest_says_so_when_it_is_read(self, tmp_path: Path) -> None:
        catalog = Catalog(f"sqlite:///{tmp_path}/c.db")
        catalog.add_version(manifest(), "ada")
        with sqlite3.connect(tmp_path / "c.db") as connection:
            connection.execute("UPDATE versions SET manifest = ?", (json.dumps({"model": "fraud"}),))
        connection.close()
        row = catalog.version("fraud", 1)
        with pytest.raises(InvalidManifest):
            _ = row.manifest
        catalog.close()

    def test_a_server_that_says_nothing_any_more_is_given_up_and_asked_anew(
        self, postgresql: PostgreSQLServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("registry.catalog_schema.ANSWER_SECONDS", 0.3)
        url = postgresql.database_url()
        with fault_proxy(unix=f"{postgresql.folder}/.s.PGSQL.5432") as proxy:
            through = re.sub(r"@/(\w+)\?.*", rf"@127.0.0.1:{proxy.port}/\1", url)
            with contextlib.closing(Catalog(through)) as catalog:
                before = catalog.change_token()
                unanswered = pytest.raises(CatalogUnavailable, match=r"no answer in 0\.3 s")
                with unanswered, catalog._database.reading() as connection:
                    proxy.set("hang")
                    connection.execute(text("SELECT 1"))
                proxy.set("none")
                assert catalog.change_token() == before


class TestPushesUnderWay:
    def test_keep_their_objects_until_they_end_or_a_day_is_over(self, database_url: str) -> None:
        now = [1_000_000.0]
        catalog = Catalog(database_url, clock=lambda: now[0])
        ended, given_up, forgotten = (catalog.begin_push([f"{i:064d}"], "ada") for i in range(3))
        catalog.add_version(manifest("a"), "ada", push=ended)
        catalog.end_push(given_up)
        catalog.end_push(given_up)
        file = manifest("a").files[0].sha256
        with catalog.collecting() as kept:
            assert kept == {file, f"{2:064d}"}
        assert forgotten != ended
        now[0] += 24 * 3600 + 1
        with catalog.collecting() as kept:
            assert kept == {file}
        catalog.close()

    def test_keep_their_objects_for_days_as_long_as_they_say_so(self, database_url: str) -> None:
        now = [1_000_000.0]
        with contextlib.closing(Catalog(database_url, clock=lambda: now[0])) as catalog:
            push = catalog.begin_push([f"{1:064d}"], "ada")
            for _ in range(5):
                now[0] += 23 * 3600
                catalog.keep_push(push)
                with catalog.collecting() as kept:
                    assert kept == {f"{1:064d}"}
            now[0] += 24 * 3600 + 1
            with pytest.raises(PushExpired):
                catalog.keep_push(push)
            with pytest.raises(PushExpired):
                catalog.add_version(manifest(), "ada", push=push)
            assert catalog.models() == [], "no version of objects that may be gone"
