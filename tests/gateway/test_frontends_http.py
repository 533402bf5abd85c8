import asyncio
import base64
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from frontend_fakes import FakeDataPlane, FakeRequest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import ModelLoadFailed, ModelNotInRepository
from gateway.frontends.control import ModelControl
from gateway.frontends.http import HttpFrontend, match, to_segments


@asynccontextmanager
async def frontend(plane: FakeDataPlane, *, is_explicit: bool = True) -> AsyncIterator[HttpFrontend]:
    async with asyncio.TaskGroup() as tasks:
        yield HttpFrontend(plane, ModelControl(plane, tasks, is_allowed=is_explicit))


def ask(
    method: str, path: str, body: bytes = b"", *, plane: FakeDataPlane | None = None, is_explicit: bool = True
) -> FakeRequest:
    """One request, and all that it started, run to the end."""
    request = FakeRequest(method, path, body)

    async def run() -> None:
        async with frontend(plane or FakeDataPlane(), is_explicit=is_explicit) as http:
            http.handle(request)

    asyncio.run(run())
    assert request.status, "not answered"
    return request


def value(request: FakeRequest) -> Any:
    return json.loads(request.answer)


def error(request: FakeRequest) -> str:
    assert list(value(request)) == ["error"]
    return str(value(request)["error"])


def test_the_root_points_at_the_protocol() -> None:
    assert value(ask("GET", "/")) == {"name": "sluice", "version": "1.2.3", "inference": "/v2"}


def test_server_metadata_names_the_extensions() -> None:
    assert value(ask("GET", "/v2")) == {"name": "sluice", "version": "1.2.3", "extensions": ["statistics"]}


@pytest.mark.parametrize("path", ["/v2/", "/v2/models/iris/", "/v2/health/live/"])
def test_a_trailing_slash_changes_nothing(path: str) -> None:
    assert ask("GET", path).answer == ask("GET", path.rstrip("/")).answer


def test_liveness_and_readiness_are_told_apart() -> None:
    plane = FakeDataPlane()
    plane.ready = False
    live, ready = ask("GET", "/v2/health/live", plane=plane), ask("GET", "/v2/health/ready", plane=plane)
    assert (live.status, value(live)) == (200, {"live": True})
    assert (ready.status, value(ready)) == (503, {"ready": False})


def test_a_ready_server_says_so() -> None:
    ready = ask("GET", "/v2/health/ready")
    assert (ready.status, value(ready)) == (200, {"ready": True})


@pytest.mark.parametrize(
    ("path", "status"),
    [("iris", 200), ("iris/versions/2", 200), ("iris/versions/9", 503), ("nothing", 503)],
)
def test_a_model_is_ready_or_not(path: str, status: int) -> None:
    request = ask("GET", f"/v2/models/{path}/ready")
    assert request.status == status
    assert value(request) == {"name": path.split("/")[0], "ready": status == 200}


def test_model_metadata_has_shapes_as_numbers() -> None:
    assert value(ask("GET", "/v2/models/iris/versions/1")) == {
        "name": "iris",
        "versions": ["1", "2"],
        "platform": "onnxruntime_onnx",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}],
        "outputs": [{"name": "y", "datatype": "BYTES", "shape": [-1]}],
    }


def test_a_configuration_prints_defaults_numbers_and_enum_names_and_no_absent_message() -> None:
    config = value(ask("GET", "/v2/models/iris/config"))
    assert config["name"] == "iris"
    assert config["input"][0]["data_type"] == "TYPE_FP32"
    assert config["input"][0]["dims"] == [4]
    assert config["dynamic_batching"]["max_queue_delay_microseconds"] == 2**40
    assert config["parameters"] == {"threads": {"string_value": "2"}}
    assert config["default_model_filename"] == ""
    assert config["output"] == []
    assert "model_transaction_policy" not in config
    assert "response_cache" not in config


def test_statistics_have_every_field_as_an_unsigned_integer() -> None:
    (first, second) = value(ask("GET", "/v2/models/iris/stats"))["model_stats"]
    assert (first["name"], first["version"], second["version"]) == ("iris", "1", "2")
    assert (first["inference_count"], first["execution_count"]) == (12, 3)
    assert list(first["inference_stats"]) == [
        "success", "fail", "queue", "compute_input", "compute_infer", "compute_output", "cache_hit", "cache_miss",
    ]  # fmt: skip
    for duration in first["inference_stats"].values():
        assert type(duration["count"]) is type(duration["ns"]) is int
    assert first["inference_stats"]["success"] == {"count": 3, "ns": 2**60}
    assert first["batch_stats"][0]["batch_size"] == 4


def test_statistics_of_all_models_have_their_own_path() -> None:
    assert len(value(ask("GET", "/v2/models/stats"))["model_stats"]) == 2


