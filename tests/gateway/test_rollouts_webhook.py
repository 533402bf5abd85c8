"""Messages about rollouts: what is posted, how it is signed, and what counts as delivered."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
from collections.abc import Callable
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from gateway.rollouts.webhook import InvalidSecret, NotDelivered, Webhook, signature

KEY = bytes(range(32))
SECRET = "whsec_" + base64.b64encode(KEY).decode()


class Receiver:
    def __init__(self, status: int = 204) -> None:
        self.status = status
        self.received: list[tuple[dict[str, str], bytes]] = []

    async def handle(self, request: web.Request) -> web.Response:
        self.received.append((dict(request.headers), await request.read()))
        return web.Response(status=self.status, headers={"Location": "/elsewhere"})

    def run(self, act: Callable[[str], Any]) -> None:
        async def main() -> None:
            app = web.Application()
            app.router.add_post("/hook", self.handle)
            async with TestServer(app) as server:
                await act(str(server.make_url("/hook")))

        asyncio.run(main())


def test_a_message_is_signed_over_its_id_its_time_and_its_bytes() -> None:
    receiver = Receiver()
    receiver.run(lambda url: Webhook(url, SECRET, lambda: 1700000000.9).send("r1.2", {"type": "rollout.step"}))
    ((headers, body),) = receiver.received
    assert json.loads(body) == {"type": "rollout.step"}
    assert (headers["webhook-id"], headers["webhook-timestamp"]) == ("r1.2", "1700000000")
    expected = hmac.new(KEY, b"r1.2.1700000000." + body, hashlib.sha256).digest()
    assert headers["webhook-signature"] == "v1," + base64.b64encode(expected).decode()


def test_the_signature_is_the_one_that_the_specification_gives_as_an_example() -> None:
    key = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    body = b'{"test": 2432232314}'
    assert (
        signature(key, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body)
        == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    )


def test_without_a_secret_nothing_is_signed() -> None:
    receiver = Receiver()
    receiver.run(lambda url: Webhook(url, None, lambda: 0.0).send("r1.2", {}))
    assert "webhook-signature" not in receiver.received[0][0]


@pytest.mark.parametrize("status", [302, 400, 500])
def test_anything_but_a_success_is_not_delivered(status: int) -> None:
    receiver = Receiver(status)
    with pytest.raises(NotDelivered, match=str(status)):
        receiver.run(lambda url: Webhook(url, SECRET, lambda: 0.0).send("r1.2", {}))
    assert len(receiver.received) == 1


def test_a_receiver_that_is_not_there_is_not_delivered_to() -> None:
    with pytest.raises(NotDelivered):
        asyncio.run(Webhook("http://127.0.0.1:9/", SECRET, lambda: 0.0).send("r1.2", {}))


@pytest.mark.parametrize("secret", ["", "short", "whsec_", "whsec_AAAA", "whsec_not base64", SECRET.removeprefix("wh")])
def test_what_is_no_secret_is_refused(secret: str) -> None:
    with pytest.raises(InvalidSecret):
        Webhook("http://x", secret, lambda: 0.0)
