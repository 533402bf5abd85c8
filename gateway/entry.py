"""Where the `sluice` process begins. What stands here runs before anything large is imported, so it imports nothing
large; the command line itself is `gateway.cli`."""

from __future__ import annotations

import os
import signal
import sys


def main() -> None:
    """The `sluice` command. A gateway that is told to stop while it still imports has nothing to finish: it exits with
    0 at once, until the server's own handling of the signals takes over."""
    if sys.argv[1:2] == ["serve"]:
        signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    from gateway.cli import main as run

    run()