def test_statistics_of_one_version() -> None:
    (only,) = value(ask("GET", "/v2/models/iris/versions/2/stats"))["model_stats"]
    assert only["version"] == "2"


@pytest.mark.parametrize("path", ["", "/config"])
@pytest.mark.parametrize(
    ("model", "text"),
    [
        ("nothing", "Request for unknown model: 'nothing' is not found"),
        ("iris/versions/9", "Request for unknown model: 'iris' version 9 is not found"),
    ],
)
def test_what_is_unknown_is_not_found(model: str, path: str, text: str) -> None:
    request = ask("GET", f"/v2/models/{model}{path}")
    assert (request.status, error(request)) == (404, text)


def test_statistics_of_an_unknown_model_are_a_bad_request() -> None:
    request = ask("GET", "/v2/models/nothing/stats")
    assert (request.status, error(request)) == (400, "requested model 'nothing' is not available")


def test_the_index_leaves_out_what_is_empty() -> None:
    assert value(ask("POST", "/v2/repository/index")) == [
        {"name": "iris", "version": "1", "state": "READY"},
        {"name": "iris", "version": "2", "state": "READY"},
        {"name": "iris", "version": "3", "state": "UNAVAILABLE", "reason": "not an ONNX file"},
        {"name": "wine"},
    ]


def test_the_index_of_what_is_ready() -> None:
    assert len(value(ask("POST", "/v2/repository/index", b'{"ready":true}'))) == 2


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"{", "failed to parse the request JSON buffer"),
        (b"\xff\xfe", "failed to parse the request JSON buffer"),
        (b"[]", "not an object"),
        (b"[" * 100_000, "failed to parse the request JSON buffer"),
        (b'{"ready":1}', "'ready' must be true or false"),
    ],
    ids=["cut", "not-text", "array", "deep", "number"],
)
def test_a_malformed_body_is_a_bad_request(body: bytes, text: str) -> None:
    request = ask("POST", "/v2/repository/index", body)
    assert request.status == 400
    assert text in error(request)


def test_a_load_passes_its_parameters_with_files_decoded() -> None:
    plane = FakeDataPlane()
    file = base64.b64encode(b"\x00onnx").decode()
    body = json.dumps({"parameters": {"config": "{}", "file:1/model.onnx": file, "fast": True, "n": 3}}).encode()
    request = ask("POST", "/v2/repository/models/iris/load", body, plane=plane)
    assert (request.status, request.answer) == (200, b"")
    parameters = {"config": "{}", "file:1/model.onnx": b"\x00onnx", "fast": True, "n": 3}
    assert plane.controlled == [("load", "iris", parameters)]


@pytest.mark.parametrize("body", [b"", b"{}", b'{"parameters":{}}'])
def test_a_load_needs_no_parameters(body: bytes) -> None:
    plane = FakeDataPlane()
    assert ask("POST", "/v2/repository/models/iris/load", body, plane=plane).status == 200
    assert plane.controlled == [("load", "iris", {})]


@pytest.mark.parametrize(
    "parameters",
    [[], {"x": 1.5}, {"x": None}, {"x": {}}, {"file:1/m": 3}, {"file:1/m": "not base64!"}],
    ids=str,
)
def test_a_bad_parameter_is_a_bad_request(parameters: object) -> None:
    plane = FakeDataPlane()
    body = json.dumps({"parameters": parameters}).encode()
    assert ask("POST", "/v2/repository/models/iris/load", body, plane=plane).status == 400
    assert plane.controlled == []


def test_an_unload_passes_its_parameters() -> None:
    plane = FakeDataPlane()
    body = b'{"parameters":{"unload_dependents":false}}'
    assert ask("POST", "/v2/repository/models/iris/unload", body, plane=plane).status == 200
    assert plane.controlled == [("unload", "iris", {"unload_dependents": False})]


@pytest.mark.parametrize(
    ("failure", "status", "text"),
    [
        (ModelNotInRepository("x"), 500, "failed to load 'x', failed to poll from model repository"),
        (ModelLoadFailed("x", "no such operator"), 400, "load failed for model 'x': no such operator"),
    ],
)
def test_a_load_that_fails_says_why(failure: Exception, status: int, text: str) -> None:
    plane = FakeDataPlane()
    plane.failure = failure
    request = ask("POST", "/v2/repository/models/x/load", plane=plane)
    assert (request.status, error(request)) == (status, text)


@pytest.mark.parametrize("verb", ["load", "unload"])
def test_control_is_refused_unless_it_is_explicit(verb: str) -> None:
    plane = FakeDataPlane()
    request = ask("POST", f"/v2/repository/models/iris/{verb}", plane=plane, is_explicit=False)
    assert request.status == 503
    assert error(request) == "explicit model load / unload is not allowed if polling is enabled"
    assert plane.controlled == []


