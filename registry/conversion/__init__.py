"""From the formats that people train in to ONNX. Here is what can be converted and what is said of the rest; nothing
here loads a library or reads more of a file than shows what it is.

A conversion runs in a process of its own that calls `registry.conversion.run.perform`: parsers of other libraries see
a stranger's file there, and nowhere else.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

from registry.errors import InvalidModel, LimitExceeded, LinkRefused, UnsupportedFormat
from registry.formats import LIGHTGBM, ONNX, PT2, SKOPS, XGBOOST, check_harmless, format_of

CONVERTIBLE = frozenset({SKOPS, LIGHTGBM, XGBOOST, PT2})
SOURCE_FOLDER = "source"
"""In the folder of a conversion, where the file lies that is converted."""
MAX_SOURCE_BYTES = 4 << 30
MAX_ARCHIVE_FILES = 65536
NOT_INSTALLED = "install what converts: pip install 'sluice-gateway[convert]'"
NO_TORCH = (
    "install PyTorch and onnxscript beside the gateway (pip install torch onnxscript), or export where the model was "
    'trained: torch.onnx.export(torch.export.load("model.pt2"), f="model.onnx", dynamo=True)'
)
_TENSORFLOW = "convert it where it was trained: python -m tf2onnx.convert --saved-model FOLDER --output model.onnx"
_OLD_XGBOOST = 'save it in a format that is documented: booster.save_model("model.json"), and push that'


def conversion_of(path: Path) -> str | None:
    """The format that a file has to be converted from; None for what is published as it is, or is a folder.

    Raises:
        LinkRefused: not a plain file or folder.
        UnsafeFormat: reading it would run code that is in it.
        UnsupportedFormat: a format that nobody converts here; `advice` says who does.
        LimitExceeded: too large, also unpacked.
        InvalidModel: an archive that cannot be read.
        OSError: it cannot be read.
    """
    if path.is_symlink():
        raise LinkRefused(path.name, "symbolic link")
    if path.is_dir():
        if (path / "saved_model.pb").is_file():
            raise UnsupportedFormat(path.name, "SavedModel", _TENSORFLOW)
        return None
    if not path.is_file():
        raise LinkRefused(path.name, "special file")
    check_harmless(path, path.name)
    found = format_of(path)
    if found == ONNX:
        return None
    if path.name == "saved_model.pb":
        raise UnsupportedFormat(path.name, "SavedModel", _TENSORFLOW)
    if _begins_with(path, b"binf"):
        raise UnsupportedFormat(path.name, "XGBoost's old binary format", _OLD_XGBOOST)
    if found not in CONVERTIBLE:
        return None
    if (size := path.stat().st_size) > MAX_SOURCE_BYTES:
        raise LimitExceeded(path.name, "bytes", size, MAX_SOURCE_BYTES)
    if found in (SKOPS, PT2):
        _check_archive(path)
    return found


def _check_archive(path: Path) -> None:
    """What an archive says that it unpacks to is what its reader gives out at most."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise InvalidModel(path.name, f"an archive that cannot be read: {error}") from None
    if len(entries) > MAX_ARCHIVE_FILES:
        raise LimitExceeded(path.name, "files in the archive", len(entries), MAX_ARCHIVE_FILES)
    if (total := sum(entry.file_size for entry in entries)) > MAX_SOURCE_BYTES:
        raise LimitExceeded(path.name, "bytes when unpacked", total, MAX_SOURCE_BYTES)


def _begins_with(path: Path, magic: bytes) -> bool:
    with path.open("rb") as file:
        return file.read(len(magic)) == magic
