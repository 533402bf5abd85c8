"""Publishing through an admin API: hash here, ask the gateway to publish, send what it says that it misses, ask again.

What is sent is checked here first, by the same rules, so that a refusal does not cost an upload; the gateway checks it
again, because it believes nobody.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import IO, Any

from gateway.admin.problems import ProblemError
from gateway.cli.registry import Doc, Publication, Report
from gateway.cli.remote import ROOT, AdminClient, model_path
from registry.artifacts import hash_file
from registry.manifest import Manifest
from registry.model_folder import ModelFolder, read_model_folder
from registry.names import check_alias, check_name
from registry.signing import sign

TELL_BYTES = 1 << 18
ROUNDS = 3
"""What was sent may be collected as garbage while the rest takes days: it is asked for again."""
PATIENCE_SECONDS = 3600.0
"""For the gateway to store a file and to publish: it may have to send it on to a bucket, and reads it all again."""


def push(client: AdminClient, publication: Publication, report: Report) -> Doc:
    """What `registry.publish.push` does, at the other end of a connection.

    Raises:
        ArtifactRefused: one of its kinds: the files cannot be published.
        ProblemError: the gateway refused.
        CommandFailed: the gateway does not answer. Pushing again goes on where this stopped.
    """
    check_name(publication.model)
    if publication.alias is not None:
        check_alias(publication.alias)
    folder = read_model_folder(publication.path)
    manifest = folder.to_manifest(
        publication.model, publication.lineage, report,
        tags=publication.tags, card=publication.card, metrics=publication.metrics,
    )  # fmt: skip
    signatures = [sign(manifest, publication.sign_key)] if publication.sign_key else []
    document = {
        "files": [asdict(file) for file in manifest.files],
        "config_text": manifest.config_text,
        "alias": publication.alias,
        "tags": dict(manifest.tags),
        "card": dict(manifest.card),
        "metrics": dict(manifest.metrics),
        "lineage": asdict(manifest.lineage),
        "signatures": signatures,
        "reason": publication.reason,
    }
    sent = 0
    for _ in range(ROUNDS):
        try:
            return {**_publish(client, publication.model, document), "bytes_stored": sent}
        except ProblemError as error:
            if error.problem.kind != "not-uploaded":
                raise
            sent += _upload(client, manifest, folder, error.problem.facts["missing"], report)
    return {**_publish(client, publication.model, document), "bytes_stored": sent}


def _publish(client: AdminClient, model: str, document: Doc) -> Doc:
    answer, _ = client.call("POST", f"{ROOT}{model_path(model)}/versions", document, timeout=PATIENCE_SECONDS)
    return dict(answer)


def _upload(
    client: AdminClient, manifest: Manifest, folder: ModelFolder, missing: Collection[str], report: Report
) -> int:
    """Sends the files with these digests; how many bytes that were."""
    files = {file.sha256: file for file in manifest.files if file.sha256 in missing}
    total, done = sum(file.size for file in files.values()), 0
    for sha256, file in files.items():
        advance = partial(_advance, report, done, total)
        _send(client, f"{ROOT}/objects/{sha256}", folder.files[file.path], file.size, advance)
        done += file.size
    return done


def _advance(report: Report, before: int, total: int, done: int) -> None:
    report("send", before + done, total)


def _send(client: AdminClient, path: str, place: Path, size: int, report: Callable[[int], None]) -> None:
    with place.open("rb") as file:
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(size)}
        client.call("PUT", path, headers=headers, body=Told(file, report), timeout=PATIENCE_SECONDS)


def send_file(client: AdminClient, path: Path) -> Doc:
    """Stores one file that belongs to no version; its digest and size. Raises as `push` does."""
    sha256, size = hash_file(path)
    _send(client, f"{ROOT}/objects/{sha256}", path, size, lambda _: None)
    return {"sha256": sha256, "size": size}


class Told:
    """A file that says how much of it was read."""

    def __init__(self, file: IO[bytes], report: Callable[[int], None]) -> None:
        self._file, self._report = file, report
        self._done = self._told = 0

    def read(self, size: int = -1) -> Any:
        chunk = self._file.read(size)
        self._done += len(chunk)
        if self._done - self._told >= TELL_BYTES or not chunk:
            self._told = self._done
            self._report(self._done)
        return chunk
