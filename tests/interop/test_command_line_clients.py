"""curl and nghttp: what people try first."""

import json
import shutil
import struct
from pathlib import Path

import pytest
from interop_install import run
from live_gateway import Gateway

from gateway.pb import inference_pb2

REQUEST = json.dumps({"id": "7", "inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}]})

needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
needs_nghttp = pytest.mark.skipif(shutil.which("nghttp") is None, reason="nghttp is not installed")


def curl(*arguments: str) -> str:
    return run(["curl", "--silent", "--show-error", "--max-time", "30", *arguments])


@needs_curl
def test_curl_infers(gateway: Gateway) -> None:
    said = json.loads(curl("--data", REQUEST, f"http://{gateway.http_url}/v2/models/free/infer"))
    assert (said["id"], said["outputs"][0]["data"]) == ("7", [1, 2])


@needs_curl
def test_curl_infers_with_compression(gateway: Gateway) -> None:
    body = REQUEST.replace("[1, 2]}", str([1, 2000]) + "}").replace('"data": [1, 2000]', f'"data": {[0.5] * 2000}')
    body = body.replace('"shape": [1, 2]', '"shape": [1, 2000]')
    said = json.loads(curl("--compressed", "--data", body, f"http://{gateway.http_url}/v2/models/free/infer"))
    assert said["outputs"][0]["data"] == [0.5] * 2000


@needs_curl
def test_curl_expects_a_continue_before_a_large_body(gateway: Gateway, tmp_path: Path) -> None:
    count = 500_000
    body = tmp_path / "body"
    head = json.dumps(
        {
            "inputs": [
                {
                    "name": "x",
                    "datatype": "FP32",
                    "shape": [1, count],
                    "parameters": {"binary_data_size": 4 * count},
                }
            ],
            "outputs": [{"name": "y", "parameters": {"binary_data": True}}],
        }
    ).encode()
    data = struct.pack("<f", 1.5) * count
    body.write_bytes(head + data)
    answer = tmp_path / "answer"
    head_length = f"Inference-Header-Content-Length: {len(head)}"
    curl(
        "--data-binary", f"@{body}", "-H", head_length, "-H", "Expect: 100-continue", "-o", str(answer),
        f"http://{gateway.http_url}/v2/models/free/infer",
    )  # fmt: skip
    assert answer.read_bytes().endswith(data)


@needs_curl
def test_curl_is_told_the_status(gateway: Gateway) -> None:
    url = f"http://{gateway.http_url}/v2/models/nothing/infer"
    assert curl("--data", REQUEST, "-o", "/dev/null", "-w", "%{http_code}", url) == "404"
    assert curl("-I", "-o", "/dev/null", "-w", "%{http_code}", f"http://{gateway.http_url}/v2/health/ready") == "200"


@needs_nghttp
def test_nghttp_calls_by_hand(gateway: Gateway, tmp_path: Path) -> None:
    request = inference_pb2.ModelInferRequest(model_name="free", id="7", raw_input_contents=[b"\0" * 8])
    request.inputs.add(name="x", datatype="FP32", shape=[1, 2])
    message = request.SerializeToString()
    body = tmp_path / "body"
    body.write_bytes(b"\0" + struct.pack(">I", len(message)) + message)
    url = f"http://{gateway.grpc_url}/inference.GRPCInferenceService/ModelInfer"
    headers = ["-H", "content-type: application/grpc", "-H", "te: trailers"]
    said = run(["nghttp", "--verbose", "--data", str(body), *headers, url])
    assert "grpc-status: 0" in said
    assert "sluice-model-version: 1" in said
    assert ":status: 200" in said


@needs_nghttp
def test_nghttp_without_a_content_type_is_refused(gateway: Gateway) -> None:
    said = run(["nghttp", "--verbose", f"http://{gateway.grpc_url}/"])
    assert ":status: 415" in said or "grpc-status" in said or ":status: 405" in said
