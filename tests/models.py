"""Small ONNX models made on the spot, one per behaviour that a test needs. Each function returns a `ModelProto`;
`save` and `repository` put them on disk. Weights come from a seed, so two calls with the same arguments give the same
bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

Dim = int | str

ELEMENT_TYPES: dict[str, int] = {
    "BOOL": TensorProto.BOOL,
    "UINT8": TensorProto.UINT8,
    "UINT16": TensorProto.UINT16,
    "UINT32": TensorProto.UINT32,
    "UINT64": TensorProto.UINT64,
    "INT8": TensorProto.INT8,
    "INT16": TensorProto.INT16,
    "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64,
    "FP16": TensorProto.FLOAT16,
    "FP32": TensorProto.FLOAT,
    "FP64": TensorProto.DOUBLE,
    "BYTES": TensorProto.STRING,
    "BF16": TensorProto.BFLOAT16,
}
DATATYPES = tuple(ELEMENT_TYPES)


def tabular(seed: int = 0, *, features: int = 30, hidden: int = 64, classes: int = 2) -> onnx.ModelProto:
    """`features` FP32 [N,30] -> `scores` FP32 [N,2] through two ReLU layers of 64 and a softmax."""
    random = np.random.default_rng(seed)
    widths = [features, hidden, hidden, classes]
    nodes, weights, flow = [], [], "features"
    for layer, (rows, columns) in enumerate(zip(widths, widths[1:], strict=False)):
        scale = np.sqrt(2 / rows)
        weights.append(_constant(f"w{layer}", random.normal(0, scale, (rows, columns)).astype(np.float32)))
        weights.append(_constant(f"b{layer}", random.normal(0, 0.1, columns).astype(np.float32)))
        last = layer == len(widths) - 2
        nodes.append(helper.make_node("Gemm", [flow, f"w{layer}", f"b{layer}"], [f"h{layer}"]))
        nodes.append(
            helper.make_node("Softmax", [f"h{layer}"], ["scores"], axis=1)
            if last
            else helper.make_node("Relu", [f"h{layer}"], [f"r{layer}"])
        )
        flow = f"r{layer}"
    return _model(
        "tabular",
        nodes,
        [_value("features", "FP32", ["N", features])],
        [_value("scores", "FP32", ["N", classes])],
        weights,
    )


def identity(datatype: str = "FP32", shape: Sequence[Dim] = ("N", 4)) -> onnx.ModelProto:
    """`x` -> `y`, unchanged, of any datatype and shape; a string in `shape` is a free dimension."""
    return _model(
        "identity",
        [helper.make_node("Identity", ["x"], ["y"])],
        [_value("x", datatype, shape)],
        [_value("y", datatype, shape)],
    )


def identities(datatypes: Sequence[str] = DATATYPES, columns: int = 2) -> onnx.ModelProto:
    """`in_FP32` [N,2] -> `out_FP32` [N,2] and so on, one pair a datatype, all in one model."""
    return _model(
        "identities",
        [helper.make_node("Identity", [f"in_{name}"], [f"out_{name}"]) for name in datatypes],
        [_value(f"in_{name}", name, ["N", columns]) for name in datatypes],
        [_value(f"out_{name}", name, ["N", columns]) for name in datatypes],
    )


def arithmetic() -> onnx.ModelProto:
    """Three inputs `a`, `b` FP32 [N,3], `c` INT64 [N,1] -> `sum`, `product` FP32 [N,3], `next` INT64 [N,1] = c + 1."""
    return _model(
        "arithmetic",
        [
            helper.make_node("Add", ["a", "b"], ["sum"]),
            helper.make_node("Mul", ["a", "b"], ["product"]),
            helper.make_node("Add", ["c", "one"], ["next"]),
        ],
        [_value("a", "FP32", ["N", 3]), _value("b", "FP32", ["N", 3]), _value("c", "INT64", ["N", 1])],
        [_value("sum", "FP32", ["N", 3]), _value("product", "FP32", ["N", 3]), _value("next", "INT64", ["N", 1])],
        [_constant("one", np.array([1], np.int64))],
    )


def unbatched(rows: int = 2, columns: int = 3) -> onnx.ModelProto:
    """A model without a batch dimension: `x` FP32 [2,3] -> `y` FP32 [3,2], its transpose."""
    return _model(
        "unbatched",
        [helper.make_node("Transpose", ["x"], ["y"], perm=[1, 0])],
        [_value("x", "FP32", [rows, columns])],
        [_value("y", "FP32", [columns, rows])],
    )


def wide(columns: int = 65536) -> onnx.ModelProto:
    """A small input and a large static output: `x` FP32 [N,1] -> `y` FP32 [N,columns], x repeated."""
    return _model(
        "wide",
        [helper.make_node("Mul", ["x", "ones"], ["y"])],
        [_value("x", "FP32", ["N", 1])],
        [_value("y", "FP32", ["N", columns])],
        [_constant("ones", np.ones((1, columns), np.float32))],
    )


def growing() -> onnx.ModelProto:
    """An output whose size depends on the data: `n` INT64 [N,1] -> `y` FP32 [N,max(n)], all ones."""
    return _model(
        "growing",
        [
            helper.make_node("ReduceMax", ["n"], ["most"], keepdims=0),
            helper.make_node("Unsqueeze", ["most", "zero"], ["columns"]),
            helper.make_node("Shape", ["n"], ["rows"], start=0, end=1),
            helper.make_node("Concat", ["rows", "columns"], ["shape"], axis=0),
            helper.make_node("Expand", ["one", "shape"], ["y"]),
        ],
        [_value("n", "INT64", ["N", 1])],
        [_value("y", "FP32", ["N", "M"])],
        [_constant("zero", np.array([0], np.int64)), _constant("one", np.array([1], np.float32))],
    )


def slow(iterations: int = 200, size: int = 128) -> onnx.ModelProto:
    """`x` FP32 [N,size] -> `y` FP32 [N,size], after `iterations` multiplications by a matrix that changes nothing."""
    count = _constant("count", np.array(iterations, np.int64))
    return _loop("slow", [], [_value("x", "FP32", ["N", size])], "x", "y", size, [count])


def spinning(size: int = 128) -> onnx.ModelProto:
    """As long as it is told: `iterations` INT64 [N,1], `x` FP32 [N,size] -> `y` = x after max(iterations)
    multiplications. A very large number is a model that hangs."""
    most = helper.make_node("ReduceMax", ["iterations"], ["count"], keepdims=0)
    inputs = [_value("iterations", "INT64", ["N", 1]), _value("x", "FP32", ["N", size])]
    return _loop("spinning", [most], inputs, "x", "y", size, [])


def picky(rows: int = 8, columns: int = 4) -> onnx.ModelProto:
    """Fails on poison rows: `index` INT64 [N,1] picks a row of a table, `y` FP32 [N,4]. An index of `rows` or more
    makes the engine fail, and with it the whole batch that the row is in."""
    table = np.arange(rows * columns, dtype=np.float32).reshape(rows, columns)
    return _model(
        "picky",
        [
            helper.make_node("Reshape", ["index", "minus_one"], ["flat"]),
            helper.make_node("Gather", ["table", "flat"], ["y"], axis=0),
        ],
        [_value("index", "INT64", ["N", 1])],
        [_value("y", "FP32", ["N", columns])],
        [_constant("table", table), _constant("minus_one", np.array([-1], np.int64))],
    )


def version_of(version: float) -> onnx.ModelProto:
    """Says which version answers: `x` FP32 [N,1] -> `version` FP32 [N,1], always `version`."""
    return _model(
        "version_of",
        [
            helper.make_node("Mul", ["x", "zero"], ["nothing"]),
            helper.make_node("Add", ["nothing", "number"], ["version"]),
        ],
        [_value("x", "FP32", ["N", 1])],
        [_value("version", "FP32", ["N", 1])],
        [_constant("zero", np.zeros(1, np.float32)), _constant("number", np.array([version], np.float32))],
    )


def failing() -> onnx.ModelProto:
    """The inputs and outputs of `version_of`; the engine fails for every row that is not 0."""
    return _model(
        "failing",
        [
            helper.make_node("Cast", ["x"], ["index"], to=TensorProto.INT64),
            helper.make_node("Reshape", ["index", "minus_one"], ["flat"]),
            helper.make_node("Gather", ["table", "flat"], ["version"], axis=0),
        ],
        [_value("x", "FP32", ["N", 1])],
        [_value("version", "FP32", ["N", 1])],
        [_constant("table", np.zeros((1, 1), np.float32)), _constant("minus_one", np.array([-1], np.int64))],
    )


def external(path: Path, location: str, *, present: bool = True) -> Path:
    """Writes a tabular model to `path` whose weights are said to lie at `location`, and, if `present`, puts them
    there."""
    model = tabular()
    raw = bytearray()
    for tensor in model.graph.initializer:
        data = numpy_helper.to_array(tensor).tobytes()
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", location), ("offset", str(len(raw))), ("length", str(len(data)))):
            tensor.external_data.add(key=key, value=value)
        raw += data
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(model.SerializeToString())
    if present:
        target = path.parent / location
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(raw)
    return path


BROKEN = b"this is not an ONNX file\n" * 8


def truncated() -> bytes:
    """The first half of a real file."""
    data = tabular().SerializeToString()
    return data[: len(data) // 2]


def save(model: onnx.ModelProto | bytes, path: Path) -> Path:
    """Writes a model, making its folder, and returns the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
    return path


