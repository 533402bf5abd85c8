"""What an ONNX file says about itself, read before any engine opens it: inputs, outputs, operators, and where its
weights lie. It is read straight from the protobuf bytes, as a stranger's: every length is checked, everything is
counted, and weights are skipped unread, so a file of any size costs little memory. It knows no catalog.
"""

from __future__ import annotations

import mmap
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from registry.errors import CustomOperators, ExternalDataRefused, InvalidModel, LimitExceeded, UnsafePath
from registry.manifest import TensorSpec, check_path
from registry.protobuf import Malformed, Message, parts

DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft", "com.microsoft.nchwc"})
"""Of operators that ONNX Runtime brings along."""

DATATYPES = {
    1: "FP32",
    2: "UINT8",
    3: "INT8",
    4: "UINT16",
    5: "INT16",
    6: "INT32",
    7: "INT64",
    8: "BYTES",
    9: "BOOL",
    10: "FP16",
    11: "FP64",
    12: "UINT32",
    13: "UINT64",
    16: "BF16",
}
_EXTERNAL_KEYS = {"location", "offset", "length", "checksum"}
_EXTERNAL = 1


@dataclass(frozen=True)
class ModelLimits:
    """What is read of one file at most."""

    max_bytes: int = 2 << 30
    """Of the ONNX file itself: protobuf's own limit. Weights in files of their own do not count."""
    max_depth: int = 64
    """Of messages within messages."""
    max_nodes: int = 1_000_000
    max_tensors: int = 1_000_000
    max_values: int = 1024
    """Inputs, and outputs."""
    max_rank: int = 16
    max_name: int = 4096


@dataclass(frozen=True)
class ExternalData:
    """Where the weights of one tensor lie. Without a length they go on to the end of the file."""

    location: str
    offset: int = 0
    length: int | None = None


@dataclass(frozen=True)
class OnnxModel:
    """What the file says. `external` is checked for its form; `check_external_data` looks at the files."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    operators: dict[str, int]
    opset: int
    external: tuple[ExternalData, ...]

    @property
    def external_files(self) -> tuple[str, ...]:
        """Locations, each once, relative to the model's folder."""
        return tuple(sorted({data.location for data in self.external}))


def inspect_onnx(path: Path, limits: ModelLimits = ModelLimits()) -> OnnxModel:
    """Reads one file.

    Raises:
        InvalidModel: not an ONNX model, or one that contradicts itself, or whose inputs and outputs are no tensors.
        LimitExceeded: it is too large, too deep, or has too much of something.
        ExternalDataRefused: weights lie at a place that is no plain path below the model's folder.
        CustomOperators: an operator of an unknown domain.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        size = file.seek(0, 2)
        if size > limits.max_bytes:
            raise LimitExceeded(path.name, "bytes", size, limits.max_bytes)
        if not size:
            raise InvalidModel(path.name, "empty")
        # Unmapped with its last view: an error keeps those of its frames, and closing under them would be another.
        data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    try:
        return _Reading(path.name, limits).model(data)
    except Malformed as error:
        raise InvalidModel(path.name, str(error)) from None
    except UnicodeDecodeError:
        raise InvalidModel(path.name, "a name is not UTF-8") from None


def check_external_data(path: Path, model: OnnxModel) -> None:
    """Checks that weights lie in plain files of the model's folder, reached through no link, and within their ends.

    Raises:
        ExternalDataRefused: they do not.
    """
    folder = path.parent
    for data in model.external:
        place = folder
        for part in data.location.split("/"):
            place = place / part
            if place.is_symlink():
                raise ExternalDataRefused(path.name, data.location, "reached through a symbolic link")
        if not place.is_file():
            raise ExternalDataRefused(path.name, data.location, "no such file")
        size = place.stat().st_size
        if data.offset > size or data.offset + (data.length or 0) > size:
            raise ExternalDataRefused(path.name, data.location, f"beyond the end of its {size} bytes")


@dataclass
class _Graph:
    inputs: list[TensorSpec] = field(default_factory=list)
    outputs: list[TensorSpec] = field(default_factory=list)
    initializers: set[str] = field(default_factory=set)


class _Reading:
    """One pass over one file. What is found gathers here."""

    def __init__(self, name: str, limits: ModelLimits) -> None:
        self._name = name
        self._limits = limits
        self._nodes = 0
        self._tensors = 0
        self._operators: Counter[tuple[str, str]] = Counter()
        self._functions: set[tuple[str, str]] = set()
        self._external: list[ExternalData] = []

    def model(self, data: memoryview) -> OnnxModel:
        graph: _Graph | None = None
        opsets: dict[str, int] = {}
        ir_version = 0
        for number, value in parts(data):
            if number == 1 and isinstance(value, int):
                ir_version = value
            elif number == 7:
                if graph is not None:
                    raise InvalidModel(self._name, "has two graphs")
                graph = self._graph(self._message(value), 1, is_main=True)
            elif number == 8:
                entry = Message(self._message(value))
                opsets[entry.text(1)] = entry.number(2)
            elif number == 20:
                for inner, training in parts(self._message(value)):
                    if inner in (1, 2):
                        self._graph(self._message(training), 2, is_main=False)
            elif number == 25:
                self._function(self._message(value), 1)
        if graph is None or not ir_version:
            raise InvalidModel(self._name, "has no graph" if graph is None else "names no version of ONNX")
        self._check_domains()
        inputs = tuple(spec for spec in graph.inputs if spec.name not in graph.initializers)
        self._check_values("inputs", inputs)
        self._check_values("outputs", graph.outputs)
        if not graph.outputs:
            raise InvalidModel(self._name, "has no outputs")
        operators = {
            f"{domain}.{name}" if domain not in ("", "ai.onnx") else name: count
            for (domain, name), count in sorted(self._operators.items())
        }
        opset = opsets.get("", opsets.get("ai.onnx", 0))
        return OnnxModel(inputs, tuple(graph.outputs), operators, opset, tuple(self._external))

    def _graph(self, data: memoryview, depth: int, *, is_main: bool) -> _Graph:
        self._descend(depth)
        graph = _Graph()
        for number, value in parts(data):
            if number == 1:
                self._node(self._message(value), depth + 1)
            elif number == 5:
                graph.initializers.add(self._tensor(self._message(value)))
            elif number == 15:
                graph.initializers.add(self._sparse_tensor(self._message(value)))
            elif number in (11, 12) and is_main:
                values = graph.inputs if number == 11 else graph.outputs
                values.append(self._value(self._message(value)))
                if len(values) > self._limits.max_values + len(graph.initializers) + self._limits.max_tensors:
                    raise LimitExceeded(self._name, "values", len(values), self._limits.max_values)
        return graph

    def _function(self, data: memoryview, depth: int) -> None:
        self._descend(depth)
        name = domain = ""
        for number, value in parts(data):
            if number == 1:
                name = self._text(value)
            elif number == 10:
                domain = self._text(value)
            elif number == 7:
                self._node(self._message(value), depth + 1)
            elif number == 11:
                self._attribute(self._message(value), depth + 1)
        self._functions.add((domain, name))

    def _node(self, data: memoryview, depth: int) -> None:
        self._descend(depth)
        self._nodes += 1
        if self._nodes > self._limits.max_nodes:
            raise LimitExceeded(self._name, "nodes", self._nodes, self._limits.max_nodes)
        name = domain = ""
        for number, value in parts(data):
            if number == 4:
                name = self._text(value)
            elif number == 7:
                domain = self._text(value)
            elif number == 5:
                self._attribute(self._message(value), depth + 1)
        self._operators[domain, name] += 1

    def _attribute(self, data: memoryview, depth: int) -> None:
        self._descend(depth)
        for number, value in parts(data):
            if number in (5, 10):
                self._tensor(self._message(value))
            elif number in (22, 23):
                self._sparse_tensor(self._message(value))
            elif number in (6, 11):
                self._graph(self._message(value), depth + 1, is_main=False)

    def _sparse_tensor(self, data: memoryview) -> str:
        names = [self._tensor(self._message(value)) for number, value in parts(data) if number in (1, 2)]
        return names[0] if names else ""

    def _tensor(self, data: memoryview) -> str:
        self._tensors += 1
        if self._tensors > self._limits.max_tensors:
            raise LimitExceeded(self._name, "tensors", self._tensors, self._limits.max_tensors)
        name, location = "", 0
        entries: dict[str, str] = {}
        for number, value in parts(data):
            if number == 8:
                name = self._text(value)
            elif number == 14 and isinstance(value, int):
                location = value
            elif number == 13:
                entry = Message(self._message(value))
                if entry.text(1) in entries:
                    raise ExternalDataRefused(self._name, entry.text(2)[:200], f"has two of {entry.text(1)[:20]}")
                entries[entry.text(1)] = entry.text(2)
        # Engines disagree on whether the location alone makes weights external: what has one, is.
        if location == _EXTERNAL or entries:
            self._external.append(self._external_data(entries))
        return name

    def _external_data(self, entries: dict[str, str]) -> ExternalData:
        location = entries.get("location", "")
        if unknown := sorted(entries.keys() - _EXTERNAL_KEYS):
            raise ExternalDataRefused(self._name, location, f"has the unknown key {unknown[0][:100]!r}")
        try:
            check_path(location)
        except UnsafePath as error:
            raise ExternalDataRefused(self._name, error.path, error.reason) from None
        numbers: dict[str, int] = {}
        for key in ("offset", "length"):
            text = entries.get(key, "0")
            if not (text.isascii() and text.isdigit() and len(text) < 19):
                raise ExternalDataRefused(self._name, location, f"{key} is no whole number")
            numbers[key] = int(text)
        return ExternalData(location, numbers["offset"], numbers["length"] if "length" in entries else None)

    def _value(self, data: memoryview) -> TensorSpec:
        name, tensor = "", None
        for number, value in parts(data):
            if number == 1:
                name = self._text(value)
            elif number == 2:
                kinds = dict(parts(self._message(value)))
                tensor = kinds.get(1)
        if not isinstance(tensor, memoryview):
            raise InvalidModel(self._name, f"{name[:200]!r} is no tensor: sequences and maps cannot be served")
        datatype, shape = 0, []
        for number, value in parts(tensor):
            if number == 1 and isinstance(value, int):
                datatype = value
            elif number == 2:
                shape = [
                    self._dimension(self._message(dim)) for inner, dim in parts(self._message(value)) if inner == 1
                ]
        if datatype not in DATATYPES:
            raise InvalidModel(self._name, f"{name[:200]!r} has the datatype {datatype}, which cannot be served")
        if len(shape) > self._limits.max_rank:
            raise LimitExceeded(self._name, "dimensions", len(shape), self._limits.max_rank)
        return TensorSpec(name, DATATYPES[datatype], tuple(shape))

    def _dimension(self, data: memoryview) -> int:
        size = next((value for number, value in parts(data) if number == 1 and isinstance(value, int)), -1)
        return size if 0 <= size < 1 << 63 else -1

    def _check_values(self, what: str, values: tuple[TensorSpec, ...] | list[TensorSpec]) -> None:
        if len(values) > self._limits.max_values:
            raise LimitExceeded(self._name, what, len(values), self._limits.max_values)
        names = [spec.name for spec in values]
        if not all(names) or len(set(names)) != len(names):
            raise InvalidModel(self._name, f"{what} without a name, or two of one")

    def _check_domains(self) -> None:
        used = self._operators.keys() - self._functions
        if unknown := sorted({domain for domain, _ in used if domain not in DOMAINS}):
            raise CustomOperators(self._name, unknown)

    def _descend(self, depth: int) -> None:
        if depth > self._limits.max_depth:
            raise LimitExceeded(self._name, "levels of nesting", depth, self._limits.max_depth)

    def _message(self, value: int | memoryview) -> memoryview:
        if not isinstance(value, memoryview):
            raise Malformed("a field is of the wrong kind")
        return value

    def _text(self, value: int | memoryview) -> str:
        data = self._message(value)
        if len(data) > self._limits.max_name:
            raise LimitExceeded(self._name, "bytes of a name", len(data), self._limits.max_name)
        return str(data, "utf-8")
