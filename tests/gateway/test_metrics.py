"""What a scrape says, to Prometheus and to dashboards made for Triton."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from fake_served import FakeServed, FakeSource
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from gateway.attempts import ON_DEMAND
from gateway.metrics import CODES, FAILURE_REASONS, SHED_REASONS, exposition, make_registry
from kernels.meters import Meters

OPENMETRICS = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"
Labels = frozenset[tuple[str, str]]


def scrape(*served: FakeServed, demand: dict[str, float] | None = None, accept: str = "") -> str:
    return exposition(make_registry(FakeSource(*served), lambda: demand or {}), accept)[0].decode()


def samples(text: str) -> dict[tuple[str, Labels], float]:
    # The parser adds `_total` to whatever is typed a counter; Triton's names come without, and stay so untyped.
    text = "".join(line for line in text.splitlines(keepends=True) if not line.startswith("# TYPE nv_"))
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(text: str, name: str, **labels: str) -> float:
    return samples(text)[name, frozenset(labels.items())]


ONE = {"model": "tabular", "version": "1"}
STABLE = {**ONE, "role": "stable"}


def test_requests_that_reach_no_version_are_counted_too() -> None:
    source = FakeSource()
    source.unrouted.record_answered(1, 5, 0.001)
    text = exposition(make_registry(source, dict), "")[0].decode()
    assert value(text, "sluice_unrouted_requests_total", protocol="grpc", code="NOT_FOUND") == 1
    assert value(text, "sluice_unrouted_requests_total", protocol="http", code="INVALID_ARGUMENT") == 0


def test_every_series_exists_at_zero_from_load_on() -> None:
    found = samples(scrape(FakeServed(state="LOADING", instances=0)))
    for protocol in ("http", "grpc"):
        for code in CODES:
            labels = frozenset({**STABLE, "protocol": protocol, "code": code}.items())
            assert found["sluice_requests_total", labels] == 0
        labels = frozenset({**STABLE, "protocol": protocol}.items())
        assert found["sluice_request_duration_seconds_count", labels] == 0
    for reason in SHED_REASONS:
        assert found["sluice_shed_total", frozenset({**STABLE, "reason": reason}.items())] == 0
    for reason in FAILURE_REASONS:
        assert found["nv_inference_request_failure", frozenset({**ONE, "reason": reason}.items())] == 0
    for name in (
        "sluice_queue_duration_seconds_count",
        "sluice_compute_duration_seconds_count",
        "sluice_batch_size_count",
        "sluice_in_flight_requests",
        "sluice_queue_rows",
        "sluice_queue_bytes",
        "sluice_worker_restarts_total",
        "sluice_model_load_seconds",
        "sluice_instances",
    ):
        assert found[name, frozenset(STABLE.items())] == 0, name
    assert found["sluice_demand", frozenset({("model", "tabular")})] == 0


def test_traffic_does_not_add_series() -> None:
    served = FakeServed()
    before = set(samples(scrape(served)))
    served.succeed(times=3)
    served.shed()
    own = {key for key in set(samples(scrape(served))) ^ before if key[0].startswith(("sluice_", "nv_"))}
    assert own == set()


def test_requests_are_counted_by_protocol_and_by_the_name_of_the_grpc_status() -> None:
    served = FakeServed()
    served.succeed(protocol=0, times=2)
    served.succeed(protocol=1)
    served.shed(protocol=1, code=8)
    text = scrape(served)
    assert value(text, "sluice_requests_total", **STABLE, protocol="http", code="OK") == 2
    assert value(text, "sluice_requests_total", **STABLE, protocol="grpc", code="OK") == 1
    assert value(text, "sluice_requests_total", **STABLE, protocol="grpc", code="RESOURCE_EXHAUSTED") == 1
    assert value(text, "sluice_shed_total", **STABLE, reason="queue_rows") == 1


def test_histograms_have_buckets_below_a_millisecond() -> None:
    served = FakeServed()
    served.succeed(0.0003)
    text = scrape(served)
    labels = {**STABLE, "protocol": "http"}
    assert value(text, "sluice_request_duration_seconds_bucket", **labels, le="0.00025") == 0
    assert value(text, "sluice_request_duration_seconds_bucket", **labels, le="0.0005") == 1
    assert value(text, "sluice_request_duration_seconds_sum", **labels) == pytest.approx(0.0003)


def test_exactly_one_state_is_set() -> None:
    text = scrape(FakeServed(state="UNAVAILABLE"))
    states = {
        name: value(text, "sluice_model_state", **STABLE, state=name)
        for name in ("READY", "LOADING", "UNLOADING", "UNAVAILABLE")
    }
    assert states == {"READY": 0, "LOADING": 0, "UNLOADING": 0, "UNAVAILABLE": 1}


def test_gauges_say_what_is_there_now() -> None:
    served = FakeServed(
        in_flight=5, queued=3, queue_rows=12, queue_bytes=480, load_seconds=0.25, restarts=2, instances=4
    )
    text = scrape(served, demand={"tabular": 8.5})
    assert value(text, "sluice_in_flight_requests", **STABLE) == 5
    assert value(text, "sluice_queue_rows", **STABLE) == 12
    assert value(text, "sluice_queue_bytes", **STABLE) == 480
    assert value(text, "sluice_model_load_seconds", **STABLE) == 0.25
    assert value(text, "sluice_worker_restarts_total", **STABLE) == 2
    assert value(text, "sluice_instances", **STABLE) == 4
    assert value(text, "sluice_demand", model="tabular") == 8.5
    assert value(text, "nv_inference_pending_request_count", **ONE) == 3
    assert value(text, "nv_model_load_duration_secs", **ONE) == 0.25


def test_demand_is_one_series_a_model_whatever_its_versions() -> None:
    text = scrape(FakeServed(version="1"), FakeServed(version="2"), demand={"tabular": 2.0})
    assert text.count("sluice_demand{") == 1


def test_tritons_names_have_no_suffix_and_count_microseconds() -> None:
    served = FakeServed()
    served.succeed(0.004, rows=8)
    text = scrape(served)
    assert value(text, "nv_inference_request_success", **ONE) == 1
    assert value(text, "nv_inference_count", **ONE) == 8
    assert value(text, "nv_inference_exec_count", **ONE) == 1
    assert value(text, "nv_inference_request_duration_us", **ONE) == 4000
    assert value(text, "nv_inference_queue_duration_us", **ONE) == 1000
    assert value(text, "nv_inference_compute_infer_duration_us", **ONE) == 2000
    assert "# TYPE nv_inference_request_success counter\n" in text
    assert "nv_inference_request_success_total" not in text


def test_a_shed_request_is_a_rejected_failure_to_triton_dashboards() -> None:
    served = FakeServed()
    served.shed()
    assert value(scrape(served), "nv_inference_request_failure", **ONE, reason="REJECTED") == 1


def test_openmetrics_is_spoken_to_those_who_ask_for_it() -> None:
    served = FakeServed()
    served.succeed()
    registry = make_registry(FakeSource(served), dict)
    body, content_type = exposition(registry, OPENMETRICS)
    assert content_type.startswith("application/openmetrics-text; version=1.0.0")
    families = {family.name: family for family in parse_openmetrics(body.decode())}
    assert families["sluice_requests"].type == "counter"
    assert families["nv_inference_request_success"].type == "unknown"
    assert exposition(registry, "text/html")[1].startswith("text/plain; version=0.0.4")


def test_labels_of_strange_models_are_escaped() -> None:
    strange = 'a"b\\c\nd é'
    assert value(scrape(FakeServed(model=strange)), "sluice_queue_rows", **{**STABLE, "model": strange}) == 0


def test_the_process_and_the_build_are_described() -> None:
    text = scrape()
    assert "process_resident_memory_bytes" in text
    assert "sluice_build_info{" in text


def test_names_of_shed_reasons_cover_all_that_the_meters_count() -> None:
    meters = Meters()
    assert len(meters.shed_counts()) == len(SHED_REASONS) + 1
    assert len(meters.failure_counts()) == len(FAILURE_REASONS)
    assert len(meters.requests(0)) == len(CODES)


def test_promtool_finds_nothing_to_say_but_about_tritons_own_names(tmp_path: Path) -> None:
    served = FakeServed()
    served.succeed()
    text = scrape(served)
    check = subprocess.run(["promtool", "check", "metrics"], input=text, text=True, capture_output=True, check=False)
    complaints = [line for line in (check.stdout + check.stderr).splitlines() if line and not line.startswith("nv_")]
    assert complaints == []
    assert check.returncode in (0, 3)  # 3: complaints about style, here about names that we do not choose


def test_the_memory_of_models_is_told_and_how_often_some_made_room() -> None:
    source = FakeSource()
    source.waiting, source.limit = 3, 1000
    source.loaded[("a", 2)] = 600
    source.evictions["b"] = 4
    text = exposition(make_registry(source, dict), "")[0].decode()
    assert value(text, "sluice_waiting_requests") == 3
    assert value(text, "sluice_memory_limit_bytes") == 1000
    assert value(text, "sluice_memory_bytes", model="a", version="2") == 600
    assert value(text, "sluice_evictions_total", model="b") == 4


def test_a_model_on_demand_has_no_series_until_somebody_asks_for_it() -> None:
    served = FakeServed(state="UNAVAILABLE", reason=ON_DEMAND)
    assert 'model="tabular"' not in scrape(served)
    served.succeed()
    assert 'model="tabular"' in scrape(served)
