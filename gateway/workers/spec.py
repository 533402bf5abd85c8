"""What the gateway and its workers tell each other: which model to host, how it came out, how a worker ended.

All of it is plain data with a JSON form, because it crosses a socket between processes.
"""

from __future__ import annotations

import signal
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

DATATYPES = (
    "", "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64",
    "BYTES", "BF16",
)  # fmt: skip
"""The protocol's datatypes; a name's position is its number in a lane."""

DATATYPE_NUMBERS = {name: number for number, name in enumerate(DATATYPES) if name}
ELEMENT_SIZES = dict(zip(DATATYPES, (0, 1, 1, 2, 4, 8, 1, 2, 4, 8, 2, 4, 8, 0, 2), strict=True))
"""Bytes of one element; 0 for BYTES, whose elements say their own length."""

ENGINE_THREADS = ("intra_op_thread_count", "inter_op_thread_count")
"""The parameters that say how many threads run one batch."""


@dataclass(frozen=True)
class TensorSpec:
    """One input or output as the engine declares it: -1 is a free dimension, a batch dimension is not left out."""

    name: str
    datatype: str
    shape: tuple[int, ...]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> TensorSpec:
        return cls(value["name"], value["datatype"], tuple(value["shape"]))


@dataclass(frozen=True)
class WarmupInput:
    """One input of a warm-up batch, shape without the batch dimension. `data` says where the values come from."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: Literal["zero", "random", "file"] = "zero"
    file: str = ""
    """For `file`: a file in the protocol's raw form, with the values of one row, or of the whole batch."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> WarmupInput:
        return cls(value["name"], value["datatype"], tuple(value["shape"]), value["data"], value["file"])


@dataclass(frozen=True)
class WarmupBatch:
    """A batch that is run `count` times before the instance is ready; a `batch_size` of 0 means no batch dimension."""

    name: str
    batch_size: int
    inputs: tuple[WarmupInput, ...]
    count: int = 1

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "inputs": [each.to_json() for each in self.inputs]}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> WarmupBatch:
        inputs = tuple(WarmupInput.from_json(each) for each in value["inputs"])
        return cls(value["name"], value["batch_size"], inputs, value["count"])


@dataclass(frozen=True)
class InstanceSpec:
    """What one worker is to host. `max_batch_size` 0: the model has no batch dimension. `parameters` carry Triton's
    names (`intra_op_thread_count`, ...), `graph_level` Triton's `optimization.graph.level`. `backend` is a name known
    to `gateway.backends`, or `module:Class` where the supervisor allows that."""

    model: str
    version: str
    path: Path
    backend: str = "onnxruntime"
    kind: Literal["CPU", "GPU"] = "CPU"
    device: int = 0
    max_batch_size: int = 0
    parameters: Mapping[str, str] = field(default_factory=dict)
    graph_level: int | None = None
    warmup: tuple[WarmupBatch, ...] = ()
    slot_bytes: int = 16 * 1024 * 1024

    @property
    def has_engine_threads(self) -> bool:
        """Whether the engine starts threads of its own when it loads the model, which then run its batches."""
        counts = (self.parameters.get(name, "1").strip() for name in ENGINE_THREADS)
        return self.kind == "GPU" or any(count != "1" for count in counts)

    def to_json(self) -> dict[str, Any]:
        value = {name: getattr(self, name) for name in self.__dataclass_fields__}
        value["path"] = str(self.path)
        value["parameters"] = dict(self.parameters)
        value["warmup"] = [each.to_json() for each in self.warmup]
        return value

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> InstanceSpec:
        fields = dict(value)
        fields["path"] = Path(value["path"])
        fields["warmup"] = tuple(WarmupBatch.from_json(each) for each in value["warmup"])
        return cls(**fields)


@dataclass(frozen=True)
class Description:
    """What a model turned out to be once its engine had it."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    memory_bytes: int
    """Resident memory that the worker has for itself, not shared with its siblings."""
    timings: tuple[tuple[int, float], ...] = ()
    """(rows, seconds) of the warm-up's own measurements, smallest first: a first guess of the service time."""

    def to_json(self) -> dict[str, Any]:
        return {
            "inputs": [each.to_json() for each in self.inputs],
            "outputs": [each.to_json() for each in self.outputs],
            "memory_bytes": self.memory_bytes,
            "timings": [list(each) for each in self.timings],
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Description:
        return cls(
            tuple(TensorSpec.from_json(each) for each in value["inputs"]),
            tuple(TensorSpec.from_json(each) for each in value["outputs"]),
            int(value["memory_bytes"]),
            tuple((int(rows), float(seconds)) for rows, seconds in value["timings"]),
        )


@dataclass(frozen=True)
class Exit:
    """How a worker ended: with an exit status, or by a signal. Both are None when nobody saw it."""

    status: int | None = None
    signal: int | None = None
    is_expected: bool = False
    """It was asked to stop."""
    last_words: str = ""
    """The end of what it wrote to its standard streams."""

    def __str__(self) -> str:
        if self.signal is not None:
            try:
                return f"was killed by {signal.Signals(self.signal).name}"
            except ValueError:
                return f"was killed by signal {self.signal}"
        return "ended unseen" if self.status is None else f"exited with status {self.status}"
