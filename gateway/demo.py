"""The demo's models: two scikit-learn classifiers in two versions each, on data that scikit-learn ships, written as
folders that `sluice push` takes. Knows no registry and no server."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

OPSET = 17

# The rest is auto-completed from the ONNX file.
CONFIG = """\
platform: "onnxruntime_onnx"
max_batch_size: 64
dynamic_batching {}
"""

# A row of the tumours data about which the two versions disagree, to paste into a request.
SAMPLE_INDEX = 38
SAMPLE_ROW = (
    14.99, 25.2, 95.54, 698.8, 0.09387, 0.05131, 0.02398, 0.02899, 0.1565, 0.05504, 1.214, 2.188, 8.077, 106.0,
    0.006883, 0.01094, 0.01818, 0.01917, 0.007882, 0.001754, 14.99, 25.2, 95.54, 698.8, 0.09387, 0.05131, 0.02398,
    0.02899, 0.1565, 0.05504,
)  # fmt: skip


@dataclass(frozen=True)
class Recipe:
    """One version of one model."""

    model: str
    version: int
    alias: str
    """That points at it when it is new."""
    data: str
    """The loader in `sklearn.datasets`."""
    input: str
    estimator: str
    """`linear` or `network`."""


RECIPES = (
    Recipe("tumours", 1, "champion", "load_breast_cancer", "measurements", "linear"),
    Recipe("tumours", 2, "candidate", "load_breast_cancer", "measurements", "network"),
    Recipe("digits", 1, "champion", "load_digits", "pixels", "linear"),
    Recipe("digits", 2, "candidate", "load_digits", "pixels", "network"),
)
"""The versions of a model in the order in which they are published."""


def make(recipe: Recipe, folder: Path) -> float:
    """Trains it and writes a model folder. Returns its accuracy on rows that it has not seen."""
    model, accuracy = train(recipe)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.onnx").write_bytes(export(recipe, model))
    (folder / "config.pbtxt").write_text(CONFIG)
    return accuracy


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
        model = make_pipeline(StandardScaler(), _classifier(recipe.estimator)).fit(train_rows, train_classes)
    return model, float(model.score(test_rows, test_classes))


def _classifier(estimator: str) -> Any:
    from sklearn.linear_model import LogisticRegression
    from sklearn.neural_network import MLPClassifier

    makers: dict[str, Callable[[], Any]] = {
        "linear": lambda: LogisticRegression(max_iter=1000),
        "network": lambda: MLPClassifier((48,), alpha=1.0, random_state=0, max_iter=500),
    }
    return makers[estimator]()


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
