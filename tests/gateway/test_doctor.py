"""What `sluice doctor` finds, on this machine and on machines that are described to it."""

from __future__ import annotations

import json
import re
import socket
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gateway.cli import app
from gateway.cli import doctor as command
from gateway.cli.doctor import Finding, cpu_features, examine, gpu_finding, memory_available


def test_this_machine_can_serve_once_it_can_run_the_tests() -> None:
    missing = [finding for finding in examine() if finding.status == "missing"]
    assert missing == []


def test_every_finding_that_is_not_well_says_how_to_fix_it() -> None:
    assert [finding.subject for finding in examine() if finding.status != "ok" and not finding.fix] == []


def test_json_carries_the_same_findings() -> None:
    result = CliRunner().invoke(app, ["doctor", "--json"])
    assert result.exit_code == 0
    assert {finding["subject"] for finding in json.loads(result.output)} >= {"Python", "native modules", "GPU"}


@pytest.mark.parametrize(("status", "code"), [("ok", 0), ("warning", 0), ("missing", 1)])
def test_only_what_is_missing_fails(monkeypatch: pytest.MonkeyPatch, status: command.Status, code: int) -> None:
    monkeypatch.setattr(command, "CHECKS", (lambda: iter([Finding("thing", status, "detail", "a command")]),))
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == code
    assert "a command" in result.output


def test_every_native_module_is_looked_for_whether_it_is_built_or_not(tmp_path: Path) -> None:
    sources = Path(command.__file__).parents[2] / "kernels"
    assert command.native_modules(sources) == sorted(path.stem for path in sources.glob("*.pyx"))
    for name in ("wire.pyi", "wire.so", "lanes.pyi", "reference.py"):
        (tmp_path / name).touch()
    assert command.native_modules(tmp_path) == ["lanes", "wire"]


def test_each_extra_that_is_told_of_brings_the_package() -> None:
    project = tomllib.loads((Path(command.__file__).parents[2] / "pyproject.toml").read_text())["project"]
    for package, (extra, _) in command.EXTRAS.items():
        brought = project["optional-dependencies"][extra]
        assert any(re.match(rf"{package}\b", one) for one in brought), package


def test_a_taken_port_is_told_as_such() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert command.port_problem("127.0.0.1", taken.getsockname()[1]) == "address already in use"


def test_vector_units_are_read_from_x86_and_arm() -> None:
    assert cpu_features("processor: 0\nflags\t\t: fpu avx2 avx512f\n") == ["avx2", "avx512f"]
    assert cpu_features("Features : fp asimd sve\n") == ["asimd", "sve"]
    assert cpu_features("") == []


def test_available_memory_is_read_in_bytes() -> None:
    assert memory_available("MemTotal: 10 kB\nMemAvailable:   2048 kB\n") == 2048 * 1024
    assert memory_available("") == 0


@pytest.mark.parametrize(
    ("device", "provider", "engines", "status", "detail"),
    [
        (False, False, ["onnxruntime"], "ok", "none"),
        (True, True, ["onnxruntime-gpu"], "ok", "can use it"),
        (True, False, ["onnxruntime"], "warning", "for the CPU"),
        (True, False, ["onnxruntime", "onnxruntime-gpu"], "warning", "both"),
    ],
)
def test_a_gpu_needs_its_own_engine(device: bool, provider: bool, engines: list[str], status: str, detail: str) -> None:
    finding = gpu_finding(device, provider, engines)
    assert finding.status == status
    assert detail in finding.detail
    assert bool(finding.fix) == (status == "warning")


def test_the_ports_are_those_that_would_be_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "sluice.yaml"
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        file.write_text(f"http_port: {port}\n")
        monkeypatch.setenv("SLUICE_GRPC_PORT", "0")
        found = {finding.subject: finding for finding in command.check_ports(file)}
    assert found["HTTP port"].detail == f"{port}: address already in use"
    assert found["gRPC port"].status == "ok"


def test_settings_that_do_not_do_are_told_with_their_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLUICE_HTP_PORT", "1")
    (finding,) = command.check_ports()
    assert finding.status == "missing"
    assert "htp_port" in finding.detail
    assert "SLUICE_HTP_PORT" in finding.fix
