"""Real gateways, for any test that asks for one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from live_gateway import Gateway, StartGateway, gateways, shared_repository


@pytest.fixture
def start_gateway(tmp_path: Path) -> Iterator[StartGateway]:
    """A function that starts a gateway for this test alone."""
    with gateways(tmp_path) as start:
        yield start


@pytest.fixture(scope="module")
def start_module_gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartGateway]:
    """A function that starts a gateway for all tests of a file."""
    with gateways(tmp_path_factory.mktemp("module")) as start:
        yield start


@pytest.fixture(scope="session")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """The gateway that most tests share. They must leave it as it was."""
    folder = tmp_path_factory.mktemp("shared")
    with gateways(folder) as start:
        yield start(repository=shared_repository(folder / "models"))
