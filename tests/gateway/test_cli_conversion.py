"""`sluice push` of what other libraries wrote: converted to ONNX that answers alike, or refused with the way out."""

from __future__ import annotations

import hashlib
import json
import pickle
import sys
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import models
import numpy as np
import onnxruntime
import pytest
import trained
from live_plane import LivePlane
from typer.testing import CliRunner

from gateway.cli import app
from gateway.cli.failure import CommandFailed, ExitCode
from registry.artifacts import LocalArtifacts
from registry.catalog import Catalog

# Each conversion imports a library in a process of its own, which takes its time on a busy machine.
pytestmark = pytest.mark.timeout(300)

SOURCES: dict[str, tuple[str, Callable[[Path], dict[str, trained.Array]], str]] = {
    "a pipeline": ("model.skops", trained.skops_pipeline, "skl2onnx"),
    "a forest": ("model.skops", trained.skops_forest, "skl2onnx"),
    "a regressor": ("model.skops", trained.skops_regressor, "skl2onnx"),
    "lightgbm": ("lightgbm.txt", trained.lightgbm, "onnxmltools"),
    "lightgbm, three classes": (
        "lightgbm.txt",
        partial(trained.lightgbm, objective="multiclass", num_class=3),
        "onnxmltools",
    ),
    "lightgbm, a regression": ("lightgbm.txt", partial(trained.lightgbm, objective="regression"), "onnxmltools"),
    "xgboost": ("xgboost.json", trained.xgboost, "onnxmltools"),
    "xgboost, binary": ("xgboost.ubj", trained.xgboost, "onnxmltools"),
    "xgboost, three classes": (
        "xgboost.json",
        partial(trained.xgboost, objective="multi:softprob", num_class=3),
        "onnxmltools",
    ),
    "xgboost, a regression": ("xgboost.json", partial(trained.xgboost, objective="reg:squarederror"), "onnxmltools"),
}


def push(path: Path, data_dir: Path, *more: str) -> Any:
    result = CliRunner().invoke(app, ["push", str(path), "--name", "m", "--data-dir", str(data_dir), "--json", *more])
    if isinstance(result.exception, CommandFailed):
        raise result.exception
    assert result.exit_code == 0, (result.output, result.exception)
    return json.loads(result.stdout)


def published(data_dir: Path, version: int = 1) -> tuple[Any, bytes]:
    """The manifest of a version and its model."""
    catalog = Catalog(f"sqlite:///{data_dir / 'catalog.db'}")
    manifest = catalog.version("m", version).manifest
    catalog.close()
    (file,) = manifest.files
    with LocalArtifacts(data_dir / "artifacts").open(file.sha256) as reader:
        return manifest, reader.read()


def refusal(path: Path, data_dir: Path) -> CommandFailed:
    with pytest.raises(CommandFailed) as refused:
        push(path, data_dir)
    assert not (data_dir / "artifacts" / "objects").exists(), "nothing was stored"
    return refused.value


@pytest.mark.parametrize("name", SOURCES)
def test_the_onnx_model_answers_as_the_library_does(tmp_path: Path, name: str) -> None:
    filename, train, converter = SOURCES[name]
    expected = train(tmp_path / filename)
    push(tmp_path / filename, tmp_path / "data")
    manifest, model = published(tmp_path / "data")
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    found = dict(zip(expected, session.run(list(expected), {"input": trained.rows()}), strict=True))
    for output, values in expected.items():
        if values.dtype.kind == "f":
            np.testing.assert_allclose(found[output], values, rtol=1e-5, atol=1e-5)
        else:
            assert found[output].tolist() == values.tolist()
    assert all(spec.shape[0] == -1 for spec in (*manifest.inputs, *manifest.outputs)), "requests can be batched"
    lineage = manifest.lineage
    assert lineage.source == filename
    assert lineage.source_sha256 == hashlib.sha256((tmp_path / filename).read_bytes()).hexdigest()
    assert lineage.converter.startswith(f"{converter} ")


def test_the_same_source_again_is_no_new_version_also_from_another_machine(tmp_path: Path) -> None:
    source, data_dir = tmp_path / "model.skops", tmp_path / "data"
    trained.skops_pipeline(source)
    assert push(source, data_dir)["is_new"]
    plane = LivePlane(data_dir)
    token_file = tmp_path / "token"
    token_file.write_text(plane.token("publish", "operate"))
    with plane.running():
        remote = ["--admin-url", plane.url, "--token-file", str(token_file), "--json"]
        told = [
            json.loads(CliRunner().invoke(app, ["push", str(source), "--name", name, *remote]).stdout)
            for name in ("m", "other")
        ]
    assert [(one["version"], one["is_new"]) for one in told] == [(1, False), (1, True)]
    catalog = Catalog(f"sqlite:///{data_dir / 'catalog.db'}")
    lineage = catalog.version("other", 1).manifest.lineage
    catalog.close()
    assert (lineage.source, lineage.converter.split(" ")[0]) == ("model.skops", "skl2onnx")


