"""ONNX Runtime behind the backend's face: every datatype, both ways of running, and refusals that say what to do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import models
import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from worker_house import NUMPY_DTYPES

from gateway.backends import BackendError, Batch, strings
from gateway.backends.onnxruntime import OnnxRuntimeBackend, check_providers, without_paths
from gateway.backends.onnxruntime_options import provider_options, run_options, session_options
from gateway.workers.spec import DATATYPES, InstanceSpec

CASTS = {"text": "BYTES", "short": "BF16"}
NUMERIC = [name for name in models.DATATYPES if name != "BYTES"]


class Slots:
    """Two slots of memory as a lane has them: the same place and the same view for the same batch."""

    def __init__(self, backend: OnnxRuntimeBackend, area_bytes: int = 1 << 20) -> None:
        self.backend = backend
        self.areas = [memoryview(bytearray(area_bytes)) for _ in range(2)]
        self._memory = [np.zeros(1 << 20, np.uint8) for _ in range(2)]
        self._views: dict[Any, np.ndarray] = {}
        self._next = 0

    def run(self, *inputs: np.ndarray, wanted: int = 0) -> list[np.ndarray]:
        """The outputs, copied, so that the next batch cannot change them."""
        slot, self._next = self._next, 1 - self._next
        views, at = [], 0
        for index, array in enumerate(inputs):
            key = (slot, at, array.dtype.str, array.shape)
            if key not in self._views:
                self._views[key] = self._memory[slot][at : at + array.nbytes].view(array.dtype).reshape(array.shape)
            self._views[key][...] = array
            views.append((index, self._views[key]))
            at += -(-array.nbytes // 64) * 64
        shapes = [array.shape for array in inputs]
        outputs = self.backend.execute(Batch(slot, views, wanted, shapes.__getitem__, self.areas[slot]))
        return [_array(datatype, shape, data) for _, datatype, shape, data in outputs]

    def is_in_place(self, *inputs: np.ndarray) -> bool:
        """Whether this batch's outputs come out in the slot itself."""
        slot = self._next
        area = np.frombuffer(self.areas[slot], np.uint8)
        area[:] = 255
        self.run(*inputs)
        return not (area == 255).all()


def _array(datatype: int, shape: Sequence[int], data: Any) -> np.ndarray:
    raw = data if isinstance(data, bytes) else np.asarray(data).tobytes()
    return np.frombuffer(raw, NUMPY_DTYPES[DATATYPES[datatype]]).reshape(tuple(shape))


def load(
    model: onnx.ModelProto, folder: Path, parameters: Mapping[str, str] | None = None, level: int | None = None
) -> OnnxRuntimeBackend:
    path = models.save(model, folder / "model.onnx")
    return OnnxRuntimeBackend(InstanceSpec("model", "1", path, parameters=parameters or {}, graph_level=level))


