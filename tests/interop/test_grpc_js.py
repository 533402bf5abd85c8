"""`@grpc/grpc-js`, the gRPC client of Node.js."""

import json
import os
import shutil
from pathlib import Path

from interop_install import CACHE, install, run
from live_gateway import ROOT, Gateway

from gateway.frontends.status import Code

SOURCE = Path(__file__).parent / "grpc_js"


def test_node_gets_the_answers_it_expects(gateway: Gateway) -> None:
    folder = CACHE / "grpc_js"
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(SOURCE / "package.json", folder)
    install(folder / "installed", ["npm", "install", "--no-audit", "--no-fund", "--no-package-lock"])
    environment = os.environ | {"NODE_PATH": str(folder / "node_modules")}
    said = json.loads(run(["node", SOURCE / "calls.js", gateway.grpc_url, ROOT / "proto"], environment))
    assert said["live"] is True
    assert said["metadata"]["inputs"] == [{"name": "x", "datatype": "FP32", "shape": ["-1", "-1"]}]
    assert (said["id"], said["numbers"], said["version"]) == ("7", [1, 2], "1")
    assert said["many"] is True
    assert said["large"] == 300_000
    assert said["unknown"] == {
        "code": Code.NOT_FOUND,
        "text": "Request for unknown model: 'nothing' is not found",
    }
    assert said["late"]["code"] == Code.DEADLINE_EXCEEDED
    assert said["stream"] == ["a", "Request for unknown model: 'nothing' is not found", "c"]
    assert said["health"] == "SERVING"
