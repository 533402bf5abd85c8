"""config.pbtxt: what is read, what is completed, what is refused and with which words."""

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import ConfigError
from gateway.frontends.json_form import to_json
from gateway.model_config import MAX_CONFIG_BYTES, Defaults, complete, parse, parse_json
from gateway.model_config_checks import datatype_of, field_of, ignored_fields
from gateway.pb.model_config_pb2 import DataType, ModelConfig, ModelInstanceGroup
from gateway.workers.spec import DATATYPES, TensorSpec


@dataclass
class Engine:
    inputs: list[TensorSpec] = field(default_factory=lambda: [TensorSpec("x", "FP32", (-1, 4))])
    outputs: list[TensorSpec] = field(default_factory=lambda: [TensorSpec("y", "FP32", (-1, 2))])


FIXED = Engine([TensorSpec("x", "FP32", (2, 3))], [TensorSpec("y", "INT64", (-1,))])


def serve(text: str = "", engine: Engine | None = None, gpus: tuple[int, ...] = ()) -> ModelConfig:
    return complete(parse(text, "m"), "m", engine or Engine(), Defaults(16, gpus))


def refusal(text: str, engine: Engine | None = None, gpus: tuple[int, ...] = ()) -> tuple[str, str]:
    with pytest.raises(ConfigError) as error:
        serve(text, engine, gpus)
    assert error.value.model == "m"
    return error.value.field, error.value.reason


# Reading


@pytest.mark.parametrize(
    ("text", "field", "where"),
    [
        ("max_batch_size: 4\n  colour: 1", "colour", "config.pbtxt:2:3"),
        ("input {\n  name: 'x'\n  dims: [ 1,\n 'two' ]\n}", "dims", "config.pbtxt:4:2"),
        ("max_batch_size: 99999999999", "max_batch_size", "config.pbtxt:1:17"),
        ("input { data_type: TYPE_FP33 }", "data_type", "config.pbtxt:1:20"),
        ("input {", "", "config.pbtxt:1:7"),
        ("name: 'a' name: 'b'", "name", "config.pbtxt:1:17"),
        ("dynamic_batching { } sequence_batching { }", "sequence_batching", "config.pbtxt:1"),
    ],
)
def test_what_cannot_be_read_names_file_line_and_field(text: str, field: str, where: str):
    found, reason = refusal(text)
    assert found == field
    assert reason.startswith(where), reason


def test_bytes_that_are_not_text_are_refused():
    with pytest.raises(ConfigError) as error:
        parse(b"name: '\xff'", "m")
    assert "not UTF-8 at byte 7" in error.value.reason


def test_a_very_large_file_is_refused():
    with pytest.raises(ConfigError):
        parse(b"#" * (MAX_CONFIG_BYTES + 1), "m")


def test_the_forms_that_people_write_are_read():
    config = serve(
        """
        # a comment
        name: "m", platform: 'onnxruntime_onnx';
        input [ { name: "x" data_type: TYPE_FP32 dims: [ 4 ] } ]
        output < name: "y", data_type: TYPE_FP32, dims: 2 >
        instance_group [ { count: 2 kind: KIND_CPU } ]
        parameters { key: "intra_op_thread_count" value: { string_value: "1" } }
        """
    )
    assert config.parameters["intra_op_thread_count"].string_value == "1"
    assert config.instance_group[0].count == 2


PIECES = [*"{}[]<>:;,#\"'\\ \n019-.eE_", "name", "input", "dims", "dynamic_batching", "max_batch_size", "TYPE_FP32"]
PIECES += ["parameters", "key", "value", "preferred_batch_size", "\\x", "\\777", "\u00e9", "\x00", " { ", " } ", ": 1 "]


@given(st.lists(st.sampled_from(PIECES), max_size=40).map("".join))
@settings(max_examples=300, deadline=None)
def test_whatever_is_written_is_read_or_refused(text: str):
    try:
        written = parse(text, "m")
        complete(written, "m", Engine(), Defaults())
    except ConfigError as error:
        assert error.reason


