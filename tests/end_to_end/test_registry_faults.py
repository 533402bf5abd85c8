"""Between a gateway and its shared registry everything may break: callers never notice, and in the end what was
published is served."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path

import models
import numpy as np
import pytest
from fake_mlflow import FakeMlflow, fake_mlflow
from fault_proxy import Fault, FaultProxy, fault_proxy
from live_gateway import ROOT, Gateway, StartGateway, wait_until
from mlflow_server import ONNX_MLMODEL
from postgresql_server import PostgreSQLServer, postgresql_server
from s3_server import S3Server, s3_server
from traffic import Traffic

from registry.artifacts import LocalArtifacts
from registry.cache import ContentCache
from registry.catalog import Catalog
from registry.errors import SourceUnavailable
from registry.object_artifacts import ObjectArtifacts
from registry.publish import push

MODEL = "which"
ROW = np.ones((1, 1), np.float32)
FOLLOWED_SECONDS = 2.0
FAULT_ANSWERS = 300
"""Answers that callers get while a fault lasts, at least."""


@dataclass
class Shared:
    """One PostgreSQL and one bucket, reached directly by who publishes and through proxies by gateways."""

    folder: Path
    catalog: Catalog
    store: ObjectArtifacts
    settings: dict[str, str]
    postgresql: PostgreSQLServer
    to_database: FaultProxy
    to_bucket: FaultProxy

    def publish(self, number: int) -> None:
        path = models.save(models.version_of(number), self.folder / str(number) / "model.onnx")
        push(self.catalog, self.store, path, MODEL, actor="ann", alias="champion")


@pytest.fixture(scope="module")
def postgresql() -> Iterator[PostgreSQLServer]:
    with postgresql_server() as server:
        yield server


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    with s3_server() as server:
        yield server


@pytest.fixture
def shared(tmp_path: Path, postgresql: PostgreSQLServer, s3: S3Server) -> Iterator[Shared]:
    url = postgresql.database_url()
    socket = f"{postgresql.folder}/.s.PGSQL.5432"
    port = int(s3.endpoint.rpartition(":")[2])
    with fault_proxy(unix=socket) as to_database, fault_proxy(port=port) as to_bucket:
        store = ObjectArtifacts(f"{s3.bucket_url()}/artifacts", options=s3.options)
        options = s3.options | {"endpoint": f"http://127.0.0.1:{to_bucket.port}"}
        settings = {
            "registry.database_url": re.sub(r"@/(\w+)\?.*", rf"@127.0.0.1:{to_database.port}/\1", url),
            "registry.artifacts_url": store.place,
            "registry.artifacts_options": ",".join(f"{name}={value}" for name, value in options.items()),
        }
        with contextlib.closing(Catalog(url)) as catalog:
            yield Shared(tmp_path / "made", catalog, store, settings, postgresql, to_database, to_bucket)


def traffic_of(gateway: Gateway) -> Traffic:
    return Traffic("http", gateway.http_port, MODEL, ROW, callers=4)


def wait_for_answers(traffic: Traffic, count: int) -> None:
    target = len(traffic.outcomes) + count
    wait_until(lambda: len(traffic.outcomes) >= target, why_not=lambda: str(traffic.outcomes[-3:]))


def wait_for_version(traffic: Traffic, version: int, gateway: Gateway, seconds: float = 60.0) -> None:
    answered = lambda: bool(traffic.outcomes) and traffic.outcomes[-1].version == str(version)  # noqa: E731
    wait_until(answered, seconds, gateway.log_text)


@pytest.mark.parametrize("fault", ["cut", "delay", "hang", "truncate", "corrupt"])
@pytest.mark.parametrize("link", ["database", "bucket"])
def test_a_broken_link_fails_no_request_and_what_was_published_meanwhile_is_served_after_it(
    start_gateway: StartGateway, shared: Shared, tmp_path: Path, link: str, fault: Fault
) -> None:
    shared.publish(1)
    gateway = start_gateway(data_dir=tmp_path / "data", settings=shared.settings)
    proxy = shared.to_database if link == "database" else shared.to_bucket
    with traffic_of(gateway) as traffic:
        wait_for_answers(traffic, 20)
        proxy.set(fault)
        shared.publish(2)
        wait_until(lambda: proxy.hits > 0, why_not=gateway.log_text)
        wait_for_answers(traffic, FAULT_ANSWERS)
        assert gateway.is_ready()
        proxy.set("none")
        wait_for_version(traffic, 2, gateway)
    assert not traffic.failures
    assert {outcome.version for outcome in traffic.outcomes} == {"1", "2"}


def register(server: FakeMlflow, number: int) -> None:
    mlmodel = ONNX_MLMODEL.format(data="model.onnx").encode()
    server.register(MODEL, {"MLmodel": mlmodel, "model.onnx": models.version_of(number)})
    server.alias(MODEL, "champion", number)


def test_a_link_to_mlflow_that_breaks_in_every_way_fails_no_request_and_what_was_registered_meanwhile_is_served(
    start_gateway: StartGateway, tmp_path: Path
) -> None:
    faults: tuple[Fault, ...] = ("cut", "delay", "hang", "truncate", "corrupt")
    with fake_mlflow() as server, fault_proxy(port=server.port) as proxy:
        register(server, 1)
        settings = {
            "registry.source": "mlflow",
            "registry.mlflow_url": f"http://127.0.0.1:{proxy.port}",
            "registry.mlflow_models": MODEL,
            "registry.remote_poll_seconds": "0.1",
        }
        gateway = start_gateway(data_dir=tmp_path / "data", settings=settings)
        with traffic_of(gateway) as traffic:
            for number, fault in enumerate(faults, 2):
                wait_for_answers(traffic, 20)
                hits = proxy.hits
                proxy.set(fault)
                register(server, number)
                wait_until(lambda hits=hits: proxy.hits > hits, why_not=gateway.log_text)
                wait_for_answers(traffic, FAULT_ANSWERS)
                assert gateway.is_ready()
                proxy.set("none")
                wait_for_version(traffic, number, gateway)
        assert not traffic.failures
        assert {int(outcome.version) for outcome in traffic.outcomes} == {1, *range(2, 2 + len(faults))}


def test_a_database_that_restarts_again_and_again_is_followed(
    start_gateway: StartGateway, shared: Shared, tmp_path: Path
) -> None:
    shared.publish(1)
    gateway = start_gateway(data_dir=tmp_path / "data", settings=shared.settings)
    with traffic_of(gateway) as traffic:
        for number in (2, 3):
            wait_for_answers(traffic, 20)
            shared.postgresql.stop(at_once=True)
            shared.to_database.set("cut")
            shared.to_database.set("none")
            wait_for_answers(traffic, FAULT_ANSWERS)
            shared.postgresql.start()
            wait_until(lambda number=number: published(shared, number))
            wait_for_version(traffic, number, gateway)
    assert not traffic.failures


def published(shared: Shared, number: int) -> bool:
    """Whoever publishes has connections that broke too, and tries again."""
    try:
        shared.publish(number)
    except SourceUnavailable:
        return False
    return True


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A data folder whose cache is a disk of a few megabytes."""
    cache = tmp_path / "data" / "cache"
    cache.mkdir(parents=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", cache], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("only root may mount a small disk")
    yield cache.parent
    subprocess.run(["umount", "--lazy", cache], check=True)


def test_a_disk_that_is_full_fails_no_request_and_is_followed_when_there_is_room(
    start_gateway: StartGateway, shared: Shared, small_disk: Path
) -> None:
    shared.publish(1)
    gateway = start_gateway(data_dir=small_disk, settings=shared.settings)
    ballast = small_disk / "cache" / "ballast"
    with traffic_of(gateway) as traffic:
        wait_for_answers(traffic, 20)
        with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
            while file.write(bytes(4096)):
                pass
        shared.publish(2)
        wait_until(lambda: "no space left on the disk" in gateway.log_text(), why_not=gateway.log_text)
        wait_for_answers(traffic, FAULT_ANSWERS)
        assert traffic.outcomes[-1].version == "1"
        ballast.unlink()
        wait_for_version(traffic, 2, gateway)
        assert gateway.stop() == 0
    assert not traffic.failures


def test_a_gateway_killed_while_it_pulls_finds_every_version_whole_or_absent(
    start_gateway: StartGateway, shared: Shared, tmp_path: Path
) -> None:
    shared.publish(1)
    data_dir = tmp_path / "data"
    bytes_of = {number: models.version_of(number).SerializeToString() for number in (1, 2, 3, 4)}
    for number in (2, 3, 4):
        gateway = start_gateway(data_dir=data_dir, settings=shared.settings)
        hits = shared.to_bucket.hits
        shared.to_bucket.set("hang" if number % 2 else "truncate")
        shared.publish(number)
        wait_until(lambda hits=hits: shared.to_bucket.hits > hits, why_not=gateway.log_text)
        gateway.kill()
        shared.to_bucket.set("none")
        cache = ContentCache(data_dir / "cache")
        cache.open()
        assert not list((data_dir / "cache/temp").iterdir())
        cache.close()
        for path in (data_dir / "cache/versions").glob("*/files/model.onnx"):
            assert path.read_bytes() in bytes_of.values()
    gateway = start_gateway(data_dir=data_dir, settings=shared.settings)
    with traffic_of(gateway) as traffic:
        wait_for_version(traffic, 4, gateway)
    assert not traffic.failures


JUMPING = """
import pathlib, sys, time
real, place = time.time, pathlib.Path(sys.argv.pop(1))
time.time = lambda: real() + float(place.read_text())
time.time_ns = lambda: int(time.time() * 1e9)
from gateway.entry import main
main()
"""
"""A gateway whose wall clock is as far off as a file says."""


def test_a_wall_clock_that_jumps_forth_and_back_fails_no_request_and_keeps_nothing_from_being_followed(
    start_gateway: StartGateway, shared: Shared, tmp_path: Path
) -> None:
    off = tmp_path / "seconds"
    off.write_text("0")
    shared.publish(1)
    gateway = start_gateway(data_dir=tmp_path / "data", settings=shared.settings, program=("-c", JUMPING, str(off)))
    with traffic_of(gateway) as traffic:
        for number, seconds in enumerate((3e8, -6e8, 60, -3600), 2):
            replacement = off.with_suffix(".new")
            replacement.write_text(str(seconds))
            replacement.replace(off)
            wait_for_answers(traffic, 50)
            shared.publish(number)
            wait_for_version(traffic, number, gateway)
            assert gateway.is_ready()
    assert not traffic.failures
    years = {int(line["@timestamp"][:4]) for line in gateway.logs()}
    assert max(years) - min(years) > 15, "its clock did jump"


def test_a_gateway_killed_while_a_push_is_sent_to_it_has_the_version_whole_or_absent(
    start_gateway: StartGateway, tmp_path: Path
) -> None:
    data_dir, made = tmp_path / "data", tmp_path / "model"
    models.external(made / "model.onnx", "weights.bin")
    files = {path.name: path.read_bytes() for path in made.iterdir()}
    entries = [
        {"path": name, "sha256": hashlib.sha256(data).hexdigest(), "size": len(data)} for name, data in files.items()
    ]
    first, second = ((each["sha256"], files[str(each["path"])]) for each in entries)
    for sent in ([(*first, 0.5)], [(*first, 1.0), (*second, 0.5)], [(*first, 1.0), (*second, 1.0)]):
        gateway = start_gateway(data_dir=data_dir)
        uploads = data_dir / "uploads"
        with contextlib.ExitStack() as stack:

            def connect(gateway: Gateway = gateway, stack: contextlib.ExitStack = stack) -> HTTPConnection:
                return stack.enter_context(contextlib.closing(HTTPConnection(gateway.admin_url, timeout=20)))

            for sha256, data, part in sent:
                connection = connect()
                connection.putrequest("PUT", f"/api/v1/registry/objects/{sha256}")
                connection.putheader("Content-Length", str(len(data)))
                connection.endheaders(data[: int(len(data) * part)])
                if part == 1.0:
                    assert connection.getresponse().status in (200, 201)
                else:
                    wait_until(lambda uploads=uploads: any(uploads.glob("upload-*")), why_not=gateway.log_text)
            if all(part == 1.0 for _, _, part in sent):
                route, document = f"/api/v1/registry/models/{MODEL}/versions", json.dumps({"files": entries})
                connect().request("POST", route, document, {"Content-Type": "application/json"})
            gateway.kill()
        check_whole_or_absent(data_dir, files)
    gateway = start_gateway(data_dir=data_dir)
    assert list((data_dir / "uploads").glob("*")) == [], "what was sent in part is gone"
    pushed = subprocess.run(
        [sys.executable, "-m", "gateway", "push", made, "--name", MODEL, "--admin-url", gateway.admin_url],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert pushed.returncode == 0, pushed.stderr
    assert check_whole_or_absent(data_dir, files) == 1
    wait_until(lambda: gateway.get(f"/v2/models/{MODEL}/versions/1/ready")[0] == 200, why_not=gateway.log_text)


def check_whole_or_absent(data_dir: Path, files: dict[str, bytes]) -> int:
    """How many versions there are: each is all of these files."""
    store = LocalArtifacts(data_dir / "artifacts")
    for found in store.list():
        with contextlib.closing(store.open(found.sha256)) as reader:
            assert hashlib.sha256(reader.read()).hexdigest() == found.sha256
    with contextlib.closing(Catalog(f"sqlite:///{data_dir / 'catalog.db'}")) as catalog:
        assert catalog.verify_audit() is None
        rows = catalog.versions(MODEL) if catalog.models() else []
    for row in rows:
        assert {file.path for file in row.manifest.files} == files.keys()
        for file in row.manifest.files:
            with contextlib.closing(store.open(file.sha256)) as reader:
                assert reader.read() == files[file.path]
    return len(rows)


def test_two_gateways_on_one_registry_see_a_push_in_time_and_never_disagree(
    start_gateway: StartGateway, shared: Shared, tmp_path: Path
) -> None:
    shared.publish(1)
    both = [start_gateway(data_dir=tmp_path / name, settings=shared.settings) for name in ("one", "two")]
    seen: list[float] = []
    with traffic_of(both[0]) as first, traffic_of(both[1]) as second:
        for number in range(2, 7):
            wait_for_answers(first, 20)
            wait_for_answers(second, 20)
            shared.publish(number)
            pushed = time.monotonic()
            for traffic, gateway in ((first, both[0]), (second, both[1])):
                wait_for_version(traffic, number, gateway)
            seen.append(time.monotonic() - pushed)
    print(f"\ntwo gateways saw {len(seen)} pushes after {min(seen):.2f} to {max(seen):.2f} s")
    assert statistics.median(seen) < FOLLOWED_SECONDS
    for traffic in (first, second):
        assert not traffic.failures
        versions = [int(outcome.version) for outcome in sorted(traffic.outcomes, key=lambda outcome: outcome.at)]
        assert sorted(set(versions)) == [1, 2, 3, 4, 5, 6], "the alias went one way, and so did each gateway"
        firsts = [versions.index(number) for number in range(1, 7)]
        assert firsts == sorted(firsts)