@pytest.mark.parametrize(
    ("filename", "train"),
    [
        ("xgboost.json", partial(trained.xgboost, objective="reg:logistic")),
        ("xgboost.json", partial(trained.xgboost, objective="rank:pairwise")),
        (
            "lightgbm.txt",
            partial(trained.lightgbm, boosting="rf", bagging_freq=1, bagging_fraction=0.5),
        ),
    ],
    ids=["an objective without its last step", "a ranking taken for classes", "a forest without its average"],
)
def test_what_converts_to_a_model_that_answers_differently_is_refused(
    tmp_path: Path, filename: str, train: Callable[[Path], object]
) -> None:
    train(tmp_path / filename)
    refused = refusal(tmp_path / filename, tmp_path / "data")
    assert "the ONNX model answers differently" in str(refused)
    assert "Train it with" in str(refused)
    assert refused.exit_code == ExitCode.REFUSED


def test_what_the_converter_does_not_know_is_refused_with_the_way_out(tmp_path: Path) -> None:
    trained.xgboost(tmp_path / "xgboost.json", booster="gblinear")
    assert "Train it with the booster gbtree" in str(refusal(tmp_path / "xgboost.json", tmp_path / "data"))


def test_a_skops_file_of_types_that_nobody_trusts_is_refused(tmp_path: Path) -> None:
    from sklearn.preprocessing import FunctionTransformer
    from skops import io

    io.dump(FunctionTransformer(models.tabular), tmp_path / "model.skops")
    refused = refusal(tmp_path / "model.skops", tmp_path / "data")
    assert "types that are not trusted (models.tabular)" in str(refused)
    assert "skl2onnx.to_onnx" in str(refused)


def test_a_damaged_source_is_refused_and_ends_nothing_but_its_process(tmp_path: Path) -> None:
    trained.lightgbm(tmp_path / "whole.txt")
    text = (tmp_path / "whole.txt").read_text()
    (tmp_path / "lightgbm.txt").write_text(text.replace("num_leaves=", "num_leaves=9999999")[: len(text) // 2])
    assert "(lightgbm) is not converted to ONNX" in str(refusal(tmp_path / "lightgbm.txt", tmp_path / "data"))


def test_without_the_extra_the_command_that_installs_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained.skops_pipeline(tmp_path / "model.skops")
    monkeypatch.setitem(sys.modules, "skops", None)
    from registry.conversion.run import perform
    from registry.errors import ConversionFailed

    (tmp_path / "source").mkdir()
    (tmp_path / "model.skops").rename(tmp_path / "source" / "model.skops")
    with pytest.raises(ConversionFailed) as refused:
        perform(tmp_path, {"source": "model.skops", "format": "skops", "has_walls": True})
    assert "pip install 'sluice-gateway[convert]'" in refused.value.advice


def test_a_torch_program_is_converted_where_torch_is_and_else_the_way_is_named(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "model.pt2", "w") as archive:
        archive.writestr("model/archive_format", "pt2")
    refused = str(refusal(tmp_path / "model.pt2", tmp_path / "data"))
    assert "(pt2) is not converted to ONNX" in refused
    assert 'torch.onnx.export(torch.export.load("model.pt2")' in refused


@pytest.mark.parametrize(
    ("filename", "content", "way"),
    [
        ("model.pkl", pickle.dumps({"a": 1}), "skops.io.dump"),
        ("model.skops", pickle.dumps({"a": 1}), "skops.io.dump"),
        ("lightgbm.txt", pickle.dumps({"a": 1}, protocol=2), "skops.io.dump"),
        ("xgboost.json", pickle.dumps([object], protocol=0), "skops.io.dump"),
        ("model.joblib", b"\x78\x9c whatever", "skops.io.dump"),
        ("model.pt", b"PK\x03\x04", "torch.onnx.export"),
        ("model.bin", b"binf\x00\x00\x00\x3f", 'booster.save_model("model.json")'),
        ("saved_model.pb", b"\x08\x01", "tf2onnx"),
        ("model.keras", b"PK\x03\x04", "tf2onnx"),
        ("model.h5", b"\x89HDF\r\n\x1a\n", "tf2onnx"),
    ],
)
def test_what_is_not_converted_is_refused_with_the_way_out(
    tmp_path: Path, filename: str, content: bytes, way: str
) -> None:
    (tmp_path / filename).write_bytes(content)
    refused = refusal(tmp_path / filename, tmp_path / "data")
    assert way in str(refused)
    assert refused.exit_code == ExitCode.REFUSED


def test_a_tensorflow_folder_is_refused_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "saved_model.pb").write_bytes(b"\x08\x01")
    assert "tf2onnx" in str(refusal(tmp_path / "model", tmp_path / "data"))
