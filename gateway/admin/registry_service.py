"""The registry as documents: what the admin API answers and the command line prints, from a catalog and a store.

Plain calls that block: the API makes them in threads. What the one who acts may do was decided before.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from gateway.admin.golden_checks import GoldenChecks
from registry.artifacts import CHUNK_BYTES, ArtifactStore
from registry.audit import Head
from registry.catalog import Catalog
from registry.catalog_rows import ModelRow, VersionRow
from registry.diff import diff
from registry.errors import NotFound, PolicyRefused, RegistryError
from registry.manifest import FileEntry, Manifest
from registry.names import check_alias
from registry.policies import GoldenSet, ModelPolicy, choose, may_serve, parse_served_by
from registry.publish import PushResult, collect

Doc = dict[str, Any]
Decision = Literal["approved", "rejected"]


class RegistryService:
    """One catalog and its store, in the hands of `actor`, whom the audit log names. May be used from any thread."""

    def __init__(
        self,
        catalog: Catalog,
        store: ArtifactStore,
        actor: str,
        *,
        work: Path | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`work` is where versions lie for a while when they are checked; None for the system's place."""
        self.catalog, self.store, self.actor, self._clock = catalog, store, actor, clock
        self._golden = GoldenChecks(catalog, store, actor, work)

    @property
    def place(self) -> str:
        return self.catalog.place

    # Looking

    def models(self) -> list[Doc]:
        return [one._asdict() for one in self.catalog.listing()]

    def versions(self, model: str) -> list[Doc]:
        """The oldest first."""
        pointing = self._aliases_by_version(model)
        return [to_summary(row, pointing.get(row.version, [])) for row in self.catalog.versions(model)]

    def version(self, model: str, version: int) -> Doc:
        row = self.catalog.version(model, version)
        manifest = row.manifest
        reasons = self._reasons(row)
        return {
            **to_summary(row, self._aliases_by_version(model).get(version, [])),
            "format": manifest.format,
            "opset": manifest.opset,
            "files": [asdict(file) for file in manifest.files],
            "inputs": [asdict(spec) for spec in manifest.inputs],
            "outputs": [asdict(spec) for spec in manifest.outputs],
            "operators": dict(manifest.operators),
            "card": dict(manifest.card),
            "config_text": manifest.config_text,
            "signatures": [hashlib.sha256(bundle.encode()).hexdigest() for bundle in row.signatures],
            "checks": [asdict(check) for check in row.checks],
            "may_serve": not reasons,
            "reasons": reasons,
        }

    def manifest_json(self, model: str, version: int) -> tuple[str, str]:
        """The manifest as it was published, in canonical JSON, and its digest."""
        row = self.catalog.version(model, version)
        return row.manifest_json, row.digest

    def diff(self, model: str, before: int, after: int) -> Doc:
        old, new = (self.catalog.version(model, version).manifest for version in (before, after))
        return {"model": model, "before": before, "after": after, **diff(old, new).to_dict()}

    # Aliases and policy

    def aliases(self, model: str) -> list[Doc]:
        return [asdict(row) for row in self.catalog.aliases(model)]

    def alias(self, model: str, alias: str) -> Doc | None:
        return next((one for one in self.aliases(model) if one["alias"] == alias), None)

    def alias_history(self, model: str, alias: str) -> list[Doc]:
        """The newest move first."""
        self.catalog.model(model)
        return [asdict(move) for move in reversed(self.catalog.alias_history(model, alias))]

    def move_alias(self, model: str, alias: str, version: int | None, expected: int, reason: str) -> Doc:
        """`expected` is the generation that the caller knows; 0: none. PolicyRefused when the golden set is against
        the version."""
        if version is not None:
            self._require_golden(self.catalog.version(model, version))
        row = self.catalog.move_alias(model, alias, version, expected=expected, actor=self.actor, reason=reason)
        return asdict(row)

    def policy(self, model: str) -> Doc:
        return _policy(self.catalog.model(model))

    def set_policy(self, model: str, policy: Doc, expected: str, reason: str) -> Doc:
        """Replaces it, if its digest is still `expected`. Versions that are served by it meet its golden set first, so
        that they go on being served.

        Raises:
            InvalidPolicy: names the field that makes no sense.
            ProblemError, InvalidGoldenSet: the golden set is not stored, or none.
            PolicyRefused: a version that may be served now, and is chosen, does not answer as the golden set says.
        """
        new = ModelPolicy.from_dict(policy)
        golden = new.approval.golden
        if golden is None:
            return _policy(self.catalog.set_policy(model, new, self.actor, expected=expected, reason=reason))
        push = self.catalog.begin_push([golden.sha256], self.actor)  # so that nobody takes the set for garbage
        try:
            self._golden.read(golden)
            self._check_chosen(model, new, golden)
            return _policy(self.catalog.set_policy(model, new, self.actor, expected=expected, reason=reason))
        finally:
            self.catalog.end_push(push)

    def _check_chosen(self, model: str, policy: ModelPolicy, golden: GoldenSet) -> None:
        rows = {row.version: row for row in self.catalog.versions(model)}
        pointers = {row.alias: row.version for row in self.catalog.aliases(model) if row.version is not None}
        chosen = choose(parse_served_by(policy.served_by), rows, pointers)
        for version in sorted(chosen | set(pointers.values())):
            may_serve_now = not self._reasons(rows[version])
            outcome = self._golden.check(rows[version], golden)
            if not outcome.is_passed and version in chosen and may_serve_now:
                reason = f"version {version}, which is served, differs from the golden set: {outcome.detail}"
                raise PolicyRefused(model, [reason])

    def publish(self, push: Callable[[str | None], PushResult], model: str, alias: str | None, reason: str) -> Doc:
        """Publishes by `push`, which takes the alias to move. Under a golden set the version is checked before an alias
        is moved to it, and none is when it fails.

        Raises:
            RegistryError: what `push` raises; or the version is there, and the golden set cannot be read.
        """
        if alias is not None:
            check_alias(alias)
        golden = self._golden_set(model)
        result = push(alias if golden is None else None)
        if golden is None:
            return to_published(result, alias)
        outcome = self._golden.check(result.row, golden)
        if outcome.is_passed and alias is not None:
            self.catalog.move_alias(model, alias, result.version, actor=self.actor, reason=reason)
        return {**to_published(result, alias if outcome.is_passed else None), "golden": asdict(outcome)}

    def _golden_set(self, model: str) -> GoldenSet | None:
        try:
            return self.catalog.model(model).approval.golden
        except NotFound:
            return None

    def _require_golden(self, row: VersionRow) -> None:
        golden = self._golden_set(row.model)
        if golden is not None and not (outcome := self._golden.check(row, golden)).is_passed:
            raise PolicyRefused(row.model, [f"version {row.version} differs from the golden set: {outcome.detail}"])

    def decide(self, model: str, version: int, decision: Decision, reason: str) -> Doc:
        if decision == "approved" and (golden := self.catalog.model(model).approval.golden) is not None:
            self._golden.check(self.catalog.version(model, version), golden)
        act = self.catalog.approve if decision == "approved" else self.catalog.reject
        act(model, version, self.actor, reason)
        return self.version(model, version)

    # Bytes

    def verify(self, model: str, version: int) -> Iterator[Doc]:
        """Reads everything again. Yields `done` and `total` bytes on the way, and a document for each file, whose
        `problem` is empty when its bytes are those that were published."""
        row = self.catalog.version(model, version)
        try:
            manifest = row.manifest
        except RegistryError as error:
            yield {"path": "", "sha256": row.digest, "size": 0, "problem": f"the manifest cannot be read: {error}"}
            return
        if manifest.digest != row.digest:
            problem = "the manifest is not the one that was published"
            yield {"path": "", "sha256": row.digest, "size": 0, "problem": problem}
        done = 0
        for file in manifest.files:
            problem = ""
            try:
                for count in self._read(file):
                    done += count
                    yield {"done": done, "total": manifest.size}
            except NotFound:
                problem = "missing"
            except _Damaged as damaged:
                problem = str(damaged)
            yield {"path": file.path, "sha256": file.sha256, "size": file.size, "problem": problem}

    def collect(self, dry_run: bool, grace: float) -> Doc:
        """Deletes what no version, policy or push refers to and what is older than `grace` seconds."""
        gone = collect(self.catalog, self.store, before=self._clock() - grace, is_dry_run=dry_run)
        return {
            "dry_run": dry_run,
            "bytes": sum(one.size for one in gone),
            "objects": [{"sha256": one.sha256, "size": one.size} for one in gone],
        }

    # The log

    def audit(self, after: int, limit: int) -> list[Doc]:
        return [entry.to_dict() for entry in self.catalog.audit(after, limit)]

    def verify_audit(self, anchors: Iterable[tuple[int, str]] = ()) -> Doc:
        """`anchors`: numbers and hashes of entries, noted elsewhere earlier."""
        head = self.catalog.audit_head()
        bad = self.catalog.verify_audit([Head(*anchor) for anchor in anchors])
        first_bad = None if bad is None else asdict(bad)
        return {"ok": bad is None, "entries": head.seq, "head": head.hash, "first_bad": first_bad}

    def _read(self, file: FileEntry) -> Iterator[int]:
        sha, size = hashlib.sha256(), 0
        with contextlib.closing(self.store.open(file.sha256)) as stream:
            while chunk := stream.read(CHUNK_BYTES):
                sha.update(chunk)
                size += len(chunk)
                yield len(chunk)
                if size > file.size:
                    break
        if size != file.size:
            raise _Damaged(f"has {'more' if size > file.size else size} bytes, not {file.size}")
        if sha.hexdigest() != file.sha256:
            raise _Damaged(f"has other bytes: {sha.hexdigest()}")

    def _aliases_by_version(self, model: str) -> dict[int, list[str]]:
        pointing: dict[int, list[str]] = {}
        for row in self.catalog.aliases(model):
            if row.version is not None:
                pointing.setdefault(row.version, []).append(row.alias)
        return pointing

    def _reasons(self, row: VersionRow) -> list[str]:
        approval = self.catalog.model(row.model).approval
        return may_serve(row, approval, is_signed_by)