def sample(datatype: str, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    dtype = np.dtype(NUMPY_DTYPES[datatype])
    if datatype == "BOOL":
        return random.integers(0, 2, shape).astype(bool)
    if dtype.kind == "f":
        return random.standard_normal(shape).astype(dtype)
    # BF16 as any bits that are not a NaN, of which engines may keep no more than that it is one.
    high = 0x7F80 if datatype == "BF16" else np.iinfo(dtype).max
    return random.integers(0, high, shape, dtype=dtype)


@pytest.mark.parametrize("datatype", NUMERIC)
def test_every_datatype_comes_out_as_it_went_in_whichever_way_it_runs(datatype: str, tmp_path: Path) -> None:
    slots = Slots(load(models.identity(datatype), tmp_path))
    assert slots.backend.inputs[0].datatype == slots.backend.outputs[0].datatype == datatype
    for seed in range(6):
        data = sample(datatype, (3, 4), seed)
        (out,) = slots.run(data)
        assert out.dtype == data.dtype
        np.testing.assert_array_equal(out, data)
    assert slots.is_in_place(sample(datatype, (3, 4)))


def test_all_datatypes_together_keep_apart(tmp_path: Path) -> None:
    slots = Slots(load(models.identities(NUMERIC), tmp_path))
    for seed in range(5):
        data = [sample(name, (2, 2), seed) for name in NUMERIC]
        for expected, out in zip(data, slots.run(*data), strict=True):
            np.testing.assert_array_equal(out, expected)


def test_text_goes_in_and_comes_out_as_bytes(tmp_path: Path) -> None:
    backend = load(models.identity("BYTES", ("N", 2)), tmp_path)
    raw = np.frombuffer(strings.to_raw(["naïve", "", "a\0b", "x" * 300]), np.uint8)
    ((index, datatype, shape, data),) = backend.execute(Batch(0, [(0, raw)], 0, lambda _: (2, 2), memoryview(b"")))
    assert (index, DATATYPES[datatype], tuple(shape)) == (0, "BYTES", (2, 2))
    assert strings.from_raw(data, (2, 2)).tolist() == [["naïve".encode(), b""], [b"a\0b", b"x" * 300]]


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (strings.to_raw([b"\xff\xfe", b"ok"]), "an element of input 'x' is not UTF-8 text"),
        (b"\x09\0\0\0abc", "input 'x' is malformed: element 0 reaches beyond the end of the data"),
    ],
)
def test_bytes_that_are_no_text_are_the_callers_mistake(tmp_path: Path, raw: bytes, message: str) -> None:
    backend = load(models.identity("BYTES", ("N", 2)), tmp_path)
    batch = Batch(0, [(0, np.frombuffer(raw, np.uint8))], 0, lambda _: (1, 2), memoryview(b""))
    with pytest.raises(BackendError) as refused:
        backend.execute(batch)
    assert (refused.value.code, refused.value.message) == (3, message)


def test_text_in_beside_bf16_is_refused_at_load_since_the_engine_cannot_carry_both(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match=r"no BYTES input \('in_BYTES'\) together with a BF16 tensor \('in_BF16'\)"):
        load(models.identities(["BF16", "BYTES"]), tmp_path)


