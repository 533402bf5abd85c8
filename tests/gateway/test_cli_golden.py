"""Golden sets through `sluice`, over a data folder opened here and over a gateway's admin API: what answers otherwise
is never served."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import models
import pytest
from live_plane import LivePlane
from typer.testing import CliRunner

from gateway.admin.golden_checks import GoldenChecks
from gateway.cli import app
from gateway.cli.failure import CommandFailed, ExitCode
from registry.artifacts import LocalArtifacts

Run = Callable[..., Any]


@pytest.fixture(params=["data-dir", "admin-url"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Run]:
    """Runs `sluice`; returns the JSON that it prints, or the failure that it ends with."""
    data_dir = tmp_path / "data"
    data_dir.mkdir()

    def run(*arguments: str) -> Any:
        result = CliRunner().invoke(app, [*arguments, "--json", *options])
        if isinstance(result.exception, CommandFailed):
            return result.exception
        assert result.exit_code == 0, (result.output, result.exception)
        return json.loads(result.stdout)

    if request.param == "data-dir":
        options = ["--data-dir", str(data_dir)]
        yield run
        return
    plane = LivePlane(data_dir)
    token_file = tmp_path / "token"
    token_file.write_text(plane.token("publish", "operate", "approve"))
    with plane.running():
        options = ["--admin-url", plane.url, "--token-file", str(token_file)]
        yield run


def model(tmp_path: Path, number: int) -> str:
    """Of the version that answers with its number."""
    return str(models.save(models.version_of(number), tmp_path / f"{number}.onnx"))


def golden(tmp_path: Path, answer: float, **more: object) -> str:
    """A set that asks for this answer to two rows."""
    side = {"datatype": "FP32", "shape": [2, 1]}
    document = {
        "inputs": [{"name": "x", "data": [5, 7], **side}],
        "outputs": [{"name": "version", "data": [answer, answer], **side, **more}],
    }
    path = tmp_path / f"golden-{answer}.json"
    path.write_text(json.dumps(document))
    return str(path)


def checks(run: Run, version: int) -> list[tuple[bool, str]]:
    found = run("versions", "m", str(version))
    return [(one["is_passed"], one["detail"]) for one in found["checks"] if one["name"] == "golden"]


def test_a_version_that_answers_as_the_set_says_is_served_and_one_that_does_not_is_not(
    run: Run, tmp_path: Path
) -> None:
    run("push", model(tmp_path, 1), "--name", "m", "--alias", "champion")
    policy = run("policy", "m", "--golden", golden(tmp_path, 1.0))["policy"]["approval"]["golden"]
    assert policy["size"] > 0
    assert checks(run, 1) == [(True, "")], "the version that is served met the set before it was asked for"
    failure = run("push", model(tmp_path, 2), "--name", "m", "--alias", "champion")
    assert failure.exit_code == ExitCode.REFUSED
    assert "version: 2 of 2 values differ, such as 2 in place of 1 at 0" in str(failure)
    assert checks(run, 2)[-1][0] is False
    second = run("versions", "m", "2")
    assert (second["may_serve"], second["reasons"]) == (False, ["its outputs differ from the golden set's"])
    assert run("versions", "m", "1")["may_serve"] is True
    (champion,) = run("alias", "m")["aliases"]
    assert champion["version"] == 1, "the alias stayed where it was"


def test_a_difference_within_tolerance_passes(run: Run, tmp_path: Path) -> None:
    run("push", model(tmp_path, 1), "--name", "m")
    run("policy", "m", "--golden", golden(tmp_path, 1.0))
    run("policy", "m", "--golden-rtol", "0", "--golden-atol", "1.5")
    assert run("push", model(tmp_path, 2), "--name", "m", "--alias", "candidate")["golden"]["is_passed"] is True
    assert run("versions", "m", "2")["may_serve"] is True
    assert isinstance(run("push", model(tmp_path, 3), "--name", "m"), CommandFailed)


def test_an_alias_does_not_move_to_a_version_that_fails(run: Run, tmp_path: Path) -> None:
    for number in (1, 2):
        run("push", model(tmp_path, number), "--name", "m")
    run("alias", "m", "champion", "1")
    run("policy", "m", "--golden", golden(tmp_path, 1.0))
    assert checks(run, 2) == [], "nothing needs version 2"
    refused = run("alias", "m", "champion", "2")
    assert (refused.exit_code, "differs from the golden set" in str(refused)) == (ExitCode.REFUSED, True)
    assert [one["version"] for one in run("alias", "m")["aliases"]] == [1]
    assert checks(run, 2)[-1][0] is False


def test_a_set_that_would_take_down_what_is_served_is_refused(run: Run, tmp_path: Path) -> None:
    run("push", model(tmp_path, 1), "--name", "m", "--alias", "champion")
    refused = run("policy", "m", "--golden", golden(tmp_path, 9.0))
    assert refused.exit_code == ExitCode.REFUSED
    assert "version 1, which is served, differs from the golden set" in str(refused)
    assert run("policy", "m")["policy"]["approval"]["golden"] is None
    assert run("versions", "m", "1")["may_serve"] is True


def test_a_set_is_taken_back(run: Run, tmp_path: Path) -> None:
    run("push", model(tmp_path, 1), "--name", "m")
    run("policy", "m", "--golden", golden(tmp_path, 1.0))
    run("push", model(tmp_path, 2), "--name", "m")
    assert run("versions", "m", "2")["may_serve"] is False
    run("policy", "m", "--no-golden")
    assert run("versions", "m", "2")["may_serve"] is True


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"{}", "golden set: inputs: must be a list of tensors"), (b"nonsense", "golden set: the whole: not JSON")],
)
def test_what_is_no_golden_set_is_refused(run: Run, tmp_path: Path, content: bytes, said: str) -> None:
    run("push", model(tmp_path, 1), "--name", "m")
    (tmp_path / "golden.json").write_bytes(content)
    refused = run("policy", "m", "--golden", str(tmp_path / "golden.json"))
    assert (str(refused), refused.exit_code) == (said, ExitCode.REFUSED)
    assert run("policy", "m", "--golden", str(tmp_path / "absent.json")).exit_code == ExitCode.USAGE
    assert run("policy", "m", "--no-golden", "--golden-rtol", "1").exit_code == ExitCode.USAGE


def test_an_output_that_the_model_lacks_fails_the_check(run: Run, tmp_path: Path) -> None:
    run("push", model(tmp_path, 1), "--name", "m")
    refused = run("policy", "m", "--golden", golden(tmp_path, 1.0, name="scores"))
    assert "there is no output scores" in str(refused)


def test_a_set_whose_object_is_gone_serves_nothing_new(run: Run, tmp_path: Path) -> None:
    run("push", model(tmp_path, 1), "--name", "m")
    digest = run("policy", "m", "--golden", golden(tmp_path, 1.0))["policy"]["approval"]["golden"]["sha256"]
    LocalArtifacts(tmp_path / "data" / "artifacts").delete(digest)
    refused = run("push", model(tmp_path, 2), "--name", "m", "--alias", "champion")
    assert (str(refused), refused.exit_code) == ("the golden set is not stored", ExitCode.REFUSED)
    second = run("versions", "m", "2")
    assert (second["may_serve"], second["reasons"]) == (False, ["not checked against the golden set yet"])
    assert run("alias", "m")["aliases"] == []
    assert run("gc", "--grace", "0s")["objects"] == []
    run("policy", "m", "--golden", golden(tmp_path, 1.0))
    assert isinstance(run("push", model(tmp_path, 2), "--name", "m"), CommandFailed), "pushing again asks again"
    assert checks(run, 2)[-1][0] is False


def test_an_approver_sees_what_the_set_says(run: Run, tmp_path: Path) -> None:
    run("push", model(tmp_path, 1), "--name", "m", "--alias", "champion")
    run("push", model(tmp_path, 2), "--name", "m")
    run("policy", "m", "--golden", golden(tmp_path, 1.0))
    assert checks(run, 2) == []
    run("approve", "m", "2", "--reason", "looks well")
    assert checks(run, 2)[-1][0] is False


@pytest.mark.parametrize("make", [models.picky, models.spinning], ids=["fails", "hangs"])
def test_a_model_that_fails_or_hangs_fails_its_check_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[], Any]
) -> None:
    monkeypatch.setattr("gateway.admin.golden_checks.SECONDS", 5.0)
    data_dir = str(tmp_path / "data")

    def sluice(*arguments: str) -> Any:
        return CliRunner().invoke(app, [*arguments, "--data-dir", data_dir])

    inputs = [{"name": "index", "datatype": "INT64", "shape": [1, 1], "data": [99]}]
    outputs = [{"name": "y", "datatype": "FP32", "shape": [1, 4], "data": [0, 0, 0, 0]}]
    if make is models.spinning:
        inputs = [
            {"name": "iterations", "datatype": "INT64", "shape": [1, 1], "data": [1 << 60]},
            {"name": "x", "datatype": "FP32", "shape": [1, 128], "data": [1] * 128},
        ]
    (tmp_path / "golden.json").write_text(json.dumps({"inputs": inputs, "outputs": outputs}))
    sluice("push", str(models.save(make(), tmp_path / "model.onnx")), "--name", "m")
    refused = sluice("policy", "m", "--golden", str(tmp_path / "golden.json"))
    assert "differs from the golden set: it does not answer" in str(refused.exception)


def test_a_set_with_other_bytes_than_its_digest_is_not_believed(tmp_path: Path) -> None:
    from registry.catalog import Catalog
    from registry.errors import DigestMismatch
    from registry.policies import GoldenSet

    store = LocalArtifacts(tmp_path / "artifacts")
    place = tmp_path / "artifacts" / "objects" / "00" / ("0" * 64)
    place.parent.mkdir(parents=True)
    place.write_bytes(Path(golden(tmp_path, 1.0)).read_bytes())
    catalog = Catalog(f"sqlite:///{tmp_path / 'catalog.db'}")
    with pytest.raises(DigestMismatch):
        GoldenChecks(catalog, store, "ada").read(GoldenSet("0" * 64, 1))
    catalog.close()