@given(st.binary(max_size=40))
def test_whatever_bytes_are_there_are_read_or_refused(data: bytes):
    try:
        parse(data, "m")
    except ConfigError:
        pass


def test_json_is_read_in_the_form_it_is_printed():
    config = serve(
        "dynamic_batching { priority_levels: 2 default_priority_level: 1 priority_queue_policy { key: 2 value {} } }"
    )
    assert parse_json(to_json(config).decode(), "m").config == config


@pytest.mark.parametrize("text", ["", "[]", "{", '{"colour": 1}', '{"max_batch_size": "many"}', "null", "{" * 5000])
def test_json_that_is_no_configuration_is_refused(text: str):
    with pytest.raises(ConfigError) as error:
        parse_json(text, "m")
    assert error.value.reason.startswith("config: ")


# Completion


def test_everything_absent_is_completed():
    config = serve()
    assert (config.name, config.platform, config.backend) == ("m", "onnxruntime_onnx", "onnxruntime")
    assert config.default_model_filename == "model.onnx"
    assert config.max_batch_size == 16
    assert [(each.name, each.data_type, list(each.dims)) for each in config.input] == [("x", DataType.TYPE_FP32, [4])]
    assert [(each.name, each.data_type, list(each.dims)) for each in config.output] == [("y", DataType.TYPE_FP32, [2])]
    assert list(config.dynamic_batching.preferred_batch_size) == [16]
    assert config.version_policy.latest.num_versions == 1
    (group,) = config.instance_group
    assert (group.name, group.kind, group.count, list(group.gpus)) == ("m_0", ModelInstanceGroup.KIND_CPU, 1, [])
    assert config.optimization.input_pinned_memory.enable
    assert config.optimization.output_pinned_memory.enable


def test_completing_twice_changes_nothing():
    config = serve()
    assert complete(parse(str(config), "m"), "m", Engine(), Defaults(16)) == config


def test_a_fixed_dimension_anywhere_means_no_batches():
    for engine in (
        FIXED,
        Engine(outputs=[TensorSpec("y", "FP32", (1, 2))]),
        Engine(inputs=[TensorSpec("x", "FP32", (-1, 4)), TensorSpec("z", "FP32", ())]),
    ):
        config = serve(engine=engine)
        assert config.max_batch_size == 0
        assert not config.HasField("dynamic_batching")


def test_a_zero_that_is_spelt_out_turns_batches_off():
    for text in ("max_batch_size: 0", "name: 'm'\n max_batch_size : 0 # none"):
        config = serve(text)
        assert config.max_batch_size == 0
        assert list(config.input[0].dims) == [-1, 4]
    assert serve("# max_batch_size: 0").max_batch_size == 16
    assert complete(parse_json('{"max_batch_size": 0}', "m"), "m", Engine(), Defaults(16)).max_batch_size == 0


def test_dims_of_full_rank_mean_no_batches():
    config = serve("input { name: 'x' data_type: TYPE_FP32 dims: [-1, 4] }")
    assert config.max_batch_size == 0
    assert list(config.output[0].dims) == [-1, 2]


def test_dims_without_the_batch_dimension_mean_batches():
    assert serve("input { name: 'x' data_type: TYPE_FP32 dims: [4] }").max_batch_size == 16


def test_dynamic_batching_is_on_for_a_model_that_batches():
    assert serve("max_batch_size: 8").HasField("dynamic_batching")
    assert not serve("max_batch_size: 1").HasField("dynamic_batching")


def test_parts_of_a_tensor_are_completed():
    config = serve("input { name: 'x' } output { name: 'y' dims: [2] }")
    assert config.input[0].data_type == DataType.TYPE_FP32
    assert list(config.input[0].dims) == [4]
    assert config.output[0].data_type == DataType.TYPE_FP32


def test_missing_inputs_are_added_in_the_engines_order():
    engine = Engine(inputs=[TensorSpec(name, "FP32", (-1, 1)) for name in "abc"])
    config = serve("input { name: 'c' } input { name: 'b' }", engine)
    assert [each.name for each in config.input] == ["a", "b", "c"]


