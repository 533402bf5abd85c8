"""The demo's models are real, and its lines can be pasted."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from rich.console import Console

from gateway import demo as models
from gateway.cli import demo
from gateway.settings import Settings


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "models"
    demo.prepare(folder, Console(file=io.StringIO()))
    return folder


def test_there_are_two_models_in_two_versions(repository: Path) -> None:
    found = sorted(str(path.relative_to(repository)) for path in repository.rglob("model.onnx"))
    assert found == [f"{name}/{version}/model.onnx" for name in ("digits", "tumours") for version in (1, 2)]


@pytest.mark.parametrize("recipe", models.recipes(), ids=lambda recipe: f"{recipe.model}-{recipe.version}")
def test_each_takes_any_number_of_rows_and_gives_label_and_probabilities(
    repository: Path, recipe: models.Recipe
) -> None:
    session = onnxruntime.InferenceSession(recipe.path(repository))
    [taken] = session.get_inputs()
    assert (taken.name, taken.type, taken.shape[0]) == (recipe.input, "tensor(float)", None)
    for rows in (1, 3):
        label, probabilities = session.run(None, {taken.name: np.ones((rows, taken.shape[1]), np.float32)})
        assert label.shape == (rows,)
        assert probabilities.sum(axis=1) == pytest.approx(np.ones(rows), abs=1e-5)


def test_a_second_time_nothing_is_trained(repository: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in repository.rglob("*")}
    said = io.StringIO()
    demo.prepare(repository, Console(file=said))
    assert said.getvalue() == ""
    assert {path: path.stat().st_mtime_ns for path in repository.rglob("*")} == before


def test_an_interrupted_run_is_done_again(tmp_path: Path) -> None:
    assert not models.is_prepared(tmp_path)
    (tmp_path / "digits" / "1").mkdir(parents=True)
    assert not models.is_prepared(tmp_path)


def test_the_printed_lines_name_the_ports_and_send_a_whole_row() -> None:
    text = demo.instructions(Settings(http_port=18000, grpc_port=18001, admin_port=18002)).plain
    body = re.search(r"curl -s http://127\.0\.0\.1:18000/v2/models/tumours/infer -d '(.*)'", text)
    assert body is not None
    [tensor] = json.loads(body[1])["inputs"]
    assert len(tensor["data"]) == tensor["shape"][1] == 30
    assert '"127.0.0.1:18001"' in text
    assert "http://127.0.0.1:18002/metrics" in text
