"""`sluice rollout` over a data folder: what it shows of a rollout that goes on, and how it follows one to its end."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rollout_house import MODEL, PLAN, House
from typer.testing import CliRunner, Result

import gateway.cli.rollout
from gateway.cli import app
from gateway.cli.failure import CommandFailed, ExitCode
from gateway.cli.rollout_report import Outcome
from gateway.rollouts.service import RolloutService
from registry.errors import CatalogUnavailable


class Shell(House):
    """A gateway's data folder, and somebody at its command line."""

    def run(self, *words: str) -> Result:
        command = ["rollout", *words, "--data-dir", str(self.folder)]
        return CliRunner().invoke(app, command, env={"COLUMNS": "200"})

    def text(self, *words: str) -> str:
        result = self.run(*words)
        assert result.exit_code == 0, (result.output, result.exception)
        return result.stdout

    def json(self, *words: str) -> Any:
        return json.loads(self.text(*words, "--json"))

    def failure(self, *words: str) -> CommandFailed:
        result = self.run(*words)
        assert isinstance(result.exception, CommandFailed), (result.output, result.exception)
        return result.exception


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    shell = Shell(tmp_path)
    yield shell
    shell.close()


@pytest.fixture
def meanwhile(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], None]], None]:
    """Something that happens between two looks of the command line."""

    def between(act: Callable[[], None]) -> None:
        monkeypatch.setattr(gateway.cli.rollout.time, "sleep", lambda seconds: act())

    return between


class TestStatus:
    def test_shows_where_the_rollout_is_and_its_evidence(self, shell: Shell) -> None:
        id = shell.begin()
        shell.serve(3)
        shell.turn()
        text = shell.text("status", MODEL)
        for word in (MODEL, "1 → 2", "progressing", "step 2 of 4", id, "90.0%", "10.0%", "270", "30", "failures"):
            assert word in text, word
        assert "111" in text, "the threshold of a guard that has 9 of 20 parts of 1/0.02"

    def test_as_json_is_the_document_of_the_admin_api(self, shell: Shell) -> None:
        id = shell.begin()
        shell.serve(1)
        assert shell.json("status", MODEL) == shell.service.get(id)

    def test_is_of_the_newest_rollout_or_of_the_one_that_is_named(self, shell: Shell) -> None:
        first = shell.begin()
        second = shell.begin(3)
        assert shell.json("status", MODEL)["id"] == second
        named = shell.json("status", MODEL, "--id", first)
        assert (named["id"], named["outcome"]) == (first, "rolled-back")

    def test_of_a_model_without_a_rollout_is_not_found(self, shell: Shell) -> None:
        assert shell.failure("status", MODEL).exit_code == ExitCode.NOT_FOUND
        assert shell.failure("status", MODEL, "--id", "0" * 12).exit_code == ExitCode.NOT_FOUND
        assert shell.failure("status", "nothing").exit_code == ExitCode.NOT_FOUND


class TestHistory:
    def test_lists_the_rollouts_of_a_model_with_the_newest_first(self, shell: Shell) -> None:
        first, second = shell.begin(), shell.begin(3)
        lines = shell.text("history", MODEL).splitlines()[1:]
        assert [line.split()[:4] for line in lines] == [
            [second, "1", "3", "progressing"], [first, "1", "2", "rolled_back"],
        ]  # fmt: skip
        assert [one["id"] for one in shell.json("history", MODEL)["rollouts"]] == [second, first]

    def test_of_one_tells_every_decision_who_took_it_and_why(self, shell: Shell) -> None:
        id = shell.begin()
        shell.run("pause", MODEL, "--reason", "lunch")
        shell.text("abort", MODEL, "--reason", "enough")
        told = shell.json("history", MODEL, "--id", id)["history"]
        assert [entry["action"] for entry in told] == [
            "rollout.start", "rollout.started", "rollout.pause", "rollout.abort",
        ]  # fmt: skip
        text = shell.text("history", MODEL, "--id", id)
        assert all(word in text for word in ("started", "paused", "lunch", "rolled_back", "enough", "sluice"))

    def test_of_a_model_without_a_rollout_is_empty(self, shell: Shell) -> None:
        assert shell.json("history", MODEL) == {"rollouts": []}