def test_outputs_that_are_left_out_stay_out():
    engine = Engine(outputs=[TensorSpec(name, "FP32", (-1, 1)) for name in "abc"])
    assert [each.name for each in serve("output { name: 'c' } output { name: 'a' }", engine).output] == ["a", "c"]


def test_one_number_a_row_is_one_element_on_the_wire():
    config = serve(engine=Engine(outputs=[TensorSpec("label", "INT64", (-1,))]))
    assert list(config.output[0].dims) == [1]
    assert config.output[0].HasField("reshape")
    assert list(config.output[0].reshape.shape) == []


def test_kind_auto_is_a_gpu_where_there_is_one():
    assert serve("instance_group { }").instance_group[0].kind == ModelInstanceGroup.KIND_CPU
    group = serve("instance_group { }", gpus=(0, 1)).instance_group[0]
    assert (group.kind, list(group.gpus)) == (ModelInstanceGroup.KIND_GPU, [0, 1])
    group = serve("instance_group { kind: KIND_GPU gpus: 1 }", gpus=(0, 1)).instance_group[0]
    assert list(group.gpus) == [1]


def test_groups_are_named_in_order():
    config = serve("instance_group { } instance_group { name: 'mine' } instance_group { }")
    assert [group.name for group in config.instance_group] == ["m_0", "mine", "m_2"]


def test_what_was_written_is_not_changed():
    written = parse("", "m")
    complete(written, "m", Engine(), Defaults())
    assert written.config == ModelConfig()


@pytest.mark.parametrize("name", [name for name in DATATYPES if name])
def test_every_datatype_has_its_field(name: str):
    assert datatype_of(field_of(name)) == name
    engine = Engine([TensorSpec("x", name, (-1, 1))], [TensorSpec("y", name, (-1, 1))])
    assert datatype_of(serve(engine=engine).input[0].data_type) == name


def test_an_unknown_datatype_has_none():
    assert field_of("FP7") == DataType.TYPE_INVALID
    assert datatype_of(DataType.TYPE_INVALID) == ""


# Refusals


