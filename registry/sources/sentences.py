"""What to say about a version that could not be brought here: for operators, in one line, without secrets."""

from __future__ import annotations

from registry.errors import (
    DigestMismatch,
    LimitExceeded,
    NotFound,
    PullFailed,
    RegistryError,
    SourceUnavailable,
    VersionChanged,
)
from registry.redaction import redact


def sentence(error: BaseException) -> str:
    match error:
        case PullFailed(path=path, reason=reason):
            return f"{path}: {reason}" if path else reason
        case DigestMismatch(subject=subject, expected=expected, found=found):
            return f"refused: {subject} should have digest {expected} and came with {found}"
        case VersionChanged(pinned=pinned, found=found):
            return f"refused: the source changed what it is; it was {pinned} when first seen, and now is {found}"
        case LimitExceeded(path=path, what=what, found=count, limit=limit):
            return f"refused: {path or 'the version'} has {count} {what}; at most {limit} are allowed"
        case NotFound(kind=kind, name=name):
            return f"{kind} {name} is not there"
        case SourceUnavailable(place=place, reason=reason):
            return redact(f"{place}: {reason}")
        case RegistryError():
            return f"refused: {redact(str(error))}"
        case _:
            return redact(f"internal error: {type(error).__name__}: {error}")
