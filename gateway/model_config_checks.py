"""What a model configuration may say: what Sluice serves, within which limits, and what must agree with the engine.

Each check raises ConfigError with the dotted path of the field at fault. It knows no file and completes nothing:
`check_served` runs on what the operator wrote, the others on a complete configuration.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NoReturn, Protocol, cast

from gateway.errors import ConfigError
from gateway.pb.model_config_pb2 import (
    DataType,
    ModelConfig,
    ModelDynamicBatching,
    ModelInput,
    ModelInstanceGroup,
    ModelOutput,
    ModelQueuePolicy,
    ModelWarmup,
)

MAX_TENSORS = 64
"""Inputs, and outputs: a request's choice of them is a 64-bit mask."""
MAX_RANK = 16
MAX_PRIORITY_LEVELS = 64
MAX_INSTANCES = 256
MAX_WARMUP_BATCHES = 256
MAX_QUEUE_DELAY_MICROSECONDS = 60_000_000

_SIMPLE_FILENAME = re.compile(r"[^/\x00-\x1f]{1,255}")
_PLATFORMS = ("", "onnxruntime_onnx")
_BACKENDS = ("", "onnxruntime")

# Top-level fields that change what a model computes or who may run it, so that leaving them out would be wrong.
_NOT_SERVED = {
    "batch_input": "ragged batches are not served",
    "batch_output": "ragged batches are not served",
    "ensemble_scheduling": "ensembles are not served; call the models one by one",
    "sequence_batching": "sequence batching is not served; keep the state in the caller or pass it as tensors",
    "model_operations": "libraries with custom operators are not loaded",
    "model_repository_agents": "repository agents are not run; what they verify or decrypt would be served as it is",
}
# Fields that only steer how fast or how visibly another server runs the model: accepted, and reported as ignored.
_IGNORED = ("runtime", "cc_model_filenames", "metric_tags", "model_metrics", "response_cache")
_IGNORED_OPTIMIZATION = (
    "priority",
    "cuda",
    "execution_accelerators",
    "gather_kernel_buffer_threshold",
    "eager_batching",
)
_IGNORED_GROUP = ("rate_limiter", "host_policy", "profile")


class EngineTensor(Protocol):
    """A tensor as the engine describes it: every dimension, -1 where free."""

    @property
    def name(self) -> str: ...
    @property
    def datatype(self) -> str: ...
    @property
    def shape(self) -> Sequence[int]: ...


class EngineDescription(Protocol):
    """What the engine says about a model file."""

    @property
    def inputs(self) -> Sequence[EngineTensor]: ...
    @property
    def outputs(self) -> Sequence[EngineTensor]: ...


def datatype_of(field: DataType) -> str:
    """The protocol's name of a configuration datatype: TYPE_FP32 is FP32, TYPE_STRING is BYTES."""
    name = DataType.Name(field).removeprefix("TYPE_")
    return {"STRING": "BYTES", "INVALID": ""}.get(name, name)


def field_of(datatype: str) -> DataType:
    """The other way round; TYPE_INVALID for a name that the protocol does not have."""
    name = "TYPE_" + {"BYTES": "STRING"}.get(datatype, datatype)
    return cast(DataType, DataType.Value(name)) if name in DataType.keys() else DataType.TYPE_INVALID


def engine_dims(tensor: ModelInput | ModelOutput) -> tuple[int, ...]:
    """The dims that the engine sees, without the batch dimension: the reshape where there is one."""
    return tuple(tensor.reshape.shape if tensor.HasField("reshape") else tensor.dims)


def is_simple_filename(name: str) -> bool:
    return _SIMPLE_FILENAME.fullmatch(name) is not None and name not in (".", "..")


def sentence(error: ConfigError) -> str:
    """The field, where it is known, and what is wrong with it."""
    return f"{error.field}: {error.reason}" if error.field else error.reason


def ignored_fields(config: ModelConfig) -> tuple[str, ...]:
    """Paths of what the operator set and Sluice accepts without acting on it."""
    found = [name for name in _IGNORED if _is_set(config, name)]
    found += [f"optimization.{name}" for name in _IGNORED_OPTIMIZATION if _is_set(config.optimization, name)]
    if config.dynamic_batching.preserve_ordering:
        found.append("dynamic_batching.preserve_ordering")
    for index, group in enumerate(config.instance_group):
        found += [f"instance_group[{index}].{name}" for name in _IGNORED_GROUP if _is_set(group, name)]
    return tuple(found)