def test_text_out_beside_bf16_comes_out(tmp_path: Path) -> None:
    nodes = [helper.make_node("Cast", ["x"], [name], to=models.ELEMENT_TYPES[kind]) for name, kind in CASTS.items()]
    graph = helper.make_graph(
        nodes,
        "casts",
        [helper.make_tensor_value_info("x", TensorProto.INT32, ["N"])],
        [helper.make_tensor_value_info(name, models.ELEMENT_TYPES[kind], ["N"]) for name, kind in CASTS.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    backend = load(model, tmp_path)
    x = np.array([1, 2], np.int32)
    outputs = backend.execute(Batch(0, [(0, x)], 0, lambda at: (2,), None))
    assert bytes(outputs[0][3]) == strings.to_raw(["1", "2"])
    assert np.frombuffer(outputs[1][3], np.uint16).tolist() == [0x3F80, 0x4000]


def test_only_wanted_outputs_are_computed(tmp_path: Path) -> None:
    slots = Slots(load(models.arithmetic(), tmp_path))
    a, b, c = np.ones((2, 3), np.float32), np.full((2, 3), 2, np.float32), np.array([[5], [6]])
    for _ in range(4):
        (product,) = slots.run(a, b, c, wanted=0b010)
        assert (product == 2).all()
        total, following = slots.run(a, b, c, wanted=0b101)
        assert (total == 3).all()
        assert following.tolist() == [[6], [7]]


def test_a_model_without_a_batch_dimension_runs(tmp_path: Path) -> None:
    slots = Slots(load(models.unbatched(), tmp_path))
    assert slots.backend.inputs[0].shape == (2, 3)
    data = np.arange(6, dtype=np.float32).reshape(2, 3)
    for _ in range(4):
        np.testing.assert_array_equal(slots.run(data)[0], data.T)


def test_outputs_whose_size_depends_on_the_data_come_out_whole(tmp_path: Path) -> None:
    slots = Slots(load(models.growing(), tmp_path))
    for most in [3, 3, 3, 3, 5, 1, 5, 5, 5, 2]:
        (out,) = slots.run(np.array([[1], [most]], np.int64))
        assert out.shape == (2, most)
        assert (out == 1).all()


def test_outputs_too_large_for_the_slot_are_handed_over_beside_it(tmp_path: Path) -> None:
    slots = Slots(load(models.wide(1024), tmp_path), area_bytes=4096)
    for _ in range(6):
        (out,) = slots.run(np.array([[2], [3]], np.float32))
        assert out.shape == (2, 1024)
        assert (out[1] == 3).all()


def test_a_failing_batch_changes_nothing_for_the_next(tmp_path: Path) -> None:
    slots = Slots(load(models.picky(), tmp_path))
    good, bad = np.array([[1], [2]], np.int64), np.array([[1], [99]], np.int64)
    for _ in range(4):
        slots.run(good)
    for _ in range(3):
        with pytest.raises(BackendError, match="out of data bounds") as refused:
            slots.run(bad)
        assert refused.value.code == 13
        assert slots.run(good)[0][:, 0].tolist() == [4.0, 8.0]
    # Rows at fault must not cost the good ones the fast way.
    slots.run(good)
    assert slots.is_in_place(good)


def test_a_shape_that_the_model_cannot_take_is_the_callers_mistake(tmp_path: Path) -> None:
    slots = Slots(load(models.tabular(), tmp_path))
    with pytest.raises(BackendError, match="Got: 29 Expected: 30") as refused:
        slots.run(np.zeros((1, 29), np.float32))
    assert refused.value.code == 3


@settings(max_examples=30, deadline=None)
@given(sizes=st.lists(st.integers(0, 6), min_size=1, max_size=30))
def test_any_order_of_batch_sizes_gives_what_the_reference_says(sizes: list[int], tmp_path_factory: Any) -> None:
    slots = Slots(load(models.arithmetic(), tmp_path_factory.mktemp("model")))
    random = np.random.default_rng(len(sizes))
    for rows in sizes:
        a, b = random.random((rows, 3), np.float32), random.random((rows, 3), np.float32)
        c = random.integers(0, 99, (rows, 1))
        total, product, following = slots.run(a, b, c)
        np.testing.assert_array_equal(total, a + b)
        np.testing.assert_array_equal(product, a * b)
        np.testing.assert_array_equal(following, c + 1)


def test_more_kinds_of_batch_than_are_kept_still_come_out_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.backends.onnxruntime.MAX_PLANS", 3)
    slots = Slots(load(models.identity(), tmp_path))
    for rows in [1, 2, 3, 4, 5, 1, 1, 1, 1, 5, 5, 5, 4, 3, 2, 1]:
        data = sample("FP32", (rows, 4), rows)
        np.testing.assert_array_equal(slots.run(data)[0], data)


# Loading


@pytest.mark.parametrize(("kind", "hint"), [("seq(map(int64,tensor(float)))", "zipmap"), ("tensor(float8e4m3fn)", "")])
def test_a_tensor_that_the_protocol_cannot_carry_is_refused_with_a_hint(kind: str, hint: str, tmp_path: Path) -> None:
    if kind.startswith("seq"):
        node = helper.make_node("ZipMap", ["x"], ["y"], domain="ai.onnx.ml", classlabels_int64s=[0, 1])
        out = helper.make_value_info(
            "y",
            helper.make_sequence_type_proto(
                helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, None))
            ),
        )
        given_in = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 2])
    else:
        node = helper.make_node("Identity", ["x"], ["y"])
        given_in = helper.make_tensor_value_info("x", TensorProto.FLOAT8E4M3FN, ["N", 2])
        out = helper.make_tensor_value_info("y", TensorProto.FLOAT8E4M3FN, ["N", 2])
    opsets = [helper.make_opsetid("", 19), helper.make_opsetid("ai.onnx.ml", 3)]
    model = helper.make_model(helper.make_graph([node], "g", [given_in], [out]), opset_imports=opsets, ir_version=9)
    with pytest.raises(BackendError) as refused:
        load(model, tmp_path)
    assert "the protocol cannot carry" in refused.value.message
    assert hint in refused.value.message


