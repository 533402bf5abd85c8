"""scikit-learn models in skops files, by skl2onnx. A skops file names the types that it is made of; only those that are
trusted are made."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from registry.conversion.agreement import tabular_samples
from registry.conversion.form import INPUT, with_batch_dimension
from registry.conversion.original import Array
from registry.errors import UnsafeFormat
from registry.formats import SKOPS

# Beside those that skops trusts: they run nothing when they are made. Their numbers are indices that scikit-learn does
# not check, so a forged one may crash the process that asks the model; that process is there for nothing else.
TRUSTED = frozenset(
    {
        "sklearn.tree._tree.Tree",
        "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
        "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
        "sklearn.neural_network._stochastic_optimizers.SGDOptimizer",
        "sklearn.neighbors._kd_tree.KDTree",
        "sklearn.neighbors._ball_tree.BallTree",
        "sklearn.metrics._dist_metrics.EuclideanDistance64",
    }
)
OPSETS = {"": 18, "ai.onnx.ml": 3}
_ADVICE = "convert it where it was trained, by skl2onnx.to_onnx, and push the ONNX file"


def load(path: Path) -> SklearnModel:
    """Raises UnsafeFormat for a file with types that are not trusted."""
    from skops import io

    if unknown := sorted(set(io.get_untrusted_types(file=path)) - TRUSTED):
        named = ", ".join(unknown[:5]) + (", …" if len(unknown) > 5 else "")
        raise UnsafeFormat(path.name, SKOPS, f"it is made of types that are not trusted ({named[:500]}): {_ADVICE}")
    return SklearnModel(io.load(path, trusted=sorted(TRUSTED)))


class SklearnModel:
    """An estimator or a pipeline over one table of numbers."""

    def __init__(self, estimator: Any) -> None:
        self._estimator = estimator

    def to_onnx(self) -> bytes:
        from skl2onnx import to_onnx
        from skl2onnx.common.data_types import FloatTensorType
        from sklearn.base import is_classifier

        model = to_onnx(
            self._estimator,
            name="model",
            initial_types=[(INPUT, FloatTensorType([None, self._columns]))],
            options={"zipmap": False} if is_classifier(self._estimator) else None,
            target_opset=OPSETS,
        )
        self._outputs = [output.name for output in model.graph.output]
        return with_batch_dimension(model)

    def samples(self, model: bytes, random: np.random.Generator) -> Mapping[str, Array]:
        return {INPUT: tabular_samples(model, self._columns, random, missing=False)}

    def predict(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        estimator, rows = self._estimator, inputs[INPUT]
        first, second = self._outputs[0], self._outputs[1:2]
        if not hasattr(estimator, "predict"):
            return {first: np.asarray(estimator.transform(rows))}
        answers = {first: np.asarray(estimator.predict(rows))}
        if second and hasattr(estimator, "predict_proba"):
            answers[second[0]] = np.asarray(estimator.predict_proba(rows))
        return answers

    @property
    def _columns(self) -> int:
        return int(self._estimator.n_features_in_)
