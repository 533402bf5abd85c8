"""The Sluice catalog as a source: the versions that each model's policy wants, brought here from the artifact store.

The database is asked for one number at each look, and for more only when that has changed. A look never takes longer
than its bounds, whatever the database or the store does.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType

from registry.artifacts import ArtifactStore
from registry.cache import ContentCache
from registry.catalog import Catalog
from registry.catalog_rows import ModelRow, Overview, VersionBrief, VersionRow
from registry.daemon_pool import DaemonPool
from registry.errors import InvalidManifest, RegistryError, SourceUnavailable
from registry.ledger import Ledger
from registry.manifest import FileEntry
from registry.policies import ApprovalPolicy, ByAlias, IsSignedBy, may_serve, parse_served_by
from registry.policy import Latest
from registry.redaction import redact
from registry.sources import Problem, Snapshot
from registry.sources.health import SourceHealth
from registry.sources.replica import Candidate, Replica, Wanted
from registry.sources.sentences import sentence


@dataclass(frozen=True)
class Proposal:
    """An alias that has moved, of a model whose moves are not followed at once: what serves, and what it points at."""

    model: str
    alias: str
    generation: int
    serving: frozenset[int]
    proposed: int


@dataclass(frozen=True)
class _View:
    """What the catalog wanted at one moment."""

    token: int
    wanted: Mapping[str, Wanted]
    proposals: tuple[Proposal, ...]


class CatalogSource:
    """One catalog and its artifact store.

    Args:
        place: the catalog, for people: without secrets.
        connect: opens the catalog; called again after it failed.
        connect_store: opens the artifact store, when the first object is fetched.
        is_signed_by: `registry.signing.is_signed_by`.
        patience: seconds that a look waits for versions on their way here; None for as long as it takes.
        answer_seconds: how long the database may take to answer a look.
    """

    def __init__(
        self,
        place: str,
        connect: Callable[[], Catalog],
        connect_store: Callable[[], ArtifactStore],
        cache: ContentCache,
        ledger: Ledger,
        is_signed_by: IsSignedBy,
        *,
        patience: float | None = 0.3,
        answer_seconds: float = 3.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.place = place
        self._connect, self._connect_store = connect, connect_store
        self._cache, self._is_signed_by = cache, is_signed_by
        self._patience, self._answer_seconds, self._clock = patience, answer_seconds, clock
        self._replica = Replica(cache, ledger)
        self._reader = DaemonPool(1, "catalog")
        # Changed by the reader's thread alone.
        self._catalog: Catalog | None = None
        self._rows: dict[tuple[str, int, str], VersionRow] = {}
        self._store: ArtifactStore | None = None
        # Changed by `scan` alone, one call at a time.
        self._reading: Future[_View] | None = None
        self._view: _View | None = None
        self._snapshot: Snapshot | None = None
        self._health = SourceHealth("catalog", place)

    def open(self) -> None:
        """Takes over the cache and what was served last. Raises OSError or PullFailed when it cannot be used."""
        self._cache.open()
        self._replica.open()

    def close(self) -> None:
        """Ends a scan that waits. Idempotent."""
        self._replica.close()
        self._reader.close()
        self._cache.close()
        if self._catalog is not None:
            self._catalog.close()

    def hold(self, loaded: Mapping[str, tuple[int, ...]]) -> None:
        """These versions are in use: they stay in the cache."""
        self._replica.hold(loaded)

    def proposals(self) -> tuple[Proposal, ...]:
        """Moves of aliases that wait for somebody to follow them."""
        return self._view.proposals if self._view else ()

    def health(self) -> SourceHealth:
        replica = self._replica
        return replace(self._health, pending=replica.pending, failing=replica.failing, counts=dict(replica.counts))

    def scan(self) -> Snapshot:
        now = self._clock()
        try:
            view = self._read()
        except SourceUnavailable as error:
            self._health = self._health.unreached(error.reason)
            if self._snapshot is not None:
                raise
            self._snapshot = self._replica.last()
            if not self._snapshot.models:
                self._snapshot = None
                raise
            reason = f"cannot be reached ({error.reason}); what was served last is served from the cache"
            return replace(self._snapshot, problems=(Problem(self.place, reason),))
        self._health = self._health.reached(now)
        if view is not self._view or self._snapshot is None or not self._replica.is_settled(now):
            self._view = view
            self._snapshot = self._replica.follow(view.wanted, now, patience=self._patience)
        return self._snapshot

    # The database

    def _read(self) -> _View:
        """Raises SourceUnavailable, also when the answer takes too long; it is then waited for at the next look."""
        if self._reading is None:
            try:
                self._reading = self._reader.submit(partial(self._look, self._view))
            except RuntimeError:
                raise SourceUnavailable(self.place, "closed") from None
        try:
            view = self._reading.result(self._answer_seconds)
        except TimeoutError:
            if not self._reading.done():
                raise SourceUnavailable(self.place, f"no answer in {self._answer_seconds:g} s") from None
            self._reading = None
            raise SourceUnavailable(self.place, "timed out") from None
        except SourceUnavailable as error:
            self._reading = None
            raise SourceUnavailable(self.place, redact(error.reason)) from error
        except Exception as error:
            self._reading = None
            raise SourceUnavailable(self.place, sentence(error)) from error
        self._reading = None
        return view

    def _look(self, last: _View | None) -> _View:
        """Runs in the reader's thread."""
        if self._catalog is None:
            self._catalog = self._connect()
        token = self._catalog.change_token()
        if last is not None and token == last.token:
            return last
        if last is not None and token < last.token:
            reason = f"holds less than before: its newest change is {token}, and was {last.token}"
            raise SourceUnavailable(self.place, reason)
        overview = self._catalog.overview()
        proposals: list[Proposal] = []
        wanted = {name: self._wanted(overview, name, proposals) for name in overview.models}
        self._forget_rows(overview)
        return _View(overview.token, MappingProxyType(wanted), tuple(proposals))

    def _row(self, brief: VersionBrief, *, is_fresh: bool = False) -> VersionRow:
        """One version with its manifest, which is what the catalog says it is. With `is_fresh`, its signatures and
        checks are those of now."""
        key = (brief.model, brief.version, brief.digest)
        if is_fresh or key not in self._rows:
            assert self._catalog is not None
            row = self._catalog.version(brief.model, brief.version)
            if hashlib.sha256(row.manifest_json.encode()).hexdigest() != brief.digest:
                raise InvalidManifest("digest", f"of version {brief.version} is not {brief.digest}")
            if row.manifest.model != brief.model:
                raise InvalidManifest("model", f"of version {brief.version} is {row.manifest.model!r}")
            self._rows[key] = row
        return replace(self._rows[key], stage=brief.stage)

    def _forget_rows(self, overview: Overview) -> None:
        known = {(brief.model, brief.version, brief.digest) for rows in overview.versions.values() for brief in rows}
        self._rows = {key: row for key, row in self._rows.items() if key in known}

    # What one model wants

    def _wanted(self, overview: Overview, name: str, proposals: list[Proposal]) -> Wanted:
        try:
            return _Choice(self, overview, name, proposals).wanted()
        except SourceUnavailable:
            raise
        except RegistryError as error:
            return Wanted(reasons=(sentence(error),))

    def candidate(self, row: VersionRow) -> Candidate:
        return Candidate(row.version, f"sha256:{row.digest}", partial(self._bring, row.manifest.files))

    def reasons_against(self, brief: VersionBrief, policy: ApprovalPolicy) -> list[str]:
        """Why a version may not be served; none when it may."""
        if brief.stage == "rejected":
            return ["rejected"]
        if policy == ApprovalPolicy():
            return []
        return may_serve(self._row(brief, is_fresh=True), policy, self._is_signed_by)

    def served_versions(self, model: str) -> frozenset[int]:
        return self._replica.served_versions(model)

    def row(self, brief: VersionBrief) -> VersionRow:
        return self._row(brief)

    def _bring(self, files: tuple[FileEntry, ...], pinned: tuple[FileEntry, ...] | None) -> tuple[FileEntry, ...]:
        """Runs in a thread of the replica."""
        if self._store is None:
            self._store = self._connect_store()
        self._cache.pull(pinned or files, self._store)
        return files


