"""Publishing: from a file or folder to the next version of a model. Objects are stored first, then one transaction
makes them a version; so after a crash anywhere between, there is a version or there is none, and what it left behind in
the store is collected later.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from registry.artifacts import ArtifactStore, StoredObject
from registry.catalog import PUSH_SECONDS, Catalog
from registry.catalog_rows import VersionRow
from registry.errors import NotFound, PolicyRefused, PushExpired
from registry.lineage import find_lineage
from registry.manifest import Lineage, Manifest
from registry.model_folder import Progress, PushLimits, read_model_folder
from registry.names import check_alias, check_name
from registry.policies import ModelPolicy, may_publish
from registry.signing import sign

COLLECT_SECONDS = 3.0
"""How long collecting keeps others from writing at a time: less than they wait, and far less than a database lets a
transaction be idle. One that it has ended guards nothing any more."""
KEEP_SECONDS = PUSH_SECONDS / 4
"""How often a push that lasts says that its objects are still needed."""


@dataclass(frozen=True)
class PushResult:
    """What a push came to."""

    model: str
    version: int
    is_new: bool
    """False: a version with the same files and configuration was there already, and this is it."""
    digest: str
    """SHA-256 of the version's manifest."""
    content_digest: str
    bytes_total: int
    bytes_stored: int
    """Of files that the store did not have yet."""
    row: VersionRow


def push(
    catalog: Catalog,
    store: ArtifactStore,
    path: Path,
    name: str,
    *,
    actor: str,
    alias: str | None = None,
    tags: Mapping[str, str] | None = None,
    card: Mapping[str, Any] | None = None,
    metrics: Mapping[str, float] | None = None,
    data_ref: str = "",
    run: str = "",
    lineage: Lineage | None = None,
    sign_key: Path | None = None,
    signatures: Iterable[str] = (),
    reason: str = "",
    limits: PushLimits = PushLimits(),
    progress: Progress | None = None,
    clock: Callable[[], float] = time.time,
) -> PushResult:
    """Publishes an ONNX file or a model folder as the next version of a model.

    Args:
        actor: who publishes, for the log.
        alias: moved to the version in the same transaction, also when it was there already.
        card: fields of the model card; see `registry.card`.
        lineage: where the version comes from, when somebody else has found out. Otherwise it is found here.
        sign_key: private key in PEM.
        signatures: bundles that were made elsewhere.

    Raises:
        ArtifactRefused: one of its kinds: the files are not taken in.
        PolicyRefused: the model's policy asks for what this version will never have.
        InvalidName: of the model or the alias.
        StagingFailed: a file changed meanwhile.
        SourceUnavailable: the catalog or the store failed. Pushing again completes what was begun.
        OSError: a file cannot be read.
    """
    check_name(name)
    if alias is not None:
        check_alias(alias)
    told = progress or _silent
    folder = read_model_folder(path, limits)
    if lineage is None:
        lineage = find_lineage(path, now=clock(), data_ref=data_ref, run=run)
    manifest = folder.to_manifest(name, lineage, told, tags=tags, card=card, metrics=metrics)
    bundles = [*signatures, *([sign(manifest, sign_key)] if sign_key else [])]
    return publish(
        catalog,
        store,
        manifest,
        folder.files,
        actor=actor,
        alias=alias,
        signatures=bundles,
        reason=reason,
        progress=told,
    )


def publish(
    catalog: Catalog,
    store: ArtifactStore,
    manifest: Manifest,
    files: Mapping[str, Path],
    *,
    actor: str,
    alias: str | None = None,
    signatures: Iterable[str] = (),
    reason: str = "",
    progress: Progress | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> PushResult:
    """The second half of `push`: stores the files of a manifest, by their paths in it, and adds the version. Raises as
    `push` does."""
    check_policy(catalog, manifest.model, manifest.format, manifest.card)
    bundles, stored = tuple(signatures), 0
    while True:
        push_id = catalog.begin_push((entry.sha256 for entry in manifest.files), actor)
        try:
            stored += _store(catalog, store, manifest, files, push_id, progress or _silent, clock)
            row, is_new = catalog.add_version(
                manifest, actor, alias=alias, signatures=bundles, push=push_id, reason=reason
            )
            break
        except PushExpired:  # what was stored may have been collected: what is still there is only looked at again
            continue
    digest = row.manifest.content_digest
    return PushResult(manifest.model, row.version, is_new, row.digest, digest, manifest.size, stored, row)


def check_policy(catalog: Catalog, model: str, format: str, card: Mapping[str, Any]) -> None:
    """Raises PolicyRefused when the model's policy asks for what a version of this format with this card never has."""
    if reasons := may_publish(format, card, _policy(catalog, model).approval):
        raise PolicyRefused(model, reasons)


def _store(
    catalog: Catalog,
    store: ArtifactStore,
    manifest: Manifest,
    files: Mapping[str, Path],
    push_id: str,
    told: Progress,
    clock: Callable[[], float],
) -> int:
    """Stores the files; how many bytes of them are new. Raises PushExpired besides what the store raises."""
    done = stored = 0
    kept_at = clock()
    told("store", 0, manifest.size)
    for entry in manifest.files:
        if store.put(files[entry.path], entry.sha256):
            stored += entry.size
        done += entry.size
        told("store", done, manifest.size)
        if clock() - kept_at > KEEP_SECONDS:
            catalog.keep_push(push_id)
            kept_at = clock()
    return stored


def collect(
    catalog: Catalog,
    store: ArtifactStore,
    *,
    before: float,
    is_dry_run: bool = False,
    clock: Callable[[], float] = time.monotonic,
) -> tuple[StoredObject, ...]:
    """Removes objects that no version, no policy and no push under way names, and halves of objects: what pushes left
    that never ended.

    Pushing goes on meanwhile; it waits for a few seconds at a time.

    Args:
        before: in seconds since the epoch; what was stored at this moment or later stays.
        is_dry_run: removes nothing, and says what would go.

    Returns:
        What is gone, or would be.

    Raises:
        SourceUnavailable: the catalog or the store failed. What was removed until then is gone, and rightly.
    """
    # A listing may take long, and a push may begin meanwhile: what is deleted is asked about again.
    with catalog.collecting() as kept:
        pass
    found = [one for one in store.list() if one.sha256 not in kept and one.modified_at < before]
    if is_dry_run:
        return tuple(found)
    store.remove_unfinished(before)
    gone, left = [], deque(found)
    while left:
        with catalog.collecting() as kept:
            until = clock() + COLLECT_SECONDS
            while left and clock() < until:
                one = left.popleft()
                if one.sha256 not in kept:
                    store.delete(one.sha256)
                    gone.append(one)
    return tuple(gone)


def _policy(catalog: Catalog, name: str) -> ModelPolicy:
    try:
        return catalog.model(name).policy
    except NotFound:
        return ModelPolicy()


def _silent(_step: str, _done: int, _total: int) -> None:
    pass
