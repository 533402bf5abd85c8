"""Whether a version answers as its model's golden set says: asked in a process of its own, recorded in the catalog,
where whoever decides what is served finds it. Blocks: call it in a thread.
"""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
from dataclasses import dataclass
from pathlib import Path

from gateway.admin.problems import Problem, ProblemError
from gateway.confined import Bounds, ConfinedFailed, run
from registry.artifacts import ArtifactStore
from registry.catalog import Catalog
from registry.catalog_rows import VersionRow
from registry.errors import ArtifactRefused, DigestMismatch, InvalidGoldenSet, NotFound
from registry.golden import MAX_GOLDEN_BYTES, GoldenCases, differences, read_golden_set, read_tensors
from registry.manifest import Manifest
from registry.policies import GOLDEN, GoldenSet, golden_subject

SECONDS = 120.0
VERSION_FOLDER = "version"
MAX_PROBLEM = 500
"""Characters of what a confined process says, kept for good in the log."""
ADDRESS_SPACE_BYTES = 32 << 30
"""Beside eight times the model."""


@dataclass(frozen=True)
class Outcome:
    """Of one check; `detail` says what differs, and is empty when nothing does."""

    is_passed: bool
    detail: str


class GoldenChecks:
    """The checks of one catalog, in the name of `actor`.

    Args:
        work: where temporary copies of versions lie; None for the system's place.
    """

    def __init__(self, catalog: Catalog, store: ArtifactStore, actor: str, work: Path | None = None) -> None:
        self._catalog, self._store, self._actor, self._work = catalog, store, actor, work

    def check(self, row: VersionRow, golden: GoldenSet) -> Outcome:
        """What the check of a version comes to: the recorded one when that was passed, else a new one, recorded now.

        Raises:
            ProblemError: the golden set is not stored.
            InvalidGoldenSet, DigestMismatch: what is stored is none, or another.
            RegistryError: the catalog or the store failed.
        """
        subject = golden_subject(golden)
        recorded = [one.is_passed for one in row.checks if (one.name, one.subject) == (GOLDEN, subject)]
        if recorded and recorded[-1]:
            return Outcome(True, "")
        cases = self.read(golden)
        detail = self._difference(row.manifest, cases, golden)
        self._catalog.record_check(row.model, row.version, GOLDEN, subject, not detail, self._actor, detail=detail)
        return Outcome(not detail, detail)

    def read(self, golden: GoldenSet) -> GoldenCases:
        """The set itself. Raises as `check` does."""
        try:
            with contextlib.closing(self._store.open(golden.sha256)) as reader:
                text = reader.read(MAX_GOLDEN_BYTES + 1)
        except NotFound:
            facts = {"missing": [golden.sha256]}
            raise ProblemError(Problem(409, "not-uploaded", "the golden set is not stored", facts)) from None
        if (found := hashlib.sha256(text).hexdigest()) != golden.sha256:
            raise DigestMismatch("golden set", golden.sha256, found)
        return read_golden_set(text)

    def _difference(self, manifest: Manifest, cases: GoldenCases, golden: GoldenSet) -> str:
        if self._work is not None:
            self._work.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="golden-", dir=self._work) as folder:
            for file in manifest.files:
                target = Path(folder) / VERSION_FOLDER / file.path
                target.parent.mkdir(parents=True, exist_ok=True)
                self._store.fetch(file.sha256, file.size, target, resume=False)
            bounds = Bounds(SECONDS, ADDRESS_SPACE_BYTES + 8 * manifest.size)
            request = {"version": VERSION_FOLDER, "inputs": [tensor.to_dict() for tensor in cases.inputs]}
            try:
                answer = run("gateway.confined.golden", Path(folder), request, bounds)
                if "problem" in answer:
                    return f"it does not answer: {str(answer['problem'])[:MAX_PROBLEM]}"
                found = read_tensors("outputs", answer.get("outputs"))
            except ConfinedFailed as error:
                return f"it does not answer: {error.reason}"
            except InvalidGoldenSet as error:
                return f"its answer cannot be compared: {error.field}: {error.reason}"
            except ArtifactRefused as error:
                return f"it is no model: {error}"
        return differences(cases.outputs, found, golden.relative_tolerance, golden.absolute_tolerance)
