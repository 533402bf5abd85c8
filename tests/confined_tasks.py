"""What a confined process is made to do by its tests."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import time
from pathlib import Path
from typing import Any

from registry.errors import LimitExceeded


def perform(folder: Path, request: dict[str, Any]) -> dict[str, Any]:
    match request["do"]:
        case "echo":
            return {"files": sorted(path.name for path in folder.iterdir()), "environment": sorted(os.environ)}
        case "crash":
            ctypes.string_at(0)
        case "fork":
            pid = os.fork()
            if pid == 0:
                signal.pause()
            return {"pid": pid}
        case "hang":
            while True:
                time.sleep(1)
        case "eat":
            return {"bytes": len(bytearray(request["bytes"]))}
        case "raise":
            raise ValueError("of a library")
        case "refuse":
            raise LimitExceeded("model.onnx", "bytes", 3, 2)
        case "answer":
            (folder / "answer.json").mkdir()
        case "end":  # with something else in the place of its files
            match request["as"]:
                case "pipe":
                    os.mkfifo(folder / "answer.json")
                case "folder":
                    (folder / "answer.json").mkdir()
                case link:
                    for name in ("answer.json", "log.txt"):
                        (folder / name).unlink(missing_ok=True)
                        (folder / name).symlink_to(link)
            os._exit(request["code"])
    return {"attempts": attempts(Path(request["outside"]))}


def attempts(outside: Path) -> dict[str, str]:
    """What happened to each thing that a process may not do."""
    tried = {
        "write": lambda: (outside / "new").write_text("x"),
        "overwrite": lambda: (outside / "old").write_text("x"),
        "truncate": lambda: os.truncate(outside / "old", 0),
        "remove": lambda: (outside / "old").unlink(),
        "rename": lambda: (outside / "old").rename("here"),
        "link": lambda: os.symlink("/etc", outside / "link"),
        "make a folder": lambda: (outside / "folder").mkdir(),
        "connect": lambda: socket.create_connection(("127.0.0.1", 9), 1),
    }
    found = {}
    for name, attempt in tried.items():
        try:
            attempt()
            found[name] = "done"
        except OSError as error:
            found[name] = type(error).__name__
    return found
