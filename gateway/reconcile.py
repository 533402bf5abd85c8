"""Which versions to load and unload: a plain object that is told what exists and what happened, and returns actions.

It owns every attempt's state and knows no file, worker, task or clock. The rule it keeps: a READY version leaves
only when all versions that are wanted instead are READY, or when its model is not wanted at all; so a broken version
never disturbs a good one, and one that takes over does so before the other leaves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from gateway.attempts import (
    CHANGED_IN_PLACE,
    UNLOADED,
    Action,
    Attempt,
    Backoff,
    Event,
    IndexRow,
    Level,
    Load,
    Revision,
    Unload,
    Verify,
)
from gateway.errors import ConfigError
from gateway.lifecycle import State, Step, after
from gateway.model_config import WrittenConfig, parse
from gateway.model_config_checks import check_served, sentence
from gateway.pb.model_config_pb2 import ModelConfig
from gateway.serving_plan import companion_names
from registry.errors import InvalidPolicy
from registry.policy import All, Latest, Specific, VersionPolicy
from registry.sources import ModelListing, Snapshot, VersionListing


@dataclass
class _Model:
    name: str
    listing: ModelListing | None = None
    """None: not in the source (any more)."""
    settled: _Settled | None = None
    """The last configuration that could be read."""
    override: WrittenConfig | None = None
    """Given with a load request, in place of config.pbtxt."""
    problem: str = ""
    """Why what the source holds cannot be followed."""
    is_requested: bool = False
    has_come_out: bool = False
    """Whether every wanted version was once READY or had failed: those that come later take over when they are."""
    attempts: list[Attempt] = field(default_factory=list)

    chosen: Mapping[int, Revision] = field(default_factory=lambda: MappingProxyType({}))
    """By the version policy, as they are listed: follows from the listing and the configuration."""

    def follow(self, listing: ModelListing, settled: _Settled) -> None:
        """What is chosen from now on."""
        self.listing, self.settled, self.problem = listing, settled, listing.problem
        versions = sorted(listing.versions if listing.is_chosen else settled.policy.choose(listing.versions))
        self.chosen = MappingProxyType({version: _revision(listing, settled, version) for version in versions})

    def lose(self) -> None:
        """The source does not hold it any more."""
        self.listing, self.problem, self.chosen = None, "", MappingProxyType({})

    def in_state(self, *states: State) -> list[Attempt]:
        return [attempt for attempt in self.attempts if attempt.state in states]

    def active(self) -> list[Attempt]:
        """Those that load, answer, or try to come back."""
        return [each for each in self.attempts if not each.is_over and each.state is not State.UNLOADING]

    def over(self, version: int, revision: Revision) -> Attempt | None:
        return next((each for each in self.attempts if each.is_over and each.is_of(version, revision)), None)

    def is_ready(self, version: int, revision: Revision) -> bool:
        return any(each.is_of(version, revision) for each in self.in_state(State.READY))


@dataclass(frozen=True)
class _Settled:
    """A configuration that can be followed, and what follows from it alone."""

    written: WrittenConfig
    policy: VersionPolicy
    fingerprint: bytes
    """Of everything but the version policy, which says nothing about any one version."""
    companions: frozenset[str]

    @classmethod
    def of(cls, written: WrittenConfig, model: str) -> _Settled:
        """Raises ConfigError."""
        check_served(written.config, model)
        config = ModelConfig()
        config.CopyFrom(written.config)
        config.ClearField("version_policy")
        fingerprint = config.SerializeToString(deterministic=True) + bytes([written.is_batching_off])
        return cls(written, _policy_of(written.config, model), fingerprint, companion_names(config))


class Reconciler:
    """Decides for all models.

    Args:
        is_explicit: models are wanted when requested, and their listing is taken over at each request; otherwise every
            model in the source is wanted and followed.
        load_parallelism: attempts that may be LOADING at once.
        emit: told of each change of state, after it is made.
    """

    def __init__(
        self, *, is_explicit: bool = False, load_parallelism: int = 2, backoff: Backoff = Backoff(),
        emit: Callable[[Event], None] = lambda event: None,
    ) -> None:  # fmt: skip
        self._is_explicit = is_explicit
        self._load_parallelism = load_parallelism
        self._backoff = backoff
        self._emit = emit
        # Changed by observe, request, release and shut; the attempts in them also by decide and by what is told.
        self._models: dict[str, _Model] = {}
        self._source = Snapshot()
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
        self._source = snapshot
        self.has_observed = True
        if self._is_explicit:
            return
        for name in snapshot.models.keys() | self._models.keys():
            model = self._models.setdefault(name, _Model(name, is_requested=True))
            self._adopt(model, snapshot.models.get(name))

    def request(self, name: str, override: WrittenConfig | None = None) -> bool:
        """Explicit mode: the model is wanted as the source holds it now. False when the source does not hold it.

        Failed versions are tried again at once. Raises ConfigError; what is loaded then stays as it is.
        """
        listing = self._source.models.get(name)
        if listing is None:
            return False
        settled = _Settled.of(override or _read_config(listing), name)
        model = self._models.setdefault(name, _Model(name))
        model.is_requested, model.override = True, override
        model.follow(listing, settled)
        model.attempts = [each for each in model.attempts if not each.is_over]
        return True

    def miss(self, name: str, reason: str) -> None:
        """Explicit mode: the model is wanted, and cannot be requested."""
        model = self._models.setdefault(name, _Model(name))
        model.is_requested, model.problem = True, reason
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

    def loaded(self, attempt: Attempt, digest: str, now: float) -> None:
        """All instances of a LOADING attempt are ready, and it is published."""
        attempt.digest, attempt.is_live = digest, True
        seconds = round(now - attempt.since, 3)
        self._step(attempt, Step.LOADED, now)
        self._come_out(attempt)
        self._tell("version-ready", attempt, load_seconds=seconds, digest=f"sha256:{digest}")

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
        for model in self._models.values():
            wanted = self._wanted(model)
            actions += self._leaving(model, wanted, now)
            actions += self._to_verify(model)
        actions += self._entering(now)
        self._forget()
        return actions

    def wake_at(self, now: float) -> float | None:
        """When `decide` could next do something by the passing of time alone; None for never."""
        times = [
            self._retry_time(model, version, revision)
            for model in self._models.values()
            for version, revision in self._wanted(model).items()
        ]
        return min((time for time in times if time is not None and time > now), default=None)

    def _leaving(self, model: _Model, wanted: Mapping[int, Revision], now: float) -> Iterator[Unload]:
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

    def _to_verify(self, model: _Model) -> Iterator[Verify]:
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
            for model in self._models.values() for version, revision in self._wanted(model).items()
            if (time := self._retry_time(model, version, revision)) is not None and time <= now
        )  # fmt: skip
        busy = sum(len(model.in_state(State.LOADING)) for model in self._models.values())
        for failures, _, negated, name in due[: max(0, self._load_parallelism - busy)]:
            attempt = self._attempt(self._models[name], -negated, failures)
            self._step(attempt, Step.LOAD, now)
            self._tell("version-loading", attempt, attempt=failures + 1)
            yield Load(attempt)

    def _attempt(self, model: _Model, version: int, failures: int) -> Attempt:
        """A new attempt at a wanted version, in place of earlier ones that are over."""
        assert model.listing, "this is a bug: a version wanted that is not listed"
        assert model.settled, "this is a bug: a version wanted without a configuration"
        listing = model.listing.versions[version]
        revision = _revision(model.listing, model.settled, version)
        attempt = Attempt(model.name, version, revision, listing, model.listing, model.settled.written, failures)
        model.attempts = [each for each in model.attempts if not (each.is_over and each.version == version)]
        model.attempts.append(attempt)
        return attempt

    @staticmethod
    def _failures(model: _Model, version: int, revision: Revision) -> int:
        last = model.over(version, revision)
        return last.failures if last else 0

    @staticmethod
    def _retry_time(model: _Model, version: int, revision: Revision) -> float | None:
        """When this wanted revision may be loaded: 0.0 for at once, None for not (it is there, or hopeless)."""
        if any(each.is_of(version, revision) for each in model.active()):
            return None
        last = model.over(version, revision)
        return last.retry_at if last else 0.0

    def _wanted(self, model: _Model) -> Mapping[int, Revision]:
        """The revision of each version that should be READY. What is live keeps its revision while the files that lie
        there are not those that it was loaded from."""
        if self._is_shut or not model.is_requested:
            return {}
        chosen = model.chosen
        pinned = {
            each.version: each.revision
            for each in model.attempts
            if each.is_live and each.state is not State.UNLOADING
            and each.version in chosen and each.revision.files != chosen[each.version].files
        }  # fmt: skip
        return {**chosen, **pinned} if pinned else chosen

    def _is_dismissed(self, model: _Model) -> bool:
        """Whether nothing of the model is wanted, as opposed to: nothing that is wanted is there."""
        is_empty = model.listing is None or not (model.listing.versions or model.listing.problem)
        return self._is_shut or not model.is_requested or is_empty

    def _adopt(self, model: _Model, listing: ModelListing | None) -> None:
        """Follows what the source holds of one model. A configuration that cannot be followed holds everything else up:
        what it was meant to go with is not known."""
        if listing is None:
            model.lose()
            return
        settled = model.settled
        try:
            if settled is None or model.listing is None or model.listing.config != listing.config:
                settled = _Settled.of(_read_config(listing), model.name)
        except ConfigError as error:
            if (reason := sentence(error)) != model.problem:
                self._emit(Event("config-refused", "error", model.name, fields={"reason": reason}))
            model.problem = reason
            if model.listing is None:
                model.listing, model.settled = listing, None
            return
        model.follow(listing, settled)

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

    def _forget(self) -> None:
        """Drops what is over and that nobody asks about: other revisions of a wanted version, versions that the source
        holds no more, and models that are neither listed nor loaded."""
        for name, model in list(self._models.items()):
            listed = model.listing.versions if model.listing else {}
            wanted = self._wanted(model)
            model.attempts = [
                each for each in model.attempts if not each.is_over
                or (wanted[each.version] == each.revision if each.version in wanted else each.version in listed)
            ]  # fmt: skip
            if model.listing is None and not model.attempts and not (self._is_explicit and model.is_requested):
                del self._models[name]

    def _tell(self, action: str, attempt: Attempt, level: Level = "info", /, **fields: Any) -> None:
        self._emit(Event(action, level, attempt.model, str(attempt.version), MappingProxyType(fields)))

    # Questions

    def is_ready(self) -> bool:
        """Whether every wanted model has a READY version, and at first all of them that can be. False before the source
        was read for the first time."""
        return (
            self.has_observed
            and not self._is_shut
            and all(
                model.has_come_out and model.in_state(State.READY)
                for model in self._models.values()
                if model.is_requested and (model.listing is not None or self._is_explicit)
            )
        )

    def ready_versions(self, name: str) -> tuple[int, ...]:
        """Ascending; the last is the one that answers when a call names none."""
        model = self._models.get(name)
        return tuple(sorted({each.version for each in model.in_state(State.READY)})) if model else ()

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
        rows: list[IndexRow] = []
        for name in sorted(self._source.models.keys() | self._models.keys()):
            model = self._models.get(name)
            best: dict[int, Attempt] = {}
            for each in model.attempts if model else ():
                if each.version not in best or _rank(each) > _rank(best[each.version]):
                    best[each.version] = each
            rows += [
                IndexRow(name, str(each.version), each.state.value, each.reason) for _, each in sorted(best.items())
            ]
            if not best:
                problem = model.problem if model else ""
                rows.append(IndexRow(name, "", State.UNAVAILABLE.value, problem) if problem else IndexRow(name))
        return rows


_RANKS = (State.UNKNOWN, State.UNAVAILABLE, State.UNLOADING, State.LOADING, State.READY)


def _rank(attempt: Attempt) -> int:
    return _RANKS.index(attempt.state)


def _read_config(listing: ModelListing) -> WrittenConfig:
    return parse(listing.config, listing.name) if listing.config is not None else WrittenConfig(ModelConfig())


def wanted_versions(model: str, config: bytes | None) -> VersionPolicy:
    """The version policy in a config.pbtxt; the default where there is none. Raises ConfigError."""
    return _policy_of(parse(config, model).config if config is not None else ModelConfig(), model)


def _policy_of(config: ModelConfig, model: str) -> VersionPolicy:
    choice = config.version_policy
    try:
        if choice.HasField("specific"):
            return Specific(frozenset(choice.specific.versions))
        return All() if choice.HasField("all") else Latest(choice.latest.num_versions or 1)
    except InvalidPolicy as error:
        raise ConfigError(model, f"version_policy.specific.{error.field}", f"cannot be {error.value}") from None


def _revision(listing: ModelListing, settled: _Settled, version: int) -> Revision:
    companions = tuple(stamp for stamp in listing.companions if stamp.path in settled.companions)
    return Revision(listing.versions[version].files, settled.fingerprint, companions)
