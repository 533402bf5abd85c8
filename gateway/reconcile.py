"""Which versions to load and unload: a plain object that is told what exists and what happened, and returns actions.

It owns every attempt's state and knows no file, worker, task or clock. The rule it keeps: a READY version leaves
only when all versions that are wanted instead are READY, or when its model is not wanted at all; so a broken version
never disturbs a good one, and one that takes over does so before the other leaves.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from gateway.attempts import (
    CHANGED_IN_PLACE,
    NO_ROOM,
    UNLOADED,
    Action,
    Attempt,
    Backoff,
    Capacity,
    Event,
    IndexRow,
    Level,
    Load,
    Revision,
    Unload,
    Verify,
)
from gateway.errors import ConfigError
from gateway.followed import Followed, Settled, first_estimate, read_own, read_settled, revision_of, rows_of
from gateway.lifecycle import State, Step, after
from gateway.memory_budget import Resident, make_room, within
from gateway.model_config import WrittenConfig
from gateway.model_config_checks import sentence
from gateway.readiness import are_ready
from registry.sources import ModelListing, Snapshot, VersionListing

ROOM_SECONDS = 1.0
"""Between two looks whether a version that did not fit into memory does by now."""


class Reconciler:
    """Decides for all models.

    Args:
        is_explicit: models are wanted when requested, and their listing is taken over at each request; otherwise every
            model in the source is wanted and followed.
        load_parallelism: attempts that may be LOADING at once.
        is_strict: not ready while any wanted model is not. See `gateway.readiness`.
        memory_bytes: what all models together may take; 0 for no limit. Only models loaded on demand ever leave for it.
        idle_since: when a model was last used, on the clock of `now`; None while it has requests in flight.
        emit: told of each change of state, after it is made.
    """

    def __init__(
        self, *, is_explicit: bool = False, is_strict: bool = False, load_parallelism: int = 2,
        backoff: Backoff = Backoff(), emit: Callable[[Event], None] = lambda event: None, memory_bytes: int = 0,
        idle_since: Callable[[str], float | None] = lambda model: None,
    ) -> None:  # fmt: skip
        self._is_explicit, self._is_strict = is_explicit, is_strict
        self._load_parallelism = load_parallelism
        self._backoff = backoff
        self._emit = emit
        self._memory_bytes, self._idle_since = memory_bytes, idle_since
        self.evictions: Counter[str] = Counter()
        """How often each model was unloaded to make room."""
        # Changed by observe, request, release and shut; the attempts in them also by decide and by what is told.
        self._models: dict[str, Followed] = {}
        self._source = Snapshot()
        self._listed: list[IndexRow] | None = None
        """The whole index, as it was told last; None after anything changed in it."""
        self.has_observed = is_explicit
        """Whether it is known what the source holds, as far as that matters."""
        self._is_shut = False

    # What is told

    def observe(self, snapshot: Snapshot) -> None:
        """The source holds this now. Replaces what it held before."""
        for problem in snapshot.problems:
            if problem not in self._source.problems:
                fields = {"path": problem.path, "reason": problem.reason}
                self._emit(Event("repository-problem", "warning", fields=fields))
        is_late = self.is_ready()
        self._source, self._listed = snapshot, None
        self.has_observed = True
        if self._is_explicit:
            return
        for name in snapshot.models.keys() | self._models.keys():
            model = self._models.setdefault(name, Followed(name, is_requested=True, is_late=is_late))
            listing = snapshot.models.get(name)
            if listing is None or listing is not model.listing:
                self._touch(model)
                self._adopt(model, listing)

    def request(self, name: str, override: WrittenConfig | None = None, *, is_required: bool = False) -> bool:
        """Explicit mode: the model is wanted as the source holds it now; `is_required`: for the server to be ready.
        False when the source does not hold it.

        Failed versions are tried again at once. Raises ConfigError; what is loaded then stays as it is.
        """
        listing = self._source.models.get(name)
        if listing is None:
            return False
        settled = read_settled(listing, {}) if override is None else Settled.of(override, name)
        own = read_own(listing) if override is None else {}
        model = self._models.setdefault(name, Followed(name, is_late=self.is_ready(), is_required=is_required))
        model.is_requested, model.override = True, override
        model.follow(listing, settled, own)
        model.attempts = [each for each in model.attempts if not each.is_over]
        self._touch(model)
        return True

    def miss(self, name: str, reason: str) -> None:
        """Explicit mode: the model is required, and cannot be requested."""
        model = self._models.setdefault(name, Followed(name, is_required=True))
        model.is_requested, model.problem = True, reason
        self._touch(model)
        self._emit(Event("model-missed", "error", name, fields={"reason": reason}))

    def release(self, name: str) -> bool:
        """Explicit mode: the model is not wanted any more. False for a name that nobody knows."""
        model = self._models.get(name)
        if model is not None:
            model.is_requested = False
        return model is not None or name in self._source.models

    def shut(self) -> None:
        """Nothing is wanted any more, for good."""
        self._is_shut = True

    def demand(self, name: str, version: int | None, now: float) -> str | None:
        """Somebody asks for a version that is not READY; None: for any. Returns "" when it is on its way now, why it is
        not when it lately failed, and None when nobody needs to wait for it: its model is not loaded on demand."""
        model = self._models.get(name)
        if model is None or self._is_shut or not model.is_on_demand:
            return None
        asked = {number: revision for number, revision in model.chosen.items() if version is None or number == version}
        failed = [
            each for number, revision in asked.items()
            if (each := model.over(number, revision)) is not None and (each.retry_at is None or each.retry_at > now)
        ]  # fmt: skip
        if not asked:
            return None
        if len(failed) == len(asked):
            return f"version {failed[-1].version} of model '{name}' is not at ready state: {failed[-1].reason}"
        model.is_demanded = True
        return ""

    def measured(self, attempt: Attempt, nbytes: int) -> None:
        """The memory that a live attempt takes now."""
        attempt.nbytes = nbytes

    def loaded(self, attempt: Attempt, digest: str, now: float, nbytes: int = 0) -> None:
        """All instances of a LOADING attempt are ready, taking that much memory, and it is published."""
        attempt.digest, attempt.is_live, attempt.nbytes = digest, True, nbytes
        attempt.load_seconds = now - attempt.since
        self._step(attempt, Step.LOADED, now)
        self._models[attempt.model].has_answered = True
        self._come_out(attempt)
        self._tell("version-ready", attempt, load_seconds=round(attempt.load_seconds, 3), digest=f"sha256:{digest}")

    def failed(self, attempt: Attempt, reason: str, now: float, *, is_final: bool = False) -> None:
        """A LOADING attempt could not be brought up. `is_final`: the same files and configuration never will be."""
        attempt.failures += 1
        pause = self._backoff.after(attempt.failures)
        self._step(attempt, Step.FAIL, now, reason)
        attempt.retry_at = None if is_final else now + pause
        self._come_out(attempt)
        fields = {} if is_final else {"retry_seconds": pause}
        self._tell("version-load-failed", attempt, "error", reason=reason, attempt=attempt.failures, **fields)

    def died(self, attempt: Attempt, reason: str, now: float) -> None:
        """The instances of a READY attempt keep dying: it answers nothing until one stays up."""
        self._step(attempt, Step.FAIL, now, reason)
        self._tell("version-unavailable", attempt, "error", reason=reason)

    def recovered(self, attempt: Attempt, now: float) -> None:
        """An instance of an attempt that died is up again."""
        self._step(attempt, Step.RECOVER, now)
        self._tell("version-ready", attempt)

    def unloaded(self, attempt: Attempt, now: float) -> None:
        """The last instance of an UNLOADING attempt has stopped."""
        self._step(attempt, Step.UNLOADED, now, UNLOADED)
        attempt.is_live, attempt.retry_at = False, now
        self._tell("version-unloaded", attempt)
        self._forget()

    def verified(self, attempt: Attempt, listing: VersionListing, digest: str) -> None:
        """The answer to Verify: the digest of the version's files as they are in `listing`."""
        if attempt.state is not State.READY:
            return
        self._touch(self._models[attempt.model])
        if digest == attempt.digest:
            attempt.revision = replace(attempt.revision, files=listing.files)
            attempt.reason = ""
        else:
            attempt.reason = CHANGED_IN_PLACE
            self._tell("version-changed-in-place", attempt, "error", reason=CHANGED_IN_PLACE)

    def not_verified(self, attempt: Attempt) -> None:
        """The files could not be read, or changed meanwhile: Verify comes again when the source has settled."""
        attempt.seen = ()

    # What follows

    def decide(self, now: float) -> list[Action]:
        """Everything that is to be done now. Each action is returned once, its attempt already in the new state."""
        actions: list[Action] = []
        if self._memory_bytes:
            for name in within(self._memory_bytes, self._residents()):
                self._evict(name)
        actions += self._entering(now)
        for model in self._awake():
            wanted = self._wanted(model)
            actions += self._leaving(model, wanted, now)
            actions += self._to_verify(model)
        self._forget()
        return actions

    def wake_at(self, now: float) -> float | None:
        """When `decide` could next do something by the passing of time alone; None for never."""
        times = [
            self._retry_time(model, version, revision)
            for model in self._awake()
            for version, revision in self._wanted(model).items()
        ]
        return min((time for time in times if time is not None and time > now), default=None)

    def _touch(self, model: Followed) -> None:
        """What the index says of it has changed."""
        model.rows = self._listed = None

    def _awake(self) -> list[Followed]:
        """Those that there may be something to do about: of a thousand loaded on demand, the few that are."""
        return [
            each for each in self._models.values()
            if each.attempts or each.is_demanded or not each.is_on_demand or each.listing is None
        ]  # fmt: skip

    def _leaving(self, model: Followed, wanted: Mapping[int, Revision], now: float) -> Iterator[Unload]:
        are_ready = all(model.is_ready(version, revision) for version, revision in wanted.items())
        may_leave = are_ready if wanted else self._is_dismissed(model)
        for each in model.active():
            successor = wanted.get(each.version)
            if successor == each.revision:
                continue
            is_replaced = successor is not None and model.is_ready(each.version, successor)
            if each.state is not State.READY or may_leave or is_replaced:
                self._step(each, Step.UNLOAD, now)
                self._tell("version-unloading", each)
                yield Unload(each)

    def _to_verify(self, model: Followed) -> Iterator[Verify]:
        for each in model.in_state(State.READY):
            listing = model.listing.versions.get(each.version) if model.listing else None
            if listing is not None and listing.files != (each.seen or each.revision.files):
                each.seen = listing.files
                yield Verify(each, listing)

    def _entering(self, now: float) -> Iterator[Load]:
        """As many loads as there is room for: first attempts before others, models without a READY version before
        others, higher versions before lower."""
        due = sorted(
            (self._failures(model, version, revision), bool(model.in_state(State.READY)), -version, model.name)
            for model in self._awake() for version, revision in self._wanted(model).items()
            if (time := self._retry_time(model, version, revision)) is not None and time <= now
        )  # fmt: skip
        busy = sum(len(model.in_state(State.LOADING)) for model in self._awake())
        reserved = 0
        for failures, _, negated, name in due[: max(0, self._load_parallelism - busy)]:
            model, version = self._models[name], -negated
            need = self._expected_bytes(model, version)
            residents = self._residents(loading=name) if self._memory_bytes else ()
            room = make_room(need, self._memory_bytes, residents, reserved)
            if room.refusal:
                self._refuse(model, version, failures, room.refusal, now)
            elif room.is_there:
                attempt = self._attempt(model, version, failures)
                self._step(attempt, Step.LOAD, now)
                self._tell("version-loading", attempt, attempt=failures + 1)
                yield Load(attempt)
            else:
                reserved += need
                for evicted in room.evicted:
                    self._evict(evicted)

    def _expected_bytes(self, model: Followed, version: int) -> int:
        """As measured when it was last loaded, else as its files say."""
        last = model.over(version, model.chosen[version]) if version in model.chosen else None
        assert model.listing, "this is a bug: a version wanted that is not listed"
        if last and last.nbytes:
            return last.nbytes
        return first_estimate(model.listing.versions[version], model.settled_of(version))

    def _residents(self, loading: str = "") -> list[Resident]:
        """What takes memory. A model may leave when it is loaded on demand, whole, idle, and not the one to be
        loaded."""
        found = []
        for model in self._awake():
            here = [each for each in model.attempts if not each.is_over]
            if not here:
                continue
            is_gone = not model.is_wanted
            leaving = sum(each.nbytes for each in here if is_gone or each.state is State.UNLOADING)
            is_whole = model.is_wanted and not model.in_state(State.LOADING)
            may_leave = model.is_on_demand and is_whole and model.name != loading
            since = self._idle_since(model.name) if may_leave else None
            found.append(Resident(model.name, sum(each.nbytes for each in here) - leaving, leaving, since))
        return found

    def _evict(self, name: str) -> None:
        self._models[name].is_demanded = False
        self.evictions[name] += 1
        self._emit(Event("model-evicted", model=name))

    def _refuse(self, model: Followed, version: int, failures: int, why: str, now: float) -> None:
        last = model.over(version, model.chosen[version])
        attempt = self._attempt(model, version, failures)
        self._step(attempt, Step.FAIL, now, f"{NO_ROOM}: {why}")
        attempt.retry_at = now + ROOM_SECONDS
        model.is_demanded = False
        self._come_out(attempt)
        if last is None or not last.reason.startswith(NO_ROOM):
            self._tell("version-refused", attempt, "error", reason=attempt.reason)

    def _attempt(self, model: Followed, version: int, failures: int) -> Attempt:
        """A new attempt at a wanted version, in place of earlier ones that are over."""
        assert model.listing, "this is a bug: a version wanted that is not listed"
        listing, settled = model.listing.versions[version], model.settled_of(version)
        revision = revision_of(model.listing, settled, version)
        attempt = Attempt(model.name, version, revision, listing, model.listing, settled.written, failures)
        attempt.nbytes = self._expected_bytes(model, version)
        model.attempts = [each for each in model.attempts if not (each.is_over and each.version == version)]
        model.attempts.append(attempt)
        return attempt

    @staticmethod
    def _failures(model: Followed, version: int, revision: Revision) -> int:
        last = model.over(version, revision)
        return last.failures if last else 0

    @staticmethod
    def _retry_time(model: Followed, version: int, revision: Revision) -> float | None:
        """When this wanted revision may be loaded: 0.0 for at once, None for not (it is there, or hopeless)."""
        if any(each.is_of(version, revision) for each in model.active()):
            return None
        last = model.over(version, revision)
        return last.retry_at if last else 0.0

    def _wanted(self, model: Followed) -> Mapping[int, Revision]:
        """The revision of each version that should be READY. What is live keeps its revision while the files that lie
        there are not those that it was loaded from."""
        if self._is_shut or not model.is_wanted:
            return {}
        chosen = model.chosen
        pinned = {
            each.version: each.revision
            for each in model.attempts
            if each.is_live and each.state is not State.UNLOADING
            and each.version in chosen and each.revision.files != chosen[each.version].files
        }  # fmt: skip
        return {**chosen, **pinned} if pinned else chosen

    def _is_dismissed(self, model: Followed) -> bool:
        """Whether nothing of the model is wanted, as opposed to: nothing that is wanted is there."""
        is_empty = model.listing is None or not (model.listing.versions or model.listing.problem)
        return self._is_shut or not model.is_wanted or is_empty

    def _adopt(self, model: Followed, listing: ModelListing | None) -> None:
        """Follows what the source holds of one model. A configuration that cannot be followed holds everything else up:
        what it was meant to go with is not known."""
        if listing is None:
            model.lose()
            return
        settled, own = model.settled, read_own(listing, model.own)
        try:
            if settled is None or model.listing is None or model.listing.config != listing.config:
                settled = read_settled(listing, own)
        except ConfigError as error:
            if (reason := sentence(error)) != model.problem:
                self._emit(Event("config-refused", "error", model.name, fields={"reason": reason}))
            model.problem = reason
            if model.listing is None:
                model.listing, model.settled = listing, None
            return
        model.follow(listing, settled, own)
        was_on_demand = model.is_on_demand
        model.is_on_demand = not self._is_explicit and (listing.load_on_demand or settled.is_on_demand)
        if not was_on_demand and model.active():
            model.is_demanded = True  # loaded already: it stays until its memory is needed

    def _come_out(self, attempt: Attempt) -> None:
        """An attempt has been READY, or has failed."""
        model = self._models[attempt.model]
        model.has_come_out = model.has_come_out or all(
            model.is_ready(version, revision) or model.over(version, revision)
            for version, revision in self._wanted(model).items()
        )

    def _step(self, attempt: Attempt, step: Step, now: float, reason: str = "") -> None:
        attempt.state = after(attempt.state, step)
        attempt.reason, attempt.since = reason, now
        self._touch(self._models[attempt.model])

    def _forget(self) -> None:
        """Drops what is over and that nobody asks about: other revisions of a wanted version, versions that the source
        holds no more, and models that are neither listed nor loaded."""
        for model in self._awake():
            listed = model.listing.versions if model.listing else {}
            wanted = self._wanted(model)
            kept = [
                each for each in model.attempts if not each.is_over
                or (wanted[each.version] == each.revision if each.version in wanted else each.version in listed)
            ]  # fmt: skip
            if len(kept) != len(model.attempts):
                model.attempts = kept
                self._touch(model)
            if model.listing is None and not model.attempts and not (self._is_explicit and model.is_requested):
                del self._models[model.name]
                self._touch(model)

    def _tell(self, action: str, attempt: Attempt, level: Level = "info", /, **fields: Any) -> None:
        self._emit(Event(action, level, attempt.model, str(attempt.version), MappingProxyType(fields)))

    # Questions

    def is_ready(self) -> bool:
        """See `gateway.readiness`. False before the source was read for the first time."""
        if not self.has_observed or self._is_shut:
            return False
        wanted = [
            model for model in self._models.values()
            if model.is_requested and not model.is_on_demand and (model.listing is not None or self._is_explicit)
        ]  # fmt: skip
        return are_ready(wanted, is_strict=self._is_strict)

    def ready_versions(self, name: str) -> tuple[int, ...]:
        """Ascending; the last is the one that answers when a call names none."""
        model = self._models.get(name)
        return tuple(sorted({each.version for each in model.in_state(State.READY)})) if model else ()

    def capacity(self) -> Capacity:
        """What models take, and how often some had to leave."""
        loaded: Counter[tuple[str, int]] = Counter()
        for model in self._models.values():
            for each in model.attempts:
                loaded[each.model, each.version] += 0 if each.is_over else each.nbytes
        return Capacity(self._memory_bytes, +loaded, dict(self.evictions))

    def outcome(self, name: str) -> str | None:
        """How the wanted versions of a model came out: None while some are under way, "" when all are READY, else why
        not."""
        model = self._models.get(name)
        if self._is_shut or model is None or not model.is_requested:
            return "not wanted any more"
        reasons = []
        for version, revision in self._wanted(model).items():
            if model.is_ready(version, revision):
                continue
            lives = [each for each in model.active() if each.is_of(version, revision)]
            last = lives[0] if lives else model.over(version, revision)
            if last is None or last.state is State.LOADING or last.reason == UNLOADED:
                return None
            reasons.append(f"version {version}: {last.reason}")
        if not reasons and not model.in_state(State.READY):
            return model.problem or "the version policy chooses none of its versions"
        return "; ".join(reasons)

    def is_gone(self, name: str) -> bool:
        """Whether no attempt of the model is left that loads, answers or drains."""
        model = self._models.get(name)
        return model is None or all(each.is_over for each in model.attempts)

    def is_idle(self) -> bool:
        """Whether no attempt is left at all, of any model, that is not over."""
        return all(self.is_gone(name) for name in self._models)

    def index(self) -> list[IndexRow]:
        """Every model known to the source or loaded, in the order of names and versions."""
        if self._listed is None:
            self._listed = []
            for name in sorted(self._source.models.keys() | self._models.keys()):
                model = self._models.get(name)
                if model is not None and model.rows is None:
                    model.rows = rows_of(model)
                self._listed += model.rows or () if model else (IndexRow(name),)
        return list(self._listed)
