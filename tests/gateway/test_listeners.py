"""A listener tells each of its connections the time, a few in one go."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable

import pytest

from gateway.listeners import TICK_SECONDS, TICKS_AT_ONCE, Listener


class Clockwork:
    """The timers of a loop, run by hand."""

    def __init__(self) -> None:
        self.now = 0.0
        self.due: list[tuple[float, Callable[[], None]]] = []

    def call_later(self, seconds: float, call: Callable[[], None]) -> None:
        self.due.append((self.now + seconds, call))

    def run_next(self) -> None:
        self.due.sort(key=lambda timer: timer[0])
        self.now, call = self.due.pop(0)
        call()


class Told:
    def __init__(self, ticks: Counter[Told]) -> None:
        self._ticks = ticks

    def tick(self, now: float) -> None:
        self._ticks[self] += 1

    def drain(self) -> None: ...

    def close_now(self) -> None: ...


@pytest.fixture
def clockwork(monkeypatch: pytest.MonkeyPatch) -> Clockwork:
    clockwork = Clockwork()
    monkeypatch.setattr(asyncio, "get_running_loop", lambda: clockwork)
    return clockwork


def house(connections: int) -> tuple[Listener, Counter[Told], list[Told]]:
    ticks: Counter[Told] = Counter()
    listener = Listener("http", lambda closed: Told(ticks), max_connections=connections)
    made = [listener._accept() for _ in range(connections)]
    return listener, ticks, [one for one in made if isinstance(one, Told)]


@pytest.mark.parametrize("connections", [0, 1, TICKS_AT_ONCE, TICKS_AT_ONCE + 1, 10 * TICKS_AT_ONCE + 7])
def test_every_connection_is_told_the_time_once_a_second_and_few_in_one_go(connections: int, clockwork: Clockwork):
    listener, ticks, made = house(connections)
    clockwork.call_later(TICK_SECONDS, listener._tick)
    clockwork.run_next()
    started, most = clockwork.now, ticks.total()
    while clockwork.due[0][0] < started + TICK_SECONDS - 1e-6:
        before = ticks.total()
        clockwork.run_next()
        most = max(most, ticks.total() - before)
    assert ticks == Counter(made)
    assert most <= TICKS_AT_ONCE
    clockwork.run_next()
    assert clockwork.now == pytest.approx(started + TICK_SECONDS), "then the next round begins"
    assert ticks.total() == connections + min(connections, TICKS_AT_ONCE)


def test_a_connection_that_closes_during_a_round_is_told_nothing_more(clockwork: Clockwork):
    listener, ticks, made = house(2 * TICKS_AT_ONCE)
    listener._tick()
    waiting = [one for one in made if one not in ticks]
    assert len(waiting) == TICKS_AT_ONCE
    for one in waiting:
        listener._closed(one)
    clockwork.run_next()
    assert not any(one in ticks for one in waiting)
