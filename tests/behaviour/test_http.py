"""What only HTTP has: paths, verbs, JSON bodies by hand, the binary extension byte by byte, headers."""

import gzip
import http.client
import json
import socket
import struct
import zlib
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
import pytest
from live_gateway import NUMBERS, Gateway

FREE = "/v2/models/free/infer"


@dataclass(frozen=True)
class Response:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> str:
        assert self.headers["content-type"].startswith("application/json")
        assert list(self.json) == ["error"]
        return str(self.json["error"])


class Connection:
    """One connection that is kept open over requests."""

    def __init__(self, gateway: Gateway) -> None:
        self._connection = http.client.HTTPConnection(gateway.http_url, timeout=30)

    def ask(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Response:
        self._connection.request(method, path, body, dict(headers or {}))
        response = self._connection.getresponse()
        named = {name.lower(): value for name, value in response.getheaders()}
        return Response(response.status, named, response.read())

    def post(self, path: str, value: object, headers: Mapping[str, str] | None = None) -> Response:
        return self.ask("POST", path, json.dumps(value).encode(), headers)

    def close(self) -> None:
        self._connection.close()


@pytest.fixture
def connection(gateway: Gateway) -> Iterator[Connection]:
    connection = Connection(gateway)
    yield connection
    connection.close()


def fp32(data: object, shape: list[int], **more: object) -> dict[str, object]:
    return {"inputs": [{"name": "x", "datatype": "FP32", "shape": shape, "data": data}], **more}


def every_datatype(data: Mapping[str, list[object]]) -> list[dict[str, object]]:
    """Inputs of the model `datatypes`, one row of two; zeros where `data` says nothing."""
    zeros: dict[str, list[object]] = {"BOOL": [False, False], **data}
    return [
        {"name": f"in_{each}", "datatype": each, "shape": [1, 2], "data": zeros.get(each, [0, 0])} for each in NUMBERS
    ]


def with_binary(head: dict[str, object], *parts: bytes) -> tuple[bytes, dict[str, str]]:
    """A body and its headers."""
    text = json.dumps(head).encode()
    return text + b"".join(parts), {"Inference-Header-Content-Length": str(len(text))}


def test_health_answers_json(connection: Connection) -> None:
    live, ready = connection.ask("GET", "/v2/health/live"), connection.ask("GET", "/v2/health/ready")
    assert (live.status, live.json) == (200, {"live": True})
    assert (ready.status, ready.json) == (200, {"ready": True})


def test_a_model_that_is_not_ready_is_503(connection: Connection) -> None:
    assert connection.ask("GET", "/v2/models/nothing/ready").status == 503
    assert connection.ask("GET", "/v2/models/which/versions/2/ready").status == 200


def test_head_has_the_headers_of_get_and_no_body(connection: Connection) -> None:
    get, head = connection.ask("GET", "/v2"), connection.ask("HEAD", "/v2")
    assert (head.status, head.body) == (200, b"")
    assert head.headers["content-length"] == get.headers["content-length"]
    assert connection.ask("GET", "/v2").status == 200


@pytest.mark.parametrize("path", ["/v2?x=1", "/v2/", "/v2/health/live?probe=kubelet", "/v2/models/free/?a=b&c"])
def test_queries_and_trailing_slashes_are_ignored(connection: Connection, path: str) -> None:
    assert connection.ask("GET", path).status == 200


def test_a_query_does_not_hide_inference(connection: Connection) -> None:
    assert connection.post(FREE + "?tenant=a", fp32([1], [1, 1])).status == 200


@pytest.mark.parametrize("path", ["/nothing", "/v2/models/free/nothing", "/v1/models/free:predict"])
def test_an_unknown_path_is_not_found(connection: Connection, path: str) -> None:
    response = connection.ask("GET", path)
    assert (response.status, response.error) == (404, "Not Found")


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [("GET", FREE, "POST"), ("POST", "/v2/health/live", "GET, HEAD"), ("PUT", FREE, "POST")],
)
def test_a_wrong_verb_is_told_the_right_one(connection: Connection, method: str, path: str, allow: str) -> None:
    response = connection.ask(method, path)
    assert (response.status, response.error, response.headers["allow"]) == (405, "Method Not Allowed", allow)


def test_statistics_are_unsigned_numbers(connection: Connection) -> None:
    (only,) = connection.ask("GET", "/v2/models/free/stats").json["model_stats"]
    assert all(type(each) is int for each in only["inference_stats"]["queue"].values())


