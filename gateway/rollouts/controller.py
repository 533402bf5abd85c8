"""Follows the rollouts of a catalog in one gateway: applies what is written there, leads when nobody else does, and
takes traffic back at once when the evidence says so. `machine` decides, through a `Follower` for each rollout;
`Applied` routes and counts; this is the shell that reads and writes.

A step is written to the catalog before it takes effect. A rollback takes effect before it is written; until it is, the
journal in the data folder remembers it. So whatever is lost, the database, the leader or this process, no canary ever
gets more traffic than was decided with all of that at hand.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TypeVar

from gateway.admin.problems import ProblemError
from gateway.models_ports import Clock
from gateway.rollouts.actions import Decision, Facts, Measured, Query
from gateway.rollouts.applied import Applied
from gateway.rollouts.changes import change_of, is_gone_back
from gateway.rollouts.documents import Doc, to_document, to_seen
from gateway.rollouts.errors import InvalidPlan
from gateway.rollouts.evidence import Event, Evidence
from gateway.rollouts.feedback import Label, Labels, Timeline
from gateway.rollouts.follower import Follower, Owed
from gateway.rollouts.journal import Journal, JournalDamaged, Remembered
from gateway.rollouts.measuring import Measuring
from gateway.rollouts.metrics import RolloutSample
from gateway.rollouts.ports import InThread
from gateway.rollouts.prometheus import Prometheus
from gateway.rollouts.remembering import from_memory, to_memory
from gateway.rollouts.service import RolloutService
from gateway.rollouts.status import State
from gateway.rollouts.telling import complain, sample_of, tell
from gateway.settings import RolloutsSettings
from kernels.rollout import ArmEvents
from registry.catalog import Catalog
from registry.errors import (
    AliasConflict,
    NotFound,
    RegistryError,
    RolloutChanged,
    SourceUnavailable,
    VersionRejected,
)
from registry.rollouts import RolloutRow, RolloutStore
from registry.sources.catalog import Proposal

ACTOR = "sluice"
"""Whom the audit log names for what the machine decides."""
RECORD_SECONDS = 2.0
"""How long an abort waits for the catalog before it says that it has taken effect."""
_log = logging.getLogger("sluice.rollouts")
T = TypeVar("T")


class RolloutController:
    """All rollouts of one catalog, in one gateway.

    Args:
        open_catalog: gives the catalog, in a thread; RegistryError when it cannot be reached.
        thread: runs what blocks.
        prometheus: None: analyses fail.
        epoch: seconds since the epoch, for labels that say when they were served.
    """

    def __init__(
        self,
        open_catalog: Callable[[], Catalog],
        applied: Applied,
        journal: Journal,
        thread: InThread,
        settings: RolloutsSettings,
        clock: Clock,
        prometheus: Prometheus | None = None,
        epoch: Callable[[], float] = time.time,
    ) -> None:
        self._open_catalog, self._applied, self._journal = open_catalog, applied, journal
        self._thread, self._settings, self._clock, self._epoch = thread, settings, clock, epoch
        self.replica = ""
        # Rollouts under way, by id; one that is over stays until the catalog says so too.
        self._followers: dict[str, Follower] = {}
        # What was written down last of each, so that the same is not written again; None: nothing since the start.
        self._shared: dict[str, tuple[Evidence, Doc] | None] = {}
        self._labels = Labels()
        self._measuring = Measuring(prometheus, self._measured)
        # Whoever has it leads: a look, or a measurement that has come. Neither sees the other's half of a change.
        self._leading = asyncio.Lock()
        self._is_away = False
        # Moves of aliases that a rollout was begun for.
        self._followed: set[Proposal] = set()
        self._unreadable: set[str] = set()
        self._wake, self._turned = asyncio.Event(), asyncio.Event()
        self.rollbacks: Counter[tuple[str, str]] = Counter()

    # Life

    async def open(self) -> None:
        """Takes over where this gateway was, before any model is loaded. OSError or JournalDamaged."""
        remembered = await self._thread(self._journal.load)
        self.replica = remembered.replica
        try:
            self._followers = {id: from_memory(memory) for id, memory in remembered.rollouts.items()}
        except (InvalidPlan, KeyError, TypeError, ValueError) as error:
            raise JournalDamaged(f"what it remembers of a rollout makes no sense to this release: {error!r}") from error
        self._applied.pins.update(remembered.pins)
        self._applied.apply(self._followers.values())
        self._applied.listen(self._on_events)

    async def run(self) -> None:
        """Follows until it is cancelled. What goes wrong in one look is told; the next one is another attempt, and the
        gateway serves whatever becomes of rollouts."""
        async with asyncio.TaskGroup() as self._measuring.tasks:
            while True:
                self._wake.clear()
                try:
                    await self.turn()
                except Exception:
                    _log.exception("a look at rollouts failed", extra={"action": "rollouts-look-failed"})
                await self._clock.wait(self._wake, self._settings.poll_seconds)

    async def close(self) -> None:
        """Lets another gateway lead at once."""
        try:
            await self._store(lambda store: store.release(self.replica))
        except RegistryError as error:
            _log.warning("leases not given up", extra={"action": "rollout-leases-kept", "reason": str(error)})

    def wake(self) -> None:
        self._wake.set()

    async def turn(self) -> None:
        """One look at the catalog, and all that follows."""
        try:
            async with self._leading:
                await self._look()
        except SourceUnavailable as error:
            self._lost(error)
        else:
            self._found()
        self._applied.apply(self._followers.values())
        await self._remember()
        self._turned.set()
        self._turned = asyncio.Event()

    async def _look(self) -> None:
        await self._record()
        await self._follow(await self._store(lambda store: store.active()))
        await self._share()
        await self._lead()
        await self._propose()

    async def _store(self, work: Callable[[RolloutStore], T]) -> T:
        return await self._thread(lambda: work(self._open_catalog().rollouts))

    async def _service(self, work: Callable[[RolloutService], T], actor: str = ACTOR) -> T:
        return await self._thread(lambda: work(RolloutService(self._open_catalog(), actor)))

    # The catalog goes on

    async def _follow(self, rows: Sequence[RolloutRow]) -> None:
        """Takes over what others have written."""
        for row in rows:
            try:
                await self._take_over(row)
            except (InvalidPlan, KeyError, TypeError, ValueError) as error:
                self._leave_alone(row, error)
        for id in self._followers.keys() - {row.id for row in rows}:
            if (row_now := await self._get(self._followers[id])) is not None:
                self._followers[id].adopt(row_now)
                await self._end(self._followers[id])

    async def _take_over(self, row: RolloutRow) -> None:
        if row.id not in self._followers:
            self._followers[row.id] = Follower(row)
        follower = self._followers[row.id]
        if row.id not in self._shared:
            await self._recall(follower)
        follower.adopt(row)

    def _leave_alone(self, row: RolloutRow, error: Exception) -> None:
        """What another release has written stays here as it was last understood; the others go on."""
        if row.id not in self._unreadable:
            complain(row, "rollout-unreadable", "a rollout makes no sense to this release", reason=repr(error))
        self._unreadable.add(row.id)

    async def _recall(self, follower: Follower) -> None:
        """What this gateway had seen before it was started again: else it would be written over."""
        id = follower.row.id
        mine = (await self._store(lambda store: store.evidence([id])))[id].get(self.replica)
        if mine:
            follower.recall(mine)
        self._shared[id] = None

    async def _get(self, follower: Follower) -> RolloutRow | None:
        """What the catalog says; None when it has lost the rollout, to an older copy that was put in its place. Nobody
        can say how that goes on: what was not promoted yet has no traffic any more."""
        try:
            return await self._store(lambda store: store.get(follower.row.id))
        except NotFound:
            complain(follower.row, "rollout-lost", "the catalog does not know the rollout any more")
            self._forget(follower)
            return None

    async def _end(self, follower: Follower) -> None:
        """It is over in the catalog too. Until what waited for its end has begun, it is looked at again."""
        await self._begin_next(follower)
        self._forget(follower)
        if is_gone_back(follower.status):
            self.rollbacks[follower.row.model, follower.status.rule] += 1

    def _forget(self, follower: Follower) -> None:
        self._followers.pop(follower.row.id)
        self._shared.pop(follower.row.id, None)
        self._applied.pins[follower.row.model] = follower.answering

    async def _share(self) -> None:
        """Writes down what was seen here, and reads what the others have seen."""
        for follower in list(self._followers.values()):
            await self._write_down(follower)
        if ids := list(self._followers):
            for id, seen in (await self._store(lambda store: store.evidence(ids))).items():
                others = {replica: one for replica, one in seen.items() if replica != self.replica}
                self._followers[id].hear(others, self._clock.now())

    async def _write_down(self, follower: Follower) -> None:
        self._applied.count(follower)
        id, evidence = follower.row.id, follower.tally.evidence
        readiness = follower.readiness.say(self._applied.facts(follower))
        if (evidence, readiness) != self._shared[id]:
            seen = to_seen(evidence, self._applied.latencies(follower), readiness, follower.disagreements)
            await self._store(lambda store: store.put_evidence(id, self.replica, seen))
            self._shared[id] = evidence, readiness

    # Deciding

    def _on_events(self, batch: Sequence[ArmEvents]) -> None:
        """In the wake-up in which requests went wrong: a rollback takes effect before the next request is routed."""
        for follower in self._followers.values():
            events = [event for events in batch for event in _events_of(follower, events)]
            if events:
                self._applied.count(follower)
                follower.see(events)
                self._guard(follower)
                self._wake.set()

    def _guard(self, follower: Follower) -> None:
        decision = follower.guard(self._clock.now())
        if decision is not None:
            self._take_back(follower, decision, ACTOR)

    def _take_back(self, follower: Follower, decision: Decision, actor: str, action: str = "") -> None:
        """Here and now; the catalog is told later."""
        follower.owe(decision, actor, action)
        self._applied.apply(self._followers.values())
        tell(follower, decision)
        self._wake.set()

    async def _lead(self) -> None:
        """Takes the next step of each rollout that no other gateway leads."""
        for follower in list(self._followers.values()):
            self._guard(follower)
            if follower.owed is None:
                await self._lead_one(follower)
        await self._record()

    async def _lead_one(self, follower: Follower) -> None:
        row, status, seconds = follower.row, follower.status.to_plain(), self._settings.lease_seconds
        follower.is_leading = await self._store(
            lambda store: store.lead(row.id, self.replica, seconds, status, row.generation)
        )
        if not follower.is_leading or follower.owed is not None:
            return
        if (decision := await self._unasked_end(follower)) is not None:
            await self._carry_out(follower, decision)
            return
        if follower.wants_thresholds and (found := self._applied.thresholds(follower)) is not None:
            follower.freeze(found)
        await self._carry_out(follower, follower.look(self._facts(follower), self._clock.now()))

    def _facts(self, follower: Follower) -> Facts:
        """Of all gateways until the promotion, so that none is left behind; of this one afterwards."""
        mine, patience = self._applied.facts(follower), self._settings.lease_seconds
        return mine if follower.status.is_promoted else follower.readiness.together(mine, self._clock.now(), patience)

    async def _unasked_end(self, follower: Follower) -> Decision | None:
        """What others have done to the alias or the versions may leave nothing to be decided."""
        row, now = follower.row, self._clock.now()
        if (elsewhere := self._applied.moved_alias(follower)) is not None:
            return follower.give_way(elsewhere, ACTOR, now)
        if follower.status.state is State.TERMINATING:
            command = await self._service(lambda service: service.after_promotion(row))
            return None if command is None else follower.obey(command, now)
        return None

    async def _carry_out(self, follower: Follower, decision: Decision) -> None:
        if is_gone_back(decision.status):
            self._take_back(follower, decision, ACTOR)
            return
        if decision.is_changed and not await self._write(follower, decision):
            return
        follower.passed(decision)
        for action in decision.actions:
            if isinstance(action, Query):
                self._measuring.ask(follower, action)
        self._applied.apply(self._followers.values())

    async def _write(self, follower: Follower, decision: Decision) -> bool:
        """Whether the catalog has taken it."""
        change, row = change_of(follower.row, decision), follower.row
        await self._write_down(follower)  # what it was decided on
        try:
            written = await self._store(lambda store: store.change(row.id, row.generation, change, ACTOR))
        except RolloutChanged:
            return False  # somebody was faster: the next look shows it
        except (AliasConflict, VersionRejected) as error:
            self._give_up(follower, error)
            return False
        follower.adopt(written)
        tell(follower, decision)
        if not written.is_active:
            await self._end(follower)
        return True

    def _give_up(self, follower: Follower, error: AliasConflict | VersionRejected) -> None:
        if isinstance(error, AliasConflict):
            reason = f"{error.alias} was moved to version {error.version} meanwhile"
        else:
            reason = f"version {error.version} was rejected"
        self._take_back(follower, follower.abort(ACTOR, reason, self._clock.now()), ACTOR)

    async def _record(self) -> None:
        """Writes what is owed: into the journal first, since the catalog may not answer for long."""
        if any(follower.owed is not None for follower in self._followers.values()):
            await self._remember()
        for follower in list(self._followers.values()):
            while follower.owed is not None and await self._get(follower) is not None:
                await self._record_one(follower, follower.owed)
            if not follower.row.is_active and follower.row.id in self._followers:
                await self._end(follower)

    async def _record_one(self, follower: Follower, owed: Owed) -> None:
        row = follower.row
        if row.id in self._shared:
            await self._write_down(follower)  # what it was decided on
        try:
            written = await self._store(lambda store: store.change(row.id, owed.generation, owed.change, owed.actor))
        except RolloutChanged:
            if (now := await self._get(follower)) is not None:
                self._decide_again(follower, now)
            return
        except VersionRejected as error:
            await self._stay(follower, error)
            return
        follower.adopt(written)

    def _decide_again(self, follower: Follower, row: RolloutRow) -> None:
        """The catalog has gone on: what is owed is owed for that, if it is not over."""
        is_late = follower.owed is not None and not row.is_active and row.state == State.PROMOTED.value
        follower.adopt(row)
        follower.owe_again(self._clock.now())
        if is_late:
            complain(row, "rollback-too-late", "taken back here when the promotion was over elsewhere: it serves on")

    async def _stay(self, follower: Follower, error: VersionRejected) -> None:
        """The version that it would go back to was rejected after the promotion: then there is no way back."""
        follower.owed = None
        reason = f"version {error.version} was rejected: there is nothing to go back to"
        complain(follower.row, "rollback-impossible", "a rollback came too late", reason=reason)
        await self._write(follower, follower.complete(ACTOR, reason, self._clock.now()))

    async def _begin_next(self, follower: Follower) -> None:
        """The version that waited for the end of this rollout; every gateway may try, and it begins once."""
        row, status = follower.row, follower.status
        if status.queued is None:
            return
        try:
            await self._service(lambda service: service.start_next(row, status))
        except SourceUnavailable:
            raise
        except (ProblemError, RegistryError) as error:  # it has come to serve some other way, or was rejected by now
            complain(row, "queued-rollout-refused", "the rollout that was next cannot begin", reason=str(error))

    async def _measured(self, follower: Follower, measured: Measured) -> None:
        try:
            async with self._leading:
                if follower.is_leading and not follower.is_over:
                    decision = follower.look(self._facts(follower), self._clock.now(), measured=measured)
                    await self._carry_out(follower, decision)
        except SourceUnavailable as error:
            self._lost(error)

    # Proposals

    async def _propose(self) -> None:
        """Begins a rollout for each alias that was moved."""
        busy = {follower.row.model for follower in self._followers.values()}
        for one in self._applied.proposals():
            stable = self._applied.answering(one.model, one.serving)
            if one.model not in busy and one not in self._followed and stable is not None:
                await self._follow_move(one, stable)

    async def _follow_move(self, one: Proposal, stable: int) -> None:
        try:
            await self._service(
                lambda service: service.follow(one.model, stable, one.proposed, one.alias, one.generation)
            )
        except SourceUnavailable:
            raise
        except RegistryError as error:
            fields = {"action": "proposal-refused", "model": one.model, "reason": str(error)}
            _log.warning("a move of an alias cannot be rolled out", extra=fields)
        self._followed.add(one)

    # What the admin API asks

    async def abort(self, id: str, actor: str, reason: str) -> Doc:
        """All traffic is on stable here when it returns, and everywhere soon after; recorded when the catalog is there.

        Raises:
            NotFound: no such rollout.
            CatalogUnavailable: it is none that this gateway follows, and the catalog cannot be asked.
        """
        follower = self._followers.get(id)
        if follower is None:
            return await self._service(lambda service: service.command(id, "abort", None, reason), actor)
        decision = follower.abort(actor, reason, self._clock.now())
        if follower.owed is None and decision.is_changed:
            self._take_back(follower, decision, actor, "abort")
            await self._remember()
            await self._until(lambda: id not in self._followers, RECORD_SECONDS)
        seen = to_seen(follower.evidence, {}, {}, follower.disagreements)
        return to_document(follower.seen_row, {self.replica: seen})

    async def give_feedback(self, model: str, labels: Sequence[Label]) -> int:
        """Counts labels as evidence; how many of them count. CatalogUnavailable: when they were served is not known."""
        follower = next((one for one in self._followers.values() if one.row.model == model), None)
        if follower is None:
            return 0
        row = follower.row
        timeline = Timeline(await self._store(lambda store: store.history(row.id)))
        found = self._labels.sort_out(row, timeline, labels, self._epoch())
        wrong = [one.request_id for one in found if one.event is not None]
        new = await self._store(lambda store: store.take_labels(row.id, wrong))
        counted, events = self._labels.take(row, found, new)
        follower.see(events)
        self._guard(follower)
        self._wake.set()
        async with self._leading:
            if row.id in self._shared:
                await self._write_down(follower)  # what is taken must not be lost
        return counted

    async def _until(self, is_true: Callable[[], bool], seconds: float) -> None:
        end = self._clock.now() + seconds
        while not is_true() and self._clock.now() < end:
            await self._clock.wait(self._turned, end - self._clock.now())

    # What metrics show

    @property
    def states(self) -> tuple[str, ...]:
        return tuple(state.value for state in State)

    def samples(self) -> list[RolloutSample]:
        return [sample_of(follower, self._applied.shadow(follower)) for follower in self._followers.values()]

    # Words

    async def _remember(self) -> None:
        rollouts = {id: to_memory(follower) for id, follower in self._followers.items()}
        remembered = Remembered(self.replica, rollouts, dict(self._applied.pins))
        try:
            await self._thread(lambda: self._journal.save(remembered))
        except OSError as error:  # the catalog remembers too, and what is in force stays so
            fields = {"action": "rollouts-not-remembered", "reason": str(error)}
            _log.error("what rollouts have come to is not in the data folder", extra=fields)

    def _lost(self, error: SourceUnavailable) -> None:
        for follower in self._followers.values():
            follower.is_leading = False
        if not self._is_away:
            fields = {"action": "rollouts-catalog-unavailable", "place": error.place, "reason": error.reason}
            _log.error("the catalog is away: no rollout goes forward", extra=fields)
        self._is_away = True

    def _found(self) -> None:
        if self._is_away:
            _log.info("the catalog is back", extra={"action": "rollouts-catalog-recovered"})
        self._is_away = False


def _events_of(follower: Follower, events: ArmEvents) -> list[Event]:
    if events.model != follower.row.model or events.version != str(follower.row.canary):
        return []
    one = Event(events.kind, events.is_canary, events.weight, events.level, events.unit)
    return [one] * events.events
