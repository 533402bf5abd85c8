"""Texts of other people's libraries, without the secrets that they may carry."""

from __future__ import annotations

import re

_USER = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]*://)[^/\s@'\"]*@")
_QUERY = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]*://[^\s?'\"]*)\?[^\s'\"]*")
_FIELD = re.compile(
    r"(?i)\b((?:[\w-]*(?:password|passwd|secret|token|signature|credential|api[_-]?key|access[_-]?key)[\w-]*)|sig"
    r"|authorization)(\"?\s*[=:]\s*\"?)(?:(?:Basic|Bearer)\s+)?[^\s,;&'\"]+"
)
MAX_TEXT = 500


def redact(text: str) -> str:
    """One line of at most 500 characters: no user or password in a URL, no query of one, no value of a field that is
    named like a secret."""
    line = " ".join(text.split())
    line = _QUERY.sub(r"\1?…", _USER.sub(r"\1…@", line))
    line = _FIELD.sub(r"\1\2…", line)
    return line if len(line) <= MAX_TEXT else f"{line[: MAX_TEXT - 1]}…"


def without_user(url: str) -> str:
    """A URL without user, password and query."""
    return re.sub(r"^([a-zA-Z][a-zA-Z0-9+.-]*://)[^/?#]*@", r"\1", re.split("[?#]", url, maxsplit=1)[0])
