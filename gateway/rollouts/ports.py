"""What the controller of rollouts needs from the outside."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

T = TypeVar("T")


class InThread(Protocol):
    """Runs what blocks, beside the event loop."""

    async def __call__(self, work: Callable[[], T]) -> T: ...
