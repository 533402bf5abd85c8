"""The confined process itself: gives up what it does not need, does one task, writes the answer, ends."""

from __future__ import annotations

import importlib
import json
import os
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gateway.confined import ANSWER, REQUEST
from gateway.workers.confine import deny_network, die_with_parent, limit_resources, yield_to_others
from gateway.workers.confine_files import write_only_below
from registry.errors import ArtifactRefused

MAX_FILE_BYTES = 4 << 30

Perform = Callable[[Path, dict[str, Any]], dict[str, Any]]


def main(module: str, parent: str, address_space_bytes: str) -> None:
    folder = Path.cwd()
    die_with_parent(int(parent))
    limit_resources(address_space_bytes=int(address_space_bytes))
    resource.setrlimit(resource.RLIMIT_FSIZE, (MAX_FILE_BYTES, MAX_FILE_BYTES))
    yield_to_others(nice=5, oom_score_adj=900)
    has_walls = write_only_below(folder)
    if not has_walls:
        sys.stderr.write("no Landlock here: what this process writes is not bounded to its folder\n")
    if not deny_network():
        has_walls = False
        sys.stderr.write("no system call filter here: this process can reach the network\n")
    request = json.loads((folder / REQUEST).read_text("utf-8")) | {"has_walls": has_walls}
    perform: Perform = importlib.import_module(module).perform
    try:
        answer: dict[str, Any] = {"done": perform(folder, request)}
    except ArtifactRefused as error:
        answer = {"refused": {"kind": type(error).__name__, "facts": vars(error)}}
    (folder / ANSWER).write_text(json.dumps(answer), "utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
    # Libraries with threads of their own may hang or crash on the way out; the answer is written.
    sys.stdout.flush()
    os._exit(0)
