"""Where an ONNX file says that its weights lie, and whether that is inside the model's own folder. Read straight from
the protobuf bytes, before any engine opens the file, and without the `onnx` package; weights themselves are skipped
unread."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from registry.protobuf import Malformed, parts

MAX_DEPTH = 64
"""Of graphs within graphs. Deeper files are refused: no exporter makes them."""

# Message -> field number -> the message in it that may, at some depth, hold a tensor.
_FIELDS = {
    "Model": {7: "Graph", 20: "Training", 25: "Function"},
    "Training": {1: "Graph", 2: "Graph"},
    "Function": {7: "Node", 11: "Attribute"},
    "Graph": {1: "Node", 5: "Tensor", 15: "SparseTensor"},
    "Node": {5: "Attribute"},
    "Attribute": {5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph", 22: "SparseTensor", 23: "SparseTensor"},
    "SparseTensor": {1: "Tensor", 2: "Tensor"},
    "Tensor": {13: "Entry"},
    "Entry": {},
}


class MalformedModel(ValueError):
    """The file is not a protobuf message of the kind it should be."""


class OutsideData(ValueError):
    """Weights are said to lie at `location`, which is not in the model's folder."""

    def __init__(self, location: str) -> None:
        super().__init__(f"external data at '{location}' lies outside the model's folder")
        self.location = location


def check_external_data(path: Path) -> None:
    """Refuse a file that names weights outside its own folder, by an absolute path, by `..`, or through a link.

    Raises:
        OutsideData: it does.
        MalformedModel: the file is not an ONNX model, or nested absurdly deep.
        OSError: it cannot be read.
    """
    folder = path.parent.resolve()
    for location in external_locations(path):
        pure = PurePosixPath(location.replace("\\", "/"))
        if pure.is_absolute() or ".." in pure.parts or not (folder / pure).resolve().is_relative_to(folder):
            raise OutsideData(location)


def external_locations(path: Path) -> set[str]:
    """Every distinct location of external data that the file names."""
    with path.open("rb") as file:
        if file.seek(0, 2) == 0:
            raise MalformedModel("the file is empty")
        # Unmapped with its last view: an error keeps those of its frames, and closing under them would be another.
        data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    try:
        return set(_locations(data, "Model", 0))
    except Malformed as error:
        raise MalformedModel(f"the file is {error}") from None


def _locations(data: memoryview, message: str, depth: int) -> Iterator[str]:
    if depth > MAX_DEPTH:
        raise MalformedModel("graphs are nested too deep")
    for number, value in parts(data):
        inner = _FIELDS[message].get(number)
        if inner is None or isinstance(value, int):
            continue
        if inner == "Entry":
            entry = dict(parts(value))
            if _text(entry.get(1)) == "location":
                yield _text(entry.get(2))
        else:
            yield from _locations(value, inner, depth + 1)


def _text(value: int | memoryview | None) -> str:
    return str(value, "utf-8", "replace") if isinstance(value, memoryview) else ""
