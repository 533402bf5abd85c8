"""Everything about rollouts in one gateway, built from its settings: what follows them and what announces them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from gateway.errors import SettingsError, StartFailed
from gateway.models_ports import MonotonicClock
from gateway.rollouts.applied import Applied
from gateway.rollouts.controller import RolloutController
from gateway.rollouts.journal import FILENAME, Journal, JournalDamaged
from gateway.rollouts.notify import Notifier
from gateway.rollouts.ports import Models, Plane, Source
from gateway.rollouts.prometheus import Prometheus
from gateway.rollouts.webhook import InvalidSecret, Webhook
from gateway.settings import RolloutsSettings
from registry.catalog import Catalog

THREADS = 4
T = TypeVar("T")


class Rollouts:
    """From before the first model is loaded until after the last request is answered.

    Args:
        open_catalog: gives the catalog, in a thread; RegistryError when it cannot be reached.
    """

    def __init__(
        self,
        settings: RolloutsSettings,
        data_dir: Path,
        open_catalog: Callable[[], Catalog],
        plane: Plane,
        source: Source,
        models: Models,
    ) -> None:
        """SettingsError for a secret that is none."""
        self._settings, self._open_catalog = settings, open_catalog
        # Its own threads: a database that does not answer must not hold up what else blocks.
        self._threads = ThreadPoolExecutor(THREADS, "rollouts")
        self._webhook = _webhook(settings)
        self.controller = RolloutController(
            open_catalog,
            Applied(plane, source, models),
            Journal(data_dir / FILENAME),
            self._thread,
            settings,
            MonotonicClock(),
            Prometheus(settings.prometheus_url) if settings.prometheus_url else None,
        )

    async def open(self) -> None:
        """Routes as this gateway did last. StartFailed when what it remembers cannot be read."""
        try:
            await self.controller.open()
        except (OSError, JournalDamaged) as error:
            raise StartFailed("rollouts", str(error)) from error

    async def run(self) -> None:
        """Until it is cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.controller.run(), name="rollouts")
            if self._webhook is not None:
                tasks.create_task(self._notifier(self._webhook).run(), name="announcements of rollouts")

    async def close(self) -> None:
        """Lets another gateway lead. Idempotent."""
        if self.controller.replica:
            await self.controller.close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _notifier(self, webhook: Webhook) -> Notifier:
        settings = self._settings
        return Notifier(
            lambda: self._open_catalog().rollouts,
            webhook,
            self.controller.replica,
            settings.lease_seconds,
            self._thread,
            MonotonicClock(),
        )

    async def _thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)


def _webhook(settings: RolloutsSettings) -> Webhook | None:
    if not settings.webhook_url:
        return None
    file, secret = settings.webhook_secret_file, None
    try:
        secret = file.read_text("utf-8").strip() if file is not None else None
        return Webhook(settings.webhook_url, secret, time.time)
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError("rollouts.webhook_secret_file", f"{file} cannot be read: {error}") from None
    except InvalidSecret as error:
        raise SettingsError("rollouts.webhook_secret_file", f"{file} {error}") from None
