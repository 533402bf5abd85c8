"""The route of one model while a rollout is under way, as the data plane takes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Arm:
    version: int
    weight: float


@dataclass(frozen=True)
class Shadow:
    version: int
    fraction: float


@dataclass(frozen=True)
class HeaderRule:
    header: str
    kind: Literal["exact", "prefix", "regex"]
    value: str
    version: int


@dataclass(frozen=True)
class Stickiness:
    kind: Literal["header", "cookie", "metadata", "parameter"]
    name: str


@dataclass(frozen=True)
class RolloutRoute:
    stable: int
    arms: tuple[Arm, ...] = ()
    shadow: Shadow | None = None
    rules: tuple[HeaderRule, ...] = ()
    stickiness: Stickiness | None = None
    retry: bool = True
    salt: bytes = b""
    thresholds: tuple[float, float, float] | None = None
