"""What only happens between the command line and a gateway's admin API; and the tokens that it asks for."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import models
import pytest
from live_plane import LivePlane
from typer.testing import CliRunner, Result

from gateway.cli import app
from gateway.cli.failure import CommandFailed, ExitCode
from gateway.cli.options import byte_size, when
from gateway.cli.token import duration
from registry.artifacts import LocalArtifacts
from registry.policies import ApprovalPolicy, ModelPolicy


def run(*arguments: str, **environment: str) -> Result:
    return CliRunner().invoke(app, arguments, env={"COLUMNS": "200", **environment})


def failure(*arguments: str, **environment: str) -> CommandFailed:
    result = run(*arguments, **environment)
    assert isinstance(result.exception, CommandFailed), (result.output, result.exception)
    return result.exception


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[LivePlane]:
    with LivePlane(tmp_path / "data").running() as plane:
        (tmp_path / "data").mkdir(exist_ok=True)
        yield plane


@pytest.fixture
def file(tmp_path: Path) -> str:
    return str(models.save(models.version_of(1), tmp_path / "model.onnx"))


def test_a_gateway_that_is_not_there_is_said_to_be_not_there(file: str) -> None:
    refused = failure("push", file, "--name", "x", "--admin-url", "http://127.0.0.1:9")
    assert "does not answer" in str(refused)
    assert "is `sluice serve` running there" in refused.hint
    assert refused.exit_code == ExitCode.UNAVAILABLE


def test_two_registries_at_once_are_refused(tmp_path: Path) -> None:
    refused = failure("versions", "x", "--admin-url", "http://127.0.0.1:9", "--data-dir", str(tmp_path))
    assert refused.exit_code == ExitCode.USAGE


def test_the_address_and_the_token_may_come_from_the_environment(plane: LivePlane, file: str) -> None:
    token = plane.token("publish")
    environment = {"SLUICE_ADMIN_URL": plane.url, "SLUICE_TOKEN": token}
    assert run("push", file, "--name", "x", **environment).exit_code == 0
    assert "version 1" not in run("versions", "x", "--json", **environment).output
    refused = failure("versions", "x", SLUICE_ADMIN_URL=plane.url)
    assert (str(refused), refused.exit_code) == ("a bearer token is needed", ExitCode.NOT_PERMITTED)
    assert "--token-file" in refused.hint


def test_a_token_without_the_scope_is_told_which_one_is_needed(plane: LivePlane, file: str) -> None:
    environment = {"SLUICE_ADMIN_URL": plane.url, "SLUICE_TOKEN": plane.token("publish")}
    run("push", file, "--name", "x", **environment)
    for arguments in (("alias", "x", "champion", "1"), ("push", file, "--name", "x", "--alias", "champion")):
        refused = failure(*arguments, **environment)
        assert "scope operate" in str(refused)
        assert refused.exit_code == ExitCode.NOT_PERMITTED
    environment["SLUICE_TOKEN"] = plane.token("read")
    assert failure("push", file, "--name", "x", **environment).exit_code == ExitCode.NOT_PERMITTED


def test_files_that_are_there_are_not_sent_again(plane: LivePlane, file: str) -> None:
    plane.token("operate")  # closes the door, so that the token below counts
    environment = {"SLUICE_ADMIN_URL": plane.url, "SLUICE_TOKEN": plane.token("publish")}
    first = json.loads(run("push", file, "--name", "x", "--json", **environment).stdout)
    other = json.loads(run("push", file, "--name", "y", "--json", **environment).stdout)
    assert (first["bytes_stored"], other["bytes_stored"]) == (Path(file).stat().st_size, 0)
    assert other["is_new"] is True


def test_what_the_policy_refuses_whatever_it_holds_is_not_sent(plane: LivePlane, file: str) -> None:
    environment = {"SLUICE_ADMIN_URL": plane.url}
    with contextlib.closing(plane.catalog()) as catalog:
        catalog.set_policy("x", ModelPolicy(approval=ApprovalPolicy(card_fields=("owner",))), "ann")
    refused = failure("push", file, "--name", "x", **environment)
    assert "the model card lacks owner" in str(refused)
    assert refused.exit_code == ExitCode.REFUSED
    assert list(plane.store.list()) == []


def test_what_was_collected_while_the_rest_was_sent_is_sent_again(
    plane: LivePlane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when sending takes days."""
    models.external(tmp_path / "large" / "model.onnx", "weights.bin")
    put, gone = LocalArtifacts.put, []

    def put_late(store: LocalArtifacts, path: Path, sha256: str) -> bool:
        if len(gone) < 1 and (others := list(store.list())):
            gone.extend(others)
            store.delete(others[0].sha256)
        return put(store, path, sha256)

    monkeypatch.setattr(LocalArtifacts, "put", put_late)
    pushed = run("push", str(tmp_path / "large"), "--name", "x", SLUICE_ADMIN_URL=plane.url)
    assert pushed.exit_code == 0, pushed.output
    assert len(gone) == 1
    assert run("verify", "x", "1", SLUICE_ADMIN_URL=plane.url).exit_code == 0


