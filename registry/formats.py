"""What a file is, from its first bytes and its name, and whether loading such a file runs code that is in it. The
contents are never interpreted."""

from __future__ import annotations

import os
import re
import zipfile
from pathlib import Path

from registry.errors import UnsafeFormat

ONNX, PICKLE, SKOPS, PT2, LIGHTGBM, XGBOOST, TORCH = "onnx", "pickle", "skops", "pt2", "lightgbm", "xgboost", "torch"
OTHER = "unknown"

WHY_NO_PICKLE = (
    "reading a pickle runs whatever code is in it. Save the model with skops (`skops.io.dump`) and push that, or "
    "export it to ONNX where it was trained (skl2onnx, torch.onnx.export)"
)
_WHY_NO_TORCH = "a PyTorch file is a pickle inside. Export the model: torch.onnx.export(model, ..., dynamo=True)"
_WHY_NO_CODE = "a version holds a model, not programs. Leave the file out"

_CODE_SUFFIXES = frozenset({".py", ".pyc", ".pyo", ".so", ".dll", ".dylib", ".exe", ".sh", ".jar", ".wasm"})
_PICKLE_SUFFIXES = frozenset({".pkl", ".pickle", ".joblib", ".cloudpickle", ".dill"})
_TORCH_SUFFIXES = frozenset({".pt", ".pth", ".ckpt"})
_MAGIC_OF_CODE = (b"\x7fELF", b"MZ", b"\xcf\xfa\xed\xfe", b"\xca\xfe\xba\xbe", b"#!", b"\0asm")
_COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd", b"\x04\x22\x4d\x18")
_ZLIB = frozenset({b"\x78\x01", b"\x78\x5e", b"\x78\x9c", b"\x78\xda"})
# Protocols 0 and 1 have no magic number; these are how every object of theirs that does something begins.
_OLD_PICKLE = re.compile(
    rb"\A(?:\x80\x01)?(?:\(+[ldt]?|[\]\}\)])*c[A-Za-z_][\w.]*\n[A-Za-z_][\w.]*\n|\A\(?[ld]p[0-9]+\n"
)
# Protocols 4 and 5 begin with a frame, and nothing else does so by chance.
_FRAMED_PICKLE = (b"\x80\x04\x95", b"\x80\x05\x95")
_HEAD = 1 << 12


def format_of(path: Path) -> str:
    """What a file is: one of the names above. ONNX has no magic number, so a file that is nothing else and is called
    `*.onnx` counts as one until it is read."""
    head = _head(path)
    suffix = path.suffix.lower()
    if is_pickle(path, head):
        return PICKLE
    if head.startswith(b"PK\x03\x04"):
        return _format_of_zip(path, suffix)
    if suffix in _TORCH_SUFFIXES:
        return TORCH
    if head.startswith(b"tree\n") and b"\nversion=" in head[:64]:
        return LIGHTGBM
    text = head.lstrip()
    if suffix in (".json", ".ubj", ".xgb") and (
        (text.startswith(b"{") and b'"learner"' in text) or head.startswith((b"{L", b"{i")) and b"learner" in head
    ):
        return XGBOOST
    return ONNX if suffix == ".onnx" else OTHER


def is_pickle(path: Path, head: bytes | None = None) -> bool:
    """Whether a file is a pickle, whatever it is called; compressed ones of joblib count by their name."""
    head = _head(path) if head is None else head
    suffix = path.suffix.lower()
    if suffix in _PICKLE_SUFFIXES or head.startswith(_FRAMED_PICKLE):
        return True
    if len(head) > 2 and head[0] == 0x80 and 2 <= head[1] <= 5 and _ends_with_stop(path):
        return True
    return _OLD_PICKLE.match(head) is not None and _ends_with_stop(path)


def check_harmless(path: Path, name: str) -> None:
    """Refuses what runs code when it is loaded, and programs.

    Raises:
        UnsafeFormat: that is what it is.
    """
    head = _head(path)
    suffix = path.suffix.lower()
    if is_pickle(path, head):
        raise UnsafeFormat(name, PICKLE, WHY_NO_PICKLE)
    found = _format_of_zip(path, suffix) if head.startswith(b"PK\x03\x04") else ""
    if found == TORCH or suffix in _TORCH_SUFFIXES:
        raise UnsafeFormat(name, TORCH, _WHY_NO_TORCH)
    if found == PICKLE:
        raise UnsafeFormat(name, PICKLE, WHY_NO_PICKLE)
    if suffix == ".onnx" and (head.startswith(_COMPRESSED) or head[:2] in _ZLIB):
        raise UnsafeFormat(name, "compressed", "publish the file as it is, not compressed")
    if head.startswith(b"\x89HDF\r\n\x1a\n") or suffix in (".h5", ".keras"):
        raise UnsafeFormat(name, "keras", "Keras files may hold code. Export the model to ONNX with tf2onnx")
    if suffix in _CODE_SUFFIXES or head.startswith(_MAGIC_OF_CODE):
        raise UnsafeFormat(name, "program", _WHY_NO_CODE)


def _format_of_zip(path: Path, suffix: str) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return OTHER
    last = {name.rpartition("/")[2] for name in names}
    if "schema.json" in names:
        return SKOPS
    if suffix == ".pt2" or "archive_format" in last or "serialized_exported_program.json" in last:
        return PT2
    if "data.pkl" in last or "constants.pkl" in last:
        return TORCH
    return PICKLE if any(name.endswith((".pkl", ".pickle", ".npy.pkl")) for name in last) else OTHER


def _head(path: Path) -> bytes:
    with open(path, "rb") as file:
        return file.read(_HEAD)


def _ends_with_stop(path: Path) -> bool:
    """A pickle's last operation is a dot; white space behind it changes nothing for who reads it."""
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 64))
        return file.read().rstrip(b"\0\r\n\t ").endswith(b".")
