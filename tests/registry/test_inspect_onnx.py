from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import models
import onnx
import pytest
from hostile import with_custom_operator
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from registry.errors import (
    ArtifactRefused,
    CustomOperators,
    ExternalDataRefused,
    InvalidModel,
    LimitExceeded,
    LinkRefused,
)
from registry.inspect_onnx import ModelLimits, inspect_onnx
from registry.manifest import TensorSpec
from registry.model_folder import read_model_folder

BUILDERS: list[Callable[[], onnx.ModelProto]] = [
    models.tabular,
    models.identities,
    models.arithmetic,
    models.unbatched,
    models.growing,
    models.slow,
    models.picky,
]


def operators(graph: onnx.GraphProto) -> dict[str, int]:
    """As the onnx package sees them, graphs within graphs included."""
    found: dict[str, int] = {}
    for node in graph.node:
        found[node.op_type] = found.get(node.op_type, 0) + 1
        for attribute in node.attribute:
            for name, count in operators(attribute.g).items():
                found[name] = found.get(name, 0) + count
    return found


@pytest.mark.parametrize("build", BUILDERS)
def test_what_is_read_is_what_the_onnx_package_reads(tmp_path: Path, build: Callable[[], onnx.ModelProto]) -> None:
    model = build()
    found = inspect_onnx(models.save(model, tmp_path / "model.onnx"))
    for specs, values in ((found.inputs, model.graph.input), (found.outputs, model.graph.output)):
        assert [spec.name for spec in specs] == [value.name for value in values]
        for spec, value in zip(specs, values, strict=True):
            tensor = value.type.tensor_type
            assert models.ELEMENT_TYPES[spec.datatype] == tensor.elem_type
            assert spec.shape == tuple(dim.dim_value if dim.HasField("dim_value") else -1 for dim in tensor.shape.dim)
    assert found.operators == operators(model.graph)
    assert (found.opset, found.external) == (17, ())


def test_inputs_with_a_value_of_their_own_are_not_asked_for(tmp_path: Path) -> None:
    model = models.tabular()
    for tensor in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    assert inspect_onnx(models.save(model, tmp_path / "m.onnx")).inputs == (TensorSpec("features", "FP32", (-1, 30)),)


def test_operators_of_other_domains_are_named_with_them(tmp_path: Path) -> None:
    model = models.tabular()
    model.graph.node.append(helper.make_node("Scaler", ["features"], ["x"], domain="ai.onnx.ml"))
    assert inspect_onnx(models.save(model, tmp_path / "m.onnx")).operators["ai.onnx.ml.Scaler"] == 1


def test_functions_that_the_model_brings_along_are_no_custom_operators(tmp_path: Path) -> None:
    model = models.tabular()
    body = [helper.make_node("Relu", ["x"], ["y"])]
    function = helper.make_function("mine", "Twice", ["x"], ["y"], body, [helper.make_opsetid("", 17)])
    model.functions.append(function)
    model.graph.node.append(helper.make_node("Twice", ["features"], ["z"], domain="mine"))
    assert inspect_onnx(models.save(model, tmp_path / "m.onnx")).operators["mine.Twice"] == 1


@pytest.mark.parametrize("place", ["graph", "subgraph", "function"])
def test_operators_that_need_a_library_are_refused_wherever_they_are(tmp_path: Path, place: str) -> None:
    with pytest.raises(CustomOperators) as error:
        inspect_onnx(with_custom_operator(tmp_path / "m.onnx", place))
    assert error.value.domains == ("evil.ops",)


