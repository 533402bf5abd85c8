"""XGBoost boosters in JSON or UBJSON, by onnxmltools."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from registry.conversion.agreement import tabular_samples
from registry.conversion.form import INPUT, with_batch_dimension
from registry.conversion.from_lightgbm import answers
from registry.conversion.original import Array


def load(path: Path) -> XGBoostModel:
    import xgboost

    booster = xgboost.Booster(model_file=str(path))
    booster.feature_names = None  # the converter takes numbers of columns for names
    return XGBoostModel(booster)


class XGBoostModel:
    """A booster over one table of numbers."""

    def __init__(self, booster: Any) -> None:
        self._booster = booster

    def to_onnx(self) -> bytes:
        from onnxmltools import convert_xgboost
        from onnxmltools.convert.common.data_types import FloatTensorType

        types = [(INPUT, FloatTensorType([None, self._booster.num_features()]))]
        model = convert_xgboost(self._booster, name="model", initial_types=types)
        self._outputs = [output.name for output in model.graph.output]
        return with_batch_dimension(model)

    def samples(self, model: bytes, random: np.random.Generator) -> Mapping[str, Array]:
        return {INPUT: tabular_samples(model, self._booster.num_features(), random, missing=True)}

    def predict(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        import xgboost

        scores = np.asarray(self._booster.predict(xgboost.DMatrix(inputs[INPUT])))
        if self._outputs[-1] == "probabilities" and self._objective == "multi:softmax":
            return {self._outputs[0]: scores}  # it answers with labels only
        return answers(scores, self._outputs)

    @property
    def _objective(self) -> str:
        return str(json.loads(self._booster.save_config())["learner"]["objective"]["name"])
