"""How the traffic of one model is divided while a rollout goes on: a value that the data plane takes in one swap.

It says where requests go, not why. Checked when it is made, so that the data plane need not.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from gateway.rollouts.patterns import InvalidPattern, compile_pattern
from gateway.rollouts.tolerances import Comparison

RuleKind = Literal["exact", "prefix", "regex"]
StickyKind = Literal["header", "cookie", "metadata", "parameter"]
MAX_HEADER_VALUE = 256
"""Bytes of a header's value that rules and stickiness look at; a longer value matches no rule and sticks to nothing."""


class InvalidRoute(ValueError):
    """`field` is the path of what is wrong, such as `arms[1].weight`."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field, self.reason = field, reason


@dataclass(frozen=True)
class Arm:
    """A version on trial and its share of the traffic, 0 to 1."""

    version: int
    weight: float


@dataclass(frozen=True)
class Shadow:
    """A version that gets copies of requests and whose answers nobody sees.

    Copies run at the lowest priority of the version's own queue. They are dropped, and counted, when `max_requests` or
    `max_bytes` (of request and answer bodies) are under way, or when the version's queue holds more than a batch.
    """

    version: int
    fraction: float
    """Of the requests that the stable version is asked, 0 to 1."""
    max_requests: int = 256
    max_bytes: int = 64 << 20
    comparison: Comparison = Comparison()
    """How far its answers may be from the stable version's."""


@dataclass(frozen=True)
class HeaderRule:
    """Requests with a header (over gRPC: a metadata key) whose value matches go to `version`, whatever the weights.

    `regex` must match the whole value, in the words of RE2. The first rule that matches counts.
    """

    header: str
    kind: RuleKind
    value: str
    version: int


@dataclass(frozen=True)
class Stickiness:
    """What keeps requests together: those with the same value go the same way while the weights stay, and raising a
    weight moves none back to stable. Requests without it are divided one by one.

    `header` and `metadata` are the same: the header over HTTP, the metadata key over gRPC. `parameter` is a request
    parameter with a string or whole number. The values of calls within a stream are those of parameters alone.
    """

    kind: StickyKind
    name: str


@dataclass(frozen=True)
class RolloutRoute:
    """Every request that names no version is drawn a number below 1: the first arm takes those below its weight, the
    second those below the sum of both, and so on, and the rest is the stable version's. With one arm, raising its
    weight only adds to it; with more, raising that of the last does.

    A version that is not ready is never routed to: its share goes to the stable version. Aliases and versions in the
    path come first, then `rules`, then the draw.
    """

    stable: int
    arms: tuple[Arm, ...] = ()
    shadow: Shadow | None = None
    rules: tuple[HeaderRule, ...] = ()
    stickiness: Stickiness | None = None
    retry: bool = True
    """Whether what fails at an arm is answered by the stable version, within its deadline."""
    salt: bytes = field(default=bytes(16), repr=False)
    """16 bytes, the same in all replicas and over all steps of a rollout, another in the next rollout: it keys the hash
    that units stick by, so that no caller can choose to be on the canary, nor the same callers always are."""
    thresholds: tuple[float, float, float] | None = None
    """Seconds, ascending: an answer whose batch took longer than so many of them in the engine is as slow as that.
    The time in the engine is free of queues, which differ with the weights although the versions do not."""

    def __post_init__(self) -> None:
        total = 0.0
        seen = {self.stable}
        for index, arm in enumerate(self.arms):
            _check(0 <= arm.weight <= 1, f"arms[{index}].weight", f"must lie in 0 to 1, is {arm.weight}")
            _check(arm.version not in seen, f"arms[{index}].version", f"version {arm.version} is named twice")
            seen.add(arm.version)
            total += arm.weight
        _check(total <= 1 + 1e-9, "arms", f"weights add up to {total}, 1 at most")
        if self.shadow is not None:
            _check(0 <= self.shadow.fraction <= 1, "shadow.fraction", f"must lie in 0 to 1, is {self.shadow.fraction}")
            _check(self.shadow.version != self.stable, "shadow.version", "is the stable version")
            _check(self.shadow.max_requests > 0, "shadow.max_requests", "must be positive")
            _check(self.shadow.max_bytes > 0, "shadow.max_bytes", "must be positive")
        for index, rule in enumerate(self.rules):
            _check(bool(rule.header), f"rules[{index}].header", "is empty")
            if rule.kind == "regex":
                try:
                    compile_pattern(rule.value)
                except InvalidPattern as error:
                    raise InvalidRoute(f"rules[{index}].value", f"no regular expression of RE2: {error}") from None
        if self.stickiness is not None:
            _check(bool(self.stickiness.name), "stickiness.name", "is empty")
        _check(len(self.salt) == 16, "salt", f"must be 16 bytes, is {len(self.salt)}")
        if self.thresholds is not None:
            ordered = 0 < self.thresholds[0] <= self.thresholds[1] <= self.thresholds[2]
            _check(ordered, "thresholds", f"must be positive and ascending, are {self.thresholds}")


def _check(holds: bool, field: str, reason: str) -> None:
    if not holds:
        raise InvalidRoute(field, reason)
