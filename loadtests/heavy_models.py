"""Models whose weight is known, made on the spot with random weights: their answers mean nothing, their cost does."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def resnet50(seed: int = 0) -> onnx.ModelProto:
    """The shape of ResNet-50 v1.5 without its normalisation layers (which engines fold into the convolutions): FP32
    [N,3,224,224] (602,112 bytes a row) -> [N,1000], 25.5 million parameters, 4.1 billion multiply-adds a row."""
    random = np.random.default_rng(seed)
    nodes: list[onnx.NodeProto] = []
    weights: list[onnx.TensorProto] = []

    def constant(name: str, shape: tuple[int, ...], scale: float) -> str:
        weights.append(numpy_helper.from_array((random.standard_normal(shape) * scale).astype(np.float32), name))
        return name

    def convolution(source: str, name: str, inputs: int, outputs: int, kernel: int, stride: int) -> str:
        fan = inputs * kernel * kernel
        weight = constant(f"{name}.w", (outputs, inputs, kernel, kernel), (2 / fan) ** 0.5)
        bias = constant(f"{name}.b", (outputs,), 0.01)
        nodes.append(
            helper.make_node(
                "Conv", [source, weight, bias], [name], kernel_shape=[kernel] * 2, strides=[stride] * 2,
                pads=[kernel // 2] * 4,
            )
        )  # fmt: skip
        return name

    def relu(source: str) -> str:
        nodes.append(helper.make_node("Relu", [source], [f"{source}.relu"]))
        return f"{source}.relu"

    flow = relu(convolution("image", "stem", 3, 64, 7, 2))
    nodes.append(helper.make_node("MaxPool", [flow], ["pool"], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]))
    flow, width = "pool", 64
    for stage, (blocks, middle) in enumerate(((3, 64), (4, 128), (6, 256), (3, 512))):
        for block in range(blocks):
            name, stride = f"s{stage}b{block}", 2 if stage and not block else 1
            inner = relu(convolution(flow, f"{name}.1", width, middle, 1, 1))
            inner = relu(convolution(inner, f"{name}.2", middle, middle, 3, stride))
            inner = convolution(inner, f"{name}.3", middle, 4 * middle, 1, 1)
            if not block:
                flow = convolution(flow, f"{name}.skip", width, 4 * middle, 1, stride)
            nodes.append(helper.make_node("Add", [inner, flow], [name]))
            flow, width = relu(name), 4 * middle
    nodes.append(helper.make_node("GlobalAveragePool", [flow], ["average"]))
    nodes.append(helper.make_node("Flatten", ["average"], ["flat"]))
    nodes.append(
        helper.make_node(
            "Gemm", ["flat", constant("fc.w", (2048, 1000), 0.02), constant("fc.b", (1000,), 0.01)], ["scores"]
        )
    )
    graph = helper.make_graph(
        nodes,
        "resnet50",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, 224, 224])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 1000])],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def dense(width: int, layers: int, seed: int = 0) -> onnx.ModelProto:
    """FP32 `features` [N,30] -> `scores` [N,2] through `layers` square layers of `width`: service time grows with rows."""
    random = np.random.default_rng(seed)
    sizes = [30, *[width] * layers, 2]
    nodes, weights, flow = [], [], "features"
    for i, (rows, columns) in enumerate(zip(sizes, sizes[1:], strict=False)):
        weight = (random.standard_normal((rows, columns)) / rows**0.5).astype(np.float32)
        weights.append(numpy_helper.from_array(weight, f"w{i}"))
        out = "scores" if i == layers else f"h{i}"
        nodes.append(helper.make_node("MatMul", [flow, f"w{i}"], [out if i == layers else f"m{i}"]))
        if i < layers:
            nodes.append(helper.make_node("Relu", [f"m{i}"], [out]))
        flow = out
    graph = helper.make_graph(
        nodes,
        "dense",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["N", 30])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 2])],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
