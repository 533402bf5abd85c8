"""MLflow's signed webhooks, taken as a hint that something changed: what a delivery says is never believed, only that
the registry's owner sent it now, once. Polling goes on with or without them.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import time
from collections.abc import Callable, Mapping
from enum import Enum
from pathlib import Path

from aiohttp import web

from gateway.admin.access import MLFLOW_WEBHOOK_PATH, Caller
from gateway.admin.openapi import Operation
from gateway.admin.problems import Problem, ProblemError
from gateway.errors import SettingsError

SIGNATURE, DELIVERY_ID, TIMESTAMP = "X-MLflow-Signature", "X-MLflow-Delivery-Id", "X-MLflow-Timestamp"
TOLERANCE_SECONDS = 300
"""How far a delivery's time may be from ours, either way."""
MAX_REMEMBERED = 10_000
"""Deliveries within that time."""
MIN_SECRET = 16
_MAX_HEADER = 256

OPERATION = Operation(
    "mlflow_webhook", "POST", MLFLOW_WEBHOOK_PATH, "read", "Something changed in MLflow: look at it at once",
    {202: "Looking"}, "gateway", "application/json", is_signed=True,
)  # fmt: skip


class Verdict(Enum):
    """What a delivery is. The value is what its sender is told."""

    GOOD = ""
    UNSIGNED = "the signature is missing, or not one made with our secret"
    STALE = f"its time is more than {TOLERANCE_SECONDS} s from ours"
    REPLAYED = "this delivery has come before"
    CROWDED = "too many deliveries at this time"


class SignedDeliveries:
    """Decides whether a delivery is one that its owner sent now, once."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        # Ids of good deliveries, each with the time after which it would be stale anyway. Changed by `check` alone.
        self._seen: dict[str, float] = {}

    def check(self, headers: Mapping[str, str], body: bytes, now: float) -> Verdict:
        """Takes a delivery; a good one is good once.

        Args:
            headers: finds names in any case.
            body: as it came, before anything reads it.
            now: seconds of the wall clock, which is what the sender's time is compared with.
        """
        delivery_id, timestamp = headers.get(DELIVERY_ID, ""), headers.get(TIMESTAMP, "")
        if not delivery_id or len(delivery_id) > _MAX_HEADER or len(timestamp) > _MAX_HEADER:
            return Verdict.UNSIGNED
        signed = f"{delivery_id}.{timestamp}.".encode("utf-8", "surrogateescape") + body
        if not self._is_signature(headers.get(SIGNATURE, ""), signed):
            return Verdict.UNSIGNED
        if not (timestamp.isascii() and timestamp.isdigit()) or abs(now - int(timestamp)) > TOLERANCE_SECONDS:
            return Verdict.STALE
        self._seen = {known: until for known, until in self._seen.items() if until >= now}
        if delivery_id in self._seen:
            return Verdict.REPLAYED
        if len(self._seen) >= MAX_REMEMBERED:
            return Verdict.CROWDED
        self._seen[delivery_id] = int(timestamp) + TOLERANCE_SECONDS
        return Verdict.GOOD

    def _is_signature(self, text: str, signed: bytes) -> bool:
        scheme, _, encoded = text.partition(",")
        if scheme != "v1" or len(encoded) > _MAX_HEADER:
            return False
        try:
            given = base64.b64decode(encoded, validate=True)
        except (binascii.Error, ValueError):
            return False
        return hmac.compare_digest(given, hmac.new(self._secret, signed, hashlib.sha256).digest())


class MlflowWebhook:
    """The admin plane's part of it.

    Args:
        look: called once for each good delivery; returns at once.
        clock: the wall clock.
    """

    operation = OPERATION

    def __init__(self, secret: bytes, look: Callable[[], None], clock: Callable[[], float] = time.time) -> None:
        self._deliveries, self._look, self._clock = SignedDeliveries(secret), look, clock

    async def handle(self, request: web.Request, caller: Caller) -> web.Response:
        body = await request.read()
        verdict = self._deliveries.check(request.headers, body, self._clock())
        if verdict is not Verdict.GOOD:
            raise ProblemError(Problem(*_ANSWERS[verdict], verdict.value))
        self._look()
        return web.json_response({"looking": True}, status=202)


_ANSWERS = {
    Verdict.UNSIGNED: (403, "forbidden"),
    Verdict.STALE: (403, "forbidden"),
    Verdict.REPLAYED: (409, "already-delivered"),
    Verdict.CROWDED: (429, "too-many-requests"),
}


def read_secret(file: Path) -> bytes:
    """SettingsError when the file cannot be read, or holds less than a secret."""
    try:
        secret = file.read_bytes().strip()
    except OSError as error:
        raise SettingsError("registry.mlflow_webhook_secret_file", f"{file} cannot be read: {error}") from None
    if len(secret) < MIN_SECRET:
        reason = f"{file} holds a secret of fewer than {MIN_SECRET} characters"
        raise SettingsError("registry.mlflow_webhook_secret_file", reason)
    return secret
