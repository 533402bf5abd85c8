"""What of a path is published: one ONNX file with its weights, a folder around one, or a folder in the layout of a
model repository with one version in it. Names and kinds of files are looked at, and of contents only what shows that a
file would run code if it were loaded.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from registry.artifacts import hash_file
from registry.errors import InvalidModel, LimitExceeded, LinkRefused, UnsafePath, UnsupportedFormat
from registry.formats import ONNX, check_harmless, format_of
from registry.inspect_onnx import ModelLimits, OnnxModel, check_external_data, inspect_onnx
from registry.manifest import (
    CONFIG_FILENAME,
    MAX_DEPTH,
    MAX_FILES,
    MODEL_FILENAME,
    FileEntry,
    Lineage,
    Manifest,
    check_path,
)

MAX_CONFIG_BYTES = 1 << 20
IGNORED = frozenset({"__pycache__", "model.sig"})
"""Left out of a folder, beside names that begin with a dot."""
Progress = Callable[[str, int, int], None]
"""Called with a step (`hash` or `store`), and how many bytes of how many are done."""


@dataclass(frozen=True)
class PushLimits:
    """What is published at most."""

    max_files: int = MAX_FILES
    max_bytes: int = 64 << 30
    """Of all files together."""
    model: ModelLimits = ModelLimits()


@dataclass(frozen=True)
class ModelFolder:
    """What is published."""

    files: dict[str, Path]
    """Where each file lies, by its path in the version. The model itself is `model.onnx`."""
    config_text: str | None
    model: OnnxModel

    @property
    def size(self) -> int:
        return sum(path.stat().st_size for path in self.files.values())

    def to_manifest(
        self,
        model: str,
        lineage: Lineage,
        told: Progress,
        *,
        tags: Mapping[str, str] | None = None,
        card: Mapping[str, Any] | None = None,
        metrics: Mapping[str, float] | None = None,
    ) -> Manifest:
        """What the model's next version would be, every file hashed. Raises OSError and what `hash_file` raises."""
        return Manifest(
            model=model,
            files=tuple(self._hashed(told)),
            inputs=self.model.inputs,
            outputs=self.model.outputs,
            operators=self.model.operators,
            opset=self.model.opset,
            config_text=self.config_text,
            tags=tags or {},
            card=card or {},
            lineage=lineage,
            metrics=metrics or {},
        )

    def _hashed(self, told: Progress) -> Iterator[FileEntry]:
        total, done = self.size, 0
        told("hash", 0, total)

        def advance(count: int) -> None:
            nonlocal done
            done += count
            told("hash", done, total)

        for path, place in sorted(self.files.items()):
            sha256, size = hash_file(place, advance)
            yield FileEntry(path, sha256, size)


def read_model_folder(path: Path, limits: PushLimits = PushLimits()) -> ModelFolder:
    """Looks at a file or folder, and refuses what cannot be served safely.

    Files beside `config.pbtxt` in the layout of a model repository, such as labels, come to lie beside the model.

    Raises:
        ArtifactRefused: one of its kinds, which says what is wrong with which file.
        OSError: it cannot be read.
    """
    kind = _kind(path, path.name)
    if kind == "file":
        return _single(path, limits)
    files = dict(_walk(path, limits))
    numbered = sorted({name.split("/")[0] for name in files if name.split("/")[0].isdigit()})
    has_model_here = any("/" not in name and name.endswith(".onnx") for name in files)
    if numbered and not has_model_here:
        files = _without_version_folder(files, numbered)
    main = _main_model(path, files)
    model = inspect_onnx(files[main], limits.model)
    check_external_data(files[main], model)
    config = files.pop(CONFIG_FILENAME, None)
    if main != MODEL_FILENAME:
        if MODEL_FILENAME in files:
            raise InvalidModel(path.name, f"{main} and {MODEL_FILENAME}")
        files[MODEL_FILENAME] = files.pop(main)
    for name, place in files.items():
        if name != MODEL_FILENAME and name not in model.external_files:
            check_harmless(place, name)
    return ModelFolder(files, None if config is None else _config_text(config), model)


