"""How the process ends when it is told to at an awkward moment."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from live_gateway import ROOT, free_ports, wait_until

STILL_IMPORTING = """
import sys
print("importing", flush=True)
sys.stdin.read()
"""

HANGING_REPOSITORY = """
import time
from registry.sources.directory import DirectorySource

def scan(self):
    print("scanning", flush=True)
    time.sleep(3600)

DirectorySource.scan = scan
from gateway.entry import main
main()
"""


@pytest.mark.parametrize(("command", "code"), [("serve", 0), ("models", -signal.SIGTERM)])
def test_a_gateway_that_is_told_to_stop_while_it_imports_exits_cleanly(command: str, code: int, tmp_path: Path) -> None:
    (tmp_path / "typer.py").write_text(STILL_IMPORTING)
    process = subprocess.Popen(
        [sys.executable, "-m", "gateway", command],
        cwd=ROOT,
        env={"PYTHONPATH": str(tmp_path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"importing\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == code


def test_a_repository_that_hangs_does_not_hold_up_the_end(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    http_port, grpc_port, admin_port = free_ports(3)
    command = [sys.executable, "-c", HANGING_REPOSITORY, "serve", "--model-repository", str(tmp_path / "models")]
    command += ["--data-dir", str(tmp_path / "data"), "--http-port", str(http_port), "--grpc-port", str(grpc_port)]
    command += ["--admin-port", str(admin_port), "--set", "drain.timeout_seconds=1"]
    command += ["--set", "workers.stop_timeout_seconds=1"]
    log_file = tmp_path / "log"
    with log_file.open("wb") as log, subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log) as process:
        try:
            wait_until(lambda: "scanning" in log_file.read_text(), 60, log_file.read_text)
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0, log_file.read_text()
        finally:
            process.kill()
    assert "threads-hang" in log_file.read_text()
