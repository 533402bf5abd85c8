"""How the requests of one model are divided among versions, and what is counted of it.

A `Rollout` is immutable but for its counters: another division is another object, and requests in flight keep the one
that divided them. It knows no model's signature and no queue: what it divides among are targets.
"""

from collections.abc import Sequence
from typing import Generic, Literal, NamedTuple, TypeVar

from kernels.mirror import Mirror

Target = TypeVar("Target")

class ArmEvents(NamedTuple):
    """Requests that went wrong alike: counted requests only, of one model, one arm, one weight.

    An event of the stable version is told once for each arm, as its counterpart.
    """

    model: str
    kind: Literal["failed", "slow"]
    is_canary: bool
    version: str
    """The arm's, whoever served."""
    weight: float
    """The arm's share among it and the stable version when the requests were routed."""
    level: int
    """Of slow ones: how many of the three thresholds the time in the engine was above, 1 to 3; else 0."""
    events: int
    code: int
    """The gRPC status code of one of those that failed; else 0."""
    unit: int | None
    """Of a sticky request, alone in its tuple: a hash of what it sticks by."""
    at: float
    """Monotonic seconds, of the last of them."""

class ArmCounts(NamedTuple):
    """Counted requests of one arm and its counterpart under one weight: those that were divided at random and have
    ended, other than by their callers' doing. Cumulative."""

    version: str
    weight: float
    """As in `ArmEvents`."""
    canary: int
    stable: int
    canary_failed: int
    stable_failed: int
    retried: int
    """Of the canary's, those that were handed over to the stable version."""

class ArmTally:
    """The counters behind one `ArmCounts`; outlives the rollouts that bump it."""

    def __init__(self, version: str, weight: float) -> None: ...
    def counts(self) -> ArmCounts: ...

class Rollout(Generic[Target]):
    """One division of one model's requests.

    Args:
        stable: None while it is not ready: its share then is not ready either.
        arms: target (None while it is not ready: its share goes to stable), weight, and tally, in order.
        rules: (header in lower case, "exact" | "prefix" | "regex", value, target).
        sticky: kind ("header", "cookie", "parameter") and name, or None.
        retry: whether stable answers what an arm fails, or has not answered when half of the time that the request had
            when it was admitted is over. Then the end of that half, while a request runs, is a failure of any version.
        salt: 16 bytes that key the hash of units.
        thresholds: seconds in the engine above which an answer is slow, ascending; empty: none is.
        first_draw: where the sequence of draws begins; by default nobody knows.
        mirror: copies some of the requests that stable is asked; None: nothing is copied.
    """

    def __init__(
        self,
        model: str,
        stable: Target | None,
        arms: Sequence[tuple[Target | None, float, ArmTally]],
        *,
        rules: Sequence[tuple[str, str, str, Target | None]] = ...,
        sticky: tuple[str, str] | None = None,
        retry: bool = True,
        salt: bytes = ...,
        thresholds: Sequence[float] = ...,
        first_draw: int | None = None,
        mirror: Mirror[Target] | None = None,
    ) -> None: ...
    @property
    def headers(self) -> set[str]:
        """Names of the headers that it wants to see, in lower case."""

    @property
    def parameters(self) -> set[str]:
        """Names of the request parameters that it wants to see."""

    def pick_unit(self, unit: bytes) -> int:
        """The arm that a sticky unit belongs to, by position; -1 for stable. Ready or not."""

    def pick_next(self) -> int:
        """The arm of one more request that sticks to nothing."""