def _single(path: Path, limits: PushLimits) -> ModelFolder:
    check_harmless(path, path.name)
    if (found := format_of(path)) != ONNX:
        raise UnsupportedFormat(path.name, found, "publish an ONNX file, or a folder with one in it")
    model = inspect_onnx(path, limits.model)
    check_external_data(path, model)
    files = {MODEL_FILENAME: path} | {name: path.parent / name for name in model.external_files}
    if MODEL_FILENAME in model.external_files:
        raise InvalidModel(path.name, f"weights in a file called {MODEL_FILENAME}")
    _check_total(path.name, files, limits)
    return ModelFolder(files, None, model)


def _without_version_folder(files: dict[str, Path], numbered: list[str]) -> dict[str, Path]:
    if len(numbered) > 1:
        raise InvalidModel(numbered[1], "a model repository's folder with several versions: publish them one by one")
    prefix = f"{numbered[0]}/"
    flat: dict[str, Path] = {}
    for name, place in files.items():
        short = name.removeprefix(prefix)
        if short in flat:
            raise UnsafePath(short, "is beside the version's folder and in it")
        flat[short] = place
    return flat


def _main_model(path: Path, files: dict[str, Path]) -> str:
    if MODEL_FILENAME in files:
        return MODEL_FILENAME
    candidates = sorted(name for name in files if "/" not in name and name.endswith(".onnx"))
    if len(candidates) == 1:
        return candidates[0]
    if candidates:
        raise InvalidModel(path.name, f"several ONNX files, and none is called {MODEL_FILENAME}")
    for name, place in sorted(files.items()):
        check_harmless(place, name)
    raise UnsupportedFormat(path.name, "folder", f"put the model into it as {MODEL_FILENAME}")


def _walk(root: Path, limits: PushLimits) -> Iterator[tuple[str, Path]]:
    files: dict[str, Path] = {}
    pending = [("", root, 0)]
    while pending:
        prefix, folder, depth = pending.pop()
        if depth > MAX_DEPTH:
            raise LimitExceeded(prefix.rstrip("/"), "levels of folders", depth, MAX_DEPTH)
        for entry in sorted(os.listdir(folder)):
            if entry.startswith(".") or entry in IGNORED:
                continue
            name = check_path(f"{prefix}{entry}")
            if _kind(folder / entry, name) == "folder":
                pending.append((f"{name}/", folder / entry, depth + 1))
                continue
            files[name] = folder / entry
            if len(files) > limits.max_files:
                raise LimitExceeded(root.name, "files", len(files), limits.max_files)
    _check_total(root.name, files, limits)
    yield from sorted(files.items())


def _kind(path: Path, name: str) -> str:
    mode = path.lstat().st_mode
    if stat.S_ISREG(mode):
        return "file"
    if stat.S_ISDIR(mode):
        return "folder"
    kinds = {stat.S_IFLNK: "symbolic link", stat.S_IFIFO: "pipe", stat.S_IFSOCK: "socket"}
    raise LinkRefused(name, kinds.get(stat.S_IFMT(mode), "device"))


def _check_total(name: str, files: dict[str, Path], limits: PushLimits) -> None:
    total = sum(place.lstat().st_size for place in files.values())
    if total > limits.max_bytes:
        raise LimitExceeded(name, "bytes", total, limits.max_bytes)


def _config_text(path: Path) -> str:
    if (size := path.stat().st_size) > MAX_CONFIG_BYTES:
        raise LimitExceeded(CONFIG_FILENAME, "bytes", size, MAX_CONFIG_BYTES)
    try:
        return path.read_text("utf-8")
    except UnicodeDecodeError:
        raise InvalidModel(CONFIG_FILENAME, "not UTF-8") from None
