"""Weights come from the model's own folder or not at all, however deep in the file their place is written."""

from __future__ import annotations

from pathlib import Path

import models
import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from gateway.backends.external_data import MalformedModel, OutsideData, check_external_data, external_locations


def hidden(location: str) -> onnx.TensorProto:
    tensor = numpy_helper.from_array(np.zeros(4, np.float32), "hidden")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    return tensor


def nested(location: str, where: str) -> onnx.ModelProto:
    """A model with an external tensor in an out-of-the-way place."""
    constant = helper.make_node("Constant", [], ["c"], value=hidden(location))
    model = onnx.ModelProto(ir_version=8)
    match where:
        case "attribute":
            model.graph.node.append(constant)
        case "subgraph":
            inner = helper.make_graph([constant], "inner", [], [])
            model.graph.node.append(helper.make_node("If", ["x"], ["y"], then_branch=inner, else_branch=inner))
        case "function":
            model.functions.add(name="f").node.append(constant)
        case "sparse":
            model.graph.sparse_initializer.add().values.CopyFrom(hidden(location))
        case "attribute list":
            model.graph.node.add(op_type="X").attribute.add(name="many").tensors.append(hidden(location))
        case "training":
            model.training_info.add().algorithm.initializer.append(hidden(location))
    return model


PLACES = ["attribute", "subgraph", "function", "sparse", "attribute list", "training"]


@pytest.mark.parametrize("where", PLACES)
def test_a_location_is_found_wherever_it_is_written(where: str, tmp_path: Path) -> None:
    path = models.save(nested("../../etc/passwd", where), tmp_path / "model.onnx")
    assert external_locations(path) == {"../../etc/passwd"}
    with pytest.raises(OutsideData) as refused:
        check_external_data(path)
    assert refused.value.location == "../../etc/passwd"


@pytest.mark.parametrize("location", ["/etc/passwd", "../x", "a/../../x", "..", "a\\..\\..\\x", "\\x"])
def test_places_outside_are_refused(location: str, tmp_path: Path) -> None:
    with pytest.raises(OutsideData):
        check_external_data(models.external(tmp_path / "m" / "model.onnx", location, present=False))


@pytest.mark.parametrize("location", ["weights.bin", "deep/er/weights.bin", "./weights.bin", "..weights"])
def test_places_inside_are_accepted(location: str, tmp_path: Path) -> None:
    check_external_data(models.external(tmp_path / "m" / "model.onnx", location))


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "weights.bin").symlink_to("/etc/hostname")
    with pytest.raises(OutsideData):
        check_external_data(models.external(tmp_path / "m" / "model.onnx", "weights.bin", present=False))


def test_a_model_with_its_weights_inside_has_no_locations(tmp_path: Path) -> None:
    for model in (models.tabular(), models.spinning(), models.identities()):
        assert external_locations(models.save(model, tmp_path / "model.onnx")) == set()


@pytest.mark.parametrize(
    "content", [b"", b"\x3a", b"\x3a\xff\xff\xff\xff\x0f", b"\xff" * 20, b"\x3f", models.truncated()]
)
def test_what_is_no_model_is_refused(content: bytes, tmp_path: Path) -> None:
    with pytest.raises(MalformedModel):
        check_external_data(models.save(content, tmp_path / "model.onnx"))


def test_graphs_nested_absurdly_deep_are_refused_and_do_not_exhaust_the_stack(tmp_path: Path) -> None:
    data = b""
    for _ in range(2000):  # graph -> node -> attribute -> graph ..., each wrapped by hand
        for field in (6, 5, 1):
            data = bytes([field << 3 | 2]) + _varint(len(data)) + data
    data = b"\x3a" + _varint(len(data)) + data
    with pytest.raises(MalformedModel, match="too deep"):
        external_locations(models.save(data, tmp_path / "model.onnx"))


@given(data=st.binary(max_size=200), cut=st.integers(0, 2000))
def test_no_bytes_do_worse_than_to_be_refused(data: bytes, cut: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "any.onnx"
    for content in (data, models.tabular().SerializeToString()[:cut] + data):
        models.save(content, path)
        try:
            external_locations(path)
        except MalformedModel:
            pass


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])
