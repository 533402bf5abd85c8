"""`sluice serve` with a socket through which a test steers its rollouts: run as a program with the command's arguments.

One JSON object a line: `{"model": …, "route": {…}}` sets a route, `{"model": …}` alone reads; the answer to both is
`{"counts": […], "events": […], "shadows": […]}`, with all events since the start.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import socket
from pathlib import Path
from typing import Any

import gateway.server
from gateway.cli import main
from gateway.dataplane import DataPlane
from gateway.rollouts.route import Arm, HeaderRule, RolloutRoute, Shadow, Stickiness
from gateway.rollouts.tolerances import Comparison

SOCKET = "ROLLOUT_SOCKET"


class Steering:
    """The test's end."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(str(path))
        self._lines = self._socket.makefile("rw")

    def ask(self, model: str, route: RolloutRoute | None = None) -> dict[str, Any]:
        question: dict[str, Any] = {"model": model}
        if route is not None:
            question["route"] = dataclasses.asdict(route) | {"salt": route.salt.hex()}
        self._lines.write(json.dumps(question) + "\n")
        self._lines.flush()
        answer: dict[str, Any] = json.loads(self._lines.readline())
        return answer

    def close(self) -> None:
        self._lines.close()
        self._socket.close()


class SteeredPlane(DataPlane):
    def start(self) -> None:
        super().start()
        self.told: list[dict[str, Any]] = []
        self.on_events(lambda events: self.told.extend(event._asdict() for event in events))
        server = asyncio.start_unix_server(self._serve, os.environ[SOCKET])
        self._steering = asyncio.get_running_loop().create_task(server)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            question = json.loads(line)
            if "route" in question:
                self.set_rollout(question["model"], read_route(question["route"]))
            shadows = [one._asdict() for one in self.shadow_counts(question["model"])]
            counts = [count._asdict() for count in self.arm_counts(question["model"])]
            writer.write(json.dumps({"counts": counts, "events": self.told, "shadows": shadows}).encode() + b"\n")
        writer.close()


def read_route(plain: dict[str, Any]) -> RolloutRoute:
    return RolloutRoute(
        plain["stable"],
        tuple(Arm(**arm) for arm in plain["arms"]),
        shadow=Shadow(**plain["shadow"] | {"comparison": Comparison()}) if plain["shadow"] else None,
        rules=tuple(HeaderRule(**rule) for rule in plain["rules"]),
        stickiness=Stickiness(**plain["stickiness"]) if plain["stickiness"] else None,
        retry=plain["retry"],
        salt=bytes.fromhex(plain["salt"]),
        thresholds=plain["thresholds"] and tuple(plain["thresholds"]),
    )


if __name__ == "__main__":
    gateway.server.DataPlane = SteeredPlane  # type: ignore[misc]
    main()
