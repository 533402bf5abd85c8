"""Whether two models answer alike, tried on rows that reach all over a model."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnxruntime

from registry.conversion.original import Array, Original

ROWS = 512
RELATIVE, ABSOLUTE = 1e-3, 1e-4
ROWS_THAT_MAY_DIFFER = 0.01
"""A threshold met in single precision falls to the other side now and then; a wrong conversion changes every row."""


def disagreement(original: Original, model: bytes) -> str:
    """Where the ONNX model answers otherwise than the original; empty when it answers alike."""
    inputs = original.samples(model, np.random.default_rng(0))
    expected = original.predict(inputs)
    assert expected, "this is a bug: nothing to compare"
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    names = sorted(expected)
    for name, found in zip(names, session.run(names, dict(inputs)), strict=True):
        if difference := _difference(expected[name], found):
            return f"{name}: {difference}"
    return ""


def tabular_samples(model: bytes, columns: int, random: np.random.Generator, *, missing: bool) -> Array:
    """Rows of single precision: of several scales, and around the thresholds of every tree in the ONNX model.

    Args:
        missing: also rows with NaN in them.
    """
    scales = random.choice([0.1, 1.0, 10.0, 1000.0], size=(ROWS, 1))
    rows = random.normal(size=(ROWS, columns)) * scales
    rows[ROWS // 2 : ROWS // 2 + ROWS // 8] = random.integers(0, 10, size=(ROWS // 8, columns))
    for column, thresholds in thresholds_of(model).items():
        if column < columns:
            # A little beside them: on a threshold, precision decides.
            near = random.choice(thresholds, ROWS // 2)
            rows[: ROWS // 2, column] = near + random.choice([-1, 1], ROWS // 2) * (np.abs(near) * 1e-3 + 1e-3)
    if missing:
        rows[-ROWS // 8 :][random.random((ROWS // 8, columns)) < 0.3] = np.nan
    single: Array = rows.astype(np.float32)
    return single


def thresholds_of(model: bytes) -> dict[int, Array]:
    """By column, what the trees of a model compare with."""
    found: dict[int, set[float]] = defaultdict(set)
    for attributes in _trees(model):
        modes = attributes.get("nodes_modes", [])
        columns, values = attributes.get("nodes_featureids", []), attributes.get("nodes_values", [])
        for mode, column, value in zip(modes, columns, values, strict=True):
            if mode != b"LEAF" and np.isfinite(value):
                found[int(column)].add(float(value))
    return {column: np.array(sorted(values)) for column, values in found.items()}


def _trees(model: bytes) -> Iterator[dict[str, Any]]:
    import onnx

    for node in onnx.load_from_string(model).graph.node:
        if node.op_type.startswith("TreeEnsemble"):
            yield {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute}


def _difference(expected: Array, found: Array) -> str:
    if found.size != expected.size:
        return f"the shape is {list(found.shape)}, not {list(expected.shape)}"
    rows = expected.shape[0] if expected.ndim else 1
    expected, found = (np.asarray(each).reshape(rows, -1) for each in (expected, found))
    if expected.dtype.kind in "fiub" and found.dtype.kind in "fiub":
        is_same = np.isclose(found.astype(float), expected.astype(float), RELATIVE, ABSOLUTE, equal_nan=True)
    else:
        is_same = found.astype(str) == expected.astype(str)
    wrong = ~is_same.all(axis=1)
    if wrong.sum() <= ROWS_THAT_MAY_DIFFER * rows:
        return ""
    row = int(np.flatnonzero(wrong)[0])
    return f"{wrong.sum()} of {rows} rows, such as {_shown(found[row])} in place of {_shown(expected[row])}"


def _shown(row: Array) -> str:
    more = ", …" if len(row) > 3 else ""
    return "[" + ", ".join(f"{value:.6g}" if row.dtype.kind == "f" else str(value) for value in row[:3]) + more + "]"