class TestExternalData:
    @pytest.mark.parametrize("location", ["weights.bin", "deep/er/weights.bin", "with space.bin"])
    def test_inside_of_the_folder_is_found(self, tmp_path: Path, location: str) -> None:
        path = models.external(tmp_path / "model.onnx", location)
        assert inspect_onnx(path).external_files == (location,)
        assert set(read_model_folder(tmp_path).files) == {"model.onnx", location}

    @pytest.mark.parametrize(
        "location",
        [
            "/etc/passwd",
            "../weights.bin",
            "a/../../weights.bin",
            "..",
            "",
            ".",
            "./weights.bin",
            "a//b",
            "..\\weights.bin",
            "a\0b",
            ".hidden",
            "x" * 300,
            "/".join("a" * 12),
        ],
    )
    def test_outside_of_it_or_odd_is_refused(self, tmp_path: Path, location: str) -> None:
        with pytest.raises(ExternalDataRefused):
            inspect_onnx(models.external(tmp_path / "in" / "model.onnx", location, present=False))

    def test_that_is_missing_is_refused(self, tmp_path: Path) -> None:
        models.external(tmp_path / "model.onnx", "weights.bin", present=False)
        with pytest.raises(ExternalDataRefused, match="no such file"):
            read_model_folder(tmp_path)

    @pytest.mark.parametrize("what", ["file", "folder"])
    def test_behind_a_link_is_refused(self, tmp_path: Path, what: str) -> None:
        (tmp_path / "outside").mkdir()
        (tmp_path / "outside" / "weights.bin").write_bytes(b"\0" * 100_000)
        path = models.external(tmp_path / "in" / "model.onnx", "sub/weights.bin", present=False)
        if what == "file":
            (tmp_path / "in" / "sub").mkdir()
            (tmp_path / "in" / "sub" / "weights.bin").symlink_to(tmp_path / "outside" / "weights.bin")
        else:
            (tmp_path / "in" / "sub").symlink_to(tmp_path / "outside")
        with pytest.raises(ExternalDataRefused, match="symbolic link"):
            read_model_folder(path)
        with pytest.raises(LinkRefused):
            read_model_folder(tmp_path / "in")

    @pytest.mark.parametrize(
        "entries",
        [
            {"offset": "-1"},
            {"offset": "1e3"},
            {"offset": "٣"},
            {"length": "99999999999999999999"},
            {"offset": "9223372036854775807", "length": "9223372036854775807"},
            {"offset": "999999999"},
            {"length": "999999999"},
            {"__class__": "evil"},
            {"basepath": "/etc"},
        ],
    )
    def test_beyond_the_end_or_with_strange_keys_is_refused(self, tmp_path: Path, entries: dict[str, str]) -> None:
        path = models.external(tmp_path / "model.onnx", "weights.bin")
        model = onnx.load(path, load_external_data=False)
        tensor = model.graph.initializer[0]
        kept = {entry.key: entry.value for entry in tensor.external_data} | entries
        del tensor.external_data[:]
        for key, value in kept.items():
            tensor.external_data.add(key=key, value=value)
        models.save(model, path)
        with pytest.raises(ExternalDataRefused):
            read_model_folder(tmp_path)

    def test_hidden_in_a_subgraph_an_attribute_or_a_function_is_found_too(self, tmp_path: Path) -> None:
        tensor = TensorProto(name="w", data_type=1, dims=[1], data_location=TensorProto.EXTERNAL)
        tensor.external_data.add(key="location", value="../secret")
        for node in (
            helper.make_node("Constant", [], ["k"], value=tensor),
            helper.make_node("If", ["c"], ["k"], then_branch=helper.make_graph([], "g", [], [], [tensor])),
        ):
            in_graph, in_function = models.tabular(), models.tabular()
            in_graph.graph.node.append(node)
            in_function.functions.append(
                helper.make_function("mine", "F", [], ["k"], [node], [helper.make_opsetid("", 17)])
            )
            for model in (in_graph, in_function):
                with pytest.raises(ExternalDataRefused):
                    inspect_onnx(models.save(model, tmp_path / "model.onnx"))

    def test_without_the_mark_that_it_is_external_is_treated_as_such(self, tmp_path: Path) -> None:
        model = models.tabular()
        model.graph.initializer[0].external_data.add(key="location", value="/etc/shadow")
        with pytest.raises(ExternalDataRefused):
            inspect_onnx(models.save(model, tmp_path / "model.onnx"))


