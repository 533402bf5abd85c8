"""The registry's subcommands: the same tests over a data folder opened here and over a gateway's admin API."""

from __future__ import annotations

import hashlib
import json
import re
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import models
import pytest
from live_gateway import ROOT, free_ports
from live_plane import LivePlane
from typer.testing import CliRunner, Result

from gateway.cli import COMMANDS, Commands, app
from gateway.cli.failure import CommandFailed, ExitCode
from registry.artifacts import LocalArtifacts


class Shell:
    """Runs `sluice` against one registry, in one of the two ways."""

    def __init__(self, data_dir: Path, options: tuple[str, ...]) -> None:
        self.data_dir, self._options = data_dir, options

    def run(self, *arguments: str) -> Result:
        return CliRunner().invoke(app, [*arguments, *self._options], env={"COLUMNS": "200"})

    def text(self, *arguments: str) -> str:
        result = self.run(*arguments)
        assert result.exit_code == 0, (result.output, result.exception)
        return result.stdout

    def json(self, *arguments: str) -> Any:
        return json.loads(self.text(*arguments, "--json"))

    def failure(self, *arguments: str) -> CommandFailed:
        result = self.run(*arguments)
        assert isinstance(result.exception, CommandFailed), (result.output, result.exception)
        return result.exception


@pytest.fixture(params=["data-dir", "admin-url"])
def shell(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Shell]:
    data_dir = tmp_path / "data"
    data_dir.mkdir()
    if request.param == "data-dir":
        yield Shell(data_dir, ("--data-dir", str(data_dir)))
        return
    plane = LivePlane(data_dir)
    token_file = tmp_path / "token"
    token_file.write_text(f"# for tests\n{plane.token('publish', 'operate', 'approve', name='remote')}\n")
    with plane.running():
        yield Shell(data_dir, ("--admin-url", plane.url, "--token-file", str(token_file)))


@pytest.fixture
def file(tmp_path: Path) -> Callable[[int], str]:
    """A path with the model that says which number it is."""

    def make(number: int) -> str:
        return str(models.save(models.version_of(number), tmp_path / f"model-{number}.onnx"))

    return make


@pytest.fixture
def two(shell: Shell, file: Callable[[int], str]) -> Shell:
    """With two versions of `fraud`, the first of them the champion."""
    shell.text("push", file(1), "--name", "fraud", "--alias", "champion", "--metric", "auc=0.5", "--tag", "team=risk")
    shell.text("push", file(2), "--name", "fraud", "--metric", "auc=0.75", "--data-ref", "md5:abc", "--run", "r-17")
    return shell


def test_versions_count_from_one_and_the_same_bytes_are_none(shell: Shell, file: Callable[[int], str]) -> None:
    assert "Published fraud version 1" in shell.text("push", file(1), "--name", "fraud")
    assert "Published fraud version 2" in shell.text("push", file(2), "--name", "fraud")
    assert "Nothing to do: these are the bytes of fraud version 1 already" in shell.text(
        "push", file(1), "--name", "fraud"
    )
    assert "Published other version 1" in shell.text("push", file(1), "--name", "other")
    told = shell.json("push", file(2), "--name", "fraud")
    assert (told["version"], told["is_new"], told["bytes_stored"]) == (2, False, 0)


def test_a_push_may_point_an_alias_also_when_it_is_no_new_version(shell: Shell, file: Callable[[int], str]) -> None:
    shell.text("push", file(1), "--name", "fraud")
    assert "candidate points at it" in shell.text("push", file(1), "--name", "fraud", "--alias", "candidate")
    assert shell.json("alias", "fraud")["aliases"][0]["version"] == 1