def test_an_unknown_operator_is_refused_by_name(tmp_path: Path) -> None:
    node = helper.make_node("Teleport", ["x"], ["y"], domain="com.example")
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 2]) for name in "xy"]
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.example", 1)]
    model = helper.make_model(helper.make_graph([node], "g", info[:1], info[1:]), opset_imports=opsets, ir_version=8)
    with pytest.raises(BackendError, match="Teleport"):
        load(model, tmp_path)


def test_weights_in_a_file_beside_the_model_are_loaded(tmp_path: Path) -> None:
    path = models.external(tmp_path / "1" / "model.onnx", "weights.bin")
    slots = Slots(OnnxRuntimeBackend(InstanceSpec("external", "1", path)))
    features = sample("FP32", (2, 30))
    expected = models.expected(models.tabular(), features=features)["scores"]
    np.testing.assert_allclose(slots.run(features)[0], expected, rtol=1e-5)


def test_weights_outside_the_models_folder_are_refused_before_the_engine_sees_them(tmp_path: Path) -> None:
    path = models.external(tmp_path / "1" / "model.onnx", "../weights.bin")
    with pytest.raises(BackendError, match="outside the model's folder"):
        OnnxRuntimeBackend(InstanceSpec("external", "1", path))


def test_a_gpu_without_the_engine_for_it_is_refused_with_what_to_install() -> None:
    with pytest.raises(BackendError, match="onnxruntime-gpu"):
        check_providers("GPU", ["CPUExecutionProvider"])
    check_providers("GPU", ["CUDAExecutionProvider", "CPUExecutionProvider"])
    check_providers("CPU", ["CPUExecutionProvider"])


# Options


def test_threads_default_to_one_and_never_spin() -> None:
    options = session_options({}, None)
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (1, 1)
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"


def test_tritons_parameters_reach_the_engine() -> None:
    options = session_options(
        {
            "intra_op_thread_count": "3",
            "inter_op_thread_count": "2",
            "execution_mode": "1",
            "enable_mem_arena": "0",
            "enable_mem_pattern": "false",
            "session.set_denormal_as_zero": "1",
        },
        -1,
    )
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (3, 2)
    assert options.execution_mode.name == "ORT_PARALLEL"
    assert not options.enable_cpu_mem_arena
    assert not options.enable_mem_pattern
    assert options.get_session_config_entry("session.set_denormal_as_zero") == "1"
    assert options.graph_optimization_level.name == "ORT_ENABLE_BASIC"


@pytest.mark.parametrize(
    "parameters",
    [
        {"intra_op_thread_count": "many"},
        {"inter_op_thread_count": "-1"},
        {"execution_mode": "2"},
        {"enable_mem_arena": "maybe"},
    ],
)
def test_a_bad_value_names_its_parameter(parameters: dict[str, str]) -> None:
    with pytest.raises(BackendError, match=next(iter(parameters))):
        session_options(parameters, None)
    with pytest.raises(BackendError, match="graph level 7"):
        session_options({}, 7)


def test_parameters_that_could_write_files_or_load_code_are_not_passed_on() -> None:
    name = "session.optimized_model_external_initializers_file_name"
    options = session_options({name: "/etc/passwd", "profile_file_prefix": "/tmp/x"}, None)
    with pytest.raises(RuntimeError):
        options.get_session_config_entry(name)
    assert options.optimized_model_filepath == ""


def test_the_gpu_comes_first_with_its_own_options() -> None:
    providers = provider_options("GPU", 1, {"gpu_mem_limit": "1000", "intra_op_thread_count": "1"})
    assert providers == [
        ("CUDAExecutionProvider", {"device_id": "1", "gpu_mem_limit": "1000"}),
        "CPUExecutionProvider",
    ]


def test_memory_is_given_back_after_a_run_only_when_asked() -> None:
    assert run_options({}) is None
    assert run_options({"memory.enable_memory_arena_shrinkage": "cpu:0"}) is not None


def test_messages_keep_what_helps_and_lose_where_things_lie() -> None:
    text = '[ONNXRuntimeError] : 1 : FAIL : Load model from /srv/m/1/model.onnx failed: "/srv/x y"\n see /a/b.cc:87 1/2'
    assert without_paths(text) == 'Load model from model.onnx failed: "x y" see b.cc:87 1/2'
    assert len(without_paths("x" * 5000)) == 512