class TestLimits:
    @pytest.mark.parametrize(
        ("limits", "what"),
        [
            (ModelLimits(max_bytes=1000), "bytes"),
            (ModelLimits(max_nodes=3), "nodes"),
            (ModelLimits(max_tensors=3), "tensors"),
            (ModelLimits(max_values=0), "inputs"),
            (ModelLimits(max_rank=1), "dimensions"),
            (ModelLimits(max_name=3), "bytes of a name"),
        ],
    )
    def test_say_what_was_too_much(self, tmp_path: Path, limits: ModelLimits, what: str) -> None:
        path = models.save(models.tabular(), tmp_path / "model.onnx")
        with pytest.raises(LimitExceeded) as error:
            inspect_onnx(path, limits)
        assert error.value.what == what

    def test_on_depth_hold_for_graphs_within_graphs(self, tmp_path: Path) -> None:
        # Written by hand: the library itself gives up on it. Each level is an If within a graph within an If.
        data = b""
        for _ in range(5000):
            graph = _field(1, _field(4, b"If") + _field(5, _field(1, b"g") + _field(6, data)))
            data = graph
        path = tmp_path / "model.onnx"
        path.write_bytes(b"\x08\x08" + _field(7, data))
        with pytest.raises(LimitExceeded) as error:
            inspect_onnx(path)
        assert error.value.what == "levels of nesting"

    def test_an_announced_length_is_not_believed(self, tmp_path: Path) -> None:
        path = tmp_path / "model.onnx"
        for data in (b"\x3a\xff\xff\xff\xff\x7f", b"\x08\x08\x3a\x05abc", b"\xff" * 11, b"\x08"):
            path.write_bytes(data)
            with pytest.raises(InvalidModel):
                inspect_onnx(path)


def _field(number: int, data: bytes) -> bytes:
    size, length = len(data), b""
    while size > 0x7F:
        length += bytes([size & 0x7F | 0x80])
        size >>= 7
    return bytes([number << 3 | 2]) + length + bytes([size]) + data


@pytest.mark.parametrize("kind", ["sequence", "map"])
def test_outputs_that_are_no_tensors_are_refused(tmp_path: Path, kind: str) -> None:
    model = models.tabular()
    of = helper.make_tensor_type_proto(TensorProto.FLOAT, [1])
    typed = helper.make_sequence_type_proto(of) if kind == "sequence" else helper.make_map_type_proto(7, of)
    model.graph.output.append(helper.make_value_info("odd", typed))
    with pytest.raises(InvalidModel, match="cannot be served"):
        inspect_onnx(models.save(model, tmp_path / "model.onnx"))


DATA = models.tabular().SerializeToString()


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damaged_files_are_read_or_refused_and_nothing_else(tmp_path: Path, data: st.DataObject) -> None:
    damaged = bytearray(DATA[: data.draw(st.integers(0, len(DATA)))] if data.draw(st.booleans()) else DATA)
    for _ in range(data.draw(st.integers(0, 8))):
        if damaged:
            # Most of the file is weights; what matters is at its ends.
            at = data.draw(st.integers(0, min(400, len(damaged) - 1)))
            damaged[at if data.draw(st.booleans()) else -1 - at] = data.draw(st.integers(0, 255))
    path = tmp_path / "model.onnx"
    path.write_bytes(damaged)
    try:
        inspect_onnx(path)
    except ArtifactRefused:
        pass


def test_harmless_files_beside_a_model_are_taken(tmp_path: Path) -> None:
    models.save(models.tabular(), tmp_path / "model.onnx")
    for name, data in {
        "labels.txt": b"good\nbad.\n",
        "vocab.json": b"{}",
        "README.md": b"# hi",
        "a/raw.bin": b"\x80",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    assert set(read_model_folder(tmp_path).files) == {
        "model.onnx",
        "labels.txt",
        "vocab.json",
        "README.md",
        "a/raw.bin",
    }
