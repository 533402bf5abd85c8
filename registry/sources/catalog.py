"""The Sluice catalog as a source: the versions that each model's policy wants, brought here from the artifact store.

The database is asked for one number at each look, and for more only when that has changed. A look never takes longer
than its bounds, whatever the database or the store does.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType
from typing import Any

from registry.artifacts import ArtifactStore
from registry.cache import ContentCache
from registry.catalog import Catalog
from registry.catalog_rows import ModelRow, Overview, VersionBrief, VersionRow
from registry.errors import InvalidManifest, RegistryError, SourceUnavailable
from registry.ledger import Ledger
from registry.manifest import FileEntry
from registry.policies import ApprovalPolicy, ByAlias, IsSignedBy, may_serve, parse_served_by
from registry.policy import Latest
from registry.sources.remote import RemoteSource, View
from registry.sources.replica import Candidate, Wanted
from registry.sources.sentences import sentence

READ_AHEAD = 8
"""Versions that are missing from which they are read together."""


@dataclass(frozen=True)
class Proposal:
    """An alias that has moved, of a model whose moves are not followed at once: what serves, and what it points at."""

    model: str
    alias: str
    generation: int
    serving: frozenset[int]
    proposed: int


@dataclass(frozen=True)
class _CatalogView(View):
    token: int
    proposals: tuple[Proposal, ...]
    admitted: Mapping[str, frozenset[int]]
    aliases: Mapping[str, Mapping[str, int]]


class CatalogSource(RemoteSource):
    """One catalog and its artifact store.

    Args:
        place: the catalog, for people: without secrets.
        connect: opens the catalog; called again after it failed.
        connect_store: opens the artifact store, when the first object is fetched.
        is_signed_by: `registry.signing.is_signed_by`.
        bounds: see `RemoteSource`.
    """

    def __init__(
        self,
        place: str,
        connect: Callable[[], Catalog],
        connect_store: Callable[[], ArtifactStore],
        cache: ContentCache,
        ledger: Ledger,
        is_signed_by: IsSignedBy,
        **bounds: Any,
    ) -> None:
        super().__init__("catalog", place, cache, ledger, **bounds)
        self._connect, self._connect_store, self._is_signed_by = connect, connect_store, is_signed_by
        # Changed by `look` alone.
        self._catalog: Catalog | None = None
        self._rows: dict[tuple[str, int, str], VersionRow] = {}
        # Replaced by `admit` alone.
        self._admitted: Mapping[str, frozenset[int]] = MappingProxyType({})
        # Changed by whoever fetches first.
        self._store: ArtifactStore | None = None

    def close(self) -> None:
        super().close()
        if self._catalog is not None:
            self._catalog.close()

    def proposals(self) -> tuple[Proposal, ...]:
        """Moves of aliases that wait for somebody to follow them."""
        return self.view.proposals if isinstance(self.view, _CatalogView) else ()

    def admit(self, versions: Mapping[str, frozenset[int]]) -> None:
        """These versions are wanted beside what the policies want, by model: their traffic is routed on purpose. Until
        a rollout's canary is admitted it is not brought here, so it never takes traffic by being the newest."""
        self._admitted = MappingProxyType(dict(versions))

    def admitted(self, model: str) -> frozenset[int]:
        return self._admitted.get(model, frozenset())

    def aliases(self) -> Mapping[str, Mapping[str, int]]:
        """Where the aliases of each model pointed at the last look."""
        return self.view.aliases if isinstance(self.view, _CatalogView) else {}

    def notes(self, model: str) -> tuple[str, ...]:
        """Why versions of its rollout are not served, at the last look."""
        wanted = self.view.wanted.get(model) if self.view else None
        return wanted.notes if wanted else ()

    def look(self, last: View | None) -> View:
        if self._catalog is None:
            self._catalog = self._connect()
        token, admitted = self._catalog.change_token(), self._admitted
        if isinstance(last, _CatalogView):
            if token == last.token and admitted == last.admitted:
                return last
            if token < last.token:
                reason = f"holds less than before: its newest change is {token}, and was {last.token}"
                raise SourceUnavailable(self.place, reason)
        overview = self._catalog.overview()
        self._read_ahead(overview)
        proposals: list[Proposal] = []
        wanted = {name: self._wanted(overview, name, proposals) for name in overview.models}
        self._forget_rows(overview)
        aliases = {
            name: {row.alias: row.version for row in rows.values() if row.version is not None}
            for name, rows in overview.aliases.items()
        }
        return _CatalogView(MappingProxyType(wanted), overview.token, tuple(proposals), admitted, aliases)

    def _row(self, brief: VersionBrief, *, is_fresh: bool = False) -> VersionRow:
        """One version with its manifest, which is what the catalog says it is. With `is_fresh`, its signatures and
        checks are those of now."""
        key = (brief.model, brief.version, brief.digest)
        if is_fresh or key not in self._rows:
            assert self._catalog is not None
            self._keep(brief, self._catalog.version(brief.model, brief.version))
        return replace(self._rows[key], stage=brief.stage)

    def _keep(self, brief: VersionBrief, row: VersionRow) -> None:
        """Raises InvalidManifest when the row is not what it was briefly said to be."""
        if hashlib.sha256(row.manifest_json.encode()).hexdigest() != brief.digest:
            raise InvalidManifest("digest", f"of version {brief.version} is not {brief.digest}")
        if row.manifest.model != brief.model:
            raise InvalidManifest("model", f"of version {brief.version} is {row.manifest.model!r}")
        self._rows[brief.model, brief.version, brief.digest] = row

    def _read_ahead(self, overview: Overview) -> None:
        """The versions that are probably wanted, together: one by one, the first look at a thousand models would ask
        the database four thousand times. What they are is checked when they are taken."""
        likely = {(name, briefs[-1].version): briefs[-1] for name, briefs in overview.versions.items() if briefs}
        for name, pointers in overview.aliases.items():
            numbers = {each.version for each in pointers.values()}
            likely |= {(name, each.version): each for each in overview.versions[name] if each.version in numbers}
        missing = [key for key, brief in likely.items() if (*key, brief.digest) not in self._rows]
        if len(missing) < READ_AHEAD:
            return
        assert self._catalog is not None
        for row in self._catalog.some_versions(missing):
            # One that is not what it should be is told by the look at its model, and says nothing about the others.
            with contextlib.suppress(InvalidManifest):
                self._keep(likely[row.model, row.version], row)

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
        config = (row.manifest.config_text or "").encode()
        return Candidate(row.version, f"sha256:{row.digest}", partial(self._bring, row.manifest.files), config)

    def reasons_against(self, brief: VersionBrief, policy: ApprovalPolicy) -> list[str]:
        """Why a version may not be served; none when it may."""
        if brief.stage == "rejected":
            return ["rejected"]
        if policy == ApprovalPolicy():
            return []
        return may_serve(self._row(brief, is_fresh=True), policy, self._is_signed_by)

    def served_versions(self, model: str) -> frozenset[int]:
        return self.replica.served_versions(model)

    def row(self, brief: VersionBrief) -> VersionRow:
        return self._row(brief)

    def _bring(self, files: tuple[FileEntry, ...], pinned: tuple[FileEntry, ...] | None) -> tuple[FileEntry, ...]:
        """Runs in a thread of the replica."""
        if self._store is None:
            self._store = self._connect_store()
        self.cache.pull(pinned or files, self._store)
        return files


