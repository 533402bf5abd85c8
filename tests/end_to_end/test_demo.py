"""`sluice demo` as a newcomer meets it: the printed lines are run as they stand, in a shell."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from live_gateway import ROOT, free_ports, wait_until

SHELL_SECONDS = 60


class Demo:
    """A running demo and what it printed."""

    def __init__(self, data_dir: Path, log: Path) -> None:
        http, grpc, admin = map(str, free_ports(3))
        command = [sys.executable, "-m", "gateway", "demo", "--data-dir", str(data_dir)]
        command += ["--http-port", http, "--grpc-port", grpc, "--admin-port", admin]
        with log.open("wb") as file:
            self.process = subprocess.Popen(command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT)
        self._log = log

    def text(self) -> str:
        return self._log.read_text()

    def wait_ready(self) -> None:
        wait_until(lambda: self.process.poll() is not None or "Stop with Ctrl-C" in self.text(), 100, self.text)
        assert self.process.poll() is None, self.text()

    def stop(self) -> int:
        """Ctrl-C."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(30)

    def printed(self, pattern: str) -> str:
        found = re.search(pattern, self.text(), re.MULTILINE | re.DOTALL)
        assert found is not None, self.text()
        return found[0]


@contextlib.contextmanager
def running(data_dir: Path, log: Path) -> Iterator[Demo]:
    demo = Demo(data_dir, log)
    try:
        demo.wait_ready()
        yield demo
    finally:
        if demo.process.poll() is None:
            demo.process.kill()
            demo.process.wait()


def pasted(text: str) -> str:
    """What a shell in the checkout answers."""
    done = subprocess.run(["bash", "-c", text], cwd=ROOT, capture_output=True, text=True, timeout=SHELL_SECONDS)
    assert done.returncode == 0, done
    return done.stdout


@pytest.mark.timeout(240)
def test_the_printed_lines_answer_and_the_alias_moves_what_is_served(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    with running(data_dir, tmp_path / "log") as demo:
        curl = demo.printed(r"^curl [^\n]*")
        answer = json.loads(pasted(curl))
        assert (answer["model_name"], answer["model_version"]) == ("tumours", "1")
        assert [output["name"] for output in answer["outputs"]] == ["label", "probabilities"]
        numbers = re.findall(r"[\d.]+", pasted(demo.printed(r"^[^\n]* - <<'EOF'.*?^EOF$")))
        assert len(numbers) == 10
        assert sum(map(float, numbers)) == pytest.approx(1.0, abs=0.01)
        assert "200" in pasted(f"curl -so /dev/null -w '%{{http_code}}' {demo.printed(r'http://[0-9.:]+/metrics')}")
        move = demo.printed(r"^\S*sluice alias [^\n]*")
        assert "tumours@champion → version 2 (was version 1)" in pasted(move)
        wait_until(lambda: json.loads(pasted(curl))["model_version"] == "2", 10, demo.text)
        assert demo.stop() == 0
    with running(data_dir, tmp_path / "again") as demo:
        assert "Training" not in demo.text()
        assert json.loads(pasted(demo.printed(r"^curl [^\n]*")))["model_version"] == "2"
        assert "alias tumours champion 1" in demo.printed(r"^\S*sluice alias [^\n]*")
