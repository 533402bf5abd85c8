"""ETag, If-Match and If-None-Match (RFC 9110, section 13). Pure: header texts in, a decision out."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any

from gateway.admin.problems import Problem, ProblemError

_TAG = re.compile(r'\s*(W/)?"([\x21\x23-\x7e\x80-\xff]*)"\s*(?:,|$)')


def etag_of(document: Any) -> str:
    """A strong tag of a JSON document: the same for the same values."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"))
    return f'"{hashlib.sha256(text.encode()).hexdigest()[:32]}"'


def require_match(if_match: str | None, if_none_match: str | None, current: str | None) -> None:
    """Lets a change pass when the caller knows what it changes.

    Args:
        current: the tag of what is there now; None when nothing is.

    Raises:
        ProblemError: 428 without a precondition, 412 with one that does not hold, 400 with one that makes no sense.
    """
    if if_match is None and if_none_match is None:
        raise ProblemError(
            Problem(428, "precondition-required", "say what you change: If-Match with its ETag, or If-None-Match: *")
        )
    holds = True
    if if_match is not None:
        holds = current is not None and (if_match.strip() == "*" or current in _tags("If-Match", if_match, weak=False))
    if if_none_match is not None:
        holds = holds and not _is_among(if_none_match, current)
    if not holds:
        now = f"its ETag is {current}" if current else "there is none"
        raise ProblemError(Problem(412, "precondition-failed", f"it has changed since: {now}", {"etag": current}))


def is_not_modified(if_none_match: str | None, current: str) -> bool:
    """Whether the caller has what it asks for already; a header that makes no sense says no."""
    try:
        return if_none_match is not None and _is_among(if_none_match, current)
    except ProblemError:
        return False


def _is_among(if_none_match: str, current: str | None) -> bool:
    if if_none_match.strip() == "*":
        return current is not None
    return current in _tags("If-None-Match", if_none_match, weak=True)


def _tags(header: str, text: str, *, weak: bool) -> set[str]:
    tags, at = set(), 0
    while at < len(text):
        match = _TAG.match(text, at)
        if match is None:
            raise ProblemError(Problem(400, "invalid-request", f"{header} is a list of quoted tags"))
        if weak or not match[1]:
            tags.add(f'"{match[2]}"')
        at = match.end()
    return tags
