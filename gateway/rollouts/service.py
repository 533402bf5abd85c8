"""Rollouts in the hands of somebody: what the admin API and the command line do with a catalog, whether a gateway runs
or not. Gateways follow what is written here. Plain calls that block.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from gateway.admin.problems import Problem, ProblemError
from gateway.admin.registry_service import is_signed_by
from gateway.rollouts.actions import Command, Facts
from gateway.rollouts.changes import change_of
from gateway.rollouts.documents import evidence_of, to_document, to_history
from gateway.rollouts.errors import CommandRefused, InvalidPlan
from gateway.rollouts.evidence import summed
from gateway.rollouts.machine import begin, decide
from gateway.rollouts.plan import Plan
from gateway.rollouts.plan_reader import read_plan
from gateway.rollouts.plan_writer import to_plain
from gateway.rollouts.status import State, Status
from gateway.rollouts.tolerances import fault
from registry.catalog import Catalog
from registry.errors import RolloutChanged, RolloutUnderWay
from registry.policies import ByAlias, may_serve, parse_served_by
from registry.rollouts import NewRollout, RolloutRow

Doc = dict[str, Any]
ATTEMPTS = 8
"""To abort, or to replace a rollout, while others change it."""


class RolloutService:
    """`actor` is whom the audit log names. May be used from any thread."""

    def __init__(self, catalog: Catalog, actor: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._catalog, self._actor, self._clock = catalog, actor, clock
        self._store = catalog.rollouts

    # Looking

    def get(self, id: str) -> Doc:
        return self._document(self._store.get(id))

    def of_model(self, model: str, limit: int = 100) -> list[Doc]:
        rows = self._store.of_model(model, limit)
        seen = self._store.evidence([row.id for row in rows])
        return [to_document(row, seen[row.id]) for row in rows]

    def history(self, id: str) -> list[Doc]:
        return [to_history(entry) for entry in self._store.history(id)]

    # Changing

    def start(
        self, model: str, to: int, *, alias: str | None, plan: Mapping[str, Any] | None, reason: str, key: str
    ) -> Doc:
        """Begins a rollout of what the alias points at (the one that the model is served by, unless told) to a version.
        One that is under way gives way, or has this one wait, as its own plan says. The same key again gives the one
        that it began, whatever has become of it.

        Raises:
            ProblemError: the plan makes no sense or names outputs that are not there, the model is served by no alias,
                or it is there already.
            RegistryError: what `RolloutStore.start` says.
        """
        read = _read_plan(plan)
        by = self._alias(model, alias)
        if (before := self._store.begun(key, model, to, by.alias, to_plain(read))) is not None:
            return self._document(before)
        reasons = may_serve(self._catalog.version(model, to), self._catalog.model(model).approval, is_signed_by)
        if reasons:
            raise _refused(f"version {to} may not be served: {'; '.join(reasons)}")
        return self._document(self._begin(model, to, by, read, reason, key))

    def start_next(self, ended: RolloutRow, status: Status) -> None:
        """Begins what waited for the end of a rollout, unless another one has begun since. Raises what `start` does."""
        newest, *_ = self._store.of_model(ended.model, limit=1)
        if newest.id == ended.id and status.queued is not None:
            reason = f"waited for the end of rollout {ended.id}"
            key = status.queued_key or f"after {ended.id}"
            self.start(
                ended.model, status.queued, alias=ended.alias, plan=status.queued_plan, reason=reason, key=key
            )

    def after_promotion(self, row: RolloutRow) -> Command | None:
        """What others have decided while the old version is still loaded: that there is no way back to it, or, by
        moving the alias, that it is to serve again."""
        if self._catalog.version(row.model, row.stable).stage == "rejected":
            return Command("complete", self._actor, f"version {row.stable} was rejected: nothing to wait for")
        for pointer in self._catalog.aliases(row.model):
            is_later = pointer.generation > (row.settled_generation or 0)
            if pointer.alias == row.alias and pointer.version == row.stable and is_later:
                return Command("abort", self._actor, f"{row.alias} was moved back to version {row.stable}")
        return None

    def follow(self, model: str, stable: int, to: int, alias: str, generation: int) -> Doc:
        """Begins a rollout for an alias that was moved, with the default plan. The same move again begins none."""
        plan = _read_plan(None)
        status = self._first_status(model, stable, to, alias, plan)
        reason = f"{model}@{alias} was moved to version {to}"
        new = NewRollout(model, stable, to, alias, to_plain(plan), status.to_plain(), status.state.value,
                         proposed_generation=generation)  # fmt: skip
        return self._document(self._store.start(new, self._actor, reason=reason))

    def command(self, id: str, verb: str, expected: int | None, reason: str) -> Doc:
        """Pause, resume, promote or abort.

        Args:
            expected: the generation that the caller knows; None: whatever it is.

        Raises:
            ProblemError: the rollout's state does not allow it.
            RolloutChanged: it is of another generation.
        """
        row = self._store.get(id)
        if expected is not None and row.generation != expected:
            raise RolloutChanged(id, expected, row.generation)
        kind: Any = verb
        command = Command(kind, self._actor, reason)
        return self._document(self._carry_out(row, command, attempts=1 if expected is not None else ATTEMPTS))

    def _begin(self, model: str, to: int, by: ByAlias, plan: Plan, reason: str, key: str) -> RolloutRow:
        for _ in range(ATTEMPTS):
            stable = self._stable(model, by)  # anew each time: the end of another rollout may have moved the alias
            if stable == to:
                raise _refused(f"{model} is served by version {to} already")
            self._check_outputs(model, stable, plan)
            status = self._first_status(model, stable, to, by.alias, plan)
            new = NewRollout(model, stable, to, by.alias, to_plain(plan), status.to_plain(), status.state.value, key)
            try:
                return self._store.start(new, self._actor, reason=reason)
            except RolloutUnderWay as error:
                other = self._store.get(error.id)
                if other.canary == to:
                    raise
                other = self._carry_out(other, Command("target", self._actor, reason, to, to_plain(plan), key))
                if other.is_active:
                    return other  # the new one waits for its end
        raise _refused(f"the rollouts of {model} change too quickly")

    def _carry_out(self, row: RolloutRow, command: Command, attempts: int = ATTEMPTS) -> RolloutRow:
        for attempt in range(attempts):
            seen = self._store.evidence([row.id])[row.id]
            evidence = summed(evidence_of(seen.values()))
            status = Status.from_plain(row.status)
            facts = Facts(is_ready=status.state is not State.WAITING)  # as far as the catalog says
            try:
                decision = decide(read_plan(row.plan), status, evidence, facts, self._clock(), command=command)
            except CommandRefused as error:
                raise _refused(str(error)) from error
            if not decision.is_changed:
                return row
            try:
                change = change_of(row, decision, command.kind)
                return self._store.change(row.id, row.generation, change, self._actor)
            except RolloutChanged:
                if attempt == attempts - 1:
                    raise
                row = self._store.get(row.id)
        raise AssertionError("this is a bug: the last attempt returns or raises")

    def _first_status(self, model: str, stable: int, to: int, alias: str, plan: Plan) -> Status:
        rows = self._store.of_model(model)
        promoted = [row for row in rows if row.state in (State.PROMOTED.value, State.TERMINATING.value)]
        recent = tuple(dict.fromkeys(row.stable for row in promoted if row.stable != stable))
        return begin(stable, to, alias=alias, recent=recent, plan=plan)

    def _check_outputs(self, model: str, stable: int, plan: Plan) -> None:
        """Tolerances are of outputs that the stable version has, where its manifest says which."""
        declared = {one.name: one for one in self._catalog.version(model, stable).manifest.outputs}
        for name, tolerance in plan.comparison.outputs if declared else ():
            if (output := declared.get(name)) is None:
                reason = f"version {stable} has no such output; it has {', '.join(declared)}"
            else:
                reason = fault(tolerance, output.datatype, output.shape)
            if reason:
                raise _invalid_plan(f"comparison.outputs.{name}", reason)

    def _alias(self, model: str, alias: str | None) -> ByAlias:
        served = parse_served_by(self._catalog.model(model).served_by)
        if not isinstance(served, ByAlias):
            raise _refused(
                f"{model} is served by {self._catalog.model(model).served_by!r}, and a rollout moves an alias: "
                f"`sluice policy {model} --served-by alias:champion` first"
            )
        if alias is not None and alias != served.alias:
            raise _refused(f"{model} is served by its alias {served.alias}, not by {alias}")
        return served

    def _stable(self, model: str, by: ByAlias) -> int:
        """What serves now, or would if a rollout that is under way were taken back or, when promoted, let be."""
        if under_way := [row for row in self._store.of_model(model, limit=1) if row.is_active]:
            return under_way[0].canary if under_way[0].status["is_promoted"] else under_way[0].stable
        pointing = {row.alias: row.version for row in self._catalog.aliases(model)}
        version = pointing.get(by.alias)
        if version is None and by.or_latest:
            may_serve = (row.version for row in self._catalog.versions(model) if row.stage != "rejected")
            version = max(may_serve, default=None)
        if version is None:
            raise _refused(f"nothing is served yet: point {model}@{by.alias} at a version first")
        return version

    def _document(self, row: RolloutRow) -> Doc:
        return to_document(row, self._store.evidence([row.id])[row.id])


def _read_plan(plan: Mapping[str, Any] | None) -> Plan:
    try:
        return read_plan(plan or {})
    except InvalidPlan as error:
        raise _invalid_plan(error.field, error.reason) from None


def _invalid_plan(field: str, reason: str) -> ProblemError:
    return ProblemError(Problem(422, "invalid-plan", f"plan: {InvalidPlan(field, reason)}", {"field": field}))


def _refused(detail: str) -> ProblemError:
    return ProblemError(Problem(409, "rollout-refused", detail))
