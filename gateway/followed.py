"""One model as the life cycle follows it: what the source holds, the configuration that goes with it, the versions that
are chosen, and whether they are wanted now. It decides nothing and knows no time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from gateway.attempts import ON_DEMAND, UNLOADED, Attempt, IndexRow, Revision
from gateway.errors import ConfigError
from gateway.lifecycle import State
from gateway.model_config import WrittenConfig, parse
from gateway.model_config_checks import check_served
from gateway.pb.model_config_pb2 import ModelConfig
from gateway.serving_plan import companion_names
from registry.errors import InvalidPolicy
from registry.policy import All, Latest, Specific, VersionPolicy
from registry.sources import ModelListing, VersionListing

LOAD_ON_DEMAND = "load_on_demand"
"""The parameter in config.pbtxt that has a model loaded by its first request: `true` or `false`."""


@dataclass
class Followed:
    """One model: what the source holds of it, what is wanted of that, and every attempt at it."""

    name: str
    listing: ModelListing | None = None
    """None: not in the source (any more)."""
    settled: Settled | None = None
    """The last configuration that could be read: the model's."""
    own: Mapping[bytes, Settled] = field(default_factory=lambda: MappingProxyType({}))
    """By their contents, those of listed versions that have one of their own."""
    override: WrittenConfig | None = None
    """Given with a load request, in place of config.pbtxt."""
    problem: str = ""
    """Why what the source holds cannot be followed."""
    is_requested: bool = False
    """Explicit mode: by a load request. Otherwise always."""
    is_on_demand: bool = False
    """Loaded when somebody asks for it. Never in explicit mode, where load requests alone count."""
    is_demanded: bool = False
    """Somebody asked for it, and it was not unloaded for others since."""
    has_come_out: bool = False
    """Whether every wanted version was once READY or had failed: those that come later take over when they are."""
    has_answered: bool = False
    """Whether a version of it was ever READY here."""
    is_late: bool = False
    """It was first seen when the server was ready without it."""
    is_required: bool = False
    """The settings name it: the server is not ready without it."""
    attempts: list[Attempt] = field(default_factory=list)
    rows: list[IndexRow] | None = None
    """Its lines of the index, as they were told last; None after anything changed in them."""

    chosen: Mapping[int, Revision] = field(default_factory=lambda: MappingProxyType({}))
    """By the version policy, as they are listed: follows from the listing and the configuration."""

    def follow(self, listing: ModelListing, settled: Settled, own: Mapping[bytes, Settled]) -> None:
        """What is chosen from now on."""
        self.listing, self.settled, self.own, self.problem = listing, settled, own, listing.problem
        versions = sorted(listing.versions if listing.is_chosen else settled.policy.choose(listing.versions))
        self.chosen = MappingProxyType(
            {version: revision_of(listing, self.settled_of(version), version) for version in versions}
        )

    def settled_of(self, version: int) -> Settled:
        """What a listed version is run by. One that was given with a load request is for all of them."""
        assert self.listing, "this is a bug: a version that is not listed"
        assert self.settled, "this is a bug: a version wanted without a configuration"
        config = self.listing.versions[version].config
        return self.settled if config is None or self.override is not None else self.own[config]

    @property
    def is_wanted(self) -> bool:
        """Whether what is chosen should be READY now."""
        return self.is_requested and (self.is_demanded or not self.is_on_demand)

    @property
    def is_awaited(self) -> bool:
        """Whether versions of it are on their way here."""
        return self.listing is not None and self.listing.is_awaited

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
class Settled:
    """A configuration that can be followed, and what follows from it alone."""

    written: WrittenConfig
    policy: VersionPolicy
    fingerprint: bytes
    """Of everything but the version policy, which says nothing about any one version."""
    companions: frozenset[str]
    is_on_demand: bool
    instances: int

    @classmethod
    def of(cls, written: WrittenConfig, model: str) -> Settled:
        """Raises ConfigError."""
        check_served(written.config, model)
        config = ModelConfig()
        config.CopyFrom(written.config)
        config.ClearField("version_policy")
        fingerprint = config.SerializeToString(deterministic=True) + bytes([written.is_batching_off])
        return cls(
            written,
            policy_of(written.config, model),
            fingerprint,
            companion_names(config),
            _is_on_demand(written.config, model),
            sum(max(1, group.count) for group in config.instance_group) or 1,
        )


