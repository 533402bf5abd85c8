"""What the controller of rollouts needs from the outside."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, TypeVar

from gateway.attempts import IndexRow
from gateway.metrics import Served
from gateway.rollouts.route import RolloutRoute
from gateway.shadows import ShadowCounts
from kernels.rollout import ArmCounts, ArmEvents
from registry.sources.catalog import Proposal

T = TypeVar("T")


class InThread(Protocol):
    """Runs what blocks, beside the event loop."""

    async def __call__(self, work: Callable[[], T]) -> T: ...


class Source(Protocol):
    """`registry.sources.catalog.CatalogSource`."""

    def admit(self, versions: Mapping[str, frozenset[int]]) -> None: ...
    def proposals(self) -> tuple[Proposal, ...]: ...
    def aliases(self) -> Mapping[str, Mapping[str, int]]: ...
    def notes(self, model: str) -> tuple[str, ...]: ...


class Models(Protocol):
    """`gateway.models.Models`: which versions are ready here, and why others are not."""

    def index(self, *, is_ready: bool = False) -> Sequence[IndexRow]: ...
    def ready_versions(self, model: str) -> tuple[int, ...]: ...
    def subscribe(self, listener: Callable[[], None]) -> Callable[[], None]: ...


class Plane(Protocol):
    """`gateway.dataplane.DataPlane`: what routes and counts."""

    def set_rollout(self, model: str, route: RolloutRoute | None) -> None: ...
    def set_aliases(self, model: str, aliases: Mapping[str, int]) -> None: ...
    def on_events(self, callback: Callable[[list[ArmEvents]], None]) -> None: ...
    def compute_quantiles(
        self, model: str, version: int, quantiles: Sequence[float]
    ) -> tuple[float, ...] | None: ...
    def arm_counts(self, model: str) -> Sequence[ArmCounts]: ...
    def shadow_counts(self, model: str) -> Sequence[ShadowCounts]: ...
    def served(self) -> Sequence[Served]: ...
