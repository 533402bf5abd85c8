from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from manifests import manifest

from registry.audit import AuditEntry, Head, check_chain, from_json_lines, to_json_lines
from registry.catalog import Catalog
from registry.policies import ApprovalPolicy, ModelPolicy

Step = Callable[[Catalog], object]

STEPS: list[Step] = [
    lambda c: c.move_alias("fraud", "champion", 1, actor="bob", reason="to the first"),
    lambda c: c.move_alias("fraud", "champion", 2, actor="bob", reason="to the second"),
    lambda c: c.add_version(manifest("third"), "ada", alias="candidate"),
    lambda c: c.approve("fraud", 1, "bob", "fine"),
    lambda c: c.reject("fraud", 2, "carol", "no"),
    lambda c: c.set_policy("fraud", ModelPolicy("latest:2", approval=ApprovalPolicy(True)), "ada"),
    lambda c: c.add_signature("fraud", 1, "another bundle", "bob"),
    lambda c: c.record_check("fraud", 1, "golden", "set", True, "ci"),
    lambda c: c.move_alias("fraud", "shadow", None, actor="bob"),
]
TABLES = ("models", "versions", "aliases", "signatures", "checks", "audit", "head")
# What no entry vouches for: when a model first appeared, prose beside an outcome, and the schema's version.
UNSAID = {("models", "created_at"), ("checks", "detail"), ("head", "schema_version"), ("head", "id")}


def history(url: str, steps: list[Step]) -> Catalog:
    catalog = Catalog(url)
    catalog.add_version(manifest("first"), "ada", signatures=["bundle"])
    catalog.add_version(manifest("second"), "ada", alias="shadow")
    catalog.record_check("fraud", 2, "golden", "set", False, "ci")
    for step in steps:
        try:
            step(catalog)
        except Exception as error:
            assert type(error).__module__ == "registry.errors", error
    return catalog


class Tamper:
    """Writes to the database as somebody with a shell would."""

    def __init__(self, path: Path) -> None:
        self.connection = sqlite3.connect(path, isolation_level=None)
        self.connection.row_factory = sqlite3.Row

    def rows(self, table: str) -> list[sqlite3.Row]:
        return self.connection.execute(f"SELECT rowid AS place, * FROM {table} ORDER BY rowid").fetchall()

    def columns(self, table: str) -> list[str]:
        return [row["name"] for row in self.connection.execute(f"PRAGMA table_info({table})")]

    def change(self, table: str, row: sqlite3.Row, column: str) -> None:
        old = row[column]
        if column == "is_passed":
            new: Any = 1 - old
        elif isinstance(old, int):
            new = old + 1
        elif old is None:
            new = 1
        elif column == "stage":
            new = "approved" if old != "approved" else "pending"
        elif column == "policy":
            new = old.replace('"swap"', '"propose"')
        else:
            new = old[:-1] + ("0" if old[-1:] != "0" else "1") if old else "x"
        self.connection.execute(f"UPDATE {table} SET {column} = ? WHERE rowid = ?", (new, row["place"]))

    def remove(self, table: str, row: sqlite3.Row) -> None:
        self.connection.execute(f"DELETE FROM {table} WHERE rowid = ?", (row["place"],))