def test_a_load_that_shutdown_interrupts_is_unavailable() -> None:
    request, plane = FakeRequest("POST", "/v2/repository/models/iris/load"), FakeDataPlane()
    plane.gate = asyncio.Event()

    async def run() -> None:
        async with asyncio.TaskGroup() as tasks:
            http = HttpFrontend(plane, ModelControl(plane, tasks, is_allowed=True))
            http.handle(request)
            await asyncio.sleep(0)
            raise KeyError

    with pytest.raises(ExceptionGroup):
        asyncio.run(run())
    assert request.status == 503


def test_a_load_after_shutdown_is_unavailable() -> None:
    request, plane = FakeRequest("POST", "/v2/repository/models/iris/load"), FakeDataPlane()

    async def run() -> None:
        async with frontend(plane) as http:
            pass
        http.handle(request)

    asyncio.run(run())
    assert request.status == 503


def test_one_load_does_not_delay_other_requests() -> None:
    plane = FakeDataPlane()

    async def run() -> None:
        plane.gate = asyncio.Event()
        async with frontend(plane) as http:
            load, live = FakeRequest("POST", "/v2/repository/models/iris/load"), FakeRequest("GET", "/v2/health/live")
            http.handle(load)
            http.handle(live)
            assert (load.status, live.status) == (0, 200)
            plane.gate.set()
        assert load.status == 200

    asyncio.run(run())


@pytest.mark.parametrize(
    "path", ["/v1", "/v2/models", "/v2//live", "/v3/health/live", "/v2/models/iris/versions", "/v2/models//ready", "//"]
)
def test_an_unknown_path_is_not_found(path: str) -> None:
    request = ask("GET", path)
    assert (request.status, error(request)) == (404, "Not Found")


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("POST", "/v2/health/live", b"GET, HEAD"),
        ("GET", "/v2/repository/index", b"POST"),
        ("GET", "/v2/models/iris/infer", b"POST"),
        ("DELETE", "/v2/models/iris", b"GET, HEAD"),
        ("PUT", "/v2/logging", b"GET, HEAD, POST"),
    ],
)
def test_a_wrong_verb_is_told_the_right_ones(method: str, path: str, allow: bytes) -> None:
    request = ask(method, path)
    assert (request.status, error(request)) == (405, "Method Not Allowed")
    assert request.headers == {b"allow": allow}


def test_head_is_answered_as_get() -> None:
    assert ask("HEAD", "/v2/health/ready").status == 200


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v2/systemsharedmemory/status"),
        ("GET", "/v2/systemsharedmemory/region/r/status"),
        ("POST", "/v2/cudasharedmemory/region/r/register"),
        ("POST", "/v2/cudasharedmemory/unregister"),
        ("POST", "/v2/trace/setting"),
        ("GET", "/v2/models/iris/trace/setting"),
        ("GET", "/v2/logging"),
        ("POST", "/v2/models/iris/generate"),
        ("POST", "/v2/repository/somewhere/index"),
        ("POST", "/v2/repository/somewhere/models/iris/load"),
    ],
)
def test_what_is_known_and_not_offered_says_so(method: str, path: str) -> None:
    request = ask(method, path)
    assert request.status == 501
    assert error(request).endswith("not supported")


def test_names_in_paths_are_decoded() -> None:
    request = ask("GET", "/v2/models/caf%C3%A9%2Fau%20lait")
    assert error(request) == "Request for unknown model: 'café/au lait' is not found"


def test_a_bug_of_ours_is_logged_and_not_told(caplog: pytest.LogCaptureFixture) -> None:
    plane = FakeDataPlane()
    plane.failure = ZeroDivisionError("secret")
    with caplog.at_level(logging.ERROR):
        request = ask("GET", "/v2/models/iris", plane=plane)
    assert (request.status, error(request)) == (500, "internal error")
    assert "secret" in caplog.text


def test_an_answer_is_never_compressed() -> None:
    request = FakeRequest("GET", "/v2", asked={b"accept-encoding": b"gzip"})

    async def run() -> None:
        async with frontend(FakeDataPlane()) as http:
            http.handle(request)

    asyncio.run(run())
    assert request.headers == {b"content-encoding": b"identity"}


@given(st.lists(st.sampled_from(["v2", "models", "iris", "stats", "", "versions", "%2F", "%ff", "é"]), max_size=6))
def test_any_path_is_answered(segments: list[str]) -> None:
    async def run() -> None:
        async with frontend(FakeDataPlane()) as http:
            for method in ("GET", "POST"):
                request = FakeRequest(method, "/" + "/".join(segments))
                http.handle(request)
                assert request.status in (200, 400, 404, 405, 501, 503)

    asyncio.run(run())


def test_a_pattern_gives_what_stands_for_its_blanks() -> None:
    assert match(("v2", "models", "{}", "ready"), to_segments("/v2/models/a%20b/ready")) == ["a b"]
    assert match(("v2", "models", "{}"), to_segments("/v2/models")) is None
