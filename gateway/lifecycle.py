"""The states of one attempt to serve a model version, and every way from one to the next.

Everything that changes a state goes through `after`. Nothing here knows why a change is wanted, or what it takes.
"""

from __future__ import annotations

from enum import Enum
from types import MappingProxyType


class State(Enum):
    """The names that the protocol's repository index has for them."""

    UNKNOWN = "UNKNOWN"
    """Chosen, nothing done yet."""
    LOADING = "LOADING"
    """Instances are being started and warmed up."""
    READY = "READY"
    """Published: requests are answered."""
    UNLOADING = "UNLOADING"
    """Not published any more: requests in flight are finished, then instances stop."""
    UNAVAILABLE = "UNAVAILABLE"
    """Failed, or unloaded; the reason is kept beside."""


class Step(Enum):
    """What can happen to an attempt."""

    LOAD = "load"
    """Work on it begins."""
    LOADED = "loaded"
    """All its instances are ready and warm."""
    FAIL = "fail"
    """It could not be loaded, or its instances keep dying."""
    RECOVER = "recover"
    """An instance of one that kept dying is up again."""
    UNLOAD = "unload"
    """It is to leave."""
    UNLOADED = "unloaded"
    """Its last instance has stopped."""


class IllegalStep(Exception):
    """A step that its state does not allow: this is a bug."""

    def __init__(self, state: State, step: Step) -> None:
        super().__init__(f"{step.name} in state {state.name}")
        self.state = state
        self.step = step


TRANSITIONS = MappingProxyType({
    (State.UNKNOWN, Step.LOAD): State.LOADING,
    (State.UNKNOWN, Step.FAIL): State.UNAVAILABLE,
    (State.LOADING, Step.LOADED): State.READY,
    (State.LOADING, Step.FAIL): State.UNAVAILABLE,
    (State.LOADING, Step.UNLOAD): State.UNLOADING,
    (State.READY, Step.FAIL): State.UNAVAILABLE,
    (State.READY, Step.UNLOAD): State.UNLOADING,
    (State.UNAVAILABLE, Step.RECOVER): State.READY,
    (State.UNAVAILABLE, Step.UNLOAD): State.UNLOADING,
    (State.UNLOADING, Step.UNLOADED): State.UNAVAILABLE,
})  # fmt: skip


def after(state: State, step: Step) -> State:
    """The state that `step` leads to. Raises IllegalStep where the table has no entry."""
    try:
        return TRANSITIONS[state, step]
    except KeyError:
        raise IllegalStep(state, step) from None
