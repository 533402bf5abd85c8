"""Work on a stranger's bytes in a process of its own: no network, one folder to write in, bounded in memory and time.

Whatever the work does to its process, the caller gets an answer or a named error. Blocks: call it in a thread.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import stat
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from registry.errors import ArtifactRefused

REQUEST, ANSWER = "request.json", "answer.json"
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
    with tempfile.TemporaryFile() as log:  # without a name: the process could put something else in its place
        code = _ended(command, folder, log, bounds)
        if code != 0:
            raise ConfinedFailed(_ending(code, log))
    return _answer(folder / ANSWER)


def _ended(command: list[str], folder: Path, log: BinaryIO, bounds: Bounds) -> int:
    """Runs it to its end, and whatever it started. The exit code as `subprocess` has it. Raises ConfinedFailed."""
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
        return process.wait(bounds.seconds)
    except subprocess.TimeoutExpired:
        raise ConfinedFailed(f"took longer than {bounds.seconds:g} s") from None
    finally:
        # With whatever it started: the group outlives its first process.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


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
    # It may be anything by now: a link to a file of ours, or a pipe that nobody writes to.
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ConfinedFailed("its answer is no file")
            if status.st_size > MAX_ANSWER_BYTES:
                raise ConfinedFailed("its answer is too large")
            document = json.loads(file.read())
        refusal = document.get("refused")
        if refusal is not None:
            raise _REFUSALS[refusal["kind"]](**refusal["facts"])
        return dict(document["done"])
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise ConfinedFailed("it gave no answer that can be read") from None


def _ending(code: int, log: BinaryIO) -> str:
    if code < 0:
        with contextlib.suppress(ValueError):
            return f"the process was ended by {signal.Signals(-code).name}"
    log.seek(max(0, log.seek(0, os.SEEK_END) - LAST_WORDS_BYTES))
    words = log.read(LAST_WORDS_BYTES).decode("utf-8", "replace").strip().splitlines()
    return f"the process ended with code {code}" + (f": {words[-1][:300]}" if words else "")