class _Choice:
    """What the policy of one model wants at one moment."""

    def __init__(self, source: CatalogSource, overview: Overview, name: str, proposals: list[Proposal]) -> None:
        self._source, self._proposals = source, proposals
        self._model: ModelRow = overview.models[name]
        self._briefs = {brief.version: brief for brief in overview.versions[name]}
        self._aliases = overview.aliases[name]
        self._against: dict[int, list[str]] = {}

    def wanted(self) -> Wanted:
        versions, reasons = self._versions()
        refused = [f"version {version} may not be served: {'; '.join(self.against(version))}" for version in versions
                   if self.against(version)]  # fmt: skip
        rows = [self._source.row(self._briefs[version]) for version in versions if not self.against(version)]
        config = rows[-1].manifest.config_text if rows else None
        standing = self._source.served_versions(self._model.name) | set(versions)
        return Wanted(
            tuple(self._source.candidate(row) for row in rows),
            config.encode() if config is not None else None,
            reasons=(*reasons, *refused),
            may_stay=frozenset(
                version for version in standing if version in self._briefs and not self.against(version)
            ),
        )

    def against(self, version: int) -> list[str]:
        if version not in self._against:
            self._against[version] = self._source.reasons_against(self._briefs[version], self._model.approval)
        return self._against[version]

    def _versions(self) -> tuple[list[int], list[str]]:
        """Ascending, and what to say about it."""
        served = parse_served_by(self._model.served_by)
        if isinstance(served, ByAlias):
            pointer = self._aliases.get(served.alias)
            if pointer is not None and pointer.version is not None:
                return self._after_move(served.alias, pointer.generation, pointer.version), []
            return (self._newest(1), []) if served.or_latest else ([], [])
        if isinstance(served, Latest):
            return self._newest(served.count), []
        chosen = sorted(served.choose(self._briefs))
        missing = sorted(served.missing(self._briefs))
        if missing:
            return chosen, [f"version {version} is wanted and not there" for version in missing]
        return chosen, []

    def _newest(self, count: int) -> list[int]:
        """The newest that may be served: one that may not yet is passed over."""
        found: list[int] = []
        for version in sorted(self._briefs, reverse=True):
            if len(found) < count and not self.against(version):
                found.append(version)
        return found[::-1]

    def _after_move(self, alias: str, generation: int, version: int) -> list[int]:
        serving = self._source.served_versions(self._model.name)
        may_go_on = bool(serving) and all(each in self._briefs and not self.against(each) for each in serving)
        if self._model.on_alias_move == "swap" or version in serving or not may_go_on:
            return [version]
        self._proposals.append(Proposal(self._model.name, alias, generation, serving, version))
        return sorted(serving)