class TestWatch:
    def test_ends_with_the_promotion(self, shell: Shell, meanwhile: Any) -> None:
        shell.begin()
        meanwhile(lambda: shell.serve(4))
        watched = shell.run("watch", MODEL)
        assert watched.exit_code == Outcome.PROMOTED
        assert "terminating" in watched.stdout
        assert "100.0%" in watched.stdout
        assert shell.champion == 2

    def test_ends_with_the_rollback_and_shows_the_evidence(self, shell: Shell, meanwhile: Any) -> None:
        shell.begin()

        def fail() -> None:
            shell.gateway.plane.traffic(10, failed=2)
            shell.turn(2)

        meanwhile(fail)
        watched = shell.run("watch", MODEL)
        assert watched.exit_code == Outcome.ROLLED_BACK
        assert "rolled_back" in watched.stdout
        assert "evidence" in watched.stdout

    def test_ends_when_nobody_can_tell(self, shell: Shell, meanwhile: Any) -> None:
        steps = [{"setWeight": 10}, {"bake": {"minRequests": 100, "maxTime": "5s"}}]
        shell.begin(plan=PLAN | {"steps": steps})
        meanwhile(lambda: shell.turn(4))
        assert shell.run("watch", MODEL).exit_code == Outcome.INCONCLUSIVE

    def test_as_json_says_at_the_end_what_it_came_to(self, shell: Shell, meanwhile: Any) -> None:
        id = shell.begin()
        meanwhile(lambda: shell.gateway.abort(id) and shell.turn())
        watched = shell.run("watch", MODEL, "--json")
        assert watched.exit_code == Outcome.ROLLED_BACK
        assert json.loads(watched.stdout) == shell.service.get(id)

    def test_waits_for_a_registry_that_is_away(
        self, shell: Shell, meanwhile: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shell.begin()
        real, looks = RolloutService.get, iter(range(3))

        def get(service: RolloutService, id: str) -> dict[str, Any]:
            if next(looks, None) is not None:
                raise CatalogUnavailable("the catalog", "connection refused")
            return real(service, id)

        monkeypatch.setattr(RolloutService, "get", get)
        meanwhile(lambda: shell.serve(8))
        assert shell.run("watch", MODEL).exit_code == Outcome.PROMOTED

    def test_of_what_is_over_says_at_once_how_it_came_out(self, shell: Shell, meanwhile: Any) -> None:
        id = shell.begin()
        shell.gateway.abort(id)
        shell.turn()
        meanwhile(lambda: pytest.fail("nothing to wait for"))
        assert shell.run("watch", MODEL).exit_code == Outcome.ROLLED_BACK


class TestStartThatWaitsItsTurn:
    @pytest.fixture(autouse=True)
    def _first(self, shell: Shell) -> None:
        shell.begin(2, PLAN | {"onNewTarget": "queue"})

    def start(self, shell: Shell, tmp_path: Path, *more: str) -> Result:
        plan = tmp_path / "plan.json"
        plan.write_text(json.dumps(PLAN))
        return shell.run("start", MODEL, "--to", "3", "--plan", str(plan), "--key", "build 7", *more)

    def test_says_so(self, shell: Shell, tmp_path: Path) -> None:
        assert "Version 3 of fraud waits" in self.start(shell, tmp_path).stdout

    def test_with_wait_is_not_taken_for_the_rollout_before_it(
        self, shell: Shell, tmp_path: Path, meanwhile: Any
    ) -> None:
        def go_on() -> None:
            if shell.service.of_model(MODEL)[0]["to"] == 3:
                shell.gateway.plane.traffic(10, failed=5)
            shell.serve(8)

        meanwhile(go_on)
        ended = self.start(shell, tmp_path, "--wait", "--json")
        assert ended.exit_code == Outcome.ROLLED_BACK, ended.output
        assert [one["outcome"] for one in shell.service.of_model(MODEL)] == ["rolled-back", "promoted"]
        again = self.start(shell, tmp_path, "--json")
        assert json.loads(again.stdout)["id"] == json.loads(ended.stdout)["id"], "the same key is the same rollout"

    def test_with_wait_fails_when_it_cannot_begin_any_more(self, shell: Shell, tmp_path: Path, meanwhile: Any) -> None:
        def go_on() -> None:
            if shell.catalog.version(MODEL, 3).stage != "rejected":
                shell.catalog.reject(MODEL, 3, "bob")
                shell.service.command(shell.service.of_model(MODEL)[0]["id"], "abort", None, "")
            shell.turn()

        meanwhile(go_on)
        assert "cannot begin" in str(self.start(shell, tmp_path, "--wait").exception)

    def test_that_runs_out_of_time_is_inconclusive(self, shell: Shell, tmp_path: Path, meanwhile: Any) -> None:
        meanwhile(shell.turn)
        assert self.start(shell, tmp_path, "--wait", "--timeout", "1s").exit_code == Outcome.INCONCLUSIVE


def test_a_rollout_is_started_and_steered_over_a_data_folder(shell: Shell, tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps(PLAN))
    begun = shell.json("start", MODEL, "--to", "2", "--plan", str(plan), "--reason", "better")
    shell.turn(3)
    assert (begun["from"], begun["to"], begun["state"]) == (1, 2, "waiting")
    for verb, state in (("pause", "paused"), ("resume", "progressing"), ("promote", "terminating"),
                        ("abort", "rolled_back")):  # fmt: skip
        assert state in shell.text(verb, MODEL)
        assert shell.state(begun["id"]) == state
    assert shell.champion == 1
