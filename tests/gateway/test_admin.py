"""The admin plane over a real socket, with fake models behind it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from fake_served import FakeServed, FakeSource

from gateway.admin.plane import AdminPlane
from gateway.errors import SettingsError
from gateway.settings import AdminSettings

TOKEN = "a-token-of-enough-characters"


class Admin:
    """A started plane, a client, and a clock that the test moves."""

    def __init__(self, source: FakeSource, settings: AdminSettings) -> None:
        self.now = 100.0
        self.drains = 0
        self.plane = AdminPlane(settings, 0, source, source, self._drain, clock=lambda: self.now)
        self.client: aiohttp.ClientSession

    def _drain(self) -> None:
        self.drains += 1

    async def ask(self, path: str, method: str = "GET", **headers: str) -> tuple[int, Any, Any]:
        """Status, body (JSON when it is JSON) and headers."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        url = f"http://127.0.0.1:{self.plane.port}{path}"
        async with self.client.request(method, url, headers=named) as response:
            is_json = response.content_type.endswith("json")
            return response.status, await (response.json() if is_json else response.text()), response.headers

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.plane.observe()


def with_admin(
    test: Callable[[Admin], Awaitable[None]], *served: FakeServed, source: FakeSource | None = None, **settings: Any
) -> None:
    async def run() -> None:
        admin = Admin(source or FakeSource(*served), AdminSettings(**settings))
        await admin.plane.start()
        async with aiohttp.ClientSession() as admin.client:
            try:
                await test(admin)
            finally:
                await admin.plane.stop()

    asyncio.run(run())


def test_probes_follow_liveness_and_readiness() -> None:
    source = FakeSource(ready=False)

    async def check(admin: Admin) -> None:
        assert (await admin.ask("/healthz"))[:2] == (200, "ok\n")
        assert (await admin.ask("/readyz"))[:2] == (503, "not ok\n")
        source.ready = True
        assert (await admin.ask("/readyz"))[:2] == (200, "ok\n")

    with_admin(check, source=source)


def test_health_says_who_answers_and_for_how_long() -> None:
    async def check(admin: Admin) -> None:
        admin.pass_time(12.5)
        status, body, _ = await admin.ask("/api/v1/health")
        assert status == 200
        assert body["name"] == "sluice"
        assert (body["live"], body["ready"], body["uptime_seconds"]) == (True, True, 12.5)

    with_admin(check)


def test_models_are_listed_with_what_they_did_lately() -> None:
    old, new = FakeServed(version="2"), FakeServed(version="10", state="LOADING", reason="warming up", instances=0)
    other = FakeServed(model="another")

    async def check(admin: Admin) -> None:
        admin.pass_time(1)
        old.succeed(0.0004, rows=4, times=90)
        old.shed(times=10)
        old.in_flight, old.queued, old.queue_rows, old.queue_bytes = 3, 2, 8, 960
        admin.pass_time(9)
        body = (await admin.ask("/api/v1/models"))[1]
        assert [model["name"] for model in body["models"]] == ["another", "tabular"]
        tabular = body["models"][1]
        assert [version["version"] for version in tabular["versions"]] == ["2", "10"]
        first, second = tabular["versions"]
        assert first["requests"] == {"total": 100, "failed": 10, "shed": 10}
        assert first["queue"] == {"requests": 2, "rows": 8, "bytes": 960}
        assert first["recent"]["requests_per_second"] == pytest.approx(10.0)
        assert first["recent"]["shed_per_second"] == pytest.approx(1.0)
        assert first["recent"]["batch_size"] == pytest.approx(4.0)
        assert 0.00025 < first["recent"]["p50_seconds"] < 0.0005
        assert (second["state"], second["reason"], second["recent"]["p99_seconds"]) == ("LOADING", "warming up", None)
        assert tabular["demand"] == pytest.approx(1.0, abs=0.1)

    with_admin(check, new, old, other)


def test_a_version_that_is_gone_leaves_no_demand_behind() -> None:
    served = FakeServed(in_flight=5)
    source = FakeSource(served)

    async def check(admin: Admin) -> None:
        assert 'sluice_demand{model="tabular"} 5.0' in (await admin.ask("/metrics"))[1]
        source.versions.clear()
        admin.pass_time(1)
        assert "tabular" not in (await admin.ask("/metrics"))[1]

    with_admin(check, source=source)


