"""What one version is: its files by digest, its signature, its configuration, and where it came from.

A manifest is a value. Read from JSON it is checked as a stranger's: what comes out of `from_json` names no file outside
of the version's folder and holds no field that this module does not know. It knows neither stores nor databases.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime
from types import MappingProxyType
from typing import Any, TypeVar

from registry.errors import InvalidManifest, UnsafePath
from registry.names import is_name
from registry.staging import digest_of

MAX_MANIFEST_BYTES = 4 << 20
MAX_FILES = 4096
MAX_PATH = 1024
MAX_DEPTH = 8
CONFIG_FILENAME = "config.pbtxt"
MODEL_FILENAME = "model.onnx"
MODEL_FORMAT = "onnx"
"""What is published, whatever it was converted from."""

_SHA256 = re.compile(r"[0-9a-f]{64}")
_RANK = 16
# Of a lineage, and left out where empty: manifests that were written before they came keep their digests.
_LATER_FIELDS = ("source_sha256", "converter")

T = TypeVar("T")


@dataclass(frozen=True, order=True)
class FileEntry:
    """One file of a version. `path` is relative to the version's folder, with forward slashes."""

    path: str
    sha256: str
    size: int


@dataclass(frozen=True)
class TensorSpec:
    """One input or output as the model declares it; -1 in `shape` is a free dimension."""

    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Lineage:
    """Where a version came from, as its publisher said. Empty means unknown."""

    git_commit: str = ""
    git_dirty: bool = False
    data_ref: str = ""
    """The version of the data, such as a DVC revision."""
    run: str = ""
    """The experiment run, such as an MLflow or Weights & Biases run id."""
    author: str = ""
    host: str = ""
    created_at: str = ""
    """ISO 8601, in UTC."""
    source: str = ""
    """What was published: the name of the file or folder, or of what it was converted from."""
    source_sha256: str = ""
    """Of the file that was converted; empty when none was."""
    converter: str = ""
    """What converted it: names and versions of the libraries."""


@dataclass(frozen=True)
class Manifest:
    """One version, without its number: that is the catalog's to give."""

    model: str
    files: tuple[FileEntry, ...]
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    operators: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    """How often each operator occurs. One of another domain than ONNX's own is written `domain.Operator`."""
    opset: int = 0
    """Version of ONNX's own operators; 0 when the model uses none of them."""
    config_text: str | None = None
    """The contents of config.pbtxt; None when there is none."""
    tags: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    card: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    """The model card: field names and JSON values; prose is the field `text`."""
    lineage: Lineage = Lineage()
    metrics: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    format: str = MODEL_FORMAT

    def __post_init__(self) -> None:
        object.__setattr__(self, "files", tuple(sorted(self.files)))
        for name in ("operators", "tags", "card", "metrics"):
            object.__setattr__(self, name, MappingProxyType(dict(getattr(self, name))))
        _check(self)

    @property
    def content_digest(self) -> str:
        """One SHA-256 for the files alone: the same files have the same, whoever published them and whenever."""
        return digest_of({entry.path: entry.sha256 for entry in self.files})

    @property
    def identity(self) -> str:
        """What makes two publications of a model the same version: the files, and the configuration they run with."""
        files = {entry.path: entry.sha256 for entry in self.files}
        if self.config_text is not None:
            files[CONFIG_FILENAME] = hashlib.sha256(self.config_text.encode()).hexdigest()
        return digest_of(files)

    @property
    def digest(self) -> str:
        """SHA-256 of the manifest itself, in canonical JSON."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(entry.size for entry in self.files)

    def to_json(self) -> str:
        """Canonical JSON: sorted keys, no spaces, ASCII. Equal manifests give equal text."""
        plain = {name.name: getattr(self, name.name) for name in fields(self)}
        for name in ("operators", "tags", "card", "metrics"):
            plain[name] = dict(plain[name])
        for name in ("files", "inputs", "outputs"):
            plain[name] = [asdict(value) for value in plain[name]]
        plain["lineage"] = asdict(self.lineage)
        for name in _LATER_FIELDS:
            if not plain["lineage"][name]:
                del plain["lineage"][name]
        return canonical_json(plain)

    @classmethod
    def from_json(cls, text: str | bytes) -> Manifest:
        """Reads what `to_json` wrote, or what somebody else says it did.

        Raises:
            InvalidManifest: not JSON, a field that is missing, unknown, of the wrong type, or without sense.
            UnsafePath: a file outside of the version's folder.
        """
        if len(text) > MAX_MANIFEST_BYTES:
            raise InvalidManifest("", f"larger than {MAX_MANIFEST_BYTES} bytes")
        try:
            plain = json.loads(text, parse_constant=_no_constant, object_pairs_hook=_unique)
        except (ValueError, RecursionError) as error:
            raise InvalidManifest("", f"not JSON: {error}") from None
        values = dict(_object("", plain))
        values["files"] = tuple(_dataclass(FileEntry, "files", item) for item in _list("files", values.get("files")))
        for name in ("inputs", "outputs"):
            values[name] = tuple(_tensor(name, item) for item in _list(name, values.get(name, [])))
        values["lineage"] = _dataclass(Lineage, "lineage", values.get("lineage", {}))
        for name in ("operators", "tags", "card", "metrics"):
            values[name] = _object(name, values.get(name, {}))
        return _dataclass(cls, "", values)


def canonical_json(value: object) -> str:
    """The one way in which a JSON value is written down to be hashed.

    Raises:
        ValueError: it holds NaN or an infinity.
        TypeError: it is no JSON value.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def check_path(path: str) -> str:
    """The path itself, known to be a plain one below some folder: no root, no `..`, no hidden or odd names.

    Raises:
        UnsafePath: it is not.
    """
    parts = path.split("/")
    reason = (
        "empty"
        if not path
        else "absolute"
        if path.startswith("/")
        else f"longer than {MAX_PATH} bytes"
        if not _has_length(path, MAX_PATH) or not all(_has_length(part, 255) for part in parts)
        else "has characters that do not print, or a backslash"
        if not path.isprintable() or "\\" in path or unicodedata.normalize("NFC", path) != path
        else "has an empty, hidden or relative component"
        if any(not part or part.startswith(".") or part != part.strip() for part in parts)
        else f"more than {MAX_DEPTH} folders deep"
        if len(parts) > MAX_DEPTH + 1
        else ""
    )
    if reason:
        raise UnsafePath(path[:MAX_PATH].encode("utf-8", "backslashreplace").decode(), reason)
    return path