@settings(max_examples=50, deadline=None)
@given(data=st.data(), steps=st.lists(st.sampled_from(STEPS), max_size=6))
def test_tampering_is_found_wherever_it_is_made(data: st.DataObject, steps: list[Step]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "catalog.db"
        catalog = history(f"sqlite:///{path}", steps)
        assert catalog.verify_audit() is None
        tamper = Tamper(path)
        table = data.draw(st.sampled_from([table for table in TABLES if tamper.rows(table)]), "table")
        row = data.draw(st.sampled_from(tamper.rows(table)), "row")
        columns = [column for column in tamper.columns(table) if (table, column) not in UNSAID]
        what = data.draw(st.sampled_from([*columns, *([] if table == "head" else ["whole row"])]), "what")
        try:
            if what == "whole row":
                tamper.remove(table, row)
            else:
                tamper.change(table, row, what)
        except sqlite3.IntegrityError:
            return  # the database itself does not have it
        finally:
            tamper.connection.close()
        assert catalog.verify_audit() is not None
        catalog.close()


@pytest.mark.parametrize("column", ["at", "actor", "action", "target", "before", "after", "reason", "previous", "hash"])
def test_the_entry_that_was_changed_is_named(tmp_path: Path, column: str) -> None:
    catalog = history(f"sqlite:///{tmp_path}/catalog.db", STEPS)
    tamper = Tamper(tmp_path / "catalog.db")
    tamper.change("audit", tamper.rows("audit")[3], column)
    tamper.connection.close()
    bad = catalog.verify_audit()
    assert bad is not None
    assert bad.seq == 4
    catalog.close()


def test_an_alias_that_was_moved_past_the_log_is_found_at_its_last_move(tmp_path: Path) -> None:
    catalog = history(f"sqlite:///{tmp_path}/catalog.db", STEPS[:1])
    last = catalog.audit()[-1].seq
    tamper = Tamper(tmp_path / "catalog.db")
    tamper.connection.execute("UPDATE aliases SET version = 2 WHERE alias = 'champion'")
    tamper.connection.close()
    bad = catalog.verify_audit()
    assert bad is not None
    assert bad.seq == last
    assert "fraud@champion" in bad.reason
    catalog.close()


def test_a_chain_that_was_written_anew_is_found_by_a_head_that_was_kept_elsewhere(tmp_path: Path) -> None:
    catalog = history(f"sqlite:///{tmp_path}/catalog.db", STEPS)
    anchor = catalog.audit_head()
    entries = catalog.audit(limit=None)
    forged, previous = [], entries[0].previous
    for entry in entries:
        forged.append(replace(entry, actor="nobody", previous=previous).sealed())
        previous = forged[-1].hash
    head = Head(len(forged), forged[-1].hash)
    assert check_chain(forged, head) is None
    bad = check_chain(forged, head, [anchor])
    assert bad is not None
    assert bad.seq == anchor.seq
    assert catalog.verify_audit([anchor]) is None
    catalog.close()


def test_a_log_that_was_rolled_back_to_before_the_kept_head_is_found(tmp_path: Path) -> None:
    catalog = history(f"sqlite:///{tmp_path}/catalog.db", STEPS)
    entries, anchor = catalog.audit(limit=None), catalog.audit_head()
    shorter = entries[:-2]
    bad = check_chain(shorter, Head(shorter[-1].seq, shorter[-1].hash), [anchor])
    assert bad is not None
    assert bad.seq == len(shorter) + 1
    catalog.close()


def test_an_export_reads_back_and_verifies(catalog: Catalog) -> None:
    catalog.add_version(manifest("ünï"), "ada", alias="champion", reason="line\nbreak")
    lines = list(to_json_lines(catalog.audit()))
    assert all("\n" not in line for line in lines)
    entries = list(from_json_lines(lines))
    assert entries == catalog.audit()
    assert check_chain(entries, catalog.audit_head()) is None
    with pytest.raises(ValueError):
        list(from_json_lines(['{"seq": 1}']))


def test_entries_say_who_did_what_to_what_and_why(catalog: Catalog) -> None:
    catalog.add_version(manifest("a"), "ada", alias="champion", reason="nightly")
    catalog.add_version(manifest("b"), "ada")
    catalog.move_alias("fraud", "champion", 2, actor="bob", reason="better")
    added, _, _, moved = catalog.audit()
    assert (added.seq, added.actor, added.action, added.target) == (1, "ada", "version.add", "fraud/1")
    assert (moved.seq, moved.actor, moved.action, moved.target) == (4, "bob", "alias.move", "fraud@champion")
    assert moved.before == {"version": 1, "digest": catalog.version("fraud", 1).digest}
    assert moved.after == {"version": 2, "digest": catalog.version("fraud", 2).digest, "generation": 2}
    assert moved.reason == "better"


def test_entries_are_read_in_pages_and_by_target(catalog: Catalog) -> None:
    for text in "abcde":
        catalog.add_version(manifest(text), "ada", alias="last")
    assert [entry.seq for entry in catalog.audit(after=3, limit=4)] == [4, 5, 6, 7]
    assert [entry.seq for entry in catalog.audit(target="fraud@last")] == [2, 4, 6, 8, 10]
    assert catalog.audit(after=10) == []


def test_an_empty_log_is_good(catalog: Catalog) -> None:
    assert catalog.verify_audit() is None
    assert catalog.audit_head().seq == 0


def test_entries_of_one_moment_differ_by_their_place_in_the_chain() -> None:
    entry = AuditEntry(1, "2026-01-01T00:00:00+00:00", "ada", "alias.move", "m@a", None, {"version": 1}, "", "0" * 64)
    assert entry.sealed().hash != replace(entry, previous="1" * 64).sealed().hash
