"""Announcements: each change once a receiver has it, in order, over failures, restarts and other gateways."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
from manifests import manifest

from gateway.rollouts.notify import LONGEST_PAUSE, MAX_ATTEMPTS, Notifier
from gateway.rollouts.webhook import NotDelivered
from registry.catalog import Catalog
from registry.errors import CatalogUnavailable
from registry.rollouts import Change, NewRollout, RolloutRow, RolloutStore

T = TypeVar("T")


class FakeClock:
    def __init__(self) -> None:
        self.time = 1000.0

    def now(self) -> float:
        return self.time

    async def wait(self, event: asyncio.Event, seconds: float | None) -> None:
        raise AssertionError("nobody waits here")


class Receiver:
    """Refuses as often as it is told to."""

    def __init__(self) -> None:
        self.received: list[tuple[str, dict[str, Any]]] = []
        self.attempts = 0
        self.is_down = False

    async def send(self, id: str, document: dict[str, Any]) -> None:
        self.attempts += 1
        if self.is_down:
            raise NotDelivered("HTTP 503")
        self.received.append((id, document))


async def at_once(work: Callable[[], T]) -> T:
    return work()


class House:
    def __init__(self, folder: Path) -> None:
        self.now = 1000.0
        self.catalog = Catalog(f"sqlite:///{folder}/catalog.db", clock=lambda: self.now)
        for words in ("one", "two"):
            self.catalog.add_version(manifest(words), "ann")
        self.clock, self.receiver = FakeClock(), Receiver()
        self.is_away = False

    def store(self) -> RolloutStore:
        if self.is_away:
            raise CatalogUnavailable("the catalog", "connection refused")
        return self.catalog.rollouts

    def start(self) -> RolloutRow:
        return self.catalog.rollouts.start(NewRollout("fraud", 1, 2, "champion", {}, {}, "pending"), "ann")

    def change(self, row: RolloutRow, action: str = "abort", is_active: bool = False) -> RolloutRow:
        change = Change(action, "over", is_active, {}, "enough")
        return self.catalog.rollouts.change(row.id, row.generation, change, "bob")

    def notifier(self, replica: str = "a") -> Notifier:
        return Notifier(self.store, self.receiver, replica, 5.0, at_once, self.clock)

    @property
    def types(self) -> list[str]:
        return [document["type"] for _, document in self.receiver.received]


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    house = House(tmp_path)
    yield house
    house.catalog.close()


def test_every_change_is_announced_once_and_in_order(house: House) -> None:
    row, notifier = house.start(), house.notifier()
    asyncio.run(notifier.announce())
    house.change(house.change(row, "step", is_active=True))
    for _ in range(3):
        asyncio.run(notifier.announce())
    assert house.types == ["rollout.start", "rollout.step", "rollout.abort"]
    assert [id for id, _ in house.receiver.received] == [f"{row.id}.{number}" for number in (1, 2, 3)]
    data = house.receiver.received[-1][1]["data"]
    assert (data["model"], data["from"], data["to"], data["actor"], data["reason"]) == ("fraud", 1, 2, "bob", "enough")


def test_what_happened_while_no_gateway_ran_is_announced_by_the_next(house: House) -> None:
    house.change(house.start())
    asyncio.run(house.notifier().announce())
    assert house.types == ["rollout.start", "rollout.abort"]
    asyncio.run(house.notifier("b").announce())
    assert len(house.types) == 2


def test_a_receiver_that_is_away_is_tried_again_ever_more_rarely(house: House) -> None:
    house.start()
    notifier = house.notifier()
    house.receiver.is_down = True
    pauses = []
    for _ in range(5):
        before = house.clock.time
        attempts = house.receiver.attempts
        while house.receiver.attempts == attempts:
            asyncio.run(notifier.announce())
            house.clock.time += 0.5
        pauses.append(house.clock.time - before)
    assert pauses == sorted(pauses)
    assert pauses[-1] > 4 * pauses[1]
    house.receiver.is_down = False
    house.clock.time += LONGEST_PAUSE
    asyncio.run(notifier.announce())
    assert house.types == ["rollout.start"]


def test_a_message_that_nobody_takes_is_given_up_and_does_not_hold_up_the_next(house: House) -> None:
    row, notifier = house.start(), house.notifier()
    house.receiver.is_down = True
    for _ in range(MAX_ATTEMPTS):
        asyncio.run(notifier.announce())
        house.clock.time += LONGEST_PAUSE
    assert notifier.undelivered == 1
    house.receiver.is_down = False
    house.change(row)
    asyncio.run(notifier.announce())
    assert house.types == ["rollout.abort"]


def test_of_two_gateways_one_announces_and_the_other_when_that_one_is_gone(house: House) -> None:
    row = house.start()
    first, second = house.notifier("a"), house.notifier("b")
    asyncio.run(first.announce())
    house.change(row)
    asyncio.run(second.announce())
    assert house.types == ["rollout.start"]
    house.now += 6.0
    asyncio.run(second.announce())
    assert house.types == ["rollout.start", "rollout.abort"]


def test_a_catalog_that_is_away_is_asked_again(house: House) -> None:
    house.start()
    notifier = house.notifier()
    house.is_away = True
    asyncio.run(notifier.announce())
    assert house.types == []
    house.is_away = False
    asyncio.run(notifier.announce())
    assert house.types == ["rollout.start"]
