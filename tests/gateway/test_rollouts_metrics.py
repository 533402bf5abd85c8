"""What Prometheus reads about rollouts, in its own text format."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from rollout_house import House

from gateway.metrics import exposition
from gateway.rollouts.metrics import RolloutCollector


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    house = House(tmp_path)
    yield house
    house.close()


def scrape(house: House) -> str:
    registry = CollectorRegistry()
    registry.register(RolloutCollector(house.gateway.controller))
    return exposition(registry, "")[0].decode()


def test_a_rollout_under_way_shows_its_weight_its_state_and_its_evidence(house: House) -> None:
    house.begin()
    house.gateway.plane.traffic(10, failed=1)
    text = scrape(house)
    assert 'sluice_canary_weight_ratio{model="fraud",version="2"} 0.1' in text
    assert 'sluice_rollout_state{model="fraud",state="progressing"} 1.0' in text
    assert 'sluice_rollout_state{model="fraud",state="rolled_back"} 0.0' in text
    assert 'sluice_rollout_leader{model="fraud"} 1.0' in text
    (line,) = [one for one in text.splitlines() if one.startswith("sluice_canary_evidence") and "failures" in one]
    assert float(line.rsplit(" ", 1)[1]) > 1.0


def test_a_rollback_is_counted_by_what_it_was_for_and_leaves_no_rollout(house: House) -> None:
    house.begin()
    house.gateway.plane.traffic(10, failed=5)
    house.turn(2)
    text = scrape(house)
    assert 'sluice_rollbacks_total{model="fraud",reason="failures"} 1.0' in text
    assert "sluice_canary_weight_ratio{" not in text


def test_what_came_of_a_shadows_copies_is_counted(house: House) -> None:
    house.begin()
    assert "sluice_shadow_copies_total{" not in scrape(house)
    house.gateway.plane.compared, house.gateway.plane.disagreed = 10, 3
    text = scrape(house)
    assert 'sluice_shadow_copies_total{model="fraud",outcome="agreed",version="2"} 7.0' in text
    assert 'sluice_shadow_copies_total{model="fraud",outcome="disagreed",version="2"} 3.0' in text
    assert 'sluice_shadow_copies_total{model="fraud",outcome="dropped",version="2"} 0.0' in text
