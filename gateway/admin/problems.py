"""What goes wrong in the registry, as problem details (RFC 9457): one table from errors to status, type and sentence.

The admin API answers with them, and the command line tells them to a person, whether it met the error itself or was
told it by a gateway.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from types import MappingProxyType
from typing import Any

from registry import errors

CONTENT_TYPE = "application/problem+json"
TYPE_PREFIX = "urn:sluice:problem:"


@dataclass(frozen=True)
class Problem:
    """One answer that is no success."""

    status: int
    kind: str
    """The last part of the type: what a program may rely on."""
    detail: str
    facts: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    """Extension members: what a program may want to know without reading the sentence."""

    @property
    def title(self) -> str:
        return TITLES.get(self.kind) or HTTPStatus(self.status).phrase

    def to_dict(self) -> dict[str, Any]:
        return {
            "type": TYPE_PREFIX + self.kind,
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
            **self.facts,
        }

    @classmethod
    def from_dict(cls, document: Mapping[str, Any], status: int) -> Problem:
        """Reads what a gateway answered, or whatever stands between."""
        kind = str(document.get("type", "")).removeprefix(TYPE_PREFIX)
        known = ("type", "title", "status", "detail")
        facts = {name: value for name, value in document.items() if name not in known}
        return cls(status, kind, str(document.get("detail") or document.get("title") or "refused"), facts)


class ProblemError(Exception):
    """Carries a problem to whoever answers."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.detail)
        self.problem = problem


TITLES: Mapping[str, str] = MappingProxyType(
    {
        "not-found": "There is no such thing",
        "invalid-request": "The request makes no sense",
        "invalid-name": "That is no name",
        "invalid-policy": "The policy makes no sense",
        "alias-conflict": "The alias has moved since",
        "policy-conflict": "The policy was replaced since",
        "precondition-failed": "It has changed since",
        "precondition-required": "The request must say what it changes",
        "author-may-not-approve": "Somebody other than the author has to decide",
        "approver-unknown": "It must be known who decides",
        "version-rejected": "The version was rejected",
        "policy-refused": "The model's policy refuses it",
        "artifact-refused": "The files are refused",
        "limit-exceeded": "Larger than allowed",
        "digest-mismatch": "Other bytes than announced",
        "unsafe-format": "A format that runs code when it is read",
        "not-converted": "The model cannot be converted",
        "unsupported-format": "A format that is not known",
        "unavailable": "The registry cannot be reached",
        "no-room": "There is no room left",
        "no-registry": "This gateway has no registry",
        "no-catalog": "This gateway does not serve the catalog",
        "rollout-under-way": "The model has a rollout already",
        "rollout-refused": "Not possible as the rollout stands",
        "invalid-plan": "The plan makes no sense",
        "request-key-reused": "The key belongs to another request",
        "unauthorized": "A token is needed",
        "forbidden": "Not allowed",
        "already-delivered": "It has come before",
        "too-many-requests": "Too many at this time",
    }
)