def repository(
    root: Path, models: Mapping[str, Mapping[int, onnx.ModelProto | bytes]], configs: Mapping[str, str] | None = None
) -> Path:
    """Writes `<root>/<model>/<version>/model.onnx` for each, and `config.pbtxt` where a text is given; returns the
    root."""
    for name, versions in models.items():
        for version, model in versions.items():
            save(model, root / name / str(version) / "model.onnx")
    for name, text in (configs or {}).items():
        (root / name).mkdir(parents=True, exist_ok=True)
        (root / name / "config.pbtxt").write_text(text)
    return root


def expected(model: onnx.ModelProto, **inputs: np.ndarray) -> dict[str, np.ndarray]:
    """What the reference interpreter of ONNX, which shares no code with any engine, says the outputs are."""
    names = [output.name for output in model.graph.output]
    return dict(zip(names, ReferenceEvaluator(model).run(names, inputs), strict=True))


def _model(
    name: str,
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    initializers: Sequence[onnx.TensorProto] = (),
) -> onnx.ModelProto:
    # Old enough for any engine of recent years: peers in load tests read the same files.
    graph = helper.make_graph(list(nodes), name, list(inputs), list(outputs), list(initializers))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model


def _loop(
    name: str,
    before: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    start: str,
    end: str,
    size: int,
    initializers: list[onnx.TensorProto],
) -> onnx.ModelProto:
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["carried", "eye"], ["carried_on"]),
            helper.make_node("Identity", ["go"], ["go_on"]),
        ],
        "body",
        [_value("step", "INT64", []), _value("go", "BOOL", []), _value("carried", "FP32", ["N", size])],
        [_value("go_on", "BOOL", []), _value("carried_on", "FP32", ["N", size])],
    )
    nodes = [*before, helper.make_node("Loop", ["count", "", start], [end], body=body)]
    eye = _constant("eye", np.eye(size, dtype=np.float32))
    return _model(name, nodes, inputs, [_value(end, "FP32", ["N", size])], [*initializers, eye])


def _value(name: str, datatype: str, shape: Sequence[Dim]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, ELEMENT_TYPES[datatype], list(shape))


def _constant(name: str, value: np.ndarray) -> onnx.TensorProto:
    return numpy_helper.from_array(value, name)
