"""Other people's clients, installed once into a folder that git ignores. What cannot be installed here is skipped."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from live_gateway import ROOT

INSTALL_SECONDS = 600
CACHE = ROOT / ".make" / "interop"


def install(stamp: Path, *commands: Sequence[str | Path]) -> None:
    """Runs the commands unless `stamp` exists, and makes it. A command that fails skips the test: it is the network's
    or the machine's fault, and its last words say which."""
    if stamp.exists():
        return
    stamp.parent.mkdir(parents=True, exist_ok=True)
    for command in commands:
        try:
            subprocess.run(
                command, cwd=stamp.parent, check=True, capture_output=True, timeout=INSTALL_SECONDS, text=True
            )
        except FileNotFoundError as error:
            pytest.skip(f"not here: {error.filename}")
        except subprocess.CalledProcessError as error:
            pytest.skip(f"cannot install: {error.stderr.strip()[-300:]}")
    stamp.touch()


def run(command: Sequence[str | Path], env: Mapping[str, str] | None = None, seconds: float = 100) -> str:
    """The command's output; it must succeed."""
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=seconds, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout
