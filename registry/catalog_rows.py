"""What the catalog answers with: plain rows. They know no database."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from registry.audit import AuditEntry
from registry.manifest import Manifest
from registry.policies import AliasMove, ApprovalPolicy, ModelPolicy, Stage


@dataclass(frozen=True)
class ModelRow:
    """One model."""

    name: str
    policy: ModelPolicy
    created_at: str

    @property
    def served_by(self) -> str:
        return self.policy.served_by

    @property
    def on_alias_move(self) -> AliasMove:
        return self.policy.on_alias_move

    @property
    def approval(self) -> ApprovalPolicy:
        return self.policy.approval


@dataclass(frozen=True)
class VersionBrief:
    """One version without its manifest."""

    model: str
    version: int
    digest: str
    """SHA-256 of the manifest in canonical JSON."""
    stage: Stage
    created_at: str
    author: str
    """Who published it, as the catalog was told."""


@dataclass(frozen=True)
class CheckRow:
    """The outcome of one check."""

    name: str
    subject: str
    is_passed: bool
    detail: str = ""


@dataclass(frozen=True)
class VersionRow(VersionBrief):
    """One version."""

    manifest_json: str = field(repr=False)
    signatures: tuple[str, ...] = field(default=(), repr=False)
    """Signature bundles, unverified."""
    checks: tuple[CheckRow, ...] = ()
    """The oldest first."""

    @cached_property
    def manifest(self) -> Manifest:
        """Raises InvalidManifest or UnsafePath when the database holds no manifest here."""
        return Manifest.from_json(self.manifest_json)


@dataclass(frozen=True)
class AliasRow:
    """Where an alias points; None when it was just removed. Each move has the next generation."""

    model: str
    alias: str
    version: int | None
    generation: int


@dataclass(frozen=True)
class AliasMoveRow:
    """One move of an alias."""

    model: str
    alias: str
    before: int | None
    version: int | None
    generation: int
    actor: str
    reason: str
    at: str

    @classmethod
    def from_entry(cls, model: str, alias: str, entry: AuditEntry) -> AliasMoveRow:
        """From the audit entry of the move."""
        before = entry.before["version"] if entry.before else None
        after = entry.after
        return cls(model, alias, before, after["version"], after["generation"], entry.actor, entry.reason, entry.at)


@dataclass(frozen=True)
class RolloutBrief:
    """A rollout under way: which two versions have to be at hand."""

    id: str
    model: str
    stable: int
    canary: int


@dataclass(frozen=True)
class Overview:
    """All models at one moment, without manifests."""

    token: int
    """The change token of that moment."""
    models: Mapping[str, ModelRow]
    versions: Mapping[str, tuple[VersionBrief, ...]]
    """By model, the oldest first."""
    aliases: Mapping[str, Mapping[str, AliasRow]]
    """By model and alias; only those that point somewhere."""
    rollouts: Mapping[str, RolloutBrief] = field(default_factory=dict)
    """Those under way, by model."""
    settled: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """By model and alias: the newest move that a rollout has made, or has found to be good."""


def version_target(model: str, version: int) -> str:
    """How the audit log names a version."""
    return f"{model}/{version}"


def alias_target(model: str, alias: str) -> str:
    """How the audit log names an alias."""
    return f"{model}@{alias}"


def rollout_target(id: str) -> str:
    """How the audit log names a rollout."""
    return f"rollout:{id}"
