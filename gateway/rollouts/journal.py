"""What a gateway must not forget while the database is away: which rollouts it follows, as of when, and what it has
done that is not recorded there yet. One small file in the data folder, replaced as a whole.

With it a gateway that starts alone never gives a canary more traffic than it had, and an abort is not undone.
"""

from __future__ import annotations

import json
import os
import tempfile
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

FILENAME = "rollouts.json"
FORMAT = 1


class JournalDamaged(Exception):
    """The file is not one of ours; `str()` says which file."""


@dataclass(frozen=True)
class Remembered:
    """The contents of the file: JSON values that the controller writes and reads."""

    replica: str
    """Who this gateway is among those that share a catalog: the same after a restart."""
    rollouts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """By id."""
    pins: Mapping[str, int] = field(default_factory=dict)
    """By model: which version answers while another is loaded that should not."""


class Journal:
    """One file. Only the gateway that holds the data folder uses it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._last: str = ""

    def load(self) -> Remembered:
        """What was saved last; a new replica where nothing was.

        Raises:
            OSError: it cannot be read.
            JournalDamaged: somebody else has written it.
        """
        try:
            document = json.loads(self._path.read_text("utf-8"))
            if document["format"] != FORMAT:
                raise JournalDamaged(f"{self._path} was written by another release")
            return Remembered(str(document["replica"]), dict(document["rollouts"]), dict(document["pins"]))
        except FileNotFoundError:
            return Remembered(uuid.uuid4().hex[:12])
        except (ValueError, KeyError, TypeError):
            raise JournalDamaged(f"{self._path} is damaged: remove it, and this gateway asks the catalog") from None

    def save(self, remembered: Remembered) -> None:
        """On disk when it returns. The same again writes nothing. Raises OSError."""
        text = json.dumps({"format": FORMAT, **asdict(remembered)}, sort_keys=True)
        if text == self._last:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f"{self._path.name}.", dir=self._path.parent)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as stream:
                stream.write(text)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(temporary, self._path)
        except BaseException:
            os.unlink(temporary)
            raise
        self._last = text
