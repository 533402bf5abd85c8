"""A program that a real PyTorch exported, converted as `sluice push` does and asked beside the original."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from interop_install import CACHE, install
from live_gateway import ROOT

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(900)]

EXPORT = """
import numpy, torch
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2), torch.nn.Softmax(-1)).eval()
rows = torch.randn(3, 4)
program = torch.export.export(model, (rows,), dynamic_shapes=({0: torch.export.Dim("batch")},))
torch.export.save(program, "source/model.pt2")
more = torch.randn(50, 4)
numpy.savez("expected.npz", rows=more.numpy(), answers=model(more).detach().numpy())
"""


@pytest.fixture(scope="module")
def python() -> Path:
    """An interpreter with PyTorch, apart from the others for its size."""
    folder = CACHE / "torch"
    interpreter = folder / "bin" / "python"
    packages = ("torch", "onnxscript", "onnxruntime", "numpy")
    install(
        folder / "installed",
        [sys.executable, "-m", "venv", folder],
        [interpreter, "-m", "pip", "install", "--quiet", *packages],
        ["touch", folder / "installed"],
    )
    return interpreter


def test_the_onnx_model_answers_as_the_program_does(python: Path, tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    subprocess.run([python, "-c", EXPORT], cwd=tmp_path, check=True, timeout=300)
    (tmp_path / "request.json").write_text(json.dumps({"source": "model.pt2", "format": "pt2"}))
    # As `gateway.confined.run` starts it, by the other interpreter.
    program = (
        "import os, subprocess, sys; sys.exit(subprocess.run([sys.executable, '-P', '-m', 'gateway.confined.process', "
        "'registry.conversion.run', str(os.getpid()), str(64 << 30)]).returncode)"
    )
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "TMPDIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    environment["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"
    subprocess.run([python, "-c", program], cwd=tmp_path, env=environment, check=True, timeout=300)
    answer = json.loads((tmp_path / "answer.json").read_text())
    assert answer["done"]["converter"].startswith("torch ")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    expected = np.load(tmp_path / "expected.npz")
    (found,) = session.run(None, {session.get_inputs()[0].name: expected["rows"]})
    np.testing.assert_allclose(found, expected["answers"], rtol=1e-4, atol=1e-5)