def check_served(config: ModelConfig, model: str) -> None:
    """Refuses what Sluice does not serve, with the reason."""
    refuse = _Refusal(model)
    if config.name and config.name != model:
        refuse("name", f"is {config.name!r}, but the model's directory is {model!r}; leave it out or make them equal")
    for field, reason in _NOT_SERVED.items():
        if _is_set(config, field):
            refuse(field, reason)
    if config.platform not in _PLATFORMS:
        refuse("platform", f"{config.platform!r} is not served; ONNX models have 'onnxruntime_onnx'")
    if config.backend not in _BACKENDS:
        refuse("backend", f"{config.backend!r} is not served; ONNX models have 'onnxruntime'")
    if config.model_transaction_policy.decoupled:
        refuse("model_transaction_policy.decoupled", "models with any number of answers a request are not served")
    for name in ("input", "output"):
        names = [tensor.name for tensor in getattr(config, name)]
        if "" in names:
            refuse(f"{name}[{names.index('')}].name", "is missing")
        _check_unique(name, names, refuse)
    for path, tensor in _tensors(config):
        if tensor.is_shape_tensor:
            refuse(f"{path}.is_shape_tensor", "shape tensors belong to TensorRT, which is not served")
        if tensor.is_non_linear_format_io:
            refuse(f"{path}.is_non_linear_format_io", "non-linear formats belong to TensorRT, which is not served")
        if isinstance(tensor, ModelInput) and tensor.allow_ragged_batch:
            refuse(f"{path}.allow_ragged_batch", "ragged batches are not served; rows of one shape are batched")
    for index, group in enumerate(config.instance_group):
        _check_group_served(group, f"instance_group[{index}]", refuse)


def _check_group_served(group: ModelInstanceGroup, path: str, refuse: _Refusal) -> None:
    if group.kind == ModelInstanceGroup.KIND_MODEL:
        refuse(
            f"{path}.kind",
            "KIND_MODEL leaves the device to the model, which ONNX models do not choose; use KIND_CPU or KIND_GPU",
        )
    if group.passive:
        refuse(f"{path}.passive", "passive instances would never be given a request")
    if group.secondary_devices:
        refuse(f"{path}.secondary_devices", "secondary devices are not served")


def check_limits(config: ModelConfig, model: str, gpus: Sequence[int]) -> None:
    """Checks a complete configuration by itself: presence, ranges, agreement of its parts, devices that exist."""
    refuse = _Refusal(model)
    if config.max_batch_size < 0:
        refuse("max_batch_size", f"is {config.max_batch_size}, must be 0 or more")
    if not is_simple_filename(config.default_model_filename):
        refuse("default_model_filename", f"{config.default_model_filename!r} is not a plain file name")
    for name in ("input", "output"):
        _check_count(name, len(getattr(config, name)), MAX_TENSORS, refuse)
    for path, tensor in _tensors(config):
        _check_tensor(tensor, path, config.max_batch_size > 0, refuse)
    if any(version < 1 for version in config.version_policy.specific.versions):
        refuse("version_policy.specific.versions", "must be 1 or more")
    if config.version_policy.HasField("specific") and not config.version_policy.specific.versions:
        refuse("version_policy.specific.versions", "names no version")
    if config.HasField("dynamic_batching"):
        _check_batching(config.dynamic_batching, config.max_batch_size, refuse)
    _check_groups(config, gpus, refuse)
    _check_count("model_warmup", len(config.model_warmup), MAX_WARMUP_BATCHES, refuse)
    for index, warmup in enumerate(config.model_warmup):
        _check_warmup(config, warmup, f"model_warmup[{index}]", refuse)
    if not -1 <= config.optimization.graph.level <= 2:
        refuse("optimization.graph.level", f"is {config.optimization.graph.level}, must be -1, 0, 1 or 2")


