"""Artifacts that somebody made to do harm, or that are broken in a way that could: each with the error that it is
refused by. Folders as they are pushed; some can also be sent, file by file, by who skips the checks of our client."""

from __future__ import annotations

import io
import os
import pickle
import socket
import zipfile
from collections.abc import Callable
from pathlib import Path

import models
from onnx import TensorProto, helper

from registry.errors import (
    ArtifactRefused,
    CustomOperators,
    ExternalDataRefused,
    InvalidModel,
    LimitExceeded,
    LinkRefused,
    UnsafeFormat,
    UnsafePath,
    UnsupportedFormat,
)


def with_custom_operator(path: Path, place: str) -> Path:
    model = models.tabular()
    node = helper.make_node("Exec", ["features"], ["z"], domain="evil.ops")
    if place == "graph":
        model.graph.node.append(node)
    elif place == "subgraph":
        branch = helper.make_graph([node], "branch", [], [])
        model.graph.node.append(helper.make_node("If", ["c"], ["z"], then_branch=branch, else_branch=branch))
    else:
        model.functions.append(
            helper.make_function("mine", "F", ["features"], ["z"], [node], [helper.make_opsetid("evil.ops", 1)])
        )
    return models.save(model, path)


def traversal(folder: Path) -> None:
    models.external(folder / "model.onnx", "../../etc/passwd", present=False)


def absolute(folder: Path) -> None:
    models.external(folder / "model.onnx", "/etc/passwd", present=False)


def linked_file(folder: Path) -> None:
    models.save(models.tabular(), folder / "model.onnx")
    (folder / "labels.txt").symlink_to("/etc/passwd")


def linked_model(folder: Path) -> None:
    models.save(models.tabular(), folder.parent / "elsewhere.onnx")
    (folder / "model.onnx").symlink_to(folder.parent / "elsewhere.onnx")


def pipe(folder: Path) -> None:
    models.save(models.tabular(), folder / "model.onnx")
    os.mkfifo(folder / "labels.txt")


def unix_socket(folder: Path) -> None:
    models.save(models.tabular(), folder / "model.onnx")
    before = os.getcwd()
    os.chdir(folder)
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind("labels.txt")
    finally:
        os.chdir(before)


def odd_name(folder: Path) -> None:
    models.save(models.tabular(), folder / "model.onnx")
    (folder / "a\nb.txt").write_text("x")


def undecodable_name(folder: Path) -> None:
    models.save(models.tabular(), folder / "model.onnx")
    Path(os.fsdecode(os.fsencode(folder) + b"/\xff.txt")).write_text("x")


def deep(folder: Path) -> None:
    models.save(models.tabular(), folder / "model.onnx")
    path = folder.joinpath(*"abcdefghijkl")
    path.mkdir(parents=True)
    (path / "x.txt").write_text("x")


def custom(folder: Path) -> None:
    with_custom_operator(folder / "model.onnx", "graph")


def disguised(data: bytes, name: str = "model.onnx") -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        models.save(models.tabular(), folder / "model.onnx")
        (folder / name).write_bytes(data)

    return make


def torch_archive(folder: Path) -> None:
    with zipfile.ZipFile(folder / "model.onnx", "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps([1]))


def sparse_giant(folder: Path) -> None:
    models.save(models.tabular(), folder / "model.onnx")
    with open(folder / "weights.bin", "wb") as file:
        file.truncate(65 << 30)


def giant_model(folder: Path) -> None:
    with open(folder / "model.onnx", "wb") as file:
        file.truncate((2 << 30) + 1)


def two_models(folder: Path) -> None:
    for name in ("a.onnx", "b.onnx"):
        models.save(models.tabular(), folder / name)


def two_versions(folder: Path) -> None:
    for version in "12":
        models.save(models.tabular(), folder / version / "model.onnx")


def wrong_config(folder: Path) -> None:
    models.save(models.tabular(), folder / "model.onnx")
    (folder / "config.pbtxt").write_bytes(b"\xff\xfe")


def giant_config(folder: Path) -> None:
    models.save(models.tabular(), folder / "model.onnx")
    (folder / "config.pbtxt").write_bytes(b" " * (2 << 20))


def empty(folder: Path) -> None:
    (folder / "nested").mkdir()


def nested_graphs(folder: Path) -> None:
    """Deeper than any exporter makes them: a parser that calls itself would run out of stack."""
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [], [])
    for _ in range(25):
        node = helper.make_node("If", ["c"], ["y"], then_branch=graph, else_branch=helper.make_graph([], "e", [], []))
        graph = helper.make_graph([node], "g", [], [])
    model = models.tabular()
    model.graph.node.append(graph.node[0])
    models.save(model, folder / "model.onnx")


