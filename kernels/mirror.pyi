"""Copies of requests for a version whose answers nobody sees: what is held of them, and the pairs of answers.

It knows no queue: the dispatcher copies and launches, the deployments say what was answered.
"""

from collections.abc import Callable
from typing import Generic, TypeVar

from kernels.tensors import Tensor

Target = TypeVar("Target")

class Pair:
    """What both versions made of one request, complete.

    `request_id` is the caller's, its first 256 bytes. `live` and `shadow` are their outputs. `shadow` is None when the
    shadow failed by its own doing; `failure` then says how.
    """

    request_id: bytes
    live: tuple[Tensor, ...]
    shadow: tuple[Tensor, ...] | None
    failure: bytes | None

class Mirror(Generic[Target]):
    """What one shadow may use, and what came of it. Outlives the rollouts that name it.

    Args:
        call_soon: the event loop's.
        on_pairs: called soon after pairs are complete, with a list. Whoever takes them gives each back.
    """

    target: Target | None
    fraction: float
    max_requests: int
    max_bytes: int
    requests: int
    nbytes: int
    """Pairs that were not given back yet, and the bytes of their requests and outputs."""
    mirrored: int
    """Requests that were to be copied."""
    dropped: int
    """Of them, those that were not compared for want of room, or because the shadow was busy or not ready."""
    unpaired: int
    """Of them, those with nothing to compare: the live one failed or its caller went, or the copy was turned away."""
    def __init__(
        self, call_soon: Callable[[Callable[[], object]], object], on_pairs: Callable[[list[Pair]], object]
    ) -> None:
        """Nothing is copied before `aim`."""

    def aim(self, target: Target | None, fraction: float, max_requests: int, max_bytes: int) -> None:
        """From here on, copies this fraction (0 to 1) of requests to `target`; None: none, and what was copied but not
        sent is dropped."""

    def release(self, pair: Pair) -> None:
        """Gives back the room of a pair. Once for each."""
