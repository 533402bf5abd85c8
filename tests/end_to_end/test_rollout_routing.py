"""A canary that goes wrong in every way, under load, over both protocols: no caller may notice, and all is told."""

from __future__ import annotations

import http.client
import json
import os
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import models
import numpy as np
import pytest
from live_gateway import ROOT, Gateway, StartGateway, wait_until
from rollout_gateway import SOCKET, Steering
from traffic import METHOD, Traffic

from gateway.pb import inference_pb2 as pb
from gateway.rollouts.route import Arm, HeaderRule, RolloutRoute, Shadow, Stickiness

ROW = np.ones((1, 1), np.float32)
CONFIG = "version_policy { all {} }"
PROGRAM = (str(ROOT / "tests" / "rollout_gateway.py"),)
SALT = bytes(range(16))
HALF = RolloutRoute(1, (Arm(2, 0.5),), salt=SALT)


@pytest.fixture(params=["http", "grpc"])
def protocol(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class House:
    """A gateway with versions 1 and 2 of one model, and the means to divide its traffic."""

    def __init__(self, start: StartGateway, folder: Path) -> None:
        self._start, self._socket = start, folder / "steering"
        self.gateway: Gateway
        self.steering: Steering

    def open(self, canary: object, **settings: object) -> None:
        environment = {SOCKET: str(self._socket), "PYTHONPATH": str(ROOT)}
        self.gateway = self._start(
            {"m": {1: models.version_of(1), 2: canary}}, {"m": CONFIG},
            settings={"workers.max_restarts_in_window": 100, **settings},
            environment=environment, program=PROGRAM,
        )  # fmt: skip
        wait_until(self._socket.exists)
        self.steering = Steering(self._socket)

    def close(self) -> None:
        self.steering.close()

    def port(self, protocol: str) -> int:
        return self.gateway.http_port if protocol == "http" else self.gateway.grpc_port

    def failures(self) -> Counter[int]:
        """Events of the canary, by code."""
        found: Counter[int] = Counter()
        for event in self.steering.ask("m")["events"]:
            if event["kind"] == "failed" and event["is_canary"]:
                found[event["code"]] += event["events"]
        return found

    def shadow(self) -> dict[str, Any]:
        """What came of the copies, once none is under way."""

        def settled() -> bool:
            (one,) = self.steering.ask("m")["shadows"]
            return bool(one["mirrored"] == one["dropped"] + one["unpaired"] + one["compared"])

        wait_until(settled, why_not=lambda: str(self.steering.ask("m")["shadows"]))
        (one,) = self.steering.ask("m")["shadows"]
        found: dict[str, Any] = one
        return found

    def traffic(self, protocol: str) -> Traffic:
        return Traffic(protocol, self.port(protocol), "m", ROW)

    def ask(self, protocol: str, headers: dict[str, str], version: str = "", seconds: float = 10) -> str:
        """One request; the version that its header or trailing metadata names."""
        if protocol == "http":
            connection = http.client.HTTPConnection(self.gateway.http_url, timeout=10)
            path = f"/v2/models/m/versions/{version}/infer" if version else "/v2/models/m/infer"
            tensor = {"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [1]}
            headers = {"request-timeout": str(seconds), **headers}
            connection.request("POST", path, json.dumps({"inputs": [tensor]}), headers)
            answer = connection.getresponse()
            assert answer.status == 200, answer.read()
            connection.close()
            return answer.getheader("sluice-model-version") or ""
        request = pb.ModelInferRequest(model_name="m", model_version=version)
        request.inputs.add(name="x", datatype="FP32", shape=ROW.shape)
        request.raw_input_contents.append(ROW.tobytes())
        with grpc.insecure_channel(self.gateway.grpc_url) as channel:
            call = channel.unary_unary(METHOD, response_deserializer=pb.ModelInferResponse.FromString)
            metadata = [(name.lower(), value) for name, value in headers.items()]
            _, done = call.with_call(request.SerializeToString(), metadata=metadata, timeout=seconds)
            return str(dict(done.trailing_metadata())["sluice-model-version"])


@pytest.fixture
def house(start_gateway: StartGateway, tmp_path: Path) -> Iterator[House]:
    house = House(start_gateway, tmp_path)
    yield house
    house.close()


def wait_for(traffic: Traffic, count: int) -> None:
    target = len(traffic.outcomes) + count
    wait_until(lambda: len(traffic.outcomes) >= target, why_not=lambda: str(traffic.outcomes[-3:]))


def canary_worker(house: House) -> int:
    """The process that runs version 2."""
    ups = [line["labels"] for line in house.gateway.logs() if line.get("event.action") == "instance-up"]
    return int([labels["pid"] for labels in ups if str(labels["version"]) == "2"][-1])


@pytest.mark.parametrize(
    ("canary", "code"),
    [(models.failing(), 13), (models.version_of(float("nan")), 15)],
    ids=["fails", "NaN"],
)
def test_a_canary_whose_every_answer_is_wrong_is_seen_by_no_caller(
    house: House, protocol: str, canary: object, code: int
) -> None:
    house.open(canary)
    house.steering.ask("m", HALF)
    with house.traffic(protocol) as traffic:
        wait_for(traffic, 200)
    assert not traffic.failures
    assert {outcome.version for outcome in traffic.outcomes} == {"1"}
    failures = house.failures()
    assert set(failures) == {code}
    (counts,) = house.steering.ask("m")["counts"]
    assert counts["canary"] == counts["canary_failed"] == counts["retried"] == failures[code]
    asked = counts["canary"] + counts["stable"]
    assert abs(counts["canary"] - asked / 2) < 5 * (asked / 4) ** 0.5


def test_a_canary_whose_workers_crash_is_seen_by_no_caller(house: House, protocol: str) -> None:
    house.open(models.version_of(2))
    house.steering.ask("m", HALF)
    with house.traffic(protocol) as traffic:
        for kills in range(1, 4):
            wait_for(traffic, 50)
            pid = canary_worker(house)
            os.kill(pid, signal.SIGKILL)
            wait_until(lambda pid=pid: canary_worker(house) != pid, why_not=house.gateway.log_text)
            assert sum(house.failures().values()) <= kills
    assert not traffic.failures


def test_a_canary_that_hangs_is_seen_by_no_caller(house: House, protocol: str) -> None:
    house.open(models.version_of(2), **{"workers.batch_timeout_seconds": 0.5})
    house.steering.ask("m", HALF)
    with house.traffic(protocol) as traffic:
        wait_for(traffic, 50)
        os.kill(canary_worker(house), signal.SIGSTOP)
        wait_until(lambda: house.failures()[14] == 1)
        wait_for(traffic, 50)
    assert not traffic.failures


def test_a_canary_that_hangs_for_longer_than_a_caller_waits_is_not_seen_by_that_caller(
    house: House, protocol: str
) -> None:
    house.open(models.version_of(2), **{"workers.batch_timeout_seconds": 60})
    house.steering.ask("m", RolloutRoute(1, (Arm(2, 1.0),), salt=SALT))
    assert house.ask(protocol, {}) == "2"
    worker = canary_worker(house)
    os.kill(worker, signal.SIGSTOP)
    try:
        assert house.ask(protocol, {}, seconds=4) == "1"
        assert house.failures() == {4: 1}
    finally:
        os.kill(worker, signal.SIGCONT)
    assert house.ask(protocol, {}) == "2"
    assert house.failures() == {4: 1}


def test_a_good_canary_gets_its_share_and_every_answer_names_its_version(house: House, protocol: str) -> None:
    house.open(models.version_of(2))
    house.steering.ask("m", HALF)
    with house.traffic(protocol) as traffic:
        wait_for(traffic, 400)
    assert not traffic.failures
    versions = Counter(outcome.version for outcome in traffic.outcomes)
    assert set(versions) == {"1", "2"}
    assert abs(versions["2"] - versions.total() / 2) < 5 * (versions.total() / 4) ** 0.5
    assert not house.failures()


def test_requests_go_by_header_rule_path_and_what_they_stick_by(house: House, protocol: str) -> None:
    house.open(models.version_of(2))
    rules = (
        HeaderRule("X-Tester", "exact", "yes", 2),
        HeaderRule("X-Tester", "prefix", "team-", 2),
        HeaderRule("X-Tester", "regex", "q[0-9]+", 2),
        HeaderRule("X-Tester", "regex", "(z|z?)+!", 2),
    )
    house.steering.ask("m", RolloutRoute(1, (Arm(2, 0.0),), rules=rules))
    asked = {value: house.ask(protocol, {"X-Tester": value}) for value in ("yes", "yes!", "team-a", "q7", "q7x", "no")}
    assert asked == {"yes": "2", "yes!": "1", "team-a": "2", "q7": "2", "q7x": "1", "no": "1"}
    assert house.ask(protocol, {"X-Tester": "z" * 200}) == "1", "in no time, though a search with steps back takes ages"
    assert house.ask(protocol, {}) == "1"
    assert house.ask(protocol, {"X-Tester": "yes"}, version="1") == "1"

    ways = []
    for kind, header in (("header", "X-User"), ("cookie", "Cookie")):
        name = "x-user" if kind == "header" else "uid"
        for weight in (0.3, 0.7):
            route = RolloutRoute(1, (Arm(2, weight),), stickiness=Stickiness(kind, name), salt=SALT)  # type: ignore[arg-type]
            house.steering.ask("m", route)
            for _ in range(2):
                values = [f"u{i}" if kind == "header" else f"a=1; uid=u{i}; b=2" for i in range(20)]
                ways.append([house.ask(protocol, {header: value}) for value in values])
    low, low_again, high, high_again, *by_cookie = ways
    assert (low, high) == (low_again, high_again)
    assert set(low) == {"1", "2"}
    assert all(after == "2" for before, after in zip(low, high, strict=True) if before == "2")
    assert by_cookie == [low, low, high, high]


@pytest.mark.parametrize(
    ("shadow", "sample"),
    [
        (models.version_of(1), ""),
        (models.version_of(2), "version: 1 of 1 values differ, first at 0"),
        (models.version_of(float("nan")), "version: 1 of 1 values differ, first at 0"),
        (models.failing(), ": it failed: "),
    ],
    ids=["agrees", "differs", "NaN", "fails"],
)
def test_what_a_shadow_answers_is_compared_and_seen_by_no_caller(
    house: House, protocol: str, shadow: object, sample: str
) -> None:
    house.open(shadow)
    house.steering.ask("m", RolloutRoute(1, shadow=Shadow(2, 1.0), salt=SALT))
    with house.traffic(protocol) as traffic:
        wait_for(traffic, 200)
    assert not traffic.failures
    assert {outcome.version for outcome in traffic.outcomes} == {"1"}
    counts = house.shadow()
    assert counts["mirrored"] == len(traffic.outcomes)
    assert counts["compared"] > 0
    assert counts["disagreed"] == (counts["compared"] if sample else 0)
    assert all(f"{output}: {what}".startswith(sample) for _, output, what, *_ in counts["samples"])
    assert bool(counts["samples"]) == bool(sample)
    assert house.steering.ask("m")["events"] == []


def test_a_shadow_that_hangs_is_seen_by_no_caller(house: House, protocol: str) -> None:
    house.open(models.version_of(1))
    house.steering.ask("m", RolloutRoute(1, shadow=Shadow(2, 1.0, max_requests=16), salt=SALT))
    pid = canary_worker(house)
    os.kill(pid, signal.SIGSTOP)
    with house.traffic(protocol) as traffic:
        wait_for(traffic, 200)
    assert not traffic.failures
    os.kill(pid, signal.SIGCONT)
    counts = house.shadow()
    assert counts["dropped"] >= 150
    assert 0 < counts["compared"] <= len(traffic.outcomes) - counts["dropped"]