def test_metrics_are_negotiated() -> None:
    async def check(admin: Admin) -> None:
        assert (await admin.ask("/metrics"))[2]["Content-Type"].startswith("text/plain; version=0.0.4")
        status, body, headers = await admin.ask("/metrics", Accept="application/openmetrics-text; version=1.0.0")
        assert headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
        assert body.endswith("# EOF\n")

    with_admin(check, FakeServed())


def test_drain_is_asked_for_by_post_only() -> None:
    async def check(admin: Admin) -> None:
        status, body, headers = await admin.ask("/api/v1/drain")
        assert (status, body["detail"], admin.drains) == (405, "Method Not Allowed", 0)
        assert headers["Allow"] == "POST"
        assert (await admin.ask("/api/v1/drain", "POST"))[:2] == (202, {"draining": True})
        assert admin.drains == 1

    with_admin(check)


def test_a_page_of_another_origin_can_neither_read_nor_drain() -> None:
    async def check(admin: Admin) -> None:
        assert (await admin.ask("/api/v1/drain", "POST", Origin="https://evil.example"))[0] == 403
        assert (await admin.ask("/api/v1/models", Host="rebound.example"))[0] == 403
        assert admin.drains == 0

    with_admin(check)


def test_unknown_paths_are_problems() -> None:
    async def check(admin: Admin) -> None:
        status, body, headers = await admin.ask("/api/v1/nothing")
        assert headers["Content-Type"].startswith("application/problem+json")
        assert (status, body["status"], body["type"]) == (404, 404, "urn:sluice:problem:not-found")

    with_admin(check)


def test_a_token_opens_the_api_and_its_absence_is_told(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text(TOKEN + "\n")

    async def check(admin: Admin) -> None:
        status, body, headers = await admin.ask("/api/v1/models")
        assert (status, body["detail"]) == (401, "a bearer token is needed")
        assert headers["WWW-Authenticate"].startswith("Bearer")
        assert (await admin.ask("/api/v1/models", Authorization=f"Bearer {TOKEN}"))[0] == 200

    with_admin(check, token_file=file)


def test_other_addresses_than_loopback_are_refused_without_a_token(tmp_path: Path) -> None:
    source = FakeSource()
    with pytest.raises(SettingsError) as caught:
        AdminPlane(AdminSettings(host="0.0.0.0"), 0, source, source, lambda: None)
    assert caught.value.key == "admin.host"
    assert "admin.token_file" in caught.value.reason
    file = tmp_path / "tokens"
    file.write_text(TOKEN)
    AdminPlane(AdminSettings(host="0.0.0.0", token_file=file), 0, source, source, lambda: None)


def test_the_console_fetches_nothing_from_elsewhere_and_runs_no_inline_code() -> None:
    async def check(admin: Admin) -> None:
        for path in ("/", "/console.js", "/console.css"):
            status, body, headers = await admin.ask(path)
            assert status == 200
            assert "default-src 'none'" in headers["Content-Security-Policy"]
            loads = re.findall(r"""(?:src|href)=["']([^"']+)|url\(["']?([^"')]+)|fetch\(["'`]([^"'`]+)""", body)
            assert all(url.startswith(("/", "data:")) for found in loads for url in found if url), path
            assert " style=" not in body
            assert not re.search(r"<script(?![^>]*\ssrc=)|\son\w+=|innerHTML", body), path

    with_admin(check)


def test_stopping_twice_or_before_the_start_is_harmless() -> None:
    async def run() -> None:
        source = FakeSource()
        plane = AdminPlane(AdminSettings(), 0, source, source, lambda: None)
        await plane.stop()
        await plane.start()
        await plane.stop()
        await plane.stop()

    asyncio.run(run())


def test_a_taken_port_is_an_error_and_leaves_nothing_open() -> None:
    async def check(admin: Admin) -> None:
        source = FakeSource()
        plane = AdminPlane(AdminSettings(), admin.plane.port, source, source, lambda: None)
        with pytest.raises(OSError, match="address already in use"):
            await plane.start()

    with_admin(check)
