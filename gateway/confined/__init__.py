"""Work on a stranger's bytes in a process of its own: no network, one folder to write in, bounded in memory and time.

Whatever the work does to its process, the caller gets an answer or a named error. Blocks: call it in a thread.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from registry.errors import ArtifactRefused

REQUEST, ANSWER, LOG = "request.json", "answer.json", "log.txt"
MAX_ANSWER_BYTES = 512 << 20
LAST_WORDS_BYTES = 2000
_REFUSALS = {kind.__name__: kind for kind in ArtifactRefused.__subclasses__()}


@dataclass(frozen=True)
class Bounds:
    """What the process may use."""

    seconds: float
    address_space_bytes: int
    threads: int = 1


class ConfinedFailed(Exception):
    """The process gave no answer; `reason` says how it ended."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def run(module: str, folder: Path, request: dict[str, Any], bounds: Bounds) -> dict[str, Any]:
    """Has `perform(folder, request)` of a module done on the files of a folder, which it may change. The module is
    imported by the confined process only.

    Raises:
        ArtifactRefused: the task refused the files.
        ConfinedFailed: it crashed, was killed, took too long, or answered nonsense.
        OSError: the folder cannot be written to, or no process can be started.
    """
    (folder / REQUEST).write_text(json.dumps(request), "utf-8")
    command = [sys.executable, "-P", "-m", "gateway.confined.process", module, str(os.getpid())]
    command += [str(bounds.address_space_bytes)]
    with (folder / LOG).open("wb") as log:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=_environment(folder, bounds),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        code = process.wait(bounds.seconds)
    except subprocess.TimeoutExpired:
        raise ConfinedFailed(f"took longer than {bounds.seconds:g} s") from None
    finally:
        # With whatever it started: the group outlives its first process.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if code != 0:
        raise ConfinedFailed(_ending(code, folder / LOG))
    return _answer(folder / ANSWER)


def _environment(folder: Path, bounds: Bounds) -> dict[str, str]:
    """Nothing of this process's own: no credentials, no settings."""
    threads = str(bounds.threads)
    return {
        "PATH": os.defpath,
        "HOME": str(folder),
        "TMPDIR": str(folder),
        "LC_ALL": "C.UTF-8",
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "PYTHONHASHSEED": "0",  # converters walk sets: the same model is to become the same bytes
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": threads,
        "OPENBLAS_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "TORCH_FORCE_WEIGHTS_ONLY_LOAD": "1",
    }


def _answer(path: Path) -> dict[str, Any]:
    try:
        if path.is_symlink() or path.stat().st_size > MAX_ANSWER_BYTES:
            raise ConfinedFailed("its answer is too large")
        document = json.loads(path.read_text("utf-8"))
        refusal = document.get("refused")
        if refusal is not None:
            raise _REFUSALS[refusal["kind"]](**refusal["facts"])
        return dict(document["done"])
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise ConfinedFailed("it gave no answer that can be read") from None


def _ending(code: int, log: Path) -> str:
    if code < 0:
        with contextlib.suppress(ValueError):
            return f"the process was ended by {signal.Signals(-code).name}"
    try:
        words = log.read_bytes()[-LAST_WORDS_BYTES:].decode("utf-8", "replace").strip().splitlines()
    except OSError:
        words = []
    return f"the process ended with code {code}" + (f": {words[-1][:300]}" if words else "")