def test_a_file_beyond_the_gateways_limit_is_refused(tmp_path: Path) -> None:
    data = tmp_path / "data"
    large = models.save(models.wide(columns=4096), tmp_path / "large.onnx")
    with LivePlane(data, max_bytes=1024).running() as plane:
        refused = failure("push", str(large), "--name", "x", "--admin-url", plane.url)
        assert "1024 are allowed" in str(refused)
        assert refused.exit_code == ExitCode.REFUSED


def test_a_redirect_does_not_take_the_token_along(tmp_path: Path) -> None:
    seen: list[str] = []

    class Elsewhere(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.path)
            self.send_response(302)
            self.send_header("Location", f"http://127.0.0.1:{server.server_port}/stolen")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Elsewhere)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        url = f"http://127.0.0.1:{server.server_port}"
        failure("versions", "x", SLUICE_ADMIN_URL=url, SLUICE_TOKEN="secret-of-some-length")
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert "/stolen" not in seen


def test_tokens_are_created_listed_rotated_and_revoked(tmp_path: Path) -> None:
    here = ("--data-dir", str(tmp_path))
    first = run("token", "create", "--scope", "read,publish", "--name", "ci", *here)
    text = first.stdout.strip()
    assert text.startswith("slt_")
    assert "asks for a token from now on" in first.stderr
    second = json.loads(run("token", "create", "--scope", "operate", "--name", "ops", "--json", *here).stdout)
    listed = run("token", "list", *here).stdout
    assert "read, publish" in listed
    assert text.rpartition("_")[2] not in listed
    rotated = json.loads(run("token", "rotate", second["id"], "--grace", "30m", "--json", *here).stdout)
    assert (rotated["name"], rotated["scopes"]) == ("ops", ["operate"])
    assert run("token", "revoke", second["id"], *here).exit_code == 0
    left = json.loads(run("token", "list", "--json", *here).stdout)["tokens"]
    assert {one["id"] for one in left} == {text.split("_")[1], rotated["id"]}


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("create", "--scope", "root", "--name", "x"), ExitCode.USAGE),
        (("create", "--scope", "read", "--name", "two words"), ExitCode.USAGE),
        (("create", "--scope", "read", "--name", "x", "--expires", "soon"), ExitCode.USAGE),
        (("revoke", "00000000"), ExitCode.NOT_FOUND),
        (("rotate", "00000000"), ExitCode.NOT_FOUND),
    ],
)
def test_tokens_that_make_no_sense_are_refused(tmp_path: Path, arguments: tuple[str, ...], code: ExitCode) -> None:
    assert failure("token", *arguments, "--data-dir", str(tmp_path)).exit_code == code


def test_lengths_of_time_are_read_and_moments_told_as_people_say_them() -> None:
    assert [duration(text) for text in ("45s", "30m", "12h", "90d", "2w")] == [45, 1800, 43200, 7776000, 1209600]
    assert when(100.0, 100.0) == "0 s ago"
    assert when(100.0, 400.0) == "5 min ago"
    assert when(8_000_000.0, 0.0) == "in 93 d"
    assert when("1970-01-01T00:00:00+00:00", 7200.0) == "2 h ago"
    assert when(None) == "–"


def test_sizes_are_told_as_people_say_them() -> None:
    assert [byte_size(size) for size in (0, 1023, 1536, 200 << 20, 3 << 40)] == [
        "0 B",
        "1023 B",
        "1.5 KiB",
        "200 MiB",
        "3072 GiB",
    ]


def test_the_documentation_has_every_exit_code() -> None:
    text = (Path(__file__).parents[2] / "docs" / "registry.md").read_text("utf-8")
    table = text.partition("## Exit codes")[2]
    assert all(f"| {code.value} | " in table for code in ExitCode)


def test_a_token_says_which_gateway_it_is_for(tmp_path: Path) -> None:
    made = run("token", "create", "--name", "ci", "--scope", "read", "--data-dir", str(tmp_path))
    assert f"It holds for the gateway over {tmp_path}" in made.stderr
    assert made.stdout.count("\n") == 1, "the token alone, for a file"