@pytest.mark.parametrize(
    ("text", "field", "words"),
    [
        ("name: 'n'", "name", "directory is 'm'"),
        ("platform: 'tensorrt_plan'", "platform", "not served"),
        ("platform: 'ensemble' ensemble_scheduling { }", "ensemble_scheduling", "ensembles"),
        ("backend: 'python'", "backend", "not served"),
        ("sequence_batching { }", "sequence_batching", "sequence"),
        ("model_transaction_policy { decoupled: true }", "model_transaction_policy.decoupled", "answers"),
        ("batch_input { }", "batch_input", "ragged"),
        ("batch_output { }", "batch_output", "ragged"),
        ("input { name: 'x' allow_ragged_batch: true }", "input['x'].allow_ragged_batch", "ragged"),
        ("input { name: 'x' is_shape_tensor: true }", "input['x'].is_shape_tensor", "TensorRT"),
        ("output { name: 'y' is_shape_tensor: true }", "output['y'].is_shape_tensor", "TensorRT"),
        ("output { name: 'y' is_non_linear_format_io: true }", "output['y'].is_non_linear_format_io", "TensorRT"),
        ("model_operations { op_library_filename: 'x.so' }", "model_operations", "custom operators"),
        ("model_repository_agents { agents { name: 'checksum' } }", "model_repository_agents", "agents"),
        ("instance_group { kind: KIND_MODEL }", "instance_group[0].kind", "KIND_MODEL"),
        ("instance_group { } instance_group { passive: true }", "instance_group[1].passive", "passive"),
        ("instance_group { secondary_devices { } }", "instance_group[0].secondary_devices", "not served"),
        ("instance_group { kind: KIND_GPU }", "instance_group[0].kind", "onnxruntime-gpu"),
        ("instance_group { kind: KIND_CPU gpus: 0 }", "instance_group[0].gpus", "KIND_CPU"),
        ("instance_group { count: -1 }", "instance_group[0].count", "1 or more"),
        ("instance_group { count: 257 }", "instance_group", "at most 256"),
        ("max_batch_size: -1", "max_batch_size", "0 or more"),
        ("default_model_filename: '../../etc/passwd'", "default_model_filename", "plain file name"),
        ("default_model_filename: '..'", "default_model_filename", "plain file name"),
        ("output { name: 'y' label_filename: '/etc/passwd' }", "output['y'].label_filename", "plain file name"),
        ("input { name: 'x' dims: 0 }", "input['x'].dims", "holds 0"),
        ("input { name: 'x' dims: [4, -2] }", "input['x'].dims", "holds -2"),
        ("input { dims: 4 }", "input[0].name", "missing"),
        ("input { name: 'z' }", "input['z']", "not an input of the model file"),
        ("input { name: 'z' data_type: TYPE_FP32 dims: 4 }", "input['z']", "not an input of the model file"),
        ("output { name: 'z' data_type: TYPE_FP32 dims: 4 }", "output['z']", "not an output of the model file"),
        ("input { name: 'x' } input { name: 'x' }", "input", "declared twice"),
        ("input { name: 'x' data_type: TYPE_FP64 }", "input['x'].data_type", "FP64, the model file has FP32"),
        ("max_batch_size: 2 input { name: 'x' dims: [5] }", "input['x'].dims", "[-1, 5], the model file has [-1, 4]"),
        ("max_batch_size: 2 input { name: 'x' dims: [2, 2] }", "input['x'].dims", "batch dimension"),
        ("input { name: 'x' format: FORMAT_NHWC }", "input['x'].format", "3 dims"),
        ("input { name: 'x' dims: [2, 3] reshape { shape: [4] } }", "input['x'].reshape", "as many elements"),
        ("version_policy { specific { versions: 0 } }", "version_policy.specific.versions", "1 or more"),
        ("version_policy { specific { } }", "version_policy.specific.versions", "no version"),
        ("optimization { graph { level: 3 } }", "optimization.graph.level", "-1, 0, 1 or 2"),
        ("dynamic_batching { preferred_batch_size: 17 }", "dynamic_batching.preferred_batch_size", "max_batch_size 16"),
        ("dynamic_batching { preferred_batch_size: 0 }", "dynamic_batching.preferred_batch_size", "holds 0"),
        ("dynamic_batching { priority_levels: 2 }", "dynamic_batching.default_priority_level", "1 to"),
        ("dynamic_batching { default_priority_level: 1 }", "dynamic_batching.default_priority_level", "needs"),
        ("dynamic_batching { priority_levels: 65 }", "dynamic_batching.priority_levels", "at most 64"),
        (
            "dynamic_batching { priority_levels: 2 default_priority_level: 1 priority_queue_policy { key: 3 } }",
            "dynamic_batching.priority_queue_policy",
            "level 3",
        ),
        (
            "dynamic_batching { preserve_ordering: true priority_levels: 2 default_priority_level: 1 }",
            "dynamic_batching.preserve_ordering",
            "priority levels",
        ),
        (
            "dynamic_batching { preserve_ordering: true default_queue_policy { timeout_action: DELAY } }",
            "dynamic_batching.preserve_ordering",
            "DELAY",
        ),
        (
            "dynamic_batching { max_queue_delay_microseconds: 60000001 }",
            "dynamic_batching.max_queue_delay_microseconds",
            "60000000",
        ),
        ("model_warmup { batch_size: 17 }", "model_warmup[0].batch_size", "at most 16"),
        ("model_warmup { }", "model_warmup[0].inputs", "lacks input 'x'"),
        ("model_warmup { count: 10001 }", "model_warmup[0].count", "10000"),
    ],
)  # fmt: skip
def test_what_is_not_served_is_refused_by_name(text: str, field: str, words: str):
    found, reason = refusal(text)
    assert found == field
    assert words in reason


