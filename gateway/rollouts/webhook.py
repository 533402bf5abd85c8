"""One message to whoever wants to know, signed as Standard Webhooks says, so that any of its libraries can check it."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Callable, Mapping
from typing import Any

import aiohttp

TIMEOUT_SECONDS = 10.0
SECRET_PREFIX = "whsec_"


class NotDelivered(Exception):
    """The receiver did not say that it has the message; `str()` says what came instead."""


class InvalidSecret(ValueError):
    """Not what Standard Webhooks calls a secret: `whsec_` and at least 24 bytes in base64."""


class Webhook:
    """One receiver.

    Args:
        secret: as Standard Webhooks writes it; None sends without a signature. InvalidSecret for anything else.
        clock: seconds since the epoch.
    """

    def __init__(self, url: str, secret: str | None, clock: Callable[[], float]) -> None:
        self.url, self._clock = url, clock
        self._key = None if secret is None else read_secret(secret)

    async def send(self, id: str, document: Mapping[str, Any]) -> None:
        """Posts it once. A receiver tells a message that comes again by its `id`. Raises NotDelivered."""
        body, timestamp = json.dumps(document).encode(), int(self._clock())
        headers = {"Content-Type": "application/json", "webhook-id": id, "webhook-timestamp": str(timestamp)}
        if self._key is not None:
            headers["webhook-signature"] = signature(self._key, id, timestamp, body)
        try:
            timeout = aiohttp.ClientTimeout(TIMEOUT_SECONDS)
            async with (
                aiohttp.ClientSession(timeout=timeout) as session,
                session.post(self.url, data=body, headers=headers, allow_redirects=False) as answer,
            ):
                if not 200 <= answer.status < 300:
                    raise NotDelivered(f"HTTP {answer.status}")
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise NotDelivered(f"{type(error).__name__}: {error}") from error


def signature(key: bytes, id: str, timestamp: int, body: bytes) -> str:
    """HMAC-SHA256 over id, time and body, in base64 after `v1,`."""
    signed = f"{id}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()


def read_secret(text: str) -> bytes:
    try:
        key = base64.b64decode(text.removeprefix(SECRET_PREFIX), validate=True)
    except ValueError:
        raise InvalidSecret("is not base64") from None
    if not text.startswith(SECRET_PREFIX) or len(key) < 24:
        raise InvalidSecret(f"is {SECRET_PREFIX} and at least 24 bytes in base64")
    return key