def test_a_folder_with_its_configuration_is_published_whole(shell: Shell, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    models.external(folder / "model.onnx", "weights.bin")
    (folder / "config.pbtxt").write_text("max_batch_size: 8\n")
    assert shell.json("push", str(folder), "--name", "big")["version"] == 1
    found = shell.json("versions", "big", "1")
    assert [one["path"] for one in found["files"]] == ["model.onnx", "weights.bin"]
    assert found["config_text"] == "max_batch_size: 8\n"
    assert shell.json("push", str(folder), "--name", "big")["is_new"] is False


def test_what_was_said_about_a_version_is_kept(two: Shell, tmp_path: Path, file: Callable[[int], str]) -> None:
    card = tmp_path / "card.md"
    card.write_text("---\nowner: risk\n---\nFor payments.\n")
    two.text("push", file(3), "--name", "fraud", "--card", str(card))
    assert two.json("versions", "fraud", "3")["card"] == {"owner": "risk", "text": "For payments."}
    found = two.json("versions", "fraud")["versions"]
    assert found[0]["tags"] == {"team": "risk"}
    assert (found[1]["lineage"]["data_ref"], found[1]["lineage"]["run"]) == ("md5:abc", "r-17")
    shown = two.text("versions", "fraud")
    assert "champion" in shown
    assert "md5:abc" in shown


def test_the_models_of_the_registry_are_listed(two: Shell) -> None:
    [found] = two.json("models", "--registered")["models"]
    assert (found["name"], found["versions"], found["aliases"]) == ("fraud", 2, {"champion": 1})
    assert "champion → 1" in two.text("models", "--registered")


def test_a_listing_loads_neither_the_database_library_nor_what_serves(two: Shell) -> None:
    """Each takes longer to load than the whole listing of a thousand models."""
    code = (
        "import atexit, sys; from gateway.entry import main;"
        " atexit.register(lambda: print(*sys.modules, file=sys.stderr)); sys.argv[0] = 'sluice'; main()"
    )
    words = [sys.executable, "-c", code, "models", "--data-dir", str(two.data_dir)]
    done = subprocess.run(words, capture_output=True, text=True, check=True, cwd=ROOT)
    assert "fraud" in done.stdout
    assert {"sqlalchemy", "numpy", "onnxruntime", "aiohttp", "grpc", "yaml"} & set(done.stderr.split()) == set()


def test_models_shows_the_registry_where_no_gateway_answers(tmp_path: Path, file: Callable[[int], str]) -> None:
    (port,) = free_ports(1)
    shell = Shell(tmp_path, ())
    environment = {"SLUICE_DATA_DIR": str(tmp_path), "SLUICE_ADMIN_PORT": str(port)}

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(app, arguments, env=environment)

    assert isinstance(run("models").exception, CommandFailed), "there is no registry either"
    assert shell.text("models", "--data-dir", str(tmp_path)).startswith("No model is registered in ")
    shell.text("push", file(1), "--name", "fraud", "--data-dir", str(tmp_path))
    found = run("models")
    assert "fraud" in found.stdout
    assert "No gateway answers" in found.stderr
    refused = run("models", "--json").exception
    assert isinstance(refused, CommandFailed), "what a script reads does not depend on whether a gateway runs"
    assert refused.exit_code == ExitCode.UNAVAILABLE
    assert json.loads(run("models", "--json", "--data-dir", str(tmp_path)).stdout)["models"][0]["name"] == "fraud"


def test_what_is_not_there_is_told_with_the_command_that_lists_what_is(two: Shell) -> None:
    assert "sluice models --registered" in two.failure("versions", "fruad").hint
    assert "sluice versions fraud" in two.failure("verify", "fraud", "9").hint


def test_a_version_says_what_keeps_it_from_being_served(two: Shell) -> None:
    assert "may be served  yes" in two.text("versions", "fraud", "1")
    two.text("policy", "fraud", "--require-approval")
    assert "approv" in two.text("versions", "fraud", "1").partition("may be served")[2].partition("size")[0]


def test_an_alias_moves_and_tells_from_where(two: Shell) -> None:
    assert "fraud@champion → version 2 (was version 1)" in two.text("alias", "fraud", "champion", "2", "-r", "better")
    assert "pointed at version 2 already" in two.text("alias", "fraud", "champion", "2")
    assert two.json("alias", "fraud", "candidate", "champion")["version"] == 2
    assert two.json("alias", "fraud", "previous", "1")["previous_version"] is None
    history = two.json("alias", "fraud", "champion")["history"]
    assert [(one["version"], one["reason"]) for one in history] == [(2, "better"), (1, "")]
    assert two.json("alias", "fraud", "champion", "latest")["moved"] is False
    two.text("alias", "fraud", "previous", "--delete")
    assert [one["alias"] for one in two.json("alias", "fraud")["aliases"]] == ["candidate", "champion"]
    assert two.json("alias", "fraud", "previous", "2")["version"] == 2, "a removed alias may come back"


def test_an_alias_moves_only_from_where_it_is_expected(two: Shell) -> None:
    refused = two.failure("alias", "fraud", "champion", "2", "--expect", "2")
    assert (str(refused), refused.exit_code) == ("fraud@champion points at 1, not 2", ExitCode.CONFLICT)
    two.text("alias", "fraud", "champion", "2", "--expect", "1")
    two.text("alias", "fraud", "candidate", "2", "--expect", "none")


@pytest.mark.parametrize(
    ("arguments", "said", "code"),
    [
        (("versions", "fruad"), "there is no model fruad", ExitCode.NOT_FOUND),
        (("versions", "fraud", "9"), "there is no version fraud/9", ExitCode.NOT_FOUND),
        (("alias", "fraud", "champion", "9"), "there is no version fraud/9", ExitCode.NOT_FOUND),
        (("alias", "fraud", "champion", "beta"), "fraud has no alias beta", ExitCode.NOT_FOUND),
        (("alias", "fraud", "none", "--delete"), "there is no alias fraud@none", ExitCode.NOT_FOUND),
        (("alias", "fraud", "7", "1"), "'7' cannot be the name of an alias", ExitCode.USAGE),
        (("diff", "fraud", "1", "9"), "there is no version fraud/9", ExitCode.NOT_FOUND),
        (("verify", "fraud", "9"), "there is no version fraud/9", ExitCode.NOT_FOUND),
        (("approve", "fraud", "1"), "a decision needs its --reason", ExitCode.USAGE),
        (("policy", "fraud", "--served-by", "newest"), "policy: served_by cannot be 'newest'", ExitCode.REFUSED),
        (("push", "nowhere.onnx", "--name", "x"), "there is no nowhere.onnx", ExitCode.USAGE),
    ],
)
def test_what_cannot_be_is_told_with_a_code_of_its_own(
    two: Shell, arguments: tuple[str, ...], said: str, code: ExitCode
) -> None:
    refused = two.failure(*arguments)
    assert str(refused) == said
    assert refused.exit_code == code


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("model.pkl", b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00.", "pickle is refused"),
        ("model.onnx", models.BROKEN, "model.onnx"),
    ],
)
def test_files_that_are_refused_say_why(shell: Shell, tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    refused = shell.failure("push", str(tmp_path / name), "--name", "x")
    assert said in str(refused)
    assert refused.exit_code == ExitCode.REFUSED
    assert shell.json("audit", "show")["entries"] == []


def test_decisions_are_for_others_than_the_author(two: Shell) -> None:
    refused = two.failure("approve", "fraud", "2", "--reason", "mine is good")
    assert "somebody else has to decide" in str(refused)
    assert refused.exit_code == ExitCode.REFUSED
    assert "is rejected" in two.text("reject", "fraud", "2", "--reason", "drifts")
    assert two.json("versions", "fraud", "2")["stage"] == "rejected"
    refused = two.failure("alias", "fraud", "champion", "2")
    assert "was rejected" in str(refused)
    assert refused.exit_code == ExitCode.REFUSED


def test_a_policy_changes_where_it_is_told_to(two: Shell) -> None:
    before = two.json("policy", "fraud")["policy"]
    after = two.json("policy", "fraud", "--served-by", "latest:2", "--require-approval")["policy"]
    assert (after["served_by"], after["approval"]["require_approval"]) == ("latest:2", True)
    assert after["approval"]["formats"] == before["approval"]["formats"]
    assert two.json("policy", "fraud", "--no-require-approval")["policy"]["approval"]["require_approval"] is False
    assert two.json("audit", "show", "--count", "1")["entries"][0]["action"] == "policy.set"


def test_a_policy_changes_only_from_where_it_is_expected(two: Shell) -> None:
    known = two.json("policy", "fraud")["digest"]
    assert known[:12] in two.text("policy", "fraud")
    two.text("policy", "fraud", "--served-by", "all", "--expect", known[:12])
    refused = two.failure("policy", "fraud", "--served-by", "latest", "--expect", known)
    assert "has the digest" in str(refused)
    assert refused.exit_code == ExitCode.CONFLICT
    assert two.failure("policy", "fraud", "--load-on-demand", "--expect", "").exit_code == ExitCode.CONFLICT
    assert two.json("policy", "fraud")["policy"]["served_by"] == "all"


def test_a_difference_is_shown_item_by_item(two: Shell) -> None:
    found = two.json("diff", "fraud", "champion", "latest")
    assert (found["before"], found["after"], found["compatible"]) == (1, 2, True)
    shown = two.text("diff", "fraud", "1", "2")
    assert "callers need no change" in shown
    assert "+0.25" in shown
    assert "md5:abc" in shown
    assert "no difference" in two.text("diff", "fraud", "1", "1")


def test_verification_finds_what_was_damaged(two: Shell) -> None:
    assert two.json("verify", "fraud")["ok"] is True
    digest = two.json("versions", "fraud", "2")["files"][0]["sha256"]
    stored = LocalArtifacts(two.data_dir / "artifacts")._path(digest)
    stored.chmod(0o600)
    stored.write_bytes(b"\0" * stored.stat().st_size)
    result = two.run("verify", "fraud", "--json")
    report = json.loads(result.stdout)
    assert [one["ok"] for one in report["versions"]] == [True, False]
    assert isinstance(result.exception, CommandFailed)
    assert result.exception.exit_code == ExitCode.DAMAGED
    assert "version 2" in str(result.exception)
    two.text("verify", "fraud", "1")


def test_gc_deletes_what_no_version_has(two: Shell, tmp_path: Path, file: Callable[[int], str]) -> None:
    left = models.save(models.version_of(9), tmp_path / "left.onnx")
    store = LocalArtifacts(two.data_dir / "artifacts")
    digest = hashlib.sha256(left.read_bytes()).hexdigest()
    store.put(left, digest)
    assert "Nothing to delete" in two.text("gc")
    assert "Would delete 1 stored files" in two.text("gc", "--dry-run", "--grace", "0s")
    assert two.json("gc", "--grace", "0s")["objects"] == [{"sha256": digest, "size": left.stat().st_size}]
    assert two.json("verify", "fraud")["ok"] is True


def test_the_audit_log_is_exported_line_by_line_and_verified(two: Shell) -> None:
    entries = [json.loads(line) for line in two.text("audit", "export").splitlines()]
    assert [one["seq"] for one in entries] == list(range(1, len(entries) + 1))
    assert [one["action"] for one in entries] == ["version.add", "alias.move", "version.add"]
    assert two.text("audit", "export", "--after", "2").count("\n") == 1
    report = two.json("audit", "verify")
    assert (report["ok"], report["entries"], report["head"]) == (True, 3, entries[-1]["hash"])
    assert two.json("audit", "verify", "--anchor", f"3:{entries[-1]['hash']}")["ok"] is True
    assert two.failure("audit", "verify", "--anchor", f"2:{'0' * 64}").exit_code == ExitCode.DAMAGED
    with sqlite3.connect(two.data_dir / "catalog.db") as database:
        database.execute("UPDATE audit SET reason = 'other' WHERE seq = 2")
    database.close()
    refused = two.failure("audit", "verify")
    assert "entry 2" in str(refused)
    assert refused.exit_code == ExitCode.DAMAGED


def test_every_subcommand_of_the_registry_says_json_on_request(two: Shell) -> None:
    for arguments in (("versions", "fraud"), ("alias", "fraud"), ("policy", "fraud"), ("audit", "show"), ("gc",)):
        two.json(*arguments)


def test_help_shows_every_subcommand_and_loads_each() -> None:
    output = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "200"}).output
    assert all(f" {command} " in output for command in COMMANDS)


