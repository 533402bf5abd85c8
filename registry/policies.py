"""What an organisation asks of a version before it may be served, and how a model's versions are served. Pure: facts
in, reasons out; nothing here reads a file, a database or a clock.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, Protocol

from registry.errors import InvalidPolicy
from registry.manifest import Manifest, canonical_json, is_sha256
from registry.names import is_alias
from registry.policy import All, Latest, Specific, VersionPolicy

AliasMove = Literal["swap", "propose"]
Stage = Literal["pending", "approved", "rejected"]

DEFAULT_ALIAS = "champion"
GOLDEN = "golden"
"""The name under which the outcome of a golden set is recorded."""

_LATEST = re.compile(r"latest(?::([1-9][0-9]{0,8}))?")
_VERSIONS = re.compile(r"versions:([1-9][0-9]{0,17}(?:,[1-9][0-9]{0,17})*)")


@dataclass(frozen=True)
class ByAlias:
    """The version that an alias points at; with `or_latest`, the latest where there is no such alias."""

    alias: str
    or_latest: bool = False


Served = ByAlias | VersionPolicy


def parse_served_by(text: str) -> Served:
    """Reads `default` (the alias champion where it exists, else the latest), `alias:NAME`, `latest`, `latest:N`, `all`
    or `versions:1,3`.

    Raises:
        InvalidPolicy: it is none of these.
    """
    if text == "default":
        return ByAlias(DEFAULT_ALIAS, or_latest=True)
    if text == "all":
        return All()
    if match := _LATEST.fullmatch(text):
        return Latest(int(match[1] or 1))
    if match := _VERSIONS.fullmatch(text):
        return Specific(frozenset(map(int, match[1].split(","))))
    if text.startswith("alias:") and is_alias(text.removeprefix("alias:")):
        return ByAlias(text.removeprefix("alias:"))
    raise InvalidPolicy("served_by", text)


def choose(served: Served, versions: Iterable[int], aliases: Mapping[str, int]) -> frozenset[int]:
    """Which of the `versions` are wanted, by a parsed policy and where the aliases point."""
    present = frozenset(versions)
    if not isinstance(served, ByAlias):
        return served.choose(present)
    if served.alias in aliases:
        return present & {aliases[served.alias]}
    return Latest().choose(present) if served.or_latest else frozenset()


@dataclass(frozen=True)
class GoldenSet:
    """Inputs and the outputs that a version must answer with, kept as the object `sha256` of the artifact store."""

    sha256: str
    size: int
    relative_tolerance: float = 1e-4
    absolute_tolerance: float = 1e-6

    def __post_init__(self) -> None:
        _require("golden.sha256", self.sha256, is_sha256(self.sha256))
        _require("golden.size", self.size, isinstance(self.size, int) and self.size >= 0)
        for name in ("relative_tolerance", "absolute_tolerance"):
            value = getattr(self, name)
            _require(f"golden.{name}", value, isinstance(value, int | float) and 0 <= value < float("inf"))


@dataclass(frozen=True)
class ApprovalPolicy:
    """What has to hold before a version may be served. The default asks for nothing."""

    require_approval: bool = False
    """By somebody other than the author."""
    signed_by: tuple[str, ...] = ()
    """Public keys in PEM; a signature by one of them is required. Empty: none is."""
    formats: tuple[str, ...] = ("onnx",)
    card_fields: tuple[str, ...] = ()
    """Fields that the model card must have, with something in them."""
    golden: GoldenSet | None = None

    def __post_init__(self) -> None:
        _require("require_approval", self.require_approval, isinstance(self.require_approval, bool))
        for name in ("signed_by", "formats", "card_fields"):
            values = getattr(self, name)
            is_text = isinstance(values, list | tuple) and all(isinstance(value, str) and value for value in values)
            _require(name, values, is_text)
            object.__setattr__(self, name, tuple(values))
        _require("golden", self.golden, self.golden is None or isinstance(self.golden, GoldenSet))


@dataclass(frozen=True)
class ModelPolicy:
    """How the versions of one model are served, and what is asked of them."""

    served_by: str = "default"
    """See `parse_served_by`."""
    on_alias_move: AliasMove = "swap"
    """`swap`: the version that an alias moves to takes all traffic at once. `propose`: it is offered to a rollout."""
    approval: ApprovalPolicy = field(default_factory=ApprovalPolicy)
    load_on_demand: bool = False
    """Loaded by the first request, and unloaded when others need the memory."""

    def __post_init__(self) -> None:
        _require("served_by", self.served_by, isinstance(self.served_by, str))
        parse_served_by(self.served_by)
        _require("on_alias_move", self.on_alias_move, self.on_alias_move in ("swap", "propose"))
        _require("approval", self.approval, isinstance(self.approval, ApprovalPolicy))
        _require("load_on_demand", self.load_on_demand, isinstance(self.load_on_demand, bool))

    def to_dict(self) -> dict[str, Any]:
        """JSON values, complete."""
        plain = asdict(self)
        for name in ("signed_by", "formats", "card_fields"):
            plain["approval"][name] = list(plain["approval"][name])
        return plain

    @property
    def digest(self) -> str:
        """SHA-256 of `to_dict` in canonical JSON: equal policies have the same."""
        return hashlib.sha256(canonical_json(self.to_dict()).encode()).hexdigest()

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> ModelPolicy:
        """Reads what `to_dict` wrote; what is missing has its default.

        Raises:
            InvalidPolicy: a field that is unknown, or of a value that makes no sense.
        """
        values = _known(cls, "", plain)
        if "approval" in values:
            approval = _known(ApprovalPolicy, "approval", values["approval"])
            if approval.get("golden") is not None:
                golden = _known(GoldenSet, "approval.golden", approval["golden"])
                _require("approval.golden", golden, {"sha256", "size"} <= golden.keys())
                approval["golden"] = GoldenSet(**golden)
            values["approval"] = ApprovalPolicy(**approval)
        return cls(**values)


class Check(Protocol):
    """The recorded outcome of one check: its `name`, what it was made against, and whether it passed."""

    @property
    def name(self) -> str: ...
    @property
    def subject(self) -> str: ...
    @property
    def is_passed(self) -> bool: ...


class Version(Protocol):
    """What `may_serve` looks at; the catalog's VersionRow is one."""

    @property
    def manifest(self) -> Manifest: ...
    @property
    def stage(self) -> Stage: ...
    @property
    def signatures(self) -> tuple[str, ...]: ...
    @property
    def checks(self) -> Iterable[Check]: ...


