"""What machines and people read of a rollout: JUnit XML, exit codes, the view on a terminal."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import pytest
from rich.console import Console
from typer.testing import CliRunner

from gateway.cli.rollout import rollout as group
from gateway.cli.rollout_report import Outcome, decided, outcome_of, to_junit
from gateway.cli.rollout_view import bar, closeness, to_history, to_list, to_view


def rollout(**fields: Any) -> dict[str, Any]:
    document = {
        "id": "0123456789ab",
        "model": "fraud",
        "from": 6,
        "to": 7,
        "alias": "champion",
        "state": "baking",
        "active": True,
        "outcome": "",
        "reason": "",
        "weight": 0.05,
        "step": 2,
        "steps": 6,
        "generation": 4,
        "stable": {"version": 6, "weight": 0.95, "requests": 12345, "failed": 2, "p50_seconds": 0.0012},
        "canary": {"version": 7, "weight": 0.05, "requests": 650, "failed": 3, "p99_seconds": None},
        "guards": [
            {"name": "failures", "evidence": 31.5, "threshold": 100.0, "fired": False},
            {"name": "latency", "evidence": 0.4, "threshold": 100.0, "fired": False},
        ],
        "plan": {},
        "created_at": "2026-11-25T10:00:00.000+00:00",
        "created_by": "ann",
    }
    return document | fields


FIRED = [
    {"name": "failures", "evidence": 250.0, "threshold": 100.0, "fired": True},
    {"name": "latency", "evidence": 1.0, "threshold": 100.0, "fired": False},
]


def shown(renderable: Any) -> str:
    console = Console(width=160, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    with console.file:
        console.print(renderable)
        return console.export_text()


def test_a_watch_as_json_says_what_it_came_to(monkeypatch: pytest.MonkeyPatch) -> None:
    came_to = rollout(outcome="rolled-back", active=False)

    @contextmanager
    def opened(*_: object) -> Iterator[Any]:
        yield SimpleNamespace(get=lambda id: came_to)

    monkeypatch.setattr("gateway.cli.rollout.open_rollouts", opened)
    ended = CliRunner().invoke(group, ["watch", "fraud", "--id", came_to["id"], "--json"])
    assert (json.loads(ended.stdout), ended.exit_code) == (came_to, Outcome.ROLLED_BACK)


@pytest.mark.parametrize(
    ("word", "outcome", "code"),
    [
        ("promoted", Outcome.PROMOTED, 0),
        ("rolled-back", Outcome.ROLLED_BACK, 2),
        ("inconclusive", Outcome.INCONCLUSIVE, 3),
        ("", None, None),
    ],
)
def test_the_exit_code_says_how_it_came_out(word: str, outcome: Outcome | None, code: int | None) -> None:
    assert outcome_of(rollout(outcome=word)) is outcome
    assert int(decided(rollout(outcome=word))) == (3 if code is None else code)


class TestJUnit:
    def parse(self, document: dict[str, Any], outcome: Outcome) -> ElementTree.Element:
        return ElementTree.fromstring(to_junit(document, outcome, 12.5))

    def test_of_a_promotion_has_a_case_for_each_guard_and_none_that_fails(self) -> None:
        suite = self.parse(rollout(outcome="promoted"), Outcome.PROMOTED)
        assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("3", "0", "0")
        assert [case.get("name") for case in suite.iter("testcase")] == ["guard failures", "guard latency", "outcome"]
        assert list(suite.iter("failure")) == list(suite.iter("error")) == []

    def test_of_a_rollback_names_the_guard_that_fired_and_by_how_much(self) -> None:
        suite = self.parse(rollout(guards=FIRED, reason="failures of the canary"), Outcome.ROLLED_BACK)
        assert (suite.get("failures"), suite.get("errors")) == ("2", "0")
        by_guard, whole = suite.iter("failure")
        assert by_guard.get("message") == "evidence 250 against a threshold of 100"
        assert whole.get("message") == "rolled back: failures of the canary"

    def test_of_an_inconclusive_one_has_an_error_and_no_failure(self) -> None:
        suite = self.parse(rollout(), Outcome.INCONCLUSIVE)
        assert (suite.get("failures"), suite.get("errors")) == ("0", "1")

    def test_is_xml_whatever_the_reason_says(self) -> None:
        suite = self.parse(rollout(reason='<&"> ü'), Outcome.ROLLED_BACK)
        assert suite.findall("testcase")[-1].find("failure").get("message") == 'rolled back: <&"> ü'  # type: ignore[union-attr]


class TestView:
    def test_shows_weights_counts_evidence_thresholds_and_latencies_of_both_arms(self) -> None:
        text = shown(to_view(rollout()))
        for word in ("fraud", "6 → 7", "baking", "step 2 of 6", "95.0%", "5.0%", "12,345", "650", "1.2 ms", "31.5"):
            assert word in text, word
        assert text.count("100") >= 2

    def test_lists_rollouts_and_decisions(self) -> None:
        assert "0123456789ab" in shown(to_list([rollout()]))
        entry = {"at": "", "action": "rollout.step", "actor": "ann", "reason": "enough", "after": {"state": "baking"}}
        assert "step" in shown(to_history([entry]))

    @pytest.mark.parametrize(
        ("evidence", "share"), [(0.0, 0.0), (1.0, 0.0), (10.0, 0.5), (100.0, 1.0), (1e9, 1.0), (float("inf"), 1.0)]
    )
    def test_evidence_is_as_near_to_its_threshold_as_factors_count(self, evidence: float, share: float) -> None:
        assert closeness(evidence, 100.0) == pytest.approx(share)

    def test_a_bar_is_of_one_length_whatever_it_shows(self) -> None:
        assert {len(bar(share, "").plain) for share in (-1.0, 0.0, 0.3, 1.0, 7.0)} == {30}