@pytest.mark.parametrize("data", [[1, 2.5, -3e-3, 4], [[1, 2.5], [-3e-3, 4]]], ids=["flat", "nested"])
def test_json_data_may_be_flat_or_nested(connection: Connection, data: object) -> None:
    response = connection.post(FREE, fp32(data, [2, 2], id="7"))
    assert response.headers["content-type"] == "application/json"
    assert response.json == {
        "model_name": "free",
        "model_version": "1",
        "id": "7",
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [2, 2], "data": [1.0, 2.5, -0.003, 4.0]}],
    }


def test_an_answer_names_its_version(connection: Connection) -> None:
    response = connection.post("/v2/models/which/infer", fp32([1], [1, 1]))
    assert response.headers["sluice-model-version"] == "10"
    assert response.json["model_version"] == "10"


def test_a_version_in_the_path_is_taken(connection: Connection) -> None:
    assert connection.post("/v2/models/which/versions/2/infer", fp32([1], [1, 1])).json["model_version"] == "2"


def test_an_unknown_top_level_key_is_tolerated(connection: Connection) -> None:
    assert connection.post(FREE, fp32([1], [1, 1], model_name="free", whatever={"a": [1]})).status == 200


def test_numbers_print_so_that_they_read_back_the_same(connection: Connection) -> None:
    values = np.random.default_rng(3).normal(size=64).astype(np.float32) * np.float32(10.0) ** np.arange(-32, 32)
    exact = [float(each) for each in values.astype(np.float32)]
    response = connection.post(FREE, fp32(exact, [1, 64]))
    assert np.float32(response.json["outputs"][0]["data"]).tolist() == exact


@pytest.mark.parametrize("datatype", ["FP16", "BF16"])
def test_halves_travel_as_json_numbers(connection: Connection, datatype: str) -> None:
    inputs = every_datatype({datatype: [1.5, -0.25]})
    response = connection.post(
        "/v2/models/datatypes/infer", {"inputs": inputs, "outputs": [{"name": f"out_{datatype}"}]}
    )
    assert response.status == 200, response.body
    assert response.json["outputs"][0]["data"] == [1.5, -0.25]


def test_an_output_without_parameters_is_json_and_with_binary_data_is_binary(connection: Connection) -> None:
    inputs = [
        {"name": "a", "datatype": "FP32", "shape": [1, 3], "parameters": {"binary_data_size": 12}},
        {"name": "b", "datatype": "FP32", "shape": [1, 3], "data": [1, 1, 1]},
        {"name": "c", "datatype": "INT64", "shape": [1, 1], "parameters": {"binary_data_size": 8}},
    ]
    outputs = [{"name": "sum", "parameters": {"binary_data": True}}, {"name": "next"}]
    head: dict[str, object] = {"inputs": inputs, "outputs": outputs}
    body, headers = with_binary(head, struct.pack("<3f", 1, 2, 3), struct.pack("<q", 9))
    response = connection.ask("POST", "/v2/models/arithmetic/infer", body, headers)
    assert response.status == 200, response.body
    assert response.headers["content-type"] == "application/octet-stream"
    length = int(response.headers["inference-header-content-length"])
    head, rest = json.loads(response.body[:length]), response.body[length:]
    first, second = head["outputs"]
    assert first == {"name": "sum", "datatype": "FP32", "shape": [1, 3], "parameters": {"binary_data_size": 12}}
    assert (second["name"], second["data"]) == ("next", [10])
    assert struct.unpack("<3f", rest) == (2, 3, 4)


def test_binary_data_output_holds_when_no_output_is_listed(connection: Connection) -> None:
    response = connection.post(FREE, fp32([1, 2], [1, 2], parameters={"binary_data_output": True}))
    length = int(response.headers["inference-header-content-length"])
    assert response.body[length:] == struct.pack("<2f", 1, 2)


def test_a_header_length_of_zero_makes_the_body_the_only_input(connection: Connection) -> None:
    body = np.float32([[1, 2, 3, 4]]).tobytes()
    response = connection.ask("POST", "/v2/models/labelled/infer", body, {"Inference-Header-Content-Length": "0"})
    assert response.status == 200, response.body
    length = int(response.headers["inference-header-content-length"])
    assert response.body[length:] == body


