"""Each test that takes `client` runs twice: over HTTP and over gRPC."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from live_gateway import Gateway
from protocol_clients import Client, connect


@pytest.fixture(params=["http", "grpc"])
def protocol(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def client(gateway: Gateway, protocol: str) -> Iterator[Client]:
    """A client of the shared gateway."""
    client = connect(protocol, gateway.http_url, gateway.grpc_url)
    yield client
    client.close()