def _check_tensor(tensor: ModelInput | ModelOutput, path: str, is_batching: bool, refuse: _Refusal) -> None:
    if tensor.data_type == DataType.TYPE_INVALID:
        refuse(f"{path}.data_type", "is missing")
    if not tensor.dims:
        refuse(f"{path}.dims", "is missing")
    for field, dims in (("dims", tensor.dims), ("reshape.shape", tensor.reshape.shape)):
        bad = [dim for dim in dims if dim < 1 and dim != -1]
        if bad:
            refuse(f"{path}.{field}", f"holds {bad[0]}; a dimension is 1 or more, or -1 if free")
        if len(dims) + is_batching > MAX_RANK:
            refuse(
                f"{path}.{field}",
                f"has {len(dims)} dimensions, at most {MAX_RANK - is_batching} are served",
            )
    if tensor.HasField("reshape") and _runs(tensor.dims) != _runs(tensor.reshape.shape):
        refuse(
            f"{path}.reshape",
            f"to {list(tensor.reshape.shape)} does not hold as many elements"
            f" as dims {list(tensor.dims)}; between the free dimensions the sizes must match",
        )
    if isinstance(tensor, ModelInput) and tensor.format != ModelInput.FORMAT_NONE and len(tensor.dims) != 3:
        refuse(f"{path}.format", f"needs 3 dims, has {len(tensor.dims)}")
    if isinstance(tensor, ModelOutput) and tensor.label_filename and not is_simple_filename(tensor.label_filename):
        refuse(f"{path}.label_filename", f"{tensor.label_filename!r} is not a plain file name")


def _runs(dims: Sequence[int]) -> list[int]:
    """Element counts of the stretches between free dimensions: [2, 4, -1, 6] is [8, 6]. Equal for two shapes exactly if
    one can be read as the other whatever sizes the free dimensions have."""
    runs = [1]
    for dim in dims:
        if dim == -1:
            runs.append(1)
        else:
            runs[-1] *= dim
    return runs


def _check_batching(batching: ModelDynamicBatching, max_batch_size: int, refuse: _Refusal) -> None:
    path = "dynamic_batching"
    for size in batching.preferred_batch_size:
        if size < 1 or size > max_batch_size:
            refuse(f"{path}.preferred_batch_size", f"holds {size}, must be 1 to max_batch_size {max_batch_size}")
    _check_count(
        f"{path}.max_queue_delay_microseconds",
        batching.max_queue_delay_microseconds,
        MAX_QUEUE_DELAY_MICROSECONDS,
        refuse,
    )
    levels = batching.priority_levels
    _check_count(f"{path}.priority_levels", levels, MAX_PRIORITY_LEVELS, refuse)
    if levels and not 1 <= batching.default_priority_level <= levels:
        refuse(
            f"{path}.default_priority_level",
            f"is {batching.default_priority_level}, must be 1 to priority_levels {levels}",
        )
    if not levels and batching.default_priority_level:
        refuse(f"{path}.default_priority_level", "needs priority_levels")
    for level in batching.priority_queue_policy:
        if not 1 <= level <= levels:
            refuse(f"{path}.priority_queue_policy", f"names level {level}, must be 1 to priority_levels {levels}")
    if not batching.preserve_ordering:
        return
    if levels > 1:
        refuse(f"{path}.preserve_ordering", f"cannot hold with {levels} priority levels")
    policies = (batching.default_queue_policy, *batching.priority_queue_policy.values())
    if any(policy.timeout_action == ModelQueuePolicy.DELAY for policy in policies):
        refuse(f"{path}.preserve_ordering", "cannot hold with the timeout action DELAY")


def _check_groups(config: ModelConfig, gpus: Sequence[int], refuse: _Refusal) -> None:
    instances = 0
    for index, group in enumerate(config.instance_group):
        path = f"instance_group[{index}]"
        if group.count < 1:
            refuse(f"{path}.count", f"is {group.count}, must be 1 or more")
        if group.kind == ModelInstanceGroup.KIND_CPU and group.gpus:
            refuse(f"{path}.gpus", "cannot be given with KIND_CPU")
        if group.kind == ModelInstanceGroup.KIND_GPU:
            if not gpus:
                refuse(f"{path}.kind", "KIND_GPU needs onnxruntime-gpu and a device that it can use; there is none")
            absent = sorted(set(group.gpus) - set(gpus))
            if absent:
                refuse(f"{path}.gpus", f"device {absent[0]} does not exist; there are {list(gpus)}")
        instances += group.count * (len(group.gpus) or 1)
    _check_count("instance_group", instances, MAX_INSTANCES, refuse)


