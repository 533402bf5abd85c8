"""The demo's models are real and published once, and its lines name what they are about."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import sklearn.datasets
from live_gateway import ROOT
from rich.console import Console

from gateway import demo as models
from gateway.cli import demo
from gateway.cli.local import opened
from gateway.settings import Settings


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Of a registry that the demo has filled."""
    settings = demo.settings_for(tmp_path_factory.mktemp("demo") / "data", {})
    demo.prepare(settings, silent())
    return settings


def silent() -> Console:
    return Console(file=io.StringIO())


def published(settings: Settings) -> dict[str, tuple[int, dict[str, int]]]:
    with opened(settings, "ann") as registry:
        return {one["name"]: (one["versions"], one["aliases"]) for one in registry.models()}


@pytest.mark.parametrize("recipe", models.RECIPES, ids=lambda recipe: f"{recipe.model}-{recipe.version}")
def test_each_model_takes_any_number_of_rows_and_gives_label_and_probabilities(
    tmp_path: Path, recipe: models.Recipe
) -> None:
    assert models.make(recipe, tmp_path) > 0.9
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    [taken] = session.get_inputs()
    assert (taken.name, taken.type, taken.shape[0]) == (recipe.input, "tensor(float)", None)
    for rows in (1, 3):
        label, probabilities = session.run(None, {taken.name: np.ones((rows, taken.shape[1]), np.float32)})
        assert label.shape == (rows,)
        assert probabilities.sum(axis=1) == pytest.approx(np.ones(rows), abs=1e-5)


def test_two_models_are_published_in_two_versions(settings: Settings) -> None:
    aliases = {"champion": 1, "candidate": 2}
    assert published(settings) == {"digits": (2, aliases), "tumours": (2, aliases)}
    with opened(settings, "ann") as registry:
        shown = registry.version("tumours", 2)
    assert shown["metrics"]["accuracy"] > 0.9
    assert shown["lineage"]["data_ref"] == "sklearn.datasets.load_breast_cancer"


def test_a_second_time_nothing_is_trained_and_a_moved_alias_stays(tmp_path: Path) -> None:
    settings, said = demo.settings_for(tmp_path, {}), io.StringIO()
    assert demo.prepare(settings, silent()) == 1
    with opened(settings, "ann") as registry:
        registry.move_alias("tumours", "champion", 2, 1, "")
    assert demo.prepare(settings, Console(file=said)) == 2
    assert said.getvalue() == ""
    assert published(settings)["tumours"] == (2, {"champion": 2, "candidate": 2})


def test_an_interrupted_run_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = demo.settings_for(tmp_path, {})
    monkeypatch.setattr(demo, "RECIPES", models.RECIPES[:1])
    demo.prepare(settings, silent())
    assert published(settings) == {"tumours": (1, {"champion": 1})}
    monkeypatch.undo()
    demo.prepare(settings, silent())
    assert {name: found[0] for name, found in published(settings).items()} == {"digits": 2, "tumours": 2}


def test_the_environment_does_not_change_what_is_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLUICE_MODEL_REPOSITORY", "/elsewhere")
    monkeypatch.setenv("SLUICE_REGISTRY__SOURCE", "mlflow")
    monkeypatch.setenv("SLUICE_ADMIN_PORT", "18002")
    settings = demo.settings_for(tmp_path, {"http_port": 18000})
    assert (settings.model_repository, settings.registry.source) == (None, "catalog")
    assert (settings.http_port, settings.admin_port) == (18000, 18002)


def test_the_printed_lines_name_the_ports_and_send_a_whole_row() -> None:
    settings = Settings(http_port=18000, grpc_port=18001, admin_port=18002, data_dir=Path("some where"))
    text = demo.instructions(settings, champion=1).plain
    body = re.search(r"curl -s http://127\.0\.0\.1:18000/v2/models/tumours/infer -d '(.*)'", text)
    assert body is not None
    [tensor] = json.loads(body[1])["inputs"]
    assert len(tensor["data"]) == tensor["shape"][1] == 30
    assert '"127.0.0.1:18001"' in text
    assert "http://127.0.0.1:18002/metrics" in text
    assert "sluice alias tumours champion 2 --data-dir 'some where'" in text
    assert "sluice alias tumours champion 1" in demo.instructions(settings, champion=2).plain


def test_the_sample_is_a_row_of_the_data_about_which_the_versions_disagree(settings: Settings) -> None:
    row = sklearn.datasets.load_breast_cancer().data[models.SAMPLE_INDEX]
    assert list(models.SAMPLE_ROW) == [float(f"{value:.4g}") for value in row]
    labels = []
    with opened(settings, "ann") as registry:
        for version in (1, 2):
            digest = registry.version("tumours", version)["files"][0]["sha256"]
            with registry.store.open(digest) as file:
                session = onnxruntime.InferenceSession(file.read())
            labels.append(session.run(["label"], {"measurements": np.array([models.SAMPLE_ROW], np.float32)})[0][0])
    assert labels == [0, 1]


def test_the_readme_shows_the_line_that_is_printed() -> None:
    assert demo.curl_line(Settings()) in (ROOT / "README.md").read_text()
