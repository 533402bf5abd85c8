"""API tokens: who they stand for, what they open, until when. They live in one file of the data folder, hashed.

A token reads `slt_<id>_<secret>`. The id is public and names it in lists, logs and the audit log; of the secret only a
SHA-256 is kept, which is enough for 256 random bits. A running gateway looks at the file again whenever it changed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import hmac
import json
import logging
import os
import re
import secrets
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from gateway.admin.access import Caller, Scope

FILENAME = "tokens.json"
SCOPES: tuple[Scope, ...] = get_args(Scope)
_PREFIX = "slt"
_TOKEN = re.compile(rf"{_PREFIX}_([0-9a-f]{{8}})_([A-Za-z0-9_-]{{43}})")
_NAME = re.compile(r"[A-Za-z0-9_@.+-]{1,64}")
_NOBODY = "0" * 64
_log = logging.getLogger("sluice.admin")


class TokenError(Exception):
    """The file of tokens cannot be read, or what was asked of it makes no sense; `str()` says which."""


@dataclass(frozen=True)
class ApiToken:
    """What is kept of a token. Times are seconds since the epoch."""

    id: str
    name: str
    """Who or what uses it: the actor that the audit log names."""
    scopes: tuple[Scope, ...]
    digest: str
    created_at: float
    expires_at: float | None = None

    def is_expired(self, now: float) -> bool:
        return self.expires_at is not None and now >= self.expires_at


@dataclass(frozen=True)
class Created:
    """A token and its text, which is shown this once."""

    token: ApiToken
    text: str


def mint(name: str, scopes: Iterable[str], now: float, lifetime: float | None) -> Created:
    """A new token. TokenError for a name or scope that there is none of; scopes are kept in one order."""
    wanted = set(scopes)
    unknown = wanted - set(SCOPES)
    if unknown or not wanted:
        raise TokenError(f"scopes are {', '.join(SCOPES)}; not {', '.join(sorted(unknown)) or 'none at all'}")
    if not _NAME.fullmatch(name):
        raise TokenError(f"a token's name has up to 64 letters, digits and _@.+-; {name!r} does not fit")
    if lifetime is not None and lifetime <= 0:
        raise TokenError("a token must live for a while")
    id, secret = secrets.token_hex(4), secrets.token_urlsafe(32)
    kept = tuple(scope for scope in SCOPES if scope in wanted)
    expires_at = None if lifetime is None else now + lifetime
    token = ApiToken(id, name, kept, _digest(secret), now, expires_at)
    return Created(token, f"{_PREFIX}_{id}_{secret}")


def find(tokens: Mapping[str, ApiToken], text: str, now: float) -> ApiToken | None:
    """The token that `text` is, unless it has expired. How long this takes says nothing about the secret."""
    match = _TOKEN.fullmatch(text)
    id, secret = (match[1], match[2]) if match else ("", "")
    token = tokens.get(id)
    is_same = hmac.compare_digest(_digest(secret), token.digest if token else _NOBODY)
    return token if token is not None and is_same and not token.is_expired(now) else None


class TokenStore:
    """The file, for the command line: every change reads, changes and replaces it under a lock."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def list(self) -> list[ApiToken]:
        """By age. TokenError when the file cannot be read."""
        return sorted(read(self.file).values(), key=lambda token: (token.created_at, token.id))

    def create(self, name: str, scopes: Iterable[str], now: float, lifetime: float | None = None) -> Created:
        created = mint(name, scopes, now, lifetime)
        with self._changing() as tokens:
            tokens[created.token.id] = created.token
        return created

    def rotate(self, id: str, now: float, grace: float = 0.0) -> Created:
        """A successor with the same name, scopes and lifetime; the old one works for `grace` seconds more."""
        with self._changing() as tokens:
            old = _named(tokens, id)
            lifetime = None if old.expires_at is None else old.expires_at - old.created_at
            created = mint(old.name, old.scopes, now, lifetime)
            end = now + grace if old.expires_at is None else min(old.expires_at, now + grace)
            tokens[old.id] = dataclasses.replace(old, expires_at=end)
            tokens[created.token.id] = created.token
        return created

    def revoke(self, id: str) -> ApiToken:
        """Removes it; it opens nothing from then on."""
        with self._changing() as tokens:
            return tokens.pop(_named(tokens, id).id)

    @contextlib.contextmanager
    def _changing(self) -> Iterator[dict[str, ApiToken]]:
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            lock = os.open(f"{self.file}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise TokenError(f"{self.file} cannot be written: {error.strerror}") from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            tokens = read(self.file)
            yield tokens
            _write(self.file, tokens)
        except OSError as error:
            raise TokenError(f"{self.file} cannot be written: {error.strerror}") from None
        finally:
            os.close(lock)


class Keyring:
    """The file, for a running gateway: read again when it changed.

    A file that cannot be read opens nothing, and is said to once: what it would have forbidden is not known.
    """

    def __init__(self, file: Path, now: Callable[[], float]) -> None:
        self.file, self._now = file, now
        # What the file held when it had this stamp; None while it cannot be read.
        self._tokens: dict[str, ApiToken] | None = {}
        self._stamp: tuple[int, ...] | None = None

    @property
    def is_empty(self) -> bool:
        """Whether no token was ever made. An expired one still says that tokens are wanted."""
        tokens = self._current()
        return tokens is not None and not tokens

    def find(self, text: str) -> Caller | None:
        token = find(self._current() or {}, text, self._now())
        return Caller(token.name, frozenset(token.scopes), token.id) if token else None

    def _current(self) -> dict[str, ApiToken] | None:
        try:
            status = os.stat(self.file)
            stamp: tuple[int, ...] = (status.st_ctime_ns, status.st_mtime_ns, status.st_size, status.st_ino)
        except FileNotFoundError:
            stamp = ()
        except OSError:
            stamp = (-1,)
        if stamp != self._stamp:
            self._stamp = stamp
            try:
                self._tokens = read(self.file)
            except TokenError as error:
                self._tokens = None
                _log.error("API tokens cannot be read", extra={"action": "tokens-unreadable", "reason": str(error)})
        return self._tokens


def read(file: Path) -> dict[str, ApiToken]:
    """The tokens by id; none when there is no file. TokenError when it is not one of ours."""
    try:
        document = json.loads(file.read_text("utf-8"))
        return {token.id: token for token in map(_from_json, document["tokens"])}
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise TokenError(f"{file} cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError):
        raise TokenError(f"{file} is damaged: remove it and make new tokens") from None


def _from_json(entry: dict[str, Any]) -> ApiToken:
    token = ApiToken(**{**entry, "scopes": tuple(entry["scopes"])})
    if not set(token.scopes) <= set(SCOPES) or not re.fullmatch("[0-9a-f]{64}", token.digest):
        raise ValueError
    return token


def _write(file: Path, tokens: Mapping[str, ApiToken]) -> None:
    text = json.dumps({"tokens": [dataclasses.asdict(token) for token in tokens.values()]}, indent=1)
    handle, temporary = tempfile.mkstemp(prefix=f"{file.name}.", dir=file.parent)  # readable by its owner only
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text + "\n")
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, file)
    except BaseException:
        os.unlink(temporary)
        raise


def _named(tokens: Mapping[str, ApiToken], id: str) -> ApiToken:
    """By its id, or by the whole text of the token."""
    match = _TOKEN.fullmatch(id)
    token = tokens.get(match[1] if match else id)
    if token is None:
        raise TokenError(f"there is no token {match[1] if match else id}")
    return token


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
