"""Publishing over HTTP: the files were uploaded before; here they are put together in a folder, looked at as if they
had been found on this machine, and published. What the caller says about them is not believed; their digests are
checked."""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateway.admin.bodies import Body
from gateway.admin.problems import Problem, ProblemError
from gateway.admin.registry_service import Doc, RegistryService
from registry.errors import NotFound, StoreUnavailable
from registry.manifest import CONFIG_FILENAME, MODEL_FORMAT, FileEntry, Lineage, check_path, is_sha256
from registry.publish import PushResult, check_policy, push

MAX_SIGNATURES, MAX_SIGNATURE = 16, 1 << 20
MAX_CONFIG = 1 << 20


@dataclass(frozen=True)
class Publication:
    """What a caller asks to publish."""

    model: str
    files: tuple[FileEntry, ...]
    config_text: str | None
    alias: str | None
    tags: Mapping[str, str]
    card: Mapping[str, Any]
    metrics: Mapping[str, float]
    lineage: Lineage
    signatures: tuple[str, ...]
    reason: str


def publication_from(model: str, body: Body, max_bytes: int) -> Publication:
    """ProblemError for what makes no sense or is too large, UnsafePath for a file that would lie elsewhere."""
    files = tuple(_file(Body(one, "files.")) if isinstance(one, dict) else _no_file() for one in body.list("files"))
    if not files or len({file.path for file in files}) != len(files):
        raise ProblemError(Problem(400, "invalid-request", "files: must be some, each of another path"))
    if (total := sum(file.size for file in files)) > max_bytes:
        detail = f"{total} bytes, {max_bytes} are allowed"
        raise ProblemError(Problem(413, "limit-exceeded", detail, {"limit": max_bytes}))
    tags, metrics = body.inner("tags", {}), body.inner("metrics", {})
    publication = Publication(
        model=model,
        files=files,
        config_text=body.optional_text("config_text", max_length=MAX_CONFIG),
        alias=body.optional_text("alias", max_length=128),
        tags={name: tags.text(name) for name in tags.names()},
        card=body.object("card", {}),
        metrics={name: metrics.real(name) for name in metrics.names()},
        lineage=_lineage(body.inner("lineage", {})),
        signatures=tuple(_signature(one) for one in body.list("signatures", [], max_items=MAX_SIGNATURES)),
        reason=body.text("reason", "", max_length=1000),
    )
    body.end()
    return publication


def publish(service: RegistryService, publication: Publication, folder: Path) -> Doc:
    """Puts the files together below `folder`, and publishes them in the name of the service's actor. What the model's
    policy refuses whatever the files hold is refused before they are asked for."""
    check_policy(service.catalog, publication.model, MODEL_FORMAT, publication.card)
    missing = [file.sha256 for file in publication.files if not service.store.has(file.sha256)]
    if missing:
        detail = f"{len(missing)} of the files are not stored yet: upload them first"
        raise ProblemError(Problem(409, "not-uploaded", detail, {"missing": missing}))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix="publish-", dir=folder))
    except OSError as error:
        raise StoreUnavailable(str(folder), error.strerror or "cannot be written") from error
    try:
        _gather(service, publication, work)

        def publish_as(alias: str | None) -> PushResult:
            return push(
                service.catalog,
                service.store,
                work,
                publication.model,
                actor=service.actor,
                alias=alias,
                tags=publication.tags,
                card=publication.card,
                metrics=publication.metrics,
                lineage=publication.lineage,
                signatures=publication.signatures,
                reason=publication.reason,
            )

        return service.publish(publish_as, publication.model, publication.alias, publication.reason)
    except OSError as error:
        raise StoreUnavailable(str(folder), error.strerror or "cannot be read") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _gather(service: RegistryService, publication: Publication, work: Path) -> None:
    for file in publication.files:
        target = work / file.path
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            service.store.fetch(file.sha256, file.size, target, resume=False)
        except NotFound:
            detail = "a file went while it was published: upload it again"
            raise ProblemError(Problem(409, "not-uploaded", detail, {"missing": [file.sha256]})) from None
    if publication.config_text is not None:
        (work / CONFIG_FILENAME).write_text(publication.config_text, "utf-8", newline="")


def _file(body: Body) -> FileEntry:
    path, sha256, size = body.text("path"), body.text("sha256"), body.integer("size")
    body.end()
    if not is_sha256(sha256):
        raise ProblemError(Problem(400, "invalid-request", "files.sha256: must be a SHA-256 in hexadecimal"))
    if check_path(path) == CONFIG_FILENAME:
        raise ProblemError(Problem(400, "invalid-request", f"{CONFIG_FILENAME} is sent as config_text"))
    return FileEntry(path, sha256, size)


def _no_file() -> FileEntry:
    raise ProblemError(Problem(400, "invalid-request", "files: must be objects"))


def _lineage(body: Body) -> Lineage:
    texts = {
        field.name: body.text(field.name, "", max_length=1024)
        for field in dataclasses.fields(Lineage)
        if field.name != "git_dirty"
    }
    lineage = Lineage(**texts, git_dirty=body.boolean("git_dirty", False))
    body.end()
    return lineage


def _signature(value: Any) -> str:
    if not isinstance(value, str) or len(value) > MAX_SIGNATURE:
        raise ProblemError(Problem(400, "invalid-request", "signatures: must be texts"))
    return value
