"""Trains the demo models and writes them as a model repository: two scikit-learn classifiers in two versions each, on
data that scikit-learn ships. Knows no server."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

OPSET = 17


@dataclass(frozen=True)
class Recipe:
    """One version of one model."""

    model: str
    version: str
    data: str
    """The loader in `sklearn.datasets`."""
    input: str
    classifier: Callable[[], Any]

    def path(self, repository: Path) -> Path:
        return repository / self.model / self.version / "model.onnx"


def recipes() -> list[Recipe]:
    from sklearn.linear_model import LogisticRegression
    from sklearn.neural_network import MLPClassifier

    def linear() -> Any:
        return LogisticRegression(max_iter=1000)

    def network() -> Any:
        return MLPClassifier((48,), alpha=1.0, random_state=0, max_iter=500)

    return [
        Recipe("tumours", "1", "load_breast_cancer", "measurements", linear),
        Recipe("tumours", "2", "load_breast_cancer", "measurements", network),
        Recipe("digits", "1", "load_digits", "pixels", linear),
        Recipe("digits", "2", "load_digits", "pixels", network),
    ]


# Written once a repository is whole, so that an interrupted run is done again.
_COMPLETE = ".complete"


def is_prepared(repository: Path) -> bool:
    return (repository / _COMPLETE).is_file()


def prepare(repository: Path, report: Callable[[str], None]) -> None:
    """Fills `repository`; `report` hears of each version as it is written."""
    for recipe in recipes():
        model, accuracy = train(recipe)
        write(recipe.path(repository), export(recipe, model))
        report(f"{recipe.model} version {recipe.version}: {accuracy:.1%} of held-out rows right")
    for model in sorted({recipe.model for recipe in recipes()}):
        write(repository / model / "config.pbtxt", CONFIG.encode())
    write(repository / _COMPLETE, b"")


# The rest is auto-completed from the ONNX files. Both versions are served; a caller who names none gets the newest.
CONFIG = """\
platform: "onnxruntime_onnx"
max_batch_size: 64
version_policy { all {} }
dynamic_batching {}
"""


def train(recipe: Recipe) -> tuple[Any, float]:
    """A fitted pipeline, and its accuracy on rows that it has not seen."""
    import sklearn.datasets
    from sklearn.model_selection import train_test_split
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from threadpoolctl import threadpool_limits

    rows, classes = getattr(sklearn.datasets, recipe.data)(return_X_y=True)
    parts = train_test_split(rows.astype("float32"), classes, test_size=0.25, random_state=0, stratify=classes)
    train_rows, test_rows, train_classes, test_classes = parts
    with threadpool_limits(1):  # the matrices are small: threads would only wait for each other
        model = make_pipeline(StandardScaler(), recipe.classifier()).fit(train_rows, train_classes)
    return model, float(model.score(test_rows, test_classes))


def export(recipe: Recipe, model: Any) -> bytes:
    """ONNX with a free batch dimension, and plain tensors for label and probabilities."""
    from skl2onnx import to_onnx
    from skl2onnx.common.data_types import FloatTensorType

    width = model.n_features_in_
    exported = to_onnx(
        model,
        initial_types=[(recipe.input, FloatTensorType([None, width]))],
        options={id(model): {"zipmap": False}},
        target_opset=OPSET,
    )
    return bytes(exported.SerializeToString())


def sample_row() -> list[float]:
    """One row of the tumours data, to paste into a request."""
    import sklearn.datasets

    return [float(f"{value:.4g}") for value in sklearn.datasets.load_breast_cancer().data[0]]


def write(path: Path, content: bytes) -> None:
    """The file is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".", delete=False) as file:
        file.write(content)
    Path(file.name).chmod(0o644)
    shutil.move(file.name, path)
