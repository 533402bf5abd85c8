"""`sluice serve` that notes what its rollouts were told of and when it changed its routes.

Run as a program with the command's arguments. Each line of the file that ROLLOUT_TIMES names is one JSON object: the
fields of an `ArmEvents`, or `{"weight": …, "at": seconds}` once a route is in force for the next request. Seconds are the
machine's monotonic clock, which all processes share.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FILE = "ROLLOUT_TIMES"


@dataclass(frozen=True)
class Times:
    """What one gateway noted. `closed`: when no request was routed to the canary any more; None where none ever was."""

    events: tuple[dict[str, Any], ...]
    closed: float | None


def read(file: Path) -> Times:
    lines = [json.loads(text) for text in file.read_text().splitlines()]
    weights = [line for line in lines if "kind" not in line]
    opened = [line["at"] for line in weights if line["weight"] > 0]
    closed = [line["at"] for line in weights if opened and line["weight"] == 0 and line["at"] > opened[-1]]
    return Times(tuple(line for line in lines if "kind" in line), closed[0] if closed else None)


def deciding_event(gateways: Sequence[Times], plan: dict[str, Any]) -> float | None:
    """When the event came that was enough, all gateways' taken together; None where no guard fires."""
    from gateway.rollouts.evidence import Event
    from gateway.rollouts.guards import judge
    from gateway.rollouts.plan_reader import read_plan
    from gateway.rollouts.tally import Tally

    plan_read, tally = read_plan(plan), Tally()
    for line in sorted((line for times in gateways for line in times.events), key=lambda line: line["at"]):
        event = Event(line["kind"], line["is_canary"], line["weight"], line["level"], line["unit"])
        for _ in range(line["events"]):
            tally.add(event)
        if judge(plan_read, tally.evidence).fired:
            return float(line["at"])
    return None


def serve() -> None:
    import gateway.server
    from gateway.cli import main
    from gateway.dataplane import DataPlane
    from gateway.rollouts.route import RolloutRoute
    from kernels.rollout import ArmEvents

    notes = open(os.environ[FILE], "a", buffering=1)  # noqa: SIM115 (until the process ends)

    class TimedPlane(DataPlane):
        def on_events(self, callback: Callable[[list[ArmEvents]], None]) -> None:
            def noted(events: list[ArmEvents]) -> None:
                callback(events)
                for event in events:
                    notes.write(json.dumps(event._asdict()) + "\n")

            super().on_events(noted)

        def set_rollout(self, model: str, route: RolloutRoute | None) -> None:
            super().set_rollout(model, route)
            weight = sum(arm.weight for arm in route.arms) if route is not None else 0.0
            notes.write(json.dumps({"weight": weight, "at": time.monotonic()}) + "\n")

    gateway.server.DataPlane = TimedPlane  # type: ignore[misc]
    main()


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    serve()
