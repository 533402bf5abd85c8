"""config.pbtxt to a complete ModelConfig: parse, fill in what the engine knows, normalise.

Two steps that need nothing but their arguments: `parse` reads what an operator wrote, `complete` adds what follows from
the model file and the machine. What may not be served or does not fit is decided in `gateway.model_config_checks`;
nothing here touches a file, a worker or a version.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from google.protobuf import json_format, text_format

from gateway.errors import ConfigError
from gateway.model_config_checks import (
    EngineDescription,
    EngineTensor,
    check_engine,
    check_limits,
    check_names,
    check_served,
    engine_dims,
    field_of,
)
from gateway.pb.model_config_pb2 import DataType, ModelConfig, ModelInput, ModelInstanceGroup, ModelOutput

MAX_CONFIG_BYTES = 1 << 20
MODEL_FILENAME = "model.onnx"
BACKEND = "onnxruntime"
PLATFORM = "onnxruntime_onnx"

_BATCHING_OFF = re.compile(r"""^[^#"'\n]*\bmax_batch_size\s*:\s*[+-]?0+\b""", re.MULTILINE)
_FIELD = re.compile(r"([A-Za-z_]\w*)\s*[:{<]")
_NAMED_FIELD = re.compile(r'[Ff]ield(?: named)? "(?:[\w.]+\.)?([^".]+)"')


@dataclass(frozen=True)
class Defaults:
    """What completion takes from the settings and the machine."""

    max_batch_size: int = 128
    gpus: tuple[int, ...] = ()
    """Ordinals of the devices that the engine can use; empty when it has no GPU provider or sees no device."""


@dataclass(frozen=True)
class WrittenConfig:
    """What the operator wrote. `is_batching_off` keeps what the message cannot: a `max_batch_size: 0` that is spelt out
    turns batching off, while an absent one leaves the choice to completion."""

    config: ModelConfig
    is_batching_off: bool = False
    refusal: ConfigError | None = None
    """Why it cannot be followed; it is empty then."""


def parse(text: str | bytes, model: str, file: str = "config.pbtxt") -> WrittenConfig:
    """Reads protobuf text. Raises ConfigError, whose reason opens with `file:line:column`."""
    if len(text) > MAX_CONFIG_BYTES:
        raise ConfigError(model, "", f"{file}: {len(text)} bytes, at most {MAX_CONFIG_BYTES} are read")
    if isinstance(text, bytes):
        try:
            text = text.decode()
        except UnicodeDecodeError as error:
            raise ConfigError(model, "", f"{file}: not UTF-8 at byte {error.start}") from None
    config = ModelConfig()
    try:
        text_format.Parse(text, config)
    except text_format.ParseError as error:
        raise _located(error, text, model, file) from None
    except (ValueError, TypeError, RecursionError) as error:
        raise ConfigError(model, "", f"{file}: {error}") from None
    is_off = config.max_batch_size == 0 and _BATCHING_OFF.search(text) is not None
    return WrittenConfig(config, is_off)


def parse_json(text: str, model: str, origin: str = "config") -> WrittenConfig:
    """Reads the JSON form that a load request carries in place of config.pbtxt. Raises ConfigError."""
    if len(text) > MAX_CONFIG_BYTES:
        raise ConfigError(model, "", f"{origin}: {len(text)} characters, at most {MAX_CONFIG_BYTES} are read")
    config = ModelConfig()
    try:
        value = json.loads(text)
        if not isinstance(value, dict):
            raise TypeError("not a JSON object")
        json_format.ParseDict(value, config)
    except (json_format.ParseError, ValueError, TypeError, RecursionError) as error:
        raise ConfigError(model, "", f"{origin}: {error}") from None
    is_off = config.max_batch_size == 0 and re.search(r'"max_?[bB]atch_?[sS]ize"\s*:\s*"?0', text) is not None
    return WrittenConfig(config, is_off)


def _located(error: text_format.ParseError, text: str, model: str, file: str) -> ConfigError:
    message, field = str(error), ""
    line, column = error.GetLine(), error.GetColumn()
    if line is not None and column is not None:
        message = message.removeprefix(f"{line}:{column} : ")
        file = f"{file}:{line}:{column}"
        lines = text.split("\n")[:line]
        read = "\n".join([*lines[:-1], lines[-1][: column - 1]])
        field = next(reversed(_FIELD.findall(read)), "")
    named = _NAMED_FIELD.search(message)
    return ConfigError(model, named.group(1) if named else field, f"{file}: {message}")


def complete(written: WrittenConfig, model: str, engine: EngineDescription, defaults: Defaults) -> ModelConfig:
    """The configuration that is served: checked, completed from the engine's description, and normalised.

    Returns a new message. Raises ConfigError for what Sluice does not serve, for a value beyond its limit and for what
    contradicts the model file; its `field` is a dotted path into the configuration.
    """
    config = ModelConfig()
    config.CopyFrom(written.config)
    check_served(config, model)
    check_names(config, model, engine)
    _complete_identity(config, model)
    _complete_batching(config, written.is_batching_off, engine, defaults)
    _complete_tensors(config, engine)
    _normalise(config, defaults)
    check_limits(config, model, defaults.gpus)
    check_engine(config, model, engine)
    return config


def _complete_identity(config: ModelConfig, model: str) -> None:
    config.name = config.name or model
    config.platform = config.platform or PLATFORM
    config.backend = config.backend or BACKEND
    config.default_model_filename = config.default_model_filename or MODEL_FILENAME


def _complete_batching(config: ModelConfig, is_off: bool, engine: EngineDescription, defaults: Defaults) -> None:
    if config.max_batch_size == 0 and not is_off and _can_batch(engine) and not _has_full_dims(config, engine):
        config.max_batch_size = defaults.max_batch_size
    if config.max_batch_size > 1 and config.WhichOneof("scheduling_choice") is None:
        config.dynamic_batching.SetInParent()


def _can_batch(engine: EngineDescription) -> bool:
    """Whether every tensor has a free first dimension, which then counts rows."""
    return all(tensor.shape and tensor.shape[0] == -1 for tensor in (*engine.inputs, *engine.outputs))


def _has_full_dims(config: ModelConfig, engine: EngineDescription) -> bool:
    """Whether the operator wrote dims with the engine's rank: a model whose first dimension is one like the others."""
    ranks = {tensor.name: len(tensor.shape) for tensor in (*engine.inputs, *engine.outputs)}
    tensors: list[ModelInput | ModelOutput] = [*config.input, *config.output]
    return any(tensor.dims and len(engine_dims(tensor)) == ranks.get(tensor.name) for tensor in tensors)


def _complete_tensors(config: ModelConfig, engine: EngineDescription) -> None:
    """Adds missing inputs, and all outputs when none is declared; fills in datatypes and dims; orders as the engine."""
    inputs = {tensor.name: tensor for tensor in config.input}
    outputs = {tensor.name: tensor for tensor in config.output}
    is_batching = config.max_batch_size > 0
    for known in engine.inputs:
        if known.name not in inputs:
            inputs[known.name] = config.input.add(name=known.name)
        _complete_tensor(inputs[known.name], known, is_batching)
    if not config.output:
        outputs = {known.name: config.output.add(name=known.name) for known in engine.outputs}
    for known in engine.outputs:
        if known.name in outputs:
            _complete_tensor(outputs[known.name], known, is_batching)
    _order(config.input, engine.inputs)
    _order(config.output, engine.outputs)


def _complete_tensor(tensor: ModelInput | ModelOutput, known: EngineTensor, is_batching: bool) -> None:
    if tensor.data_type == DataType.TYPE_INVALID:
        tensor.data_type = field_of(known.datatype)
    if not tensor.dims and not tensor.HasField("reshape"):
        tensor.dims.extend(known.shape[1:] if is_batching else known.shape)
        if not tensor.dims:  # one number a row: [1] on the wire, nothing for the engine
            tensor.dims.append(1)
            tensor.reshape.SetInParent()


def _order(tensors: Any, engine: Sequence[EngineTensor]) -> None:
    position = {tensor.name: index for index, tensor in enumerate(engine)}
    tensors.sort(key=lambda tensor: position.get(tensor.name, len(position)))


def _normalise(config: ModelConfig, defaults: Defaults) -> None:
    if config.version_policy.WhichOneof("policy_choice") is None:
        config.version_policy.latest.num_versions = 1
    elif config.version_policy.HasField("latest"):
        config.version_policy.latest.num_versions = config.version_policy.latest.num_versions or 1
    if config.HasField("dynamic_batching") and config.max_batch_size > 0:
        if not config.dynamic_batching.preferred_batch_size:
            config.dynamic_batching.preferred_batch_size.append(config.max_batch_size)
    for buffer in ("input_pinned_memory", "output_pinned_memory"):
        if not config.optimization.HasField(buffer):
            getattr(config.optimization, buffer).enable = True
    if not config.instance_group:
        config.instance_group.add()
    for index, group in enumerate(config.instance_group):
        _normalise_group(group, f"{config.name}_{index}", defaults.gpus)


def _normalise_group(group: ModelInstanceGroup, name: str, gpus: Sequence[int]) -> None:
    group.name = group.name or name
    group.count = group.count or 1
    if group.kind == ModelInstanceGroup.KIND_AUTO:
        group.kind = ModelInstanceGroup.KIND_GPU if gpus else ModelInstanceGroup.KIND_CPU
    if group.kind == ModelInstanceGroup.KIND_GPU and not group.gpus:
        group.gpus.extend(gpus)