def test_a_pure_json_request_may_have_a_header_length(connection: Connection) -> None:
    # Triton's C++ client always sends it, and an empty id.
    text = json.dumps(fp32([1], [1, 1], id="")).encode()
    response = connection.ask("POST", FREE, text, {"Inference-Header-Content-Length": str(len(text))})
    assert response.status == 200
    assert response.json["outputs"][0]["data"] == [1]


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_bodies_may_be_compressed_both_ways(connection: Connection, coding: str) -> None:
    text = json.dumps(fp32([0.0] * 4000, [1, 4000])).encode()
    packed = gzip.compress(text) if coding == "gzip" else zlib.compress(text)
    response = connection.ask("POST", FREE, packed, {"Content-Encoding": coding, "Accept-Encoding": coding})
    assert response.status == 200
    assert response.headers["content-encoding"] == coding
    plain = gzip.decompress(response.body) if coding == "gzip" else zlib.decompress(response.body)
    assert json.loads(plain)["outputs"][0]["data"] == [0.0] * 4000


def test_an_unknown_coding_is_refused(connection: Connection) -> None:
    response = connection.ask("POST", FREE, b"x", {"Content-Encoding": "br"})
    assert response.status in (415, 501)
    assert response.error


MALFORMED = {
    "empty": b"",
    "not-json": b"hello",
    "cut": b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1,1],"data":[1',
    "array": b"[]",
    "no-inputs": b"{}",
    "inputs-no-array": b'{"inputs":3}',
    "not-utf8": b'{"inputs":[{"name":"\xff","datatype":"FP32","shape":[1,1],"data":[1]}]}',
    "deep": b"[" * 100_000,
    "deep-data": b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1,1],"data":' + b"[" * 10_000 + b"}]}",
}


@pytest.mark.parametrize("body", MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_body_is_a_bad_request(connection: Connection, body: bytes) -> None:
    response = connection.ask("POST", FREE, body)
    assert response.status == 400
    assert response.error
    assert connection.ask("GET", "/v2/health/live").status == 200


BAD_TENSORS: dict[str, dict[str, Any]] = {
    "count-short": {"data": [1, 2, 3]},
    "count-long": {"data": [1, 2, 3, 4, 5]},
    "negative-dimension": {"shape": [2, -2]},
    "fraction-dimension": {"shape": [2, 2.5]},
    "huge-shape": {"shape": [2**40, 2**40]},
    "overflowing-shape": {"shape": [2**63, 2]},
    "text-shape": {"shape": "2,2"},
    "no-shape": {"shape": None},
    "unknown-datatype": {"datatype": "FP8"},
    "no-datatype": {"datatype": None},
    "no-name": {"name": None},
    "text-data": {"data": ["1", "2", "3", "4"]},
    "bool-data": {"data": [True, False, True, False]},
    "no-data": {"data": None},
    "ragged": {"data": [[1, 2, 3], [4]]},
    "both-data-and-binary": {"parameters": {"binary_data_size": 16}},
    "shared-memory": {"data": None, "parameters": {"shared_memory_region": "r", "shared_memory_byte_size": 16}},
}


@pytest.mark.parametrize("change", BAD_TENSORS.values(), ids=BAD_TENSORS)
def test_a_bad_tensor_is_a_bad_request(connection: Connection, change: dict[str, Any]) -> None:
    tensor = {"name": "x", "datatype": "FP32", "shape": [2, 2], "data": [1, 2, 3, 4]} | change
    tensor = {name: value for name, value in tensor.items() if value is not None}
    response = connection.post(FREE, {"inputs": [tensor]})
    assert response.status == 400, response.body
    assert response.error


@pytest.mark.parametrize(
    ("datatype", "value"),
    [
        ("UINT8", 256),
        ("UINT8", -1),
        ("INT8", 128),
        ("INT32", 2**31),
        ("UINT64", 2**64),
        ("INT64", 1.5),
        ("INT64", 2**63),
    ],
)
def test_a_number_that_does_not_fit_its_datatype_is_a_bad_request(
    connection: Connection, datatype: str, value: float
) -> None:
    response = connection.post("/v2/models/datatypes/infer", {"inputs": every_datatype({datatype: [value, value]})})
    assert response.status == 400, response.body


@pytest.mark.parametrize("parameters", [{"triton_secret": 1}, {"priority": -1}, {"priority": "x"}, {"timeout": 1.5}, 3])
def test_a_bad_parameter_is_a_bad_request(connection: Connection, parameters: object) -> None:
    response = connection.post(FREE, fp32([1], [1, 1], parameters=parameters))
    assert response.status == 400, response.body


def test_a_duplicate_input_is_named(connection: Connection) -> None:
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [1]}
    response = connection.post(FREE, {"inputs": [tensor, tensor]})
    assert (response.status, "input 'x' already exists in request" in response.error) == (400, True)


