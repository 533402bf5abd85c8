"""The serving plan that a configuration comes to."""

from pathlib import Path

import pytest

from gateway.errors import ConfigError
from gateway.model_config import Defaults, complete, parse
from gateway.serving_plan import BatchingPlan, Placement, QueuePolicy, ServingPlan, companion_names, draw
from gateway.workers.spec import Description, TensorSpec, WarmupBatch, WarmupInput

X = TensorSpec("x", "FP32", (-1, 4))
Y = TensorSpec("y", "FP32", (-1, 2))


def plan(
    text: str = "",
    folder: Path = Path("/nowhere"),
    inputs: tuple[TensorSpec, ...] = (X,),
    outputs: tuple[TensorSpec, ...] = (Y,),
    gpus: tuple[int, ...] = (),
) -> ServingPlan:
    engine = Description(inputs, outputs, 0)
    return draw(complete(parse(text, "m"), "m", engine, Defaults(16, gpus)), engine, folder)


def test_tensors_are_as_callers_see_them():
    found = plan()
    assert [(each.name, each.datatype, each.shape, each.engine_shape) for each in found.inputs] == [
        ("x", "FP32", (-1, 4), None)
    ]
    assert found.max_batch_size == 16
    assert plan("max_batch_size: 0").inputs[0].shape == (-1, 4)


def test_a_reshape_keeps_both_shapes():
    (label,) = plan(outputs=(TensorSpec("label", "INT64", (-1,)),)).outputs
    assert (label.shape, label.engine_shape) == ((-1, 1), (-1,))
    text = "input { name: 'x' dims: [6] reshape { shape: [2, 3] } }"
    (x,) = plan(text, inputs=(TensorSpec("x", "FP32", (-1, 2, 3)),)).inputs
    assert (x.shape, x.engine_shape) == ((-1, 6), (-1, 2, 3))


def test_outputs_keep_their_place_among_the_engines():
    outputs = tuple(TensorSpec(name, "FP32", (-1, 1)) for name in "abc")
    found = plan("output { name: 'c' } output { name: 'a' }", outputs=outputs).outputs
    assert [(each.name, each.index) for each in found] == [("a", 0), ("c", 2)]


def test_optional_inputs_are_marked():
    assert plan("input { name: 'x' optional: true }").inputs[0].optional
    assert not plan().inputs[0].optional


def test_labels_are_read_a_line_each(tmp_path: Path):
    (tmp_path / "labels.txt").write_text("cat\r\n\ndog\n", newline="")
    text = "output { name: 'y' label_filename: 'labels.txt' }"
    assert plan(text, tmp_path).outputs[0].labels == ("cat", "", "dog")
    (tmp_path / "labels.txt").write_text("")
    assert plan(text, tmp_path).outputs[0].labels == ()


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_labels_that_cannot_be_read_are_refused(tmp_path: Path, content: bytes | None):
    if content is not None:
        (tmp_path / "labels.txt").write_bytes(content)
    with pytest.raises(ConfigError) as error:
        plan("output { name: 'y' label_filename: 'labels.txt' }", tmp_path)
    assert error.value.field == "output['y'].label_filename"


def test_batching_is_in_seconds_and_in_order():
    found = plan(
        """
        dynamic_batching {
          preferred_batch_size: [8, 4, 8]
          max_queue_delay_microseconds: 1500
          priority_levels: 3
          default_priority_level: 2
          default_queue_policy { max_queue_size: 5 }
          priority_queue_policy { key: 3 value {
            timeout_action: DELAY default_timeout_microseconds: 250000 allow_timeout_override: true
          } }
        }
        """
    )
    default = QueuePolicy(max_queue_size=5)
    assert found.batching == BatchingPlan(
        max_queue_delay_seconds=0.0015,
        preferred_batch_sizes=(4, 8),
        priority_levels=3,
        default_priority_level=2,
        queue_policies=(default, default, QueuePolicy("DELAY", 0.25, True, 0)),
    )


def test_without_levels_there_is_one_queue_policy():
    assert plan("dynamic_batching { default_queue_policy { max_queue_size: 7 } }").batching.queue_policies == (
        QueuePolicy(max_queue_size=7),
    )
    assert plan("max_batch_size: 0").batching == BatchingPlan()