def _check_warmup(config: ModelConfig, warmup: ModelWarmup, path: str, refuse: _Refusal) -> None:
    inputs = {tensor.name: tensor for tensor in config.input}
    if max(warmup.batch_size, 1) > max(config.max_batch_size, 1):
        refuse(f"{path}.batch_size", f"is {warmup.batch_size}, at most {config.max_batch_size} is possible")
    _check_count(f"{path}.count", warmup.count, 10_000, refuse)
    missing = [name for name, tensor in inputs.items() if name not in warmup.inputs and not tensor.optional]
    if missing:
        refuse(f"{path}.inputs", f"lacks input {missing[0]!r}")
    for name, given in sorted(warmup.inputs.items()):
        at = f"{path}.inputs[{name!r}]"
        if name not in inputs:
            refuse(at, "is not an input of the model")
        if given.data_type != inputs[name].data_type:
            refuse(
                f"{at}.data_type",
                f"is {DataType.Name(given.data_type)}, the input has {DataType.Name(inputs[name].data_type)}",
            )
        if not _fits(given.dims, inputs[name].dims) or any(dim < 1 for dim in given.dims):
            refuse(f"{at}.dims", f"is {list(given.dims)}, must be fixed sizes that fit {list(inputs[name].dims)}")
        kind = given.WhichOneof("input_data_type")
        if kind is None:
            refuse(at, "says neither zero_data, random_data nor input_data_file")
        if kind == "input_data_file" and not is_simple_filename(given.input_data_file):
            refuse(f"{at}.input_data_file", f"{given.input_data_file!r} is not a plain file name")


def check_names(config: ModelConfig, model: str, engine: EngineDescription) -> None:
    """Checks that the model file has every tensor that the configuration names. Needs nothing to be complete."""
    refuse = _Refusal(model)
    for name, known in (("input", engine.inputs), ("output", engine.outputs)):
        names = sorted(tensor.name for tensor in known)
        for tensor in getattr(config, name):
            if tensor.name not in names:
                refuse(f"{name}[{tensor.name!r}]", f"is not an {name} of the model file, which has {names}")


def check_engine(config: ModelConfig, model: str, engine: EngineDescription) -> None:
    """Checks the datatypes and dims of the complete configuration against those of the model file."""
    refuse = _Refusal(model)
    inputs = {tensor.name: tensor for tensor in engine.inputs}
    outputs = {tensor.name: tensor for tensor in engine.outputs}
    for path, tensor in _tensors(config):
        known = inputs if isinstance(tensor, ModelInput) else outputs
        _check_against(tensor, known[tensor.name], path, config.max_batch_size, refuse)


def _check_against(
    tensor: ModelInput | ModelOutput, spec: EngineTensor, path: str, batch: int, refuse: _Refusal
) -> None:
    datatype, shape = datatype_of(tensor.data_type), tuple(spec.shape)
    if datatype != spec.datatype:
        refuse(f"{path}.data_type", f"is {datatype}, the model file has {spec.datatype}")
    if batch and (not shape or shape[0] != -1):
        free = f"the first dimension of {tensor.name!r} in the model file is not free: it has shape {list(shape)}"
        refuse("max_batch_size", f"is {batch}, but {free}")
    wanted = ((-1,) if batch else ()) + engine_dims(tensor)
    if not _fits(wanted, shape):
        note = "; the leading -1 is the batch dimension that max_batch_size adds" if batch else ""
        refuse(f"{path}.dims", f"make shape {list(wanted)}, the model file has {list(shape)}{note}")


def _fits(dims: Sequence[int], shape: Sequence[int]) -> bool:
    return len(dims) == len(shape) and all(known in (-1, dim) for dim, known in zip(dims, shape, strict=True))


def _tensors(config: ModelConfig) -> Iterator[tuple[str, ModelInput | ModelOutput]]:
    """Each with its path: by name, since completion adds and reorders."""
    for tensor in config.input:
        yield f"input[{tensor.name!r}]", tensor
    for output in config.output:
        yield f"output[{output.name!r}]", output


def _is_set(message: object, field: str) -> bool:
    descriptor = message.DESCRIPTOR.fields_by_name[field]  # type: ignore[attr-defined]
    if descriptor.has_presence:
        return bool(message.HasField(field))  # type: ignore[attr-defined]
    return bool(getattr(message, field))


def _check_count(field: str, count: int, limit: int, refuse: _Refusal) -> None:
    if count > limit:
        refuse(field, f"is {count}, at most {limit} is allowed")


def _check_unique(field: str, names: Sequence[str], refuse: _Refusal) -> None:
    for name in names:
        if names.count(name) > 1:
            refuse(field, f"{name!r} is declared twice")


class _Refusal:
    """Raises ConfigError for one model."""

    def __init__(self, model: str) -> None:
        self._model = model

    def __call__(self, field: str, reason: str) -> NoReturn:
        raise ConfigError(self._model, field, reason)
