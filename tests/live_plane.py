"""An admin plane with a registry on a thread of its own, and a client that asks it plainly."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from fake_served import FakeSource

from gateway.admin.assembly import keyring
from gateway.admin.plane import AdminPlane
from gateway.admin.registry_api import Parts, RegistryApi
from gateway.admin.rollout_api import Controller, RolloutApi
from gateway.admin.tokens import FILENAME, TokenStore
from gateway.rollouts.feedback import Label
from gateway.rollouts.service import RolloutService
from gateway.settings import AdminSettings
from registry.artifacts import ArtifactStore, LocalArtifacts
from registry.catalog import Catalog

MAX_BYTES = 1 << 20
Answer = tuple[int, Any, dict[str, str]]


class FakeController:
    """What a gateway that follows no rollout itself says to the admin API."""

    def __init__(self, open_catalog: Callable[[], Catalog]) -> None:
        self._open_catalog = open_catalog
        self.woken = 0
        self.labels: list[tuple[str, Label]] = []

    def wake(self) -> None:
        self.woken += 1

    async def abort(self, id: str, actor: str, reason: str) -> dict[str, Any]:
        with contextlib.closing(self._open_catalog()) as catalog:
            return RolloutService(catalog, actor).command(id, "abort", None, reason)

    async def give_feedback(self, model: str, labels: Sequence[Label]) -> int:
        self.labels += [(model, label) for label in labels]
        return sum(label.is_correct for label in labels)


class LivePlane:
    """`data_dir` has the catalog, the artifacts and the tokens, as `sluice serve` lays them out."""

    def __init__(self, data_dir: Path, max_bytes: int = MAX_BYTES, silence: float = 30.0) -> None:
        self.data_dir = data_dir
        self.catalog_url = f"sqlite:///{data_dir / 'catalog.db'}"
        self.store: ArtifactStore = LocalArtifacts(data_dir / "artifacts")
        self.drains = 0
        self.rollouts: Controller | None = FakeController(self.catalog)
        """None: a gateway that does not serve the catalog."""
        self._max_bytes, self._silence = max_bytes, silence
        self._loop = asyncio.new_event_loop()
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def catalog(self) -> Catalog:
        return Catalog(self.catalog_url)

    def token(self, *scopes: str, name: str = "tester") -> str:
        return TokenStore(self.data_dir / FILENAME).create(name, scopes, time.time()).text

    def ask(
        self, method: str, path: str, document: Any = None, *, token: str = "", body: Any = None, **headers: str
    ) -> Answer:
        """Status, document (bytes when it is no JSON) and headers in lower case."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if token:
            sent["Authorization"] = f"Bearer {token}"
        if document is not None:
            body = json.dumps(document).encode()
            sent.setdefault("Content-Type", "application/json")
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        with contextlib.closing(connection):
            connection.request(method, path, body, sent)
            response = connection.getresponse()
            content = response.read()
            found = {name.lower(): value for name, value in response.getheaders()}
        is_json = found.get("content-type", "").split(";")[0].endswith("json")
        return response.status, json.loads(content) if is_json and content else content, found

    async def _run(self, started: threading.Event) -> None:
        parts = Parts(self.catalog, lambda: self.store)
        api = RegistryApi(parts, self.data_dir / "uploads", self._max_bytes, silence=self._silence)
        rollouts = RolloutApi(parts.catalog, self.rollouts)
        source, tokens = FakeSource(), keyring(self.data_dir)
        plane = AdminPlane(
            AdminSettings(), 0, source, source, self._drain, registry=api, rollouts=rollouts, tokens=tokens
        )
        self._stopping = asyncio.Event()
        await plane.start()
        self.port = plane.port
        started.set()
        try:
            await self._stopping.wait()
        finally:
            await plane.stop()

    def _drain(self) -> None:
        self.drains += 1

    @contextlib.contextmanager
    def running(self) -> Iterator[LivePlane]:
        started = threading.Event()
        thread = threading.Thread(target=self._loop.run_until_complete, args=(self._run(started),), daemon=True)
        thread.start()
        assert started.wait(20), "the plane did not start"
        try:
            yield self
        finally:
            self._loop.call_soon_threadsafe(self._stopping.set)
            thread.join(20)
            self._loop.run_until_complete(self._loop.shutdown_default_executor())
            self._loop.close()