def test_completion_knows_models_aliases_and_versions(two: Shell) -> None:
    def completed(line: str) -> list[str]:
        words = line.split(" ")
        environment = {"COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1), "_SLUICE_COMPLETE": "complete_bash"}
        environment |= {"SLUICE_DATA_DIR": str(two.data_dir)}
        result = CliRunner().invoke(app, [], prog_name="sluice", env=environment)
        return result.output.split()

    assert completed("sluice versions f") == ["fraud"]
    assert completed("sluice alias fraud ch") == ["champion"]
    assert set(completed("sluice diff fraud ")) >= {"1", "2", "champion"}
    assert "push" in completed("sluice pu")


def test_an_alias_at_a_version_that_is_not_served_says_why(two: Shell, file: Callable[[int], str]) -> None:
    asked = two.run("policy", "fraud", "--require-approval")
    assert "fraud version 1 is not served: not approved yet" in asked.stderr, "the champion"
    moved = two.run("alias", "fraud", "champion", "2")
    assert "fraud version 2 is not served: not approved yet" in moved.stderr
    pushed = two.run("push", file(1), "--name", "fraud", "--alias", "candidate")
    assert "fraud version 1 is not served: not approved yet" in pushed.stderr
    two.text("policy", "fraud", "--no-require-approval")
    assert two.run("alias", "fraud", "champion", "1").stderr == ""


def test_every_subcommand_that_prints_has_json() -> None:
    def leaves(command: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], set[str]]]:
        inner = getattr(command, "commands", None)
        if inner is None:
            yield path, {name for option in command.params for name in option.opts}
        for name, one in (inner or {}).items():
            yield from leaves(one, (*path, name))

    group = Commands(name="sluice")
    without = set()
    for name in COMMANDS:
        command = group.get_command(None, name)
        without |= {" ".join(path) for path, options in leaves(command, (name,)) if "--json" not in options}
    assert without == {"serve", "demo", "audit export", "rollout plan"}, "these run, or print lines of JSON anyway"


def test_the_table_of_exit_codes_is_the_one_that_is_used() -> None:
    text = (ROOT / "docs" / "registry.md").read_text().partition("## Exit codes")[2]
    listed = [int(number) for number in re.findall(r"^\| (\d+) \|", text, re.MULTILINE)]
    assert listed == [*sorted(ExitCode), 130]