def is_sha256(text: object) -> bool:
    """Whether this is a SHA-256 in lower-case hexadecimal."""
    return isinstance(text, str) and _SHA256.fullmatch(text) is not None


def _has_length(text: str, limit: int) -> bool:
    return len(text.encode("utf-8", "surrogatepass")) <= limit


def _check(manifest: Manifest) -> None:
    _require("model", isinstance(manifest.model, str) and is_name(manifest.model), "no model's name")
    _require("format", manifest.format == MODEL_FORMAT, "only onnx is known")
    _require("files", 0 < len(manifest.files) <= MAX_FILES, f"from 1 to {MAX_FILES} files")
    _check_files(manifest.files)
    for name in ("inputs", "outputs"):
        specs = getattr(manifest, name)
        _require(name, len({spec.name for spec in specs}) == len(specs), "a name occurs twice")
    _require("operators", all(_is_count(count) for count in manifest.operators.values()), "counts are whole numbers")
    _require("opset", _is_count(manifest.opset), "a whole number")
    is_text = manifest.config_text is None or isinstance(manifest.config_text, str)
    _require("config_text", is_text, "text or null")
    _require("tags", all(isinstance(value, str) for value in manifest.tags.values()), "values are text")
    _require("metrics", all(_is_number(value) for value in manifest.metrics.values()), "values are finite numbers")
    _require("lineage.git_dirty", isinstance(manifest.lineage.git_dirty, bool), "true or false")
    for name in (item.name for item in fields(Lineage) if item.name != "git_dirty"):
        _require(f"lineage.{name}", isinstance(getattr(manifest.lineage, name), str), "text")
    _require("lineage.created_at", _is_utc(manifest.lineage.created_at), "ISO 8601 in UTC, or empty")
    try:
        canonical_json({"card": dict(manifest.card), "config": manifest.config_text}).encode()
    except (TypeError, ValueError) as error:
        raise InvalidManifest("card", str(error)) from None


def _check_files(files: tuple[FileEntry, ...]) -> None:
    paths: set[str] = set()
    folders: set[str] = set()
    for entry in files:
        _require("files.path", isinstance(entry.path, str), "text")
        check_path(entry.path)
        _require("files.path", entry.path not in paths, f"{entry.path} occurs twice")
        _require("files.sha256", is_sha256(entry.sha256), "64 lower-case hexadecimal digits")
        _require("files.size", _is_count(entry.size), "a whole number")
        paths.add(entry.path)
        parts = entry.path.split("/")
        folders |= {"/".join(parts[:depth]) for depth in range(1, len(parts))}
    _require("files.path", not paths & folders, "a path is a file and a folder")


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_utc(text: str) -> bool:
    if not text:
        return True
    try:
        offset = datetime.fromisoformat(text).utcoffset()
    except ValueError:
        return False
    return offset is not None and not offset


def _require(name: str, is_met: bool, reason: str) -> None:
    if not is_met:
        raise InvalidManifest(name, reason)


def _object(name: str, value: object) -> Mapping[str, Any]:
    _require(name, isinstance(value, Mapping), "an object")
    assert isinstance(value, Mapping)
    return value


def _list(name: str, value: object) -> list[Any]:
    _require(name, isinstance(value, list), "a list")
    assert isinstance(value, list)
    return value


def _dataclass(kind: type[T], name: str, value: object) -> T:
    values = _object(name, value)
    known = {item.name for item in fields(kind)}  # type: ignore[arg-type]
    unknown = sorted(values.keys() - known)
    _require(".".join(filter(None, (name, *unknown[:1]))), not unknown, "unknown")
    try:
        return kind(**values)
    except TypeError:
        raise InvalidManifest(name, "a field is missing, or of the wrong type") from None


def _tensor(name: str, value: object) -> TensorSpec:
    spec = _dataclass(TensorSpec, name, value)
    shape = _list(f"{name}.shape", spec.shape)
    _require(f"{name}.name", isinstance(spec.name, str), "text")
    _require(f"{name}.datatype", isinstance(spec.datatype, str), "text")
    is_shape = len(shape) <= _RANK and all(_is_count(size) or size == -1 for size in shape)
    _require(f"{name}.shape", is_shape, f"at most {_RANK} whole numbers or -1")
    return TensorSpec(spec.name, spec.datatype, tuple(shape))


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("a key occurs twice")
    return values
