"""How `sluice rollout` reaches rollouts: those of a catalog that is opened here, or behind a gateway's admin API."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from gateway.cli.failure import CommandFailed, ExitCode
from gateway.cli.registry import settings_of, token_of, told, user_name
from gateway.cli.remote import AdminClient, model_path
from gateway.settings_sources import ADMIN_URL_VARIABLE

Doc = dict[str, Any]
API = "/api/v1"


class Rollouts(Protocol):
    """What the subcommands ask for. Documents are those of the admin API."""

    def start(self, model: str, to: int, *, alias: str | None, plan: Doc | None, reason: str, key: str) -> Doc: ...
    def get(self, id: str) -> Doc: ...
    def of_model(self, model: str, limit: int = 100) -> list[Doc]: ...
    def history(self, id: str) -> list[Doc]: ...
    def command(self, id: str, verb: str, expected: int | None, reason: str) -> Doc: ...


class RemoteRollouts:
    """By asking a gateway."""

    def __init__(self, client: AdminClient) -> None:
        self._client = client

    def start(self, model: str, to: int, *, alias: str | None, plan: Doc | None, reason: str, key: str) -> Doc:
        document = {"to": to, "alias": alias, "plan": plan, "reason": reason}
        headers = {"Idempotency-Key": key or uuid.uuid4().hex}
        return self._ask("POST", f"{model_path(model)}/rollouts", document, headers)

    def get(self, id: str) -> Doc:
        return self._ask("GET", f"/rollouts/{id}")

    def of_model(self, model: str, limit: int = 100) -> list[Doc]:
        answer, _ = self._client.call("GET", f"{API}{model_path(model)}/rollouts", query={"limit": limit})
        return list(answer["rollouts"])

    def history(self, id: str) -> list[Doc]:
        return list(self._ask("GET", f"/rollouts/{id}/history")["history"])

    def command(self, id: str, verb: str, expected: int | None, reason: str) -> Doc:
        headers = {"If-Match": "*" if expected is None else f'"{expected}"'}
        return self._ask("POST", f"/rollouts/{id}:{verb}", {"reason": reason}, headers)

    def _ask(self, method: str, path: str, document: Any = None, headers: dict[str, str] | None = None) -> Doc:
        answer, _ = self._client.call(method, API + path, document, headers=headers)
        return dict(answer)


@contextlib.contextmanager
def open_rollouts(
    data_dir: Path | None, admin_url: str | None, token_file: Path | None, config: Path | None
) -> Iterator[Rollouts]:
    """Those that the options name. Whatever goes wrong inside is told as `CommandFailed`."""
    if admin_url and data_dir is not None and ADMIN_URL_VARIABLE not in os.environ:
        raise CommandFailed("--data-dir and --admin-url name two registries: give one", exit_code=ExitCode.USAGE)
    with told():
        if admin_url and data_dir is None:
            yield RemoteRollouts(AdminClient(admin_url, token_of(token_file)))
            return
        # The database is loaded only by who opens it.
        from gateway.registry_places import catalog_url
        from gateway.rollouts.service import RolloutService
        from registry.catalog import Catalog

        with contextlib.closing(Catalog(catalog_url(settings_of(data_dir, config)))) as catalog:
            yield RolloutService(catalog, user_name())
