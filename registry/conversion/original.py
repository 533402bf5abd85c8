"""What a converter hands on: the model in its own library, to be asked beside the ONNX model that it became."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


class Original(Protocol):
    """A loaded model."""

    def to_onnx(self) -> bytes:
        """The ONNX model, its free dimensions and names as they are served."""

    def samples(self, model: bytes, random: np.random.Generator) -> Mapping[str, Array]:
        """Inputs to compare with, by the names of the ONNX model."""

    def predict(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """What the library answers, by the names of the ONNX model's outputs; of those outputs that it has a word
        for, and at least one."""
