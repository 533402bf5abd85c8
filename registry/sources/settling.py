"""What two scans in a row agree on, and how one snapshot differs from another. Pure: snapshots in, snapshots out.

The stability rule: a version, a configuration, or the absence of either is believed once two consecutive scans saw the
same. Where they disagree, a copy is still being written or a folder is just being swapped, and what was believed before
stands. So a half-written version is never announced, and one that is renamed away and back never vanishes. A snapshot
that says of itself that it is consistent is believed as it is, but for models that it could not read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TypeVar

from registry.sources import ModelListing, Snapshot

K = TypeVar("K")
V = TypeVar("V")


class Settling:
    """Turns the scans of a source, one after the other, into what is believed."""

    def __init__(self) -> None:
        self._last: Snapshot | None = None
        self.believed = Snapshot()
        self.is_settled = False
        """Whether the last scan agreed with the one before in everything that it could read."""

    def observe(self, scan: Snapshot) -> Snapshot:
        """Takes the next scan; returns what is believed now."""
        last, self._last = self._last, scan
        if scan.is_consistent:
            before = self.believed.models
            models = {name: _unless_unread(before.get(name), model) for name, model in scan.models.items()}
            self.believed, self.is_settled = Snapshot(MappingProxyType(models), scan.problems), True
            return self.believed
        if last is None:
            self.is_settled = not scan.models
            return self.believed
        settled = {
            name: _settle_model(self.believed.models.get(name), last.models[name], model)
            if (model := scan.models.get(name)) is not None and name in last.models
            else self.believed.models.get(name)
            for name in sorted(last.models.keys() | scan.models.keys())
        }
        present = {name: model for name, model in settled.items() if model}
        self.believed = Snapshot(MappingProxyType(present), scan.problems)
        self.is_settled = all(last.models.get(name) == model for name, model in scan.models.items()) and (
            last.models.keys() <= scan.models.keys()
        )
        return self.believed


def _unless_unread(believed: ModelListing | None, scan: ModelListing) -> ModelListing:
    return replace(believed, problem=scan.problem) if believed and scan.problem else scan


def _settle_model(believed: ModelListing | None, last: ModelListing, scan: ModelListing) -> ModelListing | None:
    if scan.problem or last.problem:
        return replace(believed, problem=scan.problem) if believed else None
    before = believed or replace(scan, versions=MappingProxyType({}), config=None, companions=())
    same_config = (scan.config, scan.companions) == (last.config, last.companions)
    if not same_config and believed is None:
        return None
    of = scan if same_config else before
    versions = _settle(before.versions, last.versions, scan.versions)
    return ModelListing(scan.name, scan.path, versions, of.config, of.companions)


def _settle(believed: Mapping[K, V], last: Mapping[K, V], scan: Mapping[K, V]) -> Mapping[K, V]:
    """Each key by itself: as the scan has it when the last one had it so too, else as it was believed."""
    settled: dict[K, V] = {}
    for key in sorted(believed.keys() | last.keys() | scan.keys(), key=repr):
        agreed = last.get(key) == scan.get(key)
        value = scan.get(key) if agreed else believed.get(key)
        if value is not None:
            settled[key] = value
    return MappingProxyType(settled)


@dataclass(frozen=True)
class Changes:
    """How one snapshot differs from an earlier one, as (model, version) pairs and model names."""

    added: frozenset[tuple[str, int]] = frozenset()
    removed: frozenset[tuple[str, int]] = frozenset()
    changed: frozenset[tuple[str, int]] = frozenset()
    """There before and after, with other files."""
    reconfigured: frozenset[str] = frozenset()
    """Models there before and after, with another config.pbtxt or other files beside it."""

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.changed or self.reconfigured)


def diff(before: Snapshot, after: Snapshot) -> Changes:
    """What happened from `before` to `after`."""
    old = {
        (name, version): listing.files
        for name, model in before.models.items()
        for version, listing in model.versions.items()
    }
    new = {
        (name, version): listing.files
        for name, model in after.models.items()
        for version, listing in model.versions.items()
    }
    common = before.models.keys() & after.models.keys()
    return Changes(
        added=frozenset(new.keys() - old.keys()),
        removed=frozenset(old.keys() - new.keys()),
        changed=frozenset(key for key in old.keys() & new.keys() if old[key] != new[key]),
        reconfigured=frozenset(name for name in common if _configuration(before, name) != _configuration(after, name)),
    )


def _configuration(snapshot: Snapshot, name: str) -> object:
    model = snapshot.models[name]
    return model.config, model.companions
