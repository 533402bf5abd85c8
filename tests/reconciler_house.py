"""A reconciler that is told of made-up sources, for tests of what it decides."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from gateway.attempts import Attempt, Backoff, Event
from gateway.lifecycle import State
from gateway.reconcile import Reconciler
from registry.sources import FileStamp, ModelListing, Snapshot, VersionListing

Versions = Mapping[int, int] | list[int]


def listing(name: str, versions: Versions, config: str | None = None, problem: str = "") -> ModelListing:
    """Versions with a number that stands for the state of their file."""
    stamps = versions if isinstance(versions, Mapping) else dict.fromkeys(versions, 0)
    path = Path("/repository") / name
    listings = {
        version: VersionListing(version, path / str(version), (FileStamp("model.onnx", 100, stamp, version),))
        for version, stamp in stamps.items()
    }
    text = None if config is None else config.encode()
    return ModelListing(name, path, MappingProxyType(listings), text, problem=problem)


def snapshot(**models: Versions | ModelListing) -> Snapshot:
    return Snapshot(
        {name: each if isinstance(each, ModelListing) else listing(name, each) for name, each in models.items()}
    )


class House:
    """A reconciler, its events, and a clock that is moved by hand."""

    def __init__(self, **options: object) -> None:
        self.events: list[Event] = []
        self.reconciler = Reconciler(emit=self.events.append, backoff=Backoff(1.0, 8.0), **options)  # type: ignore[arg-type]
        self.now = 100.0

    def decide(self) -> list[str]:
        self.actions = self.reconciler.decide(self.now)
        return [f"{type(each).__name__} {each.attempt.model} {each.attempt.version}" for each in self.actions]

    def loading(self, version: int) -> Attempt:
        return self.in_state(version, State.LOADING)

    def in_state(self, version: int, state: State) -> Attempt:
        found = [
            each
            for model in self.reconciler._models.values()
            for each in model.in_state(state)
            if each.version == version
        ]
        assert len(found) == 1, found
        return found[0]

    def load(self, *versions: int) -> None:
        """What is due is loaded."""
        self.decide()
        for version in versions:
            self.reconciler.loaded(self.loading(version), f"digest of {version}", self.now)

    def finish_unload(self, version: int) -> None:
        self.reconciler.unloaded(self.in_state(version, State.UNLOADING), self.now)

    def ready(self, model: str = "m") -> tuple[int, ...]:
        return self.reconciler.ready_versions(model)