class _Damaged(Exception):
    """What is stored is not what was published."""


def is_signed_by(manifest: Manifest, bundle: str, key: str) -> bool:
    """`registry.signing.is_signed_by`, loaded only where a policy names keys: the library is large."""
    from registry import signing

    return signing.is_signed_by(manifest, bundle, key)


def _policy(row: ModelRow) -> Doc:
    return {"model": row.name, "policy": row.policy.to_dict(), "digest": row.policy.digest}


def to_published(result: PushResult, alias: str | None) -> Doc:
    """What a push came to."""
    return {
        "model": result.model,
        "version": result.version,
        "is_new": result.is_new,
        "stage": result.row.stage,
        "digest": result.digest,
        "content_digest": result.content_digest,
        "bytes": result.bytes_total,
        "bytes_stored": result.bytes_stored,
        "alias": alias,
    }


def to_summary(row: VersionRow, aliases: list[str]) -> Doc:
    """A version as a list shows it."""
    manifest = row.manifest
    return {
        "model": row.model,
        "version": row.version,
        "stage": row.stage,
        "digest": row.digest,
        "content_digest": manifest.content_digest,
        "author": row.author,
        "created_at": row.created_at,
        "size": manifest.size,
        "aliases": aliases,
        "tags": dict(manifest.tags),
        "metrics": dict(manifest.metrics),
        "lineage": asdict(manifest.lineage),
    }