def test_placements_follow_the_instance_groups():
    found = plan("instance_group { count: 2 kind: KIND_GPU } instance_group { count: 3 kind: KIND_CPU }", gpus=(0, 1))
    assert found.placements == (Placement("GPU", 0, 2), Placement("GPU", 1, 2), Placement("CPU", 0, 3))


def test_instances_are_told_everything():
    text = """
      instance_group { count: 2 }
      optimization { graph { level: -1 } }
      parameters { key: "intra_op_thread_count" value { string_value: "1" } }
    """
    ((spec, count),) = plan(text).instance_specs("3", Path("/f/model.onnx"), 4096)
    assert count == 2
    assert (spec.model, spec.version, spec.path, spec.backend) == ("m", "3", Path("/f/model.onnx"), "onnxruntime")
    assert (spec.kind, spec.device, spec.max_batch_size, spec.slot_bytes) == ("CPU", 0, 16, 4096)
    assert (spec.parameters, spec.graph_level) == ({"intra_op_thread_count": "1"}, -1)


def test_a_graph_level_of_zero_is_the_engines_default():
    assert plan("optimization { graph { level: 0 } }").graph_level is None


def test_warmup_batches_are_ready_for_the_worker(tmp_path: Path):
    (tmp_path / "warmup").mkdir()
    (tmp_path / "warmup/z.bin").write_bytes(b"")
    inputs = (TensorSpec("x", "FP32", (-1, 2, -1)), TensorSpec("z", "BYTES", (-1, 1)))
    text = """
      input { name: 'x' dims: [-1, 2] reshape { shape: [2, -1] } }
      model_warmup { name: "w" batch_size: 4 count: 3
        inputs { key: 'z' value { data_type: TYPE_STRING dims: 1 input_data_file: 'z.bin' } }
        inputs { key: 'x' value { data_type: TYPE_FP32 dims: [5, 2] random_data: true } } }
    """
    with pytest.raises(ConfigError):  # the free dimension may not move past another
        plan(text, tmp_path, inputs=inputs)
    found = plan(
        text.replace("reshape { shape: [2, -1] }", ""),
        tmp_path,
        inputs=(TensorSpec("x", "FP32", (-1, -1, 2)), inputs[1]),
    )
    assert found.warmup == (
        WarmupBatch(
            "w",
            4,
            (
                WarmupInput("x", "FP32", (5, 2), "random"),
                WarmupInput("z", "BYTES", (1,), "file", str(tmp_path / "warmup/z.bin")),
            ),
            3,
        ),
    )


def test_a_warmup_of_a_reshaped_input_has_the_engines_shape():
    text = """
      input { name: 'x' dims: [-1, 6] reshape { shape: [-1, 2, 3] } }
      model_warmup { inputs { key: 'x' value { data_type: TYPE_FP32 dims: [5, 6] zero_data: true } } }
    """
    (batch,) = plan(text, inputs=(TensorSpec("x", "FP32", (-1, -1, 2, 3)),)).warmup
    assert batch == WarmupBatch("warmup_0", 1, (WarmupInput("x", "FP32", (5, 2, 3), "zero"),), 1)


def test_a_warmup_without_batches_has_no_rows():
    zeros = "data_type: TYPE_FP32 dims: [1, 4] zero_data: true"
    text = f"max_batch_size: 0 model_warmup {{ inputs {{ key: 'x' value {{ {zeros} }} }} }}"
    assert plan(text).warmup[0].batch_size == 0


def test_warmup_data_that_is_not_there_is_refused(tmp_path: Path):
    text = "model_warmup { inputs { key: 'x' value { data_type: TYPE_FP32 dims: 4 input_data_file: 'x.bin' } } }"
    with pytest.raises(ConfigError) as error:
        plan(text, tmp_path)
    assert error.value.field == "model_warmup[0].inputs['x'].input_data_file"


def test_the_files_that_a_configuration_names_are_its_companions():
    text = """
      output { name: 'y' label_filename: 'labels.txt' }
      model_warmup { inputs { key: 'x' value { data_type: TYPE_FP32 dims: 4 input_data_file: 'x.bin' } } }
    """
    assert companion_names(parse(text, "m").config) == {"labels.txt", "warmup/x.bin"}
