"""Who may use the admin plane: pure checks of one request's headers.

A browser on the operator's machine is the way in that loopback leaves open: any page may send requests to
127.0.0.1, under its own name (Origin, Sec-Fetch-Site) or under a name that it points there (Host, DNS rebinding).
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from gateway.errors import SettingsError
from gateway.settings import AdminSettings

OPEN_PATHS = frozenset({"/healthz", "/readyz", "/", "/console.css", "/console.js"})
"""Answered without a token: probes carry none, and the console asks for it."""


@dataclass(frozen=True)
class Refusal:
    status: int
    reason: str


class Access:
    """The rules that the settings ask for."""

    def __init__(
        self, allowed_hosts: Collection[str] = (), tokens: Collection[str] = (), *, public_metrics: bool = False
    ) -> None:
        self._hosts = frozenset(host.lower() for host in allowed_hosts) | {"localhost"}
        self._digests = [_digest(token) for token in tokens]
        self._open_paths = OPEN_PATHS | {"/metrics"} if public_metrics else OPEN_PATHS

    @classmethod
    def from_settings(cls, settings: AdminSettings) -> Access:
        """SettingsError when the token file cannot be read or holds no token."""
        tokens = read_tokens(settings.token_file) if settings.token_file else []
        return cls(settings.allowed_hosts, tokens, public_metrics=settings.public_metrics)

    def check(self, path: str, headers: Mapping[str, str]) -> Refusal | None:
        """None when the request may go on. `headers` finds names in any case."""
        host = headers.get("Host", "")
        if not self._is_host_allowed(host):
            return Refusal(403, f"the host {host!r} is not one of ours; see the setting admin.allowed_hosts")
        origin = headers.get("Origin")
        if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
            return Refusal(403, "requests from pages of other origins are refused")
        if headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin"):
            return Refusal(403, "requests from pages of other sites are refused")
        if self._digests and path not in self._open_paths and not self._has_token(headers.get("Authorization", "")):
            return Refusal(401, "a bearer token is needed")
        return None

    def _is_host_allowed(self, host: str) -> bool:
        """Rebinding needs a name, so a literal address is as good as the names that were allowed."""
        try:
            name = urlsplit(f"//{host}").hostname
        except ValueError:
            return False
        return name is not None and (name in self._hosts or _is_address(name))

    def _has_token(self, authorization: str) -> bool:
        scheme, _, token = authorization.partition(" ")
        digest = _digest(token.strip())
        # Every digest is compared, so that the time taken says nothing about which one was near.
        matches = [hmac.compare_digest(digest, known) for known in self._digests]
        return scheme.lower() == "bearer" and any(matches)


def is_loopback(host: str) -> bool:
    return host == "localhost" or (_is_address(host) and ipaddress.ip_address(host).is_loopback)


def read_tokens(file: Path) -> list[str]:
    """One token a line; blank lines and `#` comments are skipped. Tokens shorter than 16 characters are refused."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError("admin.token_file", f"{file} cannot be read: {error}") from None
    tokens = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not tokens:
        raise SettingsError("admin.token_file", f"{file} holds no token")
    if any(len(token) < 16 for token in tokens):
        raise SettingsError("admin.token_file", f"{file} holds a token of fewer than 16 characters")
    return tokens


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
