"""Where an ONNX file says that its weights lie, and whether that is inside the model's own folder. Read straight from
the protobuf bytes, before any engine opens the file, and without the `onnx` package; weights themselves are skipped
unread."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

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
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped, memoryview(mapped) as data:
            return set(_locations(data, 0, len(data), "Model", 0))


def _locations(data: memoryview, start: int, end: int, message: str, depth: int) -> Iterator[str]:
    if depth > MAX_DEPTH:
        raise MalformedModel("graphs are nested too deep")
    for field, at, stop in _parts(data, start, end):
        inner = _FIELDS[message].get(field)
        if inner == "Entry":
            key, value = _entry(data, at, stop)
            if key == b"location":
                yield value.decode("utf-8", "replace")
        elif inner is not None:
            yield from _locations(data, at, stop, inner, depth + 1)


def _entry(data: memoryview, start: int, end: int) -> tuple[bytes, bytes]:
    parts = {field: bytes(data[at:stop]) for field, at, stop in _parts(data, start, end)}
    return parts.get(1, b""), parts.get(2, b"")


def _parts(data: memoryview, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    """(field, start, end) of each length-delimited part; parts of other kinds are passed over."""
    while at < end:
        tag, at = _varint(data, at, end)
        kind = tag & 7
        if kind == 2:
            length, at = _varint(data, at, end)
            if length > end - at:
                raise MalformedModel("the file is cut short")
            yield tag >> 3, at, at + length
            at += length
        elif kind == 0:
            _, at = _varint(data, at, end)
        elif kind in (1, 5):
            at += 8 if kind == 1 else 4
        else:
            raise MalformedModel("the file is not a protobuf message")
    if at > end:
        raise MalformedModel("the file is cut short")


def _varint(data: memoryview, at: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while at < end and shift < 70:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise MalformedModel("the file is cut short")
