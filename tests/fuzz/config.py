"""config.pbtxt: protobuf text to a configuration that is served, by `gateway.model_config`.

The first byte of an input chooses the model file that the text goes with, and the machine.

Invariant: any bytes give a configuration or a ConfigError that names the model and says why, and no third thing. What
is given is complete: written down and read again it completes to itself; its numbers are within the limits.
"""

from __future__ import annotations

from dataclasses import dataclass

from google.protobuf import text_format

from gateway.errors import ConfigError
from gateway.model_config import Defaults, complete, parse, parse_json
from gateway.model_config_checks import MAX_INSTANCES, MAX_RANK, MAX_TENSORS
from gateway.pb.model_config_pb2 import ModelConfig, ModelInput, ModelOutput


@dataclass(frozen=True)
class Tensor:
    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Engine:
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


ENGINES = (
    Engine((Tensor("x", "FP32", (-1, 4)),), (Tensor("y", "FP32", (-1, 2)),)),
    Engine((Tensor("x", "FP32", (2, 3)),), (Tensor("y", "INT64", (-1,)),)),
    Engine((Tensor("x", "BYTES", (-1,)), Tensor("z", "INT8", (-1, 1))), (Tensor("y", "FP16", (-1, -1, 3)),)),
    Engine((), (Tensor("y", "BOOL", ()),)),
)
MACHINES = (Defaults(), Defaults(max_batch_size=8, gpus=(0, 1)))


def one_input(data: bytes) -> None:
    if not data:
        return
    engine, machine = ENGINES[data[0] % len(ENGINES)], MACHINES[data[0] // 4 % 2]
    read = parse_as_json if data[0] & 0x80 else parse_as_text
    try:
        config = read(data[1:], engine, machine)
    except ConfigError as refused:
        assert refused.model == "m"
        assert refused.reason
        assert len(refused.reason) < 2000 + 4 * len(data)
        return
    check(config)
    again = parse(text_format.MessageToString(config), "m")
    assert complete(again, "m", engine, machine) == config


def parse_as_text(data: bytes, engine: Engine, machine: Defaults) -> ModelConfig:
    return complete(parse(data, "m"), "m", engine, machine)


def parse_as_json(data: bytes, engine: Engine, machine: Defaults) -> ModelConfig:
    return complete(parse_json(data.decode("utf-8", "replace"), "m"), "m", engine, machine)


def check(config: ModelConfig) -> None:
    assert config.name == "m"
    assert config.max_batch_size >= 0
    assert config.instance_group and sum(group.count for group in config.instance_group) <= MAX_INSTANCES
    assert all(group.count > 0 for group in config.instance_group)
    assert len(config.input) <= MAX_TENSORS and len(config.output) <= MAX_TENSORS
    tensors: list[ModelInput | ModelOutput] = [*config.input, *config.output]
    for tensor in tensors:
        assert tensor.name and tensor.data_type
        assert len(tensor.dims) <= MAX_RANK
    assert config.version_policy.WhichOneof("policy_choice")