IsSignedBy = Callable[[Manifest, str, str], bool]
"""Whether a signature (the second argument) is good for the manifest's files by the public key (the third)."""


def may_publish(format: str, card: Mapping[str, Any], policy: ApprovalPolicy) -> list[str]:
    """Reasons why no version of this format and with this model card could ever be served; none when it could."""
    reasons = []
    if format not in policy.formats:
        reasons.append(f"format {format} is not allowed")
    missing = [name for name in policy.card_fields if card.get(name) in (None, "", [], {})]
    if missing:
        reasons.append(f"the model card lacks {', '.join(missing)}")
    return reasons


def may_serve(version: Version, policy: ApprovalPolicy, is_signed_by: IsSignedBy) -> list[str]:
    """Reasons why a version may not be served now; none when it may.

    Args:
        is_signed_by: `registry.signing.is_signed_by`; asked only when the policy names keys.
    """
    reasons = ["rejected"] if version.stage == "rejected" else []
    reasons += may_publish(version.manifest.format, version.manifest.card, policy)
    if policy.require_approval and version.stage == "pending":
        reasons.append("not approved yet")
    if policy.signed_by and not any(
        is_signed_by(version.manifest, signature, key) for signature in version.signatures for key in policy.signed_by
    ):
        reasons.append("no signature by a known key" if version.signatures else "not signed")
    if policy.golden is not None:
        reasons += _golden_reasons(version, policy.golden)
    return reasons


def golden_subject(golden: GoldenSet) -> str:
    """What a golden check is recorded against: the set and the tolerances, so that a changed policy asks anew."""
    return f"{golden.sha256} rtol={golden.relative_tolerance:g} atol={golden.absolute_tolerance:g}"


def _golden_reasons(version: Version, golden: GoldenSet) -> list[str]:
    subject = golden_subject(golden)
    outcomes = [check.is_passed for check in version.checks if (check.name, check.subject) == (GOLDEN, subject)]
    if not outcomes:
        return ["not checked against the golden set yet"]
    return [] if outcomes[-1] else ["its outputs differ from the golden set's"]


def _known(kind: type, name: str, plain: object) -> dict[str, Any]:
    if not isinstance(plain, Mapping):
        raise InvalidPolicy(name, plain)
    known = {item.name for item in fields(kind)}
    for key in plain:
        if key not in known:
            raise InvalidPolicy(f"{name}.{key}" if name else str(key), plain[key])
    return dict(plain)


def _require(name: str, value: object, is_met: bool) -> None:
    if not is_met:
        raise InvalidPolicy(name, value)
