"""The command line: what it prints, what it refuses and how it says so; and the whole way through a real gateway."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from live_gateway import Gateway
from rich.text import Text
from typer.testing import CliRunner, Result

from gateway import __version__
from gateway.cli import app
from gateway.cli.clients import Signature
from gateway.cli.failure import CommandFailed, ExitCode
from gateway.cli.infer import read_inputs
from gateway.cli.models import duration
from gateway.cli.serve import foreseen, read_assignments
from gateway.errors import SettingsError, StartFailed
from registry.errors import StagingFailed
from registry.manifest import TensorSpec

ROWS = "[[0.1, 0.2, 0.3, 0.4], [1, 2, 3, 4]]"


def call(*arguments: str, **environment: str) -> Result:
    return CliRunner().invoke(app, arguments, env=environment)


def failure(*arguments: str, **environment: str) -> CommandFailed:
    result = call(*arguments, **environment)
    assert isinstance(result.exception, CommandFailed), result.output
    return result.exception


def test_the_version_is_shown() -> None:
    assert call("--version").output == f"sluice {__version__}\n"


def test_help_lists_the_commands() -> None:
    output = call("--help").output
    assert all(command in output for command in ("serve", "infer", "models", "doctor", "demo"))


def leaves(command: Any) -> Iterator[Any]:
    """Every subcommand, those of groups included."""
    if not hasattr(command, "list_commands"):
        yield command
        return
    for name in command.list_commands(None):
        yield from leaves(command.get_command(None, name))


def test_no_help_loses_what_stands_in_brackets() -> None:
    parameters = [each for command in leaves(typer.main.get_command(app)) for each in command.params]
    texts = [text for each in parameters if (text := getattr(each, "help", None))]
    assert len(texts) > 100
    assert [text for text in texts if Text.from_markup(text).plain != text.replace("\\[", "[")] == []


def test_a_failure_is_two_lines_without_a_traceback(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "gateway", "serve", "--model-repository", str(tmp_path / "absent")]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert result.stdout == ""
    first, second = result.stderr.splitlines()
    assert first == f"error: the model repository {tmp_path / 'absent'} does not exist"
    assert second.startswith("hint:  ")


def test_serve_names_a_wrong_setting(tmp_path: Path) -> None:
    refused = failure("serve", "-m", str(tmp_path), "--set", "batching.max_queue_row=1")
    assert "did you mean batching.max_queue_rows?" in str(refused)
    assert refused.exit_code == 2
    refused = failure("serve", "-m", str(tmp_path), SLUICE_HTTP__MAX_HEADERS="none")
    assert "the environment variable SLUICE_HTTP__MAX_HEADERS" in str(refused)


def test_serve_takes_its_file_from_the_environment_too(tmp_path: Path) -> None:
    file = tmp_path / "sluice.yaml"
    file.write_text("nonsense: 1\n")
    assert str(failure("serve", SLUICE_CONFIG=str(file))).startswith("nonsense: there is no such setting")


def test_serve_says_which_port_is_taken_and_by_which_flag_to_move(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        refused = failure(
            "serve", "-m", str(tmp_path), "--grpc-port", str(port), "--http-port", "0", "--admin-port", "0"
        )
    assert f"port {port} of 127.0.0.1 cannot be used: address already in use" in str(refused)
    assert "--grpc-port" in refused.hint


def test_serve_refuses_a_file_as_a_repository(tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    file.write_text("")
    assert "is not a folder" in str(failure("serve", "-m", str(file)))


def test_serve_refuses_an_open_admin_port_without_a_token(tmp_path: Path) -> None:
    ports = ("--http-port", "0", "--grpc-port", "0", "--admin-port", "0")
    folders = ("-m", str(tmp_path), "--data-dir", str(tmp_path / "data"))
    refused = failure("serve", *folders, *ports, "--set", "admin.host=0.0.0.0")
    assert "admin.host: 0.0.0.0 is not loopback" in str(refused)


def test_assignments_are_key_and_value() -> None:
    assert read_assignments(["a.b=1", "c=d=e"]) == {"a.b": "1", "c": "d=e"}
    with pytest.raises(CommandFailed, match="--set takes KEY=VALUE"):
        read_assignments(["a.b"])


def test_only_foreseen_errors_are_told_without_a_traceback() -> None:
    taken = OSError(98, "Address already in use")
    assert "cannot listen" in str(foreseen(ExceptionGroup("tasks", [taken])))
    assert "a.b: wrong" in str(foreseen(SettingsError("a.b", "wrong")))
    assert "workers cannot start: no" in str(foreseen(ExceptionGroup("tasks", [StartFailed("workers", "no")])))
    full = ExceptionGroup("tasks", [ExceptionGroup("models", [StagingFailed("/data", "No space left on device")])])
    assert str(foreseen(full)) == "data_dir: /data cannot be used: No space left on device"
    assert foreseen(KeyError("a defect")) is None
    assert foreseen(ExceptionGroup("two", [taken, KeyError()])) is None


def specs(*names: str) -> Signature:
    return Signature(tuple(TensorSpec(name, "FP32", (-1, 2)) for name in names), ())


def test_inputs_are_matched_by_name() -> None:
    tensors = read_inputs(specs("a", "b"), ["b=[1, 2]", "a=[[3, 4], [5, 6]]"])
    assert [(tensor.spec.name, tensor.spec.shape) for tensor in tensors] == [("b", (1, 2)), ("a", (2, 2))]


def test_the_name_may_be_left_out_when_there_is_one_input() -> None:
    assert read_inputs(specs("a"), ["[1, 2]"])[0].spec.name == "a"


@pytest.mark.parametrize("text", ["c=[1, 2]", "[1, 2]"])
def test_an_input_that_the_model_has_not_is_refused_with_those_it_has(text: str) -> None:
    with pytest.raises(CommandFailed, match="NAME is one of a, b"):
        read_inputs(specs("a", "b"), [text])


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, "–"), (0.00018, "180 µs"), (0.0024, "2.4 ms"), (0.25, "250 ms"), (1.234, "1.23 s")]
)
def test_durations_read_well(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize("arguments", [("models",), ("infer", "m", "-i", "1"), ("infer", "m", "-i", "1", "--grpc")])
def test_a_gateway_that_is_not_there_is_told_with_a_hint(arguments: tuple[str, ...]) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        refused = failure(*arguments, "--url", f"127.0.0.1:{unused.getsockname()[1]}")
    assert "sluice serve" in refused.hint


def answer(gateway: Gateway, *arguments: str) -> Any:
    url = gateway.grpc_url if "--grpc" in arguments else gateway.http_url
    result = call("infer", *arguments, "--url", url, "--json")
    assert result.exception is None, result.exception
    return json.loads(result.output)


@pytest.mark.parametrize("transport", [(), ("--grpc",)])
def test_infer_gets_the_same_answer_over_both_transports(gateway: Gateway, transport: tuple[str, ...]) -> None:
    found = answer(gateway, "free", "--input", ROWS, *transport)
    assert (found["model_name"], found["model_version"]) == ("free", "1")
    [output] = found["outputs"]
    assert (output["datatype"], output["shape"]) == ("FP32", [2, 4])
    assert output["data"] == [pytest.approx(row) for row in json.loads(ROWS)]


@pytest.mark.parametrize("transport", [(), ("--grpc",)])
def test_infer_asks_for_the_version_that_it_is_told(gateway: Gateway, transport: tuple[str, ...]) -> None:
    inputs = call("infer", "which", "--input", "nonsense=1", "--url", gateway.http_url)
    assert isinstance(inputs.exception, CommandFailed)
    [name] = str(inputs.exception).rpartition("one of ")[2].split(", ")
    assert answer(gateway, "which", "--input", f"{name}=1", "--version", "2", *transport)["model_version"] == "2"


@pytest.mark.parametrize("transport", [(), ("--grpc",)])
def test_infer_repeats_what_the_gateway_says_is_wrong(gateway: Gateway, transport: tuple[str, ...]) -> None:
    url = gateway.grpc_url if transport else gateway.http_url
    refused = failure("infer", "absent", "-i", "1", *transport, "--url", url)
    assert "Request for unknown model: 'absent' is not found" in str(refused)


def test_infer_shows_a_table(gateway: Gateway) -> None:
    output = call("infer", "text", "-i", '[["some", "words"]]', "--url", gateway.http_url).output
    assert "BYTES 1×2" in output
    assert "some" in output


def test_models_shows_state_and_latency(gateway: Gateway) -> None:
    answer(gateway, "free", "--input", ROWS)
    result = call("models", "--url", gateway.admin_url)
    assert result.exception is None
    assert "free" in result.output
    assert "READY" in result.output
    listed = json.loads(call("models", "--url", gateway.admin_url, "--json").output)
    [free] = [model for model in listed["models"] if model["name"] == "free"]
    assert free["versions"][0]["requests"]["total"] >= 1


def test_a_command_that_is_not_there_is_told_with_the_nearest() -> None:
    refused = failure("alais", "fraud")
    assert (str(refused), refused.hint, refused.exit_code) == (
        "there is no command alais",
        "did you mean `sluice alias`?",
        ExitCode.USAGE,
    )
    assert "sluice --help" in failure("frobnicate").hint


def test_a_port_that_speaks_something_else_is_told_as_such(gateway: Gateway) -> None:
    for arguments in (("models", "--url", gateway.grpc_url), ("infer", "free", "-i", ROWS, "--url", gateway.grpc_url)):
        refused = failure(*arguments)
        assert "what listens there does not speak HTTP" in str(refused)
        assert refused.exit_code == ExitCode.UNAVAILABLE


@pytest.mark.parametrize("transport", [(), ("--grpc",)])
def test_infer_ends_with_a_code_that_says_what_is_wrong(gateway: Gateway, transport: tuple[str, ...]) -> None:
    url = gateway.grpc_url if transport else gateway.http_url
    assert failure("infer", "absent", "-i", "1", *transport, "--url", url).exit_code == ExitCode.NOT_FOUND
    assert failure("infer", "free", "-i", "{", *transport, "--url", url).exit_code == ExitCode.USAGE
    assert failure("infer", "free", "-i", ROWS, "-o", "nothing", *transport, "--url", url).exit_code == ExitCode.USAGE


def test_an_address_that_is_no_admin_address_is_told_as_such(gateway: Gateway) -> None:
    refused = failure("versions", "fraud", "--admin-url", gateway.http_url)
    assert "is this an admin address?" in str(refused)
    assert refused.exit_code == ExitCode.NOT_FOUND