@pytest.mark.parametrize("size", [0, 3, 8, 1 << 60, -4, 2.5, "4"], ids=str)
def test_a_binary_size_must_fit_the_tensor_and_the_body(connection: Connection, size: object) -> None:
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 1], "parameters": {"binary_data_size": size}}
    body, headers = with_binary({"inputs": [tensor]}, b"\0\0\0\0")
    response = connection.ask("POST", FREE, body, headers)
    assert response.status == 400, response.body


def test_left_over_bytes_are_an_error(connection: Connection) -> None:
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 1], "parameters": {"binary_data_size": 4}}
    body, headers = with_binary({"inputs": [tensor]}, b"\0" * 9)
    assert connection.ask("POST", FREE, body, headers).status == 400


@pytest.mark.parametrize("length", ["9999999", "-1", "x", "18446744073709551616", ""])
def test_a_header_length_must_be_within_the_body(connection: Connection, length: str) -> None:
    text = json.dumps(fp32([1], [1, 1])).encode()
    response = connection.ask("POST", FREE, text, {"Inference-Header-Content-Length": length})
    assert response.status == 400


@pytest.mark.parametrize(
    "raw",
    [b"\xff\xff\xff\xff", b"\x05\0\0\0abc", b"\0\0", b"\x01\0\0\0a\x01\0\0\0b"],
    ids=["huge", "cut", "short", "two-for-one"],
)
def test_binary_strings_must_be_whole(connection: Connection, raw: bytes) -> None:
    parameters = {"binary_data_size": len(raw)}
    body, headers = with_binary(
        {"inputs": [{"name": "x", "datatype": "BYTES", "shape": [1, 1], "parameters": parameters}]}, raw
    )
    assert connection.ask("POST", "/v2/models/text/infer", body, headers).status == 400


def read_response(stream: IO[bytes]) -> bytes:
    """The body of the next response, which must be a 200."""
    assert stream.readline().startswith(b"HTTP/1.1 200")
    headers = dict(line.rstrip().lower().split(b": ", 1) for line in iter(stream.readline, b"\r\n"))
    return stream.read(int(headers[b"content-length"]))


def test_requests_may_be_pipelined(gateway: Gateway) -> None:
    def request(i: int) -> bytes:
        body = json.dumps(fp32([i], [1, 1], id=str(i))).encode()
        return b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (FREE.encode(), len(body), body)

    with closing(socket.create_connection((gateway.host, gateway.http_port), timeout=30)) as raw:
        raw.sendall(b"".join(request(i) for i in range(20)) + b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n")
        stream = raw.makefile("rb")
        for i in range(20):
            answer = json.loads(read_response(stream))
            assert (answer["id"], answer["outputs"][0]["data"]) == (str(i), [i])
        assert json.loads(read_response(stream)) == {"live": True}


def test_a_body_may_be_chunked_and_expected(gateway: Gateway) -> None:
    text = json.dumps(fp32([5], [1, 1])).encode()
    head = (
        f"POST {FREE} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n"
        "Connection: close\r\n\r\n"
    )
    with closing(socket.create_connection((gateway.host, gateway.http_port), timeout=30)) as raw:
        raw.sendall(head.encode())
        stream = raw.makefile("rb")
        assert stream.readline().startswith(b"HTTP/1.1 100")
        assert stream.readline() == b"\r\n"
        for i in range(0, len(text), 7):
            chunk = text[i : i + 7]
            raw.sendall(b"%x\r\n%s\r\n" % (len(chunk), chunk))
        raw.sendall(b"0\r\n\r\n")
        answer = stream.read()
    assert answer.startswith(b"HTTP/1.1 200")
    assert b'"data":[5' in answer
    assert b"connection: close" in answer.lower()


def test_a_caller_that_leaves_does_not_disturb_others(gateway: Gateway, connection: Connection) -> None:
    body = json.dumps(
        {
            "inputs": [
                {"name": "iterations", "datatype": "INT64", "shape": [1, 1], "data": [500]},
                {"name": "x", "datatype": "FP32", "shape": [1, 128], "data": [1.0] * 128},
            ]
        }
    ).encode()
    request = b"POST /v2/models/spinning/infer HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    for _ in range(30):
        with closing(socket.create_connection((gateway.host, gateway.http_port), timeout=30)) as raw:
            raw.sendall(request)
    assert connection.ask("POST", "/v2/models/spinning/infer", body).status == 200


def test_the_root_points_at_the_protocol(connection: Connection) -> None:
    assert connection.ask("GET", "/").json["name"] == "sluice"
