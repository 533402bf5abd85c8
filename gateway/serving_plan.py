"""What the data plane and the workers need to know about a version, drawn from its complete configuration.

Plain values only: no protobuf is read past this point. It knows no version number, no worker and no file but by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from gateway.errors import ConfigError
from gateway.model_config_checks import EngineDescription, datatype_of, engine_dims, ignored_fields
from gateway.pb.model_config_pb2 import (
    ModelConfig,
    ModelDynamicBatching,
    ModelInput,
    ModelInstanceGroup,
    ModelOutput,
    ModelQueuePolicy,
    ModelWarmup,
)
from gateway.workers.spec import InstanceSpec, WarmupBatch, WarmupInput

MAX_LABEL_BYTES = 16 << 20
WARMUP_FOLDER = "warmup"


@dataclass(frozen=True)
class Tensor:
    """One input or output as callers see it."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    """-1 is free; the first dimension counts rows when the model batches."""
    index: int
    """The position among the engine's inputs or outputs. Differs from the position in the plan only for outputs, where
    the configuration leaves some out."""
    optional: bool = False
    labels: tuple[str, ...] = ()
    """Names of the classes that the elements of an output stand for."""
    engine_shape: tuple[int, ...] | None = None
    """What the engine sees instead of `shape`, with as many free dimensions in the same order; None when the same."""


@dataclass(frozen=True)
class QueuePolicy:
    """Limits of the queue of one priority level."""

    timeout_action: Literal["REJECT", "DELAY"] = "REJECT"
    default_timeout_seconds: float = 0.0
    """0 means none."""
    allow_timeout_override: bool = False
    max_queue_size: int = 0
    """Requests; 0 means no limit of its own."""


@dataclass(frozen=True)
class BatchingPlan:
    """How requests become batches."""

    max_queue_delay_seconds: float = 0.0
    preferred_batch_sizes: tuple[int, ...] = ()
    """Ascending."""
    priority_levels: int = 0
    """0: no levels, and one queue policy."""
    default_priority_level: int = 0
    queue_policies: tuple[QueuePolicy, ...] = (QueuePolicy(),)
    """That of level 1 first."""


@dataclass(frozen=True)
class Placement:
    """Equal instances on one device."""

    kind: Literal["CPU", "GPU"]
    device: int
    count: int


@dataclass(frozen=True)
class ServingPlan:
    """Everything that serving a version takes, whatever its number."""

    model: str
    config: ModelConfig
    """The complete configuration, for whoever asks; never changed."""
    inputs: tuple[Tensor, ...]
    """In the engine's order."""
    outputs: tuple[Tensor, ...]
    max_batch_size: int
    """0: no batch dimension, every request runs by itself."""
    batching: BatchingPlan
    placements: tuple[Placement, ...]
    parameters: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    graph_level: int | None = None
    warmup: tuple[WarmupBatch, ...] = ()
    ignored_fields: tuple[str, ...] = ()
    """Paths of what the operator set and Sluice does not act on."""

    def instance_specs(self, version: str, path: Path, slot_bytes: int) -> tuple[tuple[InstanceSpec, int], ...]:
        """For each placement what to start, and how many of it; `path` is the model file."""
        return tuple(
            (self._spec(placement, version, path, slot_bytes), placement.count) for placement in self.placements
        )

    def _spec(self, placement: Placement, version: str, path: Path, slot_bytes: int) -> InstanceSpec:
        return InstanceSpec(
            model=self.model,
            version=version,
            path=path,
            backend=self.config.backend,
            kind=placement.kind,
            device=placement.device,
            max_batch_size=self.max_batch_size,
            parameters=dict(self.parameters),
            graph_level=self.graph_level,
            warmup=self.warmup,
            slot_bytes=slot_bytes,
        )


def draw(config: ModelConfig, engine: EngineDescription, folder: Path) -> ServingPlan:
    """The plan for a complete configuration.

    `folder` holds the model's label files, and its warm-up data in `warmup/`; label files are read here.
    Raises ConfigError for one that is missing or unreadable.
    """
    batches = config.max_batch_size > 0
    input_index = {tensor.name: index for index, tensor in enumerate(engine.inputs)}
    output_index = {tensor.name: index for index, tensor in enumerate(engine.outputs)}
    level = config.optimization.graph.level if config.optimization.HasField("graph") else None
    return ServingPlan(
        model=config.name,
        config=config,
        inputs=tuple(_tensor(tensor, batches, input_index[tensor.name]) for tensor in config.input),
        outputs=tuple(
            _tensor(tensor, batches, output_index[tensor.name], _labels(config.name, tensor, folder))
            for tensor in config.output
        ),
        max_batch_size=config.max_batch_size,
        batching=_batching(config.dynamic_batching),
        placements=tuple(placement for group in config.instance_group for placement in _placements(group)),
        parameters=MappingProxyType({key: value.string_value for key, value in sorted(config.parameters.items())}),
        graph_level=level or None,
        warmup=tuple(_warmup(config, position, folder) for position in range(len(config.model_warmup))),
        ignored_fields=ignored_fields(config),
    )


