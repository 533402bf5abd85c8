"""LightGBM boosters in the text format, by onnxmltools."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from registry.conversion.agreement import tabular_samples
from registry.conversion.form import INPUT, with_batch_dimension
from registry.conversion.original import Array


def load(path: Path) -> LightGBMModel:
    import lightgbm

    return LightGBMModel(lightgbm.Booster(model_file=str(path)))


class LightGBMModel:
    """A booster over one table of numbers."""

    def __init__(self, booster: Any) -> None:
        self._booster = booster

    def to_onnx(self) -> bytes:
        from onnxmltools import convert_lightgbm
        from onnxmltools.convert.common.data_types import FloatTensorType

        types = [(INPUT, FloatTensorType([None, self._booster.num_feature()]))]
        model = convert_lightgbm(self._booster, name="model", initial_types=types, zipmap=False)
        self._outputs = [output.name for output in model.graph.output]
        return with_batch_dimension(model)

    def samples(self, model: bytes, random: np.random.Generator) -> Mapping[str, Array]:
        return {INPUT: tabular_samples(model, self._booster.num_feature(), random, missing=True)}

    def predict(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        return answers(np.asarray(self._booster.predict(inputs[INPUT])), self._outputs)


def answers(scores: Array, outputs: list[str]) -> Mapping[str, Array]:
    """A booster's one answer as the outputs of its ONNX model: of a classifier, labels and the probability of each
    class; else the scores."""
    if outputs[-1] != "probabilities":
        return {outputs[-1]: scores}
    if scores.ndim == 1:
        scores = np.stack([1 - scores, scores], axis=1)
    return {outputs[-1]: scores, outputs[0]: scores.argmax(axis=1)}