_Row = tuple[type[errors.RegistryError], int, str, Callable[[Any], str]]
_TABLE: tuple[_Row, ...] = (
    (errors.NotFound, 404, "not-found", lambda e: f"there is no {e.kind} {e.name}"),
    (errors.InvalidName, 400, "invalid-name", lambda e: f"{e.name[:128]!r} cannot be the name of {_a(e.kind)}"),
    (errors.InvalidPolicy, 422, "invalid-policy", lambda e: f"policy: {e.field} cannot be {e.value!r}"),
    (
        errors.AliasConflict,
        412,
        "alias-conflict",
        lambda e: f"{e.model}@{e.alias} has moved since: it points at {_version(e.version)}",
    ),
    (
        errors.PolicyConflict,
        412,
        "policy-conflict",
        lambda e: f"the policy of {e.model} was replaced since: its digest is {e.found[:12] or 'none'}",
    ),
    (
        errors.RolloutUnderWay,
        409,
        "rollout-under-way",
        lambda e: f"the rollout {e.id} of {e.model} is under way: abort it, or wait for its end",
    ),
    (
        errors.RolloutChanged,
        412,
        "precondition-failed",
        lambda e: f"the rollout has changed since: its generation is {e.generation}",
    ),
    (errors.RequestKeyReused, 409, "request-key-reused", lambda e: "the key was used to ask for something else"),
    (
        errors.AuthorMayNotApprove,
        403,
        "author-may-not-approve",
        lambda e: f"{e.actor} published {e.model} version {e.version}: somebody else has to decide",
    ),
    (
        errors.VersionRejected,
        409,
        "version-rejected",
        lambda e: f"{e.model} version {e.version} was rejected: no alias may point at it",
    ),
    (
        errors.PolicyRefused,
        422,
        "policy-refused",
        lambda e: f"the policy of {e.model} refuses it: {'; '.join(e.reasons)}",
    ),
    (errors.NotPermitted, 403, "forbidden", lambda e: "the rules of the registry forbid it"),
    (errors.LimitExceeded, 413, "limit-exceeded", lambda e: f"{e.path}: {e.found} {e.what}, {e.limit} are allowed"),
    (
        errors.DigestMismatch,
        422,
        "digest-mismatch",
        lambda e: f"{e.subject}: expected {e.expected[:64]}, found {e.found[:64]}",
    ),
    (errors.UnsafeFormat, 415, "unsafe-format", lambda e: f"{e.path}: {e.format} is refused: {e.advice}"),
    (errors.UnsupportedFormat, 415, "unsupported-format", lambda e: f"{e.path}: {e.format}: {e.advice}"),
    (
        errors.ConversionFailed,
        422,
        "not-converted",
        lambda e: f"{e.path} ({e.format}) is not converted to ONNX: {e.reason}. {e.advice}",
    ),
    (errors.InvalidManifest, 422, "artifact-refused", lambda e: f"manifest: {e.field or 'the whole'}: {e.reason}"),
    (errors.InvalidCard, 422, "artifact-refused", lambda e: f"model card {e.path}: {e.reason}"),
    (
        errors.InvalidGoldenSet,
        422,
        "artifact-refused",
        lambda e: f"golden set: {e.field or 'the whole'}: {e.reason}",
    ),
    (errors.UnsafePath, 422, "artifact-refused", lambda e: f"the path {e.path!r} is refused: {e.reason}"),
    (errors.LinkRefused, 422, "artifact-refused", lambda e: f"{e.path} is a {e.kind}: only files are taken in"),
    (errors.InvalidModel, 422, "artifact-refused", lambda e: f"{e.path} is no valid ONNX model: {e.reason}"),
    (
        errors.ExternalDataRefused,
        422,
        "artifact-refused",
        lambda e: f"{e.path}: external data at {e.location!r} is refused: {e.reason}",
    ),
    (
        errors.CustomOperators,
        422,
        "artifact-refused",
        lambda e: f"{e.path} needs operators of {', '.join(e.domains)}, which ONNX Runtime does not have",
    ),
    (errors.InvalidSignature, 422, "artifact-refused", lambda e: f"signature: {e.reason}"),
    (errors.ArtifactRefused, 422, "artifact-refused", lambda e: "the files are refused"),
    (errors.CatalogTooNew, 503, "unavailable", lambda e: f"{e.place} was written by a later release of Sluice"),
    (errors.StagingFailed, 409, "artifact-refused", lambda e: f"{e.path}: {e.reason}"),
    (errors.SourceUnavailable, 503, "unavailable", lambda e: f"{e.place} cannot be used now: {e.reason}"),
)


def from_error(error: errors.RegistryError) -> Problem:
    """The row of the nearest class that the table has; an error that it lacks is an internal one, told by its name."""
    for kind, status, name, sentence in _TABLE:
        if isinstance(error, kind):
            return Problem(status, name, sentence(error), _facts(error))
    return Problem(500, "internal", type(error).__name__)


def _facts(error: errors.RegistryError) -> Mapping[str, Any]:
    """The error's own, as far as JSON has them; none that would be mistaken for a standard member."""
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in vars(error).items()
        if isinstance(value, str | int | float | tuple | None) and name not in ("type", "title", "status", "detail")
    }


def _a(noun: str) -> str:
    return f"an {noun}" if noun[:1] in "aeiou" else f"a {noun}"


def _version(version: int | None) -> str:
    return "nothing" if version is None else f"version {version}"