class _Choice:
    """What the policy of one model wants at one moment."""

    def __init__(self, source: CatalogSource, overview: Overview, name: str, proposals: list[Proposal]) -> None:
        self._source, self._proposals = source, proposals
        self._model: ModelRow = overview.models[name]
        self._briefs = {brief.version: brief for brief in overview.versions[name]}
        self._aliases = overview.aliases[name]
        self._rollout = overview.rollouts.get(name)
        self._settled = overview.settled
        self._against: dict[int, list[str]] = {}

    def wanted(self) -> Wanted:
        versions, reasons = self._versions()
        rolling = self._rolling() - set(versions)
        left_out = [f"version {version} of the rollout: {'; '.join(self.against(version))}" for version in rolling
                    if self.against(version)]  # fmt: skip
        versions = sorted({*versions, *(version for version in rolling if not self.against(version))})
        refused = [f"version {version} may not be served: {'; '.join(self.against(version))}" for version in versions
                   if self.against(version)]  # fmt: skip
        rows = [self._source.row(self._briefs[version]) for version in versions if not self.against(version)]
        config = rows[-1].manifest.config_text if rows else None
        standing = self._source.served_versions(self._model.name) | set(versions)
        return Wanted(
            tuple(self._source.candidate(row) for row in rows),
            config.encode() if config is not None else None,
            reasons=(*reasons, *refused),
            load_on_demand=self._model.policy.load_on_demand,
            notes=tuple(left_out),
            may_stay=frozenset(
                version for version in standing if version in self._briefs and not self.against(version)
            ),
        )

    def against(self, version: int) -> list[str]:
        if version not in self._against:
            self._against[version] = self._source.reasons_against(self._briefs[version], self._model.approval)
        return self._against[version]

    def _rolling(self) -> set[int]:
        """The versions whose traffic a rollout routes here, beside those of the policy."""
        return {version for version in self._source.admitted(self._model.name) if version in self._briefs}

    def _versions(self) -> tuple[list[int], list[str]]:
        """Ascending, and what to say about it. While a rollout is under way, where the alias points is its to say."""
        if self._rollout is not None:
            return [self._rollout.stable], []
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
        is_settled = generation <= self._settled.get((self._model.name, alias), 0)
        if self._model.on_alias_move == "swap" or is_settled or version in serving or not may_go_on:
            return [version]
        self._proposals.append(Proposal(self._model.name, alias, generation, serving, version))
        return sorted(serving)