def announced_length(folder: Path) -> None:
    """A field that says it goes on for four exabytes."""
    data = models.tabular().SerializeToString()
    (folder / "model.onnx").write_bytes(data + b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\x3f")


def behind_the_end(folder: Path) -> None:
    models.external(folder / "model.onnx", "weights.bin")
    with open(folder / "weights.bin", "r+b") as file:
        file.truncate(10)


def sequence_output(folder: Path) -> None:
    model = models.tabular()
    value = helper.make_tensor_sequence_value_info("s", TensorProto.FLOAT, None)
    model.graph.output.append(value)
    models.save(model, folder / "model.onnx")


def compressed(folder: Path) -> None:
    models.save(models.tabular(), folder / "model.onnx")
    (folder / "model.onnx").write_bytes(b"\x1f\x8b\x08" + b"\0" * 100)


def archive(names: dict[str, bytes]) -> bytes:
    """A zip archive with entries of any name."""
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in names.items():
            file.writestr(name, data)
    return held.getvalue()


def bomb(entry: str, size: int = 5 << 30) -> bytes:
    """An archive of a few megabytes that unpacks to `size` bytes."""
    held = io.BytesIO()
    with (
        zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file,
        file.open(entry, "w", force_zip64=True) as to,
    ):
        block = bytes(64 << 20)
        for _ in range(size // len(block) + 1):
            to.write(block)
    return held.getvalue()


HOSTILE: list[tuple[Callable[[Path], None], type[ArtifactRefused]]] = [
    (traversal, ExternalDataRefused),
    (absolute, ExternalDataRefused),
    (linked_file, LinkRefused),
    (linked_model, LinkRefused),
    (pipe, LinkRefused),
    (unix_socket, LinkRefused),
    (odd_name, UnsafePath),
    (undecodable_name, UnsafePath),
    (deep, LimitExceeded),
    (custom, CustomOperators),
    (disguised(pickle.dumps([1.0], 4)), InvalidModel),
    (disguised(pickle.dumps([1.0], 2), "labels.txt"), UnsafeFormat),
    (disguised(pickle.dumps([1.0], 5) + b"garbage", "labels.txt"), UnsafeFormat),
    (disguised(b"cos\nsystem\n(S'id'\ntR.", "labels.txt"), UnsafeFormat),
    (disguised(b"anything", "scaler.joblib"), UnsafeFormat),
    (disguised(b"import os\n", "hook.py"), UnsafeFormat),
    (disguised(b"\x7fELF\x02\x01\x01" + b"\0" * 100, "custom_ops.txt"), UnsafeFormat),
    (disguised(b"#!/bin/sh\n", "run"), UnsafeFormat),
    (disguised(b"\x89HDF\r\n\x1a\n" + b"\0" * 100, "weights.dat"), UnsafeFormat),
    (torch_archive, InvalidModel),
    (sparse_giant, LimitExceeded),
    (giant_model, LimitExceeded),
    (two_models, InvalidModel),
    (two_versions, InvalidModel),
    (wrong_config, InvalidModel),
    (giant_config, LimitExceeded),
    (empty, UnsupportedFormat),
    (disguised(models.BROKEN), InvalidModel),
    (disguised(models.truncated()), InvalidModel),
    (disguised(b""), InvalidModel),
    (nested_graphs, LimitExceeded),
    (announced_length, InvalidModel),
    (behind_the_end, ExternalDataRefused),
    (sequence_output, InvalidModel),
    (compressed, InvalidModel),
]
"""Each way to fill a folder, and the error. What takes a model's place may also be called by what it is then:
`UnsafeFormat`."""
