"""Entry of the processes below the gateway: `python -m gateway.workers.main`, started by the supervisor and nobody
else.

As `zygote` it confines itself, imports the engine and forks workers on request. As `worker` it is a fresh interpreter
that hosts one model: the slower way, for engines that cannot be forked.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import os
import signal
import sys
import traceback

from gateway.workers import confine
from gateway.workers.zygote import Zygote, become_worker

PRELOADED = ("numpy", "onnxruntime", "gateway.workers.worker", "gateway.backends.onnxruntime")
ZYGOTE_FILES = 4096


def main(arguments: list[str]) -> None:
    options = _parse(arguments)
    # The gateway ends its children itself, when it has drained. Signals meant for the group or the service are its
    # affair.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    confine.die_with_parent(options.parent)
    if options.role == "worker":
        become_worker(options, *options.fds)
    is_confined = confine.deny_network()
    confine.yield_to_others(nice=options.nice, oom_score_adj=options.oom_score_adj)
    confine.limit_resources(open_files=ZYGOTE_FILES)
    if options.start_method == "fork":
        for name in PRELOADED:
            importlib.import_module(name)
    # What is here now is shared with every worker: the collector must not touch it.
    gc.collect()
    gc.freeze()
    try:
        Zygote(options).run(is_confined=is_confined)
    except BaseException:
        traceback.print_exc()
    finally:
        # Without the interpreter's own way out: the engine's parts have no end to come to in a process that never
        # used it.
        os._exit(0)


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="gateway.workers.main")
    parser.add_argument("role", choices=("zygote", "worker"))
    parser.add_argument("--fds", type=lambda text: [int(fd) for fd in text.split(",")], required=True)
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("--start-method", choices=("fork", "spawn"), default="fork")
    parser.add_argument("--nice", type=int, default=0)
    parser.add_argument("--oom-score-adj", type=int, default=0)
    parser.add_argument("--address-space-bytes", type=int, default=0)
    parser.add_argument("--allow-any-backend", action="store_true")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main(sys.argv[1:])
