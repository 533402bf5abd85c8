"""KServe's own Python clients, over REST and gRPC."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from interop_install import CACHE, install, run
from live_gateway import Gateway

CALLS = Path(__file__).parent / "kserve" / "calls.py"


@pytest.fixture(scope="module")
def said(gateway: Gateway) -> dict[str, Any]:
    folder = CACHE / "kserve"
    python = folder / "bin" / "python"
    install(
        CACHE / "kserve.installed",
        [sys.executable, "-m", "venv", folder],
        [python, "-m", "pip", "install", "--quiet", "kserve>=0.15"],
    )
    output: dict[str, Any] = json.loads(run([python, CALLS, f"http://{gateway.http_url}", gateway.grpc_url]))
    return output


@pytest.mark.timeout(700)
@pytest.mark.parametrize("protocol", ["rest", "grpc"])
def test_kserve_gets_the_answers_it_expects(said: dict[str, Any], protocol: str) -> None:
    of = said[protocol]
    assert (of["live"], of["ready"], of["model"]) == (True, True, True)
    answer = {"id": "7", "model": "free", "data": [[1, 2], [3, 4]]}
    assert of["json"] == of["binary"] == answer
    assert "nothing" in of["error"]
