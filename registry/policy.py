"""Which of a model's versions are wanted. A policy chooses from those that exist; it knows no state and no time."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from registry.errors import InvalidPolicy


@dataclass(frozen=True)
class Latest:
    """The `count` highest versions."""

    count: int = 1

    def __post_init__(self) -> None:
        if self.count < 1:
            raise InvalidPolicy("count", self.count)

    def choose(self, versions: Iterable[int]) -> frozenset[int]:
        return frozenset(sorted(versions)[-self.count :])

    def missing(self, versions: Iterable[int]) -> frozenset[int]:
        return frozenset()


@dataclass(frozen=True)
class All:
    """Every version."""

    def choose(self, versions: Iterable[int]) -> frozenset[int]:
        return frozenset(versions)

    def missing(self, versions: Iterable[int]) -> frozenset[int]:
        return frozenset()


@dataclass(frozen=True)
class Specific:
    """The named versions, those of them that exist."""

    versions: frozenset[int]

    def __post_init__(self) -> None:
        if not self.versions or min(self.versions) < 1:
            raise InvalidPolicy("versions", sorted(self.versions))

    def choose(self, versions: Iterable[int]) -> frozenset[int]:
        return self.versions & frozenset(versions)

    def missing(self, versions: Iterable[int]) -> frozenset[int]:
        """Named, and not there."""
        return self.versions - frozenset(versions)


VersionPolicy = Latest | All | Specific