def companion_names(config: ModelConfig) -> frozenset[str]:
    """The files beside config.pbtxt that the configuration names, as paths relative to the model's folder."""
    labels = {tensor.label_filename for tensor in config.output if tensor.label_filename}
    warmups = {
        f"{WARMUP_FOLDER}/{given.input_data_file}"
        for warmup in config.model_warmup for given in warmup.inputs.values() if given.input_data_file
    }  # fmt: skip
    return frozenset(labels | warmups)


def _tensor(tensor: ModelInput | ModelOutput, batches: bool, index: int, labels: tuple[str, ...] = ()) -> Tensor:
    lead = (-1,) if batches else ()
    shape, engine_shape = lead + tuple(tensor.dims), lead + engine_dims(tensor)
    return Tensor(
        name=tensor.name,
        datatype=datatype_of(tensor.data_type),
        shape=shape,
        index=index,
        optional=isinstance(tensor, ModelInput) and tensor.optional,
        labels=labels,
        engine_shape=None if engine_shape == shape else engine_shape,
    )


def _labels(model: str, tensor: ModelOutput, folder: Path) -> tuple[str, ...]:
    if not tensor.label_filename:
        return ()
    at = f"output[{tensor.name!r}].label_filename"
    try:
        with open(folder / tensor.label_filename, encoding="utf-8") as file:
            text = file.read(MAX_LABEL_BYTES + 1)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ConfigError(model, at, f"{tensor.label_filename!r} cannot be read: {reason}") from error
    if len(text) > MAX_LABEL_BYTES:
        raise ConfigError(model, at, f"is longer than {MAX_LABEL_BYTES} characters")
    return tuple(line.rstrip("\r") for line in text.removesuffix("\n").split("\n")) if text else ()


def _batching(batching: ModelDynamicBatching) -> BatchingPlan:
    default = batching.default_queue_policy
    levels = range(1, batching.priority_levels + 1) or range(1)
    own = batching.priority_queue_policy
    return BatchingPlan(
        max_queue_delay_seconds=batching.max_queue_delay_microseconds / 1e6,
        preferred_batch_sizes=tuple(sorted(set(batching.preferred_batch_size))),
        priority_levels=batching.priority_levels,
        default_priority_level=batching.default_priority_level,
        queue_policies=tuple(_queue_policy(own[level] if level in own else default) for level in levels),
    )


def _queue_policy(policy: ModelQueuePolicy) -> QueuePolicy:
    return QueuePolicy(
        timeout_action="DELAY" if policy.timeout_action == ModelQueuePolicy.DELAY else "REJECT",
        default_timeout_seconds=policy.default_timeout_microseconds / 1e6,
        allow_timeout_override=policy.allow_timeout_override,
        max_queue_size=policy.max_queue_size,
    )


def _placements(group: ModelInstanceGroup) -> list[Placement]:
    if group.kind == ModelInstanceGroup.KIND_GPU:
        return [Placement("GPU", device, group.count) for device in group.gpus]
    return [Placement("CPU", 0, group.count)]


def _warmup(config: ModelConfig, position: int, folder: Path) -> WarmupBatch:
    warmup: ModelWarmup = config.model_warmup[position]
    inputs = {tensor.name: tensor for tensor in config.input}
    given = [
        _warmup_input(config, position, name, warmup.inputs[name], inputs[name], folder)
        for name in inputs if name in warmup.inputs
    ]  # fmt: skip
    rows = max(warmup.batch_size, 1) if config.max_batch_size > 0 else 0
    return WarmupBatch(warmup.name or f"warmup_{position}", rows, tuple(given), warmup.count or 1)


def _warmup_input(
    config: ModelConfig, position: int, name: str, given: ModelWarmup.Input, tensor: ModelInput, folder: Path
) -> WarmupInput:
    shape = _resolve(engine_dims(tensor), tuple(tensor.dims), tuple(given.dims))
    kind = given.WhichOneof("input_data_type")
    if kind != "input_data_file":
        return WarmupInput(name, datatype_of(given.data_type), shape, "random" if kind == "random_data" else "zero")
    path = folder / WARMUP_FOLDER / given.input_data_file
    if not path.is_file():
        at = f"model_warmup[{position}].inputs[{name!r}].input_data_file"
        raise ConfigError(config.name, at, f"{WARMUP_FOLDER}/{given.input_data_file} is not there")
    return WarmupInput(name, datatype_of(given.data_type), shape, "file", str(path))


def _resolve(engine: tuple[int, ...], dims: tuple[int, ...], given: tuple[int, ...]) -> tuple[int, ...]:
    """The engine's shape for one given on the wire: its free dimensions take the given sizes, in order."""
    free = iter([size for size, dim in zip(given, dims, strict=True) if dim == -1])
    return tuple(next(free) if dim == -1 else dim for dim in engine)
