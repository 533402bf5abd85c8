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
from typing import Literal, Protocol
from urllib.parse import urlsplit

from gateway.errors import SettingsError
from gateway.settings import AdminSettings

MLFLOW_WEBHOOK_PATH = "/api/v1/webhooks/mlflow"
OPEN_PATHS = frozenset({"/healthz", "/readyz", "/", "/console.css", "/console.js", MLFLOW_WEBHOOK_PATH})
"""Answered without a token: probes carry none, the console asks for it, and webhooks are signed instead."""


Scope = Literal["read", "publish", "approve", "operate"]
"""What a token opens: looking; new versions; approvals; whatever changes what is served. Each includes looking."""
ALL_SCOPES: frozenset[Scope] = frozenset({"read", "publish", "approve", "operate"})


@dataclass(frozen=True)
class Refusal:
    status: int
    reason: str
    scope: Scope | None = None
    """What the token lacks, when it is that."""


@dataclass(frozen=True)
class Caller:
    """Who asks, as far as is known."""

    name: str
    scopes: frozenset[Scope]
    token_id: str = ""
    """Empty when no token was asked for: then nobody knows who it is."""

    @property
    def is_known(self) -> bool:
        return bool(self.token_id)

    def may(self, scope: Scope) -> bool:
        return scope in self.scopes or (scope == "read" and bool(self.scopes))


ANYBODY = Caller("anonymous", ALL_SCOPES)
"""While no token exists, whoever reaches the loopback address."""
PASSER_BY = Caller("anonymous", frozenset())
"""At a path that needs no token."""


class Tokens(Protocol):
    """The API tokens, where there are some."""

    @property
    def is_empty(self) -> bool: ...
    def find(self, text: str) -> Caller | None: ...


class Access:
    """The rules that the settings ask for."""

    def __init__(
        self,
        allowed_hosts: Collection[str] = (),
        tokens: Collection[str] = (),
        *,
        public_metrics: bool = False,
        api_tokens: Tokens | None = None,
        is_loopback: bool = True,
    ) -> None:
        """`tokens` open everything; `api_tokens` what their scopes say. Without either, everything is open on
        loopback and nothing elsewhere."""
        self._hosts = frozenset(host.lower() for host in allowed_hosts) | {"localhost"}
        self._digests = [_digest(token) for token in tokens]
        self._api_tokens = api_tokens
        self._is_loopback = is_loopback
        self._open_paths = OPEN_PATHS | {"/metrics"} if public_metrics else OPEN_PATHS

    @classmethod
    def from_settings(cls, settings: AdminSettings, api_tokens: Tokens | None = None) -> Access:
        """SettingsError when the token file cannot be read or holds no token."""
        tokens = read_tokens(settings.token_file) if settings.token_file else []
        return cls(
            settings.allowed_hosts,
            tokens,
            public_metrics=settings.public_metrics,
            api_tokens=api_tokens,
            is_loopback=is_loopback(settings.host),
        )

    @property
    def is_token_needed(self) -> bool:
        has_api_tokens = self._api_tokens is not None and not self._api_tokens.is_empty
        return bool(self._digests) or has_api_tokens or not self._is_loopback

    def check(self, path: str, headers: Mapping[str, str]) -> Refusal | None:
        """None when the request may go on to look. `headers` finds names in any case."""
        answer = self.admit(path, headers, "read")
        return answer if isinstance(answer, Refusal) else None

    def admit(self, path: str, headers: Mapping[str, str], scope: Scope) -> Caller | Refusal:
        """Who asks, when the request may go on to do what `scope` covers."""
        refusal = self._check_origin(headers)
        if refusal is not None:
            return refusal
        if path in self._open_paths:
            return PASSER_BY
        if not self.is_token_needed:
            return ANYBODY
        caller = self._bearer(headers.get("Authorization", ""))
        if caller is None:
            return Refusal(401, "a bearer token is needed")
        if not caller.may(scope):
            return Refusal(403, f"the token {caller.token_id} has not the scope {scope}", scope)
        return caller

    def _check_origin(self, headers: Mapping[str, str]) -> Refusal | None:
        host = headers.get("Host", "")
        if not self._is_host_allowed(host):
            return Refusal(403, f"the host {host!r} is not one of ours; see the setting admin.allowed_hosts")
        origin = headers.get("Origin")
        if origin is not None and not _is_origin_of(origin, host):
            return Refusal(403, "requests from pages of other origins are refused")
        if headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin"):
            return Refusal(403, "requests from pages of other sites are refused")
        return None

    def _is_host_allowed(self, host: str) -> bool:
        """Rebinding needs a name, so a literal address is as good as the names that were allowed."""
        try:
            name = urlsplit(f"//{host}").hostname
        except ValueError:
            return False
        return name is not None and (name in self._hosts or _is_address(name))

    def _bearer(self, authorization: str) -> Caller | None:
        scheme, _, token = authorization.partition(" ")
        token = token.strip()
        digest = _digest(token)
        # Every digest is compared, so that the time taken says nothing about which one was near.
        matches = [hmac.compare_digest(digest, known) for known in self._digests]
        if scheme.lower() != "bearer":
            return None
        if any(matches):
            name = f"token-file-{digest.hex()[:8]}"
            return Caller(name, ALL_SCOPES, name)
        return self._api_tokens.find(token) if self._api_tokens is not None else None


def _is_origin_of(origin: str, host: str) -> bool:
    try:
        return urlsplit(origin).netloc.lower() == host.lower()
    except ValueError:  # it is no URL
        return False


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
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()  # a header may be any bytes
