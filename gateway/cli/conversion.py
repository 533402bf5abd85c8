"""Conversion to ONNX on the machine of who pushes, before anything is published or sent."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from gateway.confined import Bounds, ConfinedFailed, run
from registry.artifacts import hash_file, read_file
from registry.conversion import SOURCE_FOLDER, conversion_of
from registry.errors import ConversionFailed
from registry.manifest import MODEL_FILENAME

SECONDS = 900.0
ADDRESS_SPACE_BYTES = 64 << 30
_BROKEN = "The file is damaged or forged, or more than the converter can take"


@dataclass(frozen=True)
class Converted:
    """What is published in place of a source file; for what needs no conversion, that itself and no more."""

    path: Path
    source_sha256: str = ""
    converter: str = ""


@contextmanager
def converted(path: Path) -> Iterator[Converted]:
    """The ONNX form of a file, until the block ends; what is in a form to be published already stays where it is.

    Raises:
        ArtifactRefused: one of its kinds: it is not converted, and why.
        OSError: it cannot be read, or there is no room for its copy.
    """
    kind = conversion_of(path)
    if kind is None:
        yield Converted(path)
        return
    with tempfile.TemporaryDirectory(prefix="sluice-convert-") as work:
        folder = Path(work)
        # A copy: what is converted is what the digest is of, whatever happens to the file meanwhile.
        source = folder / SOURCE_FOLDER / path.name
        source.parent.mkdir()
        with source.open("xb") as file:
            for chunk in read_file(path):
                file.write(chunk)
        sha256, _ = hash_file(source)
        with Console(stderr=True).status(f"Converting {path.name} ({kind}) to ONNX"):
            answer = _convert(folder, path.name, kind)
        yield Converted(folder / MODEL_FILENAME, sha256, str(answer["converter"]))


def _convert(folder: Path, name: str, kind: str) -> dict[str, object]:
    bounds = Bounds(SECONDS, ADDRESS_SPACE_BYTES, threads=os.cpu_count() or 1)
    try:
        return run("registry.conversion.run", folder, {"source": name, "format": kind}, bounds)
    except ConfinedFailed as error:
        raise ConversionFailed(name, kind, error.reason, _BROKEN) from error
