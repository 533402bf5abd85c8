"""MLflow's webhooks: only what its owner signed now, and once, has the registry looked at."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
from collections.abc import Awaitable, Callable
from pathlib import Path

import aiohttp
import pytest
from fake_served import FakeSource
from hypothesis import given
from hypothesis import strategies as st
from openapi_spec_validator import validate

from gateway.admin.access import MLFLOW_WEBHOOK_PATH
from gateway.admin.assembly import mlflow_webhook
from gateway.admin.plane import OPENAPI_PATH, AdminPlane
from gateway.admin.webhook import MAX_REMEMBERED, TOLERANCE_SECONDS, MlflowWebhook, SignedDeliveries, Verdict
from gateway.errors import SettingsError
from gateway.settings import AdminSettings, RegistrySettings, Settings

SECRET = b"a secret of enough characters"
BODY = b'{"entity":"model_version_alias","action":"created","data":{"name":"fraud"}}'
NOW = 1_764_000_000.0


def signed(
    delivery_id: str = "one", timestamp: str = str(int(NOW)), body: bytes = BODY, secret: bytes = SECRET
) -> dict[str, str]:
    digest = hmac.new(secret, f"{delivery_id}.{timestamp}.".encode() + body, hashlib.sha256).digest()
    signature = f"v1,{base64.b64encode(digest).decode()}"
    return {"X-MLflow-Signature": signature, "X-MLflow-Delivery-Id": delivery_id, "X-MLflow-Timestamp": timestamp}


@given(st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=40), st.binary(max_size=200))
def test_what_the_owner_signed_is_good_once(delivery_id: str, body: bytes) -> None:
    deliveries = SignedDeliveries(SECRET)
    headers = signed(delivery_id, body=body)
    assert deliveries.check(headers, body, NOW) is Verdict.GOOD
    assert deliveries.check(headers, body, NOW + TOLERANCE_SECONDS) is Verdict.REPLAYED
    assert deliveries.check(headers, body, NOW + TOLERANCE_SECONDS + 1) is Verdict.STALE


@pytest.mark.parametrize(
    "change",
    [
        {"X-MLflow-Signature": ""},
        {"X-MLflow-Signature": "v1,"},
        {"X-MLflow-Signature": "v1,not base64!"},
        {"X-MLflow-Signature": signed(secret=b"another secret of such a length")["X-MLflow-Signature"]},
        {"X-MLflow-Signature": signed()["X-MLflow-Signature"].replace("v1,", "v2,")},
        {"X-MLflow-Signature": "v1," + "A" * 10_000},
        {"X-MLflow-Delivery-Id": "two"},
        {"X-MLflow-Delivery-Id": ""},
        {"X-MLflow-Delivery-Id": "x" * 10_000},
        {"X-MLflow-Timestamp": str(int(NOW) + 1)},
        {"X-MLflow-Timestamp": ""},
    ],
)
def test_anything_changed_is_unsigned(change: dict[str, str]) -> None:
    assert SignedDeliveries(SECRET).check(signed() | change, BODY, NOW) is Verdict.UNSIGNED


def test_another_body_is_unsigned() -> None:
    assert SignedDeliveries(SECRET).check(signed(), BODY + b" ", NOW) is Verdict.UNSIGNED


@pytest.mark.parametrize("text", [str(int(NOW) - 301), str(int(NOW) + 301), "-1", "1e9", "¹", "soon", "9" * 200])
def test_a_time_that_is_not_now_is_stale_however_well_signed(text: str) -> None:
    assert SignedDeliveries(SECRET).check(signed(timestamp=text), BODY, NOW) is Verdict.STALE


def test_what_is_remembered_is_bounded_and_forgotten_in_time() -> None:
    deliveries = SignedDeliveries(SECRET)
    deliveries._seen = {str(number): NOW + 1 for number in range(MAX_REMEMBERED)}
    assert deliveries.check(signed(), BODY, NOW) is Verdict.CROWDED
    assert deliveries.check(signed(), BODY, NOW + 2) is Verdict.GOOD
    assert list(deliveries._seen) == ["one"]


class Hooked:
    """An admin plane that takes deliveries, and counts the looks that they ask for."""

    def __init__(self, token_file: Path) -> None:
        self.looks = 0
        webhook = MlflowWebhook(SECRET, self._look, clock=lambda: NOW)
        source = FakeSource()
        settings = AdminSettings(token_file=token_file)
        self.plane = AdminPlane(settings, 0, source, source, lambda: None, webhook=webhook)
        self.client: aiohttp.ClientSession

    def _look(self) -> None:
        self.looks += 1

    async def send(self, headers: dict[str, str], body: bytes = BODY) -> tuple[int, str]:
        url = f"http://127.0.0.1:{self.plane.port}{MLFLOW_WEBHOOK_PATH}"
        async with self.client.post(url, data=body, headers=headers) as response:
            return response.status, (await response.json()).get("type", "")


def with_hook(test: Callable[[Hooked], Awaitable[None]], folder: Path) -> None:
    async def run() -> None:
        (folder / "tokens").write_text("a-token-of-enough-characters\n")
        hooked = Hooked(folder / "tokens")
        await hooked.plane.start()
        async with aiohttp.ClientSession() as hooked.client:
            try:
                await test(hooked)
            finally:
                await hooked.plane.stop()

    asyncio.run(run())


def test_a_good_delivery_needs_no_token_and_has_the_registry_looked_at_once(tmp_path: Path) -> None:
    async def check(hooked: Hooked) -> None:
        assert await hooked.send(signed()) == (202, "")
        assert hooked.looks == 1
        assert await hooked.send(signed()) == (409, "urn:sluice:problem:already-delivered")
        assert await hooked.send(signed("two", timestamp="1")) == (403, "urn:sluice:problem:forbidden")
        assert await hooked.send({}) == (403, "urn:sluice:problem:forbidden")
        assert await hooked.send({"Authorization": "Bearer a-token-of-enough-characters"}) == (
            403, "urn:sluice:problem:forbidden",
        )  # fmt: skip
        assert hooked.looks == 1

    with_hook(check, tmp_path)


def test_a_page_that_knows_the_secret_is_refused_all_the_same(tmp_path: Path) -> None:
    async def check(hooked: Hooked) -> None:
        assert (await hooked.send(signed() | {"Origin": "https://evil.example"}))[0] == 403
        assert (await hooked.send(signed() | {"Host": "evil.example"}))[0] == 403
        assert hooked.looks == 0

    with_hook(check, tmp_path)


def test_a_delivery_that_is_too_large_is_refused(tmp_path: Path) -> None:
    async def check(hooked: Hooked) -> None:
        body = b" " * (70 << 10)
        assert (await hooked.send(signed(body=body), body))[0] == 413
        assert hooked.looks == 0

    with_hook(check, tmp_path)


def test_the_document_announces_it_as_signed(tmp_path: Path) -> None:
    async def check(hooked: Hooked) -> None:
        headers = {"Authorization": "Bearer a-token-of-enough-characters"}
        url = f"http://127.0.0.1:{hooked.plane.port}{OPENAPI_PATH}"
        async with hooked.client.get(url, headers=headers) as response:
            document = await response.json()
        validate(document)
        operation = document["paths"][MLFLOW_WEBHOOK_PATH]["post"]
        assert operation["security"] == []
        assert set(operation["responses"]) == {"202", "400", "403", "409", "413", "429"}

    with_hook(check, tmp_path)


def test_it_is_there_only_where_mlflow_is_the_source_and_has_a_secret(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_bytes(SECRET + b"\n")

    def made(source: str, **fields: Path | None) -> MlflowWebhook | None:
        return mlflow_webhook(Settings(registry=RegistrySettings(source=source, **fields)), lambda: None)  # type: ignore[arg-type]

    assert made("mlflow", mlflow_webhook_secret_file=file) is not None
    assert made("mlflow") is None
    assert made("objects", mlflow_webhook_secret_file=file) is None
    file.write_bytes(b"short")
    with pytest.raises(SettingsError, match="fewer than 16"):
        made("mlflow", mlflow_webhook_secret_file=file)
    with pytest.raises(SettingsError, match="cannot be read"):
        made("mlflow", mlflow_webhook_secret_file=tmp_path / "missing")