def read_config(listing: ModelListing) -> WrittenConfig:
    """Raises ConfigError."""
    return parse(listing.config, listing.name) if listing.config is not None else WrittenConfig(ModelConfig())


def read_own(listing: ModelListing, known: Mapping[bytes, Settled] = MappingProxyType({})) -> dict[bytes, Settled]:
    """Those of versions that have one of their own; what is known is not read again. One that cannot be followed holds
    up nothing but the versions that have it: they fail to load."""
    texts = {each.config for each in listing.versions.values() if each.config is not None}
    return {text: known.get(text) or _settled_by(text, listing.name) for text in texts}


def read_settled(listing: ModelListing, own: Mapping[bytes, Settled]) -> Settled:
    """The model's. Raises ConfigError, unless it is also that of a version."""
    if listing.config is not None and listing.config in own:
        return own[listing.config]
    return Settled.of(read_config(listing), listing.name)


def _settled_by(text: bytes, model: str) -> Settled:
    try:
        return Settled.of(parse(text, model), model)
    except ConfigError as error:
        nothing = WrittenConfig(ModelConfig(), refusal=error)
        return replace(Settled.of(nothing, model), fingerprint=text)


def wanted_versions(model: str, config: bytes | None) -> VersionPolicy:
    """The version policy in a config.pbtxt; the default where there is none. Raises ConfigError."""
    return policy_of(parse(config, model).config if config is not None else ModelConfig(), model)


def policy_of(config: ModelConfig, model: str) -> VersionPolicy:
    """Raises ConfigError."""
    choice = config.version_policy
    try:
        if choice.HasField("specific"):
            return Specific(frozenset(choice.specific.versions))
        return All() if choice.HasField("all") else Latest(choice.latest.num_versions or 1)
    except InvalidPolicy as error:
        raise ConfigError(model, f"version_policy.specific.{error.field}", f"cannot be {error.value}") from None


def _is_on_demand(config: ModelConfig, model: str) -> bool:
    text = config.parameters[LOAD_ON_DEMAND].string_value if LOAD_ON_DEMAND in config.parameters else "false"
    if text.strip().lower() not in ("true", "false"):
        raise ConfigError(model, f"parameters.{LOAD_ON_DEMAND}", f"takes true or false, not {text!r}")
    return text.strip().lower() == "true"


def first_estimate(listing: VersionListing, settled: Settled) -> int:
    """Bytes that a version will take as far as its files say."""
    return sum(stamp.size for stamp in listing.files) * settled.instances


def revision_of(listing: ModelListing, settled: Settled, version: int) -> Revision:
    """What a listed version is made of now."""
    listed = listing.versions[version]
    beside = listing.companions if listed.config is None else listed.files
    companions = tuple(stamp for stamp in beside if stamp.path in settled.companions)
    return Revision(listed.files, settled.fingerprint, companions)


_RANKS = (State.UNKNOWN, State.UNAVAILABLE, State.UNLOADING, State.LOADING, State.READY)


def _rank(attempt: Attempt | None) -> int:
    return _RANKS.index(attempt.state) if attempt else -1


def rows_of(model: Followed) -> list[IndexRow]:
    """The lines of the index about one model, by version."""
    best: dict[int, Attempt | None] = dict.fromkeys(model.chosen) if model.is_on_demand else {}
    for each in model.attempts:
        if _rank(each) > _rank(best.get(each.version)):
            best[each.version] = each
    if best:
        return [_row(model, best[version], version) for version in sorted(best)]
    return [IndexRow(model.name, "", State.UNAVAILABLE.value, model.problem) if model.problem else IndexRow(model.name)]


def _row(model: Followed, attempt: Attempt | None, version: int) -> IndexRow:
    """What is to be said about one version, by the attempt that comes closest to serving it."""
    is_awaited = model.is_on_demand and version in model.chosen
    if attempt is None or (is_awaited and attempt.is_over and attempt.reason == UNLOADED):
        return IndexRow(model.name, str(version), State.UNAVAILABLE.value, ON_DEMAND, is_awaited)
    return IndexRow(
        model.name, str(version), attempt.state.value, attempt.reason, is_awaited and attempt.state is not State.READY,
        attempt.load_seconds,
    )  # fmt: skip
