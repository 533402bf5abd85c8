"""What goes wrong in production, under load, over both protocols: no caller may notice."""

from __future__ import annotations

import os
import signal
import time
import urllib.request
from pathlib import Path

import models
import numpy as np
import pytest
from live_gateway import Gateway, StartGateway, wait_until
from traffic import Traffic

ROW = np.ones((1, 30), np.float32)


@pytest.fixture(params=["http", "grpc"])
def protocol(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def port_of(gateway: Gateway, protocol: str) -> int:
    return gateway.http_port if protocol == "http" else gateway.grpc_port


def tabular_traffic(gateway: Gateway, protocol: str) -> Traffic:
    return Traffic(protocol, port_of(gateway, protocol), "tabular", ROW, name="features")


def workers_of(gateway: Gateway) -> list[int]:
    """The processes below the zygote."""
    (zygote,) = _children(gateway.process.pid)
    return _children(zygote)


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def wait_for_answers(traffic: Traffic, count: int) -> None:
    target = len(traffic.outcomes) + count
    wait_until(lambda: len(traffic.outcomes) >= target, why_not=lambda: str(traffic.outcomes[-3:]))


def kill_one(gateway: Gateway) -> None:
    """Kills a worker and waits for its successor."""
    before, ups = workers_of(gateway), count_ups(gateway)
    os.kill(before[0], signal.SIGKILL)
    wait_until(lambda: count_ups(gateway) > ups and before[0] not in workers_of(gateway))


def count_ups(gateway: Gateway) -> int:
    return sum(line.get("event.action") == "instance-up" for line in gateway.logs())


@pytest.mark.parametrize("count", [1, 2], ids=["one worker", "two workers"])
def test_killing_workers_under_load_fails_no_request(start_gateway: StartGateway, protocol: str, count: int) -> None:
    gateway = start_gateway(
        {"tabular": {1: models.tabular()}}, {"tabular": f"instance_group {{ count: {count} }}"},
        settings={"workers.max_restarts_in_window": 100},
    )  # fmt: skip
    with tabular_traffic(gateway, protocol) as traffic:
        for _ in range(5):
            wait_for_answers(traffic, 50)
            kill_one(gateway)
        wait_for_answers(traffic, 50)
    assert not traffic.failures
    restarts = [
        line
        for line in gateway.get("/metrics", admin=True)[1].decode().splitlines()
        if "worker_restarts_total{" in line
    ]
    assert float(restarts[0].split()[-1]) == 5


def test_killing_the_process_that_starts_workers_fails_no_request(start_gateway: StartGateway, protocol: str) -> None:
    gateway = start_gateway({"tabular": {1: models.tabular()}})
    with tabular_traffic(gateway, protocol) as traffic:
        wait_for_answers(traffic, 50)
        (zygote,) = _children(gateway.process.pid)
        os.kill(zygote, signal.SIGKILL)
        wait_until(lambda: zygote not in _children(gateway.process.pid) and bool(workers_of_any(gateway)))
        wait_for_answers(traffic, 50)
    assert not traffic.failures


def workers_of_any(gateway: Gateway) -> list[int]:
    return [worker for zygote in _children(gateway.process.pid) for worker in _children(zygote)]


def test_a_worker_that_hangs_is_killed_and_its_requests_run_elsewhere(
    start_gateway: StartGateway, protocol: str
) -> None:
    gateway = start_gateway({"tabular": {1: models.tabular()}}, settings={"workers.batch_timeout_seconds": 0.5})
    with tabular_traffic(gateway, protocol) as traffic:
        wait_for_answers(traffic, 20)
        os.kill(workers_of(gateway)[0], signal.SIGSTOP)
        wait_until(lambda: any(line.get("event.action") == "worker-hung" for line in gateway.logs()))
        wait_for_answers(traffic, 20)
    assert not traffic.failures


def test_a_new_version_takes_over_under_load_without_a_failed_request(
    start_gateway: StartGateway, protocol: str
) -> None:
    gateway = start_gateway({"tabular": {1: models.tabular(1)}}, settings={"models.poll_seconds": 0.1})
    with tabular_traffic(gateway, protocol) as traffic:
        wait_for_answers(traffic, 200)
        # Written beside and moved in, as a careful publisher does.
        models.repository(gateway.repository.parent / "next", {"tabular": {2: models.tabular(2)}})
        os.rename(gateway.repository.parent / "next" / "tabular" / "2", gateway.repository / "tabular" / "2")
        wait_until(lambda: bool(traffic.outcomes) and traffic.outcomes[-1].version == "2")
        wait_for_answers(traffic, 200)
    assert not traffic.failures
    versions = [outcome.version for outcome in sorted(traffic.outcomes, key=lambda outcome: outcome.at)]
    assert set(versions) == {"1", "2"}
    switched = versions.index("2")
    # Once the new version has answered, only what was under way then may come from the old one.
    assert versions[switched + 16 :].count("1") == 0


def test_a_broken_new_version_disturbs_nobody(start_gateway: StartGateway, protocol: str) -> None:
    gateway = start_gateway({"tabular": {1: models.tabular(1)}}, settings={"models.poll_seconds": 0.1})
    with tabular_traffic(gateway, protocol) as traffic:
        wait_for_answers(traffic, 50)
        models.repository(gateway.repository, {"tabular": {2: models.truncated()}})
        wait_until(
            lambda: any(line.get("event.action") == "version-load-failed" for line in gateway.logs()),
            why_not=gateway.log_text,
        )
        wait_for_answers(traffic, 50)
    assert not traffic.failures
    assert {outcome.version for outcome in traffic.outcomes} == {"1"}


def test_a_repository_that_vanishes_and_comes_back_disturbs_nobody(start_gateway: StartGateway, protocol: str) -> None:
    gateway = start_gateway({"tabular": {1: models.tabular(1)}}, settings={"models.poll_seconds": 0.1})
    away = gateway.repository.with_name("away")
    with tabular_traffic(gateway, protocol) as traffic:
        wait_for_answers(traffic, 50)
        os.rename(gateway.repository, away)
        wait_until(lambda: any(line.get("event.action") == "repository-unavailable" for line in gateway.logs()))
        wait_for_answers(traffic, 50)
        assert gateway.is_ready()
        os.rename(away, gateway.repository)
        wait_until(lambda: any(line.get("event.action") == "repository-recovered" for line in gateway.logs()))
        models.repository(gateway.repository, {"tabular": {2: models.tabular(2)}})
        wait_until(lambda: traffic.outcomes[-1].version == "2", why_not=gateway.log_text)
    assert not traffic.failures


def test_sigterm_under_load_fails_no_request_and_exits_with_0(start_gateway: StartGateway, protocol: str) -> None:
    gateway = start_gateway({"tabular": {1: models.tabular()}})
    with tabular_traffic(gateway, protocol) as traffic:
        wait_for_answers(traffic, 200)
        gateway.terminate()
        assert gateway.wait_stopped() == 0
        wait_until(lambda: traffic.left == 8)
    assert not traffic.failures


def test_sigterm_finishes_long_requests_that_are_under_way(start_gateway: StartGateway, protocol: str) -> None:
    gateway = start_gateway({"slow": {1: models.slow()}})
    with Traffic(protocol, port_of(gateway, protocol), "slow", np.ones((1, 128), np.float32), callers=4) as traffic:
        wait_for_answers(traffic, 4)
        gateway.terminate()
        assert gateway.wait_stopped() == 0
    assert not traffic.failures


def test_a_second_sigterm_hurries(start_gateway: StartGateway) -> None:
    draining = {"drain.delay_seconds": 600, "drain.timeout_seconds": 700}
    gateway = start_gateway({"tabular": {1: models.tabular()}}, settings=draining)
    gateway.terminate()
    wait_until(lambda: not gateway.is_ready())
    assert gateway.get("/v2/health/live")[0] == 200
    before = time.monotonic()
    gateway.terminate()
    assert gateway.wait_stopped() == 0
    assert time.monotonic() - before < 20


def test_sigterm_ends_a_gateway_whose_worker_hangs(start_gateway: StartGateway) -> None:
    gateway = start_gateway({"tabular": {1: models.tabular()}}, settings={"drain.timeout_seconds": 0.5})
    with tabular_traffic(gateway, "http") as traffic:
        wait_for_answers(traffic, 20)
        os.kill(workers_of(gateway)[0], signal.SIGSTOP)
        gateway.terminate()
        assert gateway.wait_stopped(20) == 0


def test_a_hung_worker_of_a_version_that_leaves_is_killed_too(start_gateway: StartGateway, protocol: str) -> None:
    gateway = start_gateway(
        {"tabular": {1: models.tabular(1)}},
        settings={"models.poll_seconds": 0.1, "workers.batch_timeout_seconds": 2.0},
    )
    with tabular_traffic(gateway, protocol) as traffic:
        wait_for_answers(traffic, 20)
        os.kill(workers_of(gateway)[0], signal.SIGSTOP)
        models.repository(gateway.repository, {"tabular": {2: models.tabular(2)}})
        wait_until(lambda: actions(gateway, "version-unloaded") == 1, why_not=gateway.log_text)
        wait_for_answers(traffic, 20)
    assert not traffic.failures


def test_a_drain_that_is_asked_for_is_not_hurried_by_the_signal_that_follows(
    start_gateway: StartGateway, protocol: str
) -> None:
    gateway = start_gateway({"slow": {1: models.slow()}})
    with Traffic(protocol, port_of(gateway, protocol), "slow", np.ones((1, 128), np.float32), callers=4) as traffic:
        wait_for_answers(traffic, 4)
        urllib.request.urlopen(f"http://{gateway.admin_url}/api/v1/drain", b"", timeout=10).close()
        gateway.terminate()
        assert gateway.wait_stopped() == 0
    assert not traffic.failures


def actions(gateway: Gateway, action: str) -> int:
    return sum(line.get("event.action") == action for line in gateway.logs())


def test_the_tail_stays_short_while_another_version_loads(start_gateway: StartGateway, protocol: str) -> None:
    """Not a timing test: the bound is loose, and what it finds is a loop that stands still."""
    gateway = start_gateway({"tabular": {1: models.tabular(1)}}, settings={"models.poll_seconds": 0.1})
    with tabular_traffic(gateway, protocol) as traffic:
        wait_for_answers(traffic, 500)
        for version in (2, 3, 4):
            models.repository(gateway.repository, {"tabular": {version: models.tabular(version)}})
            wait_until(lambda version=version: traffic.outcomes[-1].version == str(version))
        wait_for_answers(traffic, 100)
    assert not traffic.failures
    assert max(outcome.seconds for outcome in traffic.outcomes) < 2.0
