"""Models whose answers can be bad in every way that a rollout must notice, as ONNX files that any worker loads.

FP32 features [N,30] -> scores [N,30], after many multiplications, so that slowness can be told. A row is bad when its
first feature, from 0 to 1, is above a limit; rows of zeros, which warm a model up, never are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

COLUMNS = 30
ITERATIONS = 2000
"""About 2 ms: slower by less than a millisecond is not slow to a rollout."""
ENDLESS = 2**50


@dataclass(frozen=True)
class Fault:
    """What is wrong with a version; by default nothing. Shares are those of bad rows.

    `fails`: the engine refuses the row. `crashes`: the row divides the least number by -1, which the processor answers by ending the worker. `hangs`: the row is
    multiplied for ever.
    """

    fails: float = 0.0
    crashes: float = 0.0
    hangs: float = 0.0
    slower: float = 1.0
    is_nan: bool = False
    is_short: bool = False
    """Answers one row too few."""


def faulty(fault: Fault = Fault(), *, seed: int = 1) -> onnx.ModelProto:
    """`seed` tells versions apart that are equally good."""
    nodes = [
        helper.make_node("Gather", ["features", "first"], ["feature"], axis=1),
        *_by_row("fails", "crashes", "hangs"),
        helper.make_node("ReduceMax", ["hangs_index"], ["slow_index"], keepdims=0),
        helper.make_node("Gather", ["counts", "slow_index"], ["count"]),
        helper.make_node("Loop", ["count", "", "features"], ["looped"], body=_body()),
        helper.make_node("Gather", ["extras", "fails_index"], ["extra"]),  # the table has no row 1
        helper.make_node("Gather", ["divisors", "crashes_index"], ["divisor"]),
        helper.make_node("Div", ["least", "divisor"], ["whole_part"]),
        helper.make_node("Cast", ["whole_part"], ["part"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["extra", "part"], ["added"]),
        helper.make_node("Add", ["looped", "added"], ["whole"]),
        helper.make_node("Slice", ["whole", "zero", "end", "zero"], ["scores"]),
    ]
    constants = [
        numpy_helper.from_array(np.eye(COLUMNS, dtype=np.float32), "eye"),
        _constant("first", [0], np.int64),
        _constant("fails_limit", 1 - fault.fails, np.float32),
        _constant("crashes_limit", 1 - fault.crashes, np.float32),
        _constant("hangs_limit", 1 - fault.hangs, np.float32),
        _constant("counts", [round(fault.slower * ITERATIONS), ENDLESS], np.int64),
        _constant("extras", [np.nan if fault.is_nan else seed * 1e-3], np.float32),
        _constant("divisors", [np.iinfo(np.int64).min, -1], np.int64),
        _constant("least", np.iinfo(np.int64).min, np.int64),
        _constant("zero", [0], np.int64),
        _constant("end", [-1 if fault.is_short else 2**31], np.int64),
    ]
    graph = helper.make_graph(
        nodes,
        "scores",
        [_value("features", TensorProto.FLOAT, ["N", COLUMNS])],
        [_value("scores", TensorProto.FLOAT, ["N", COLUMNS])],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def _by_row(*faults: str) -> list[onnx.NodeProto]:
    """For each fault an index [N,1]: 1 where the row is bad."""
    return [
        node
        for fault in faults
        for node in (
            helper.make_node("Greater", ["feature", f"{fault}_limit"], [f"{fault}_bad"]),
            helper.make_node("Cast", [f"{fault}_bad"], [f"{fault}_index"], to=TensorProto.INT64),
        )
    ]


def _body() -> onnx.GraphProto:
    return helper.make_graph(
        [
            helper.make_node("MatMul", ["carried", "eye"], ["carried_on"]),
            helper.make_node("Identity", ["go"], ["go_on"]),
        ],
        "body",
        [
            _value("step", TensorProto.INT64, []),
            _value("go", TensorProto.BOOL, []),
            _value("carried", TensorProto.FLOAT, ["N", COLUMNS]),
        ],
        [_value("go_on", TensorProto.BOOL, []), _value("carried_on", TensorProto.FLOAT, ["N", COLUMNS])],
    )


def _value(name: str, kind: int, shape: list[int | str]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def _constant(name: str, array: object, kind: type) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(array, kind), name)
