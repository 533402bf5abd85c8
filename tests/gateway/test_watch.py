"""When a source is looked at, and what a hint changes about that."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from gateway.settings import ModelsSettings
from gateway.watch import Watch
from registry.sources import Snapshot


class StillClock:
    """A moment that a test moves."""

    def __init__(self) -> None:
        self.time = 100.0

    def now(self) -> float:
        return self.time

    async def wait(self, event: asyncio.Event, seconds: float | None) -> None:
        raise AssertionError("nothing here waits")


class Counted:
    """A source without models, that counts how often it was looked at."""

    def __init__(self) -> None:
        self.looks = 0
        self.during: Callable[[], None] = lambda: None

    def scan(self) -> Snapshot:
        self.looks += 1
        self.during()
        return Snapshot(is_consistent=True)


def watch(**settings: object) -> tuple[Watch, Counted, StillClock]:
    source, clock = Counted(), StillClock()
    made = ModelsSettings(poll_seconds=60.0, **settings)  # type: ignore[arg-type]
    return Watch(source, lambda snapshot: None, lambda event: None, made, clock=clock), source, clock


def follow(watch: Watch, times: int = 1) -> None:
    for _ in range(times):
        asyncio.run(watch.follow())


def test_a_hint_makes_the_next_look_due_at_once_and_polling_goes_on_after_it() -> None:
    watched, source, clock = watch()
    follow(watched, 2)
    assert not watched.is_due(clock.time + 59)
    watched.hurry()
    assert watched.is_due(clock.time)
    follow(watched)
    assert source.looks == 3
    assert not watched.is_due(clock.time + 59)
    assert watched.is_due(clock.time + 60)


def test_a_hint_during_a_look_has_another_one_follow_at_once() -> None:
    watched, source, clock = watch()
    follow(watched, 2)
    source.during = watched.hurry
    follow(watched)
    assert watched.is_due(clock.time)
    source.during = lambda: None
    follow(watched)
    assert not watched.is_due(clock.time)


def test_where_the_source_is_not_followed_a_hint_changes_nothing() -> None:
    for mode in ("none", "explicit"):
        watched, _, clock = watch(control_mode=mode)
        if mode == "none":
            follow(watched, 2)
        watched.hurry()
        assert not watched.is_due(clock.time + 1000)