@pytest.mark.parametrize(
    ("given", "field", "words"),
    [
        ("data_type: TYPE_INT8 dims: 4 zero_data: true", ".data_type", "TYPE_INT8"),
        ("data_type: TYPE_FP32 dims: 5 zero_data: true", ".dims", "must be fixed sizes"),
        ("data_type: TYPE_FP32 dims: -1 zero_data: true", ".dims", "must be fixed sizes"),
        ("data_type: TYPE_FP32 dims: 4", "", "neither zero_data"),
        ("data_type: TYPE_FP32 dims: 4 input_data_file: '../x'", ".input_data_file", "plain file name"),
    ],
)
def test_a_warmup_that_does_not_fit_is_refused(given: str, field: str, words: str):
    found, reason = refusal(f"model_warmup {{ inputs {{ key: 'x' value {{ {given} }} }} }}")
    assert found == f"model_warmup[0].inputs['x']{field}"
    assert words in reason


def test_a_warmup_for_what_is_no_input_is_refused():
    both = "data_type: TYPE_FP32 dims: 4 zero_data: true"
    field, reason = refusal(
        f"model_warmup {{ inputs {{ key: 'x' value {{ {both} }} }} inputs {{ key: 'q' value {{ {both} }} }} }}"
    )
    assert field == "model_warmup[0].inputs['q']"
    assert "not an input" in reason


def test_a_batch_size_for_a_model_that_cannot_batch_is_refused():
    field, reason = refusal("max_batch_size: 4", FIXED)
    assert field == "max_batch_size"
    assert "not free" in reason


def test_a_device_that_does_not_exist_is_refused():
    field, reason = refusal("instance_group { kind: KIND_GPU gpus: [0, 3] }", gpus=(0, 1))
    assert field == "instance_group[0].gpus"
    assert "device 3" in reason


def test_too_many_tensors_are_refused():
    field, reason = refusal("", Engine(inputs=[TensorSpec(f"x{i}", "FP32", (-1, 1)) for i in range(65)]))
    assert (field, reason) == ("input", "is 65, at most 64 is allowed")


def test_too_many_dimensions_are_refused():
    shape = (-1,) + (1,) * 16
    field, _ = refusal("", Engine(inputs=[TensorSpec("x", "FP32", shape)]))
    assert field == "input['x'].dims"


def test_an_engine_with_a_dimension_of_size_zero_is_refused():
    field, _ = refusal("", Engine(inputs=[TensorSpec("x", "FP32", (-1, 0))]))
    assert field == "input['x'].dims"


@pytest.mark.parametrize(
    ("dims", "shape", "engine"),
    [
        ([4], [2, 2], (-1, 2, 2)),
        ([2, -1, 6], [2, -1, 3, 2], (-1, 2, -1, 3, 2)),
        ([1], [], (-1,)),
        ([-1, 4], [4, -1], None),
        ([-1], [-1, -1], None),
    ],
)
def test_a_reshape_keeps_the_elements(dims: list[int], shape: list[int], engine: tuple[int, ...] | None):
    text = f"max_batch_size: 2 input {{ name: 'x' dims: {dims} reshape {{ shape: {shape} }} }}"
    if engine is None:
        assert refusal(text)[0] == "input['x'].reshape"
    else:
        serve(text, Engine(inputs=[TensorSpec("x", "FP32", engine)]))


def test_a_free_dimension_of_the_engine_accepts_a_fixed_one_and_not_the_other_way():
    engine = Engine(inputs=[TensorSpec("x", "FP32", (-1, -1, 3))])
    serve("input { name: 'x' dims: [7, 3] }", engine)
    assert refusal("input { name: 'x' dims: [7, -1] }", engine)[0] == "input['x'].dims"


def test_what_only_steers_another_server_is_accepted_and_named():
    config = serve(
        """
        response_cache { enable: true }
        metric_tags { key: "team" value: "x" }
        optimization { cuda { graphs: true } eager_batching: true priority: PRIORITY_MAX }
        dynamic_batching { preserve_ordering: true }
        instance_group { host_policy: "numa" rate_limiter { priority: 1 } }
        """
    )
    assert ignored_fields(config) == (
        "metric_tags",
        "response_cache",
        "optimization.priority",
        "optimization.cuda",
        "optimization.eager_batching",
        "dynamic_batching.preserve_ordering",
        "instance_group[0].rate_limiter",
        "instance_group[0].host_policy",
    )
    assert ignored_fields(serve()) == ()
