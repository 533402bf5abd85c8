"""What only gRPC has: streams of inference, health that is watched, reflection, statuses and metadata on the wire."""

import queue
import threading
from collections.abc import Iterator
from typing import Any

import grpc
import models
import numpy as np
import pytest
import tritonclient.grpc as triton
from live_gateway import Gateway, StartGateway
from tritonclient.utils import InferenceServerException

from gateway.frontends.status import Code
from gateway.pb import health_pb2, inference_pb2, reflection_pb2

SERVICE = "/inference.GRPCInferenceService/"
HEALTH = "/grpc.health.v1.Health/"


@pytest.fixture
def channel(gateway: Gateway) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(gateway.grpc_url) as channel:
        yield channel


class Streamed:
    """A tritonclient stream; its replies come through a queue."""

    def __init__(self, url: str, headers: dict[str, str] | None = None) -> None:
        self.replies: queue.Queue[tuple[Any, InferenceServerException | None]] = queue.Queue()
        self._client = triton.InferenceServerClient(url)
        self._client.start_stream(lambda result, error: self.replies.put((result, error)), headers=headers)

    def ask(self, model: str, inputs: dict[str, np.ndarray[Any, Any]], id: str = "", **more: Any) -> None:
        tensors = []
        for name, array in inputs.items():
            tensor = triton.InferInput(name, list(array.shape), triton.np_to_triton_dtype(array.dtype))
            tensor.set_data_from_numpy(array)
            tensors.append(tensor)
        self._client.async_stream_infer(model, tensors, request_id=id, **more)

    def next(self) -> tuple[Any, InferenceServerException | None]:
        return self.replies.get(timeout=30)

    def close(self) -> None:
        self._client.stop_stream()
        self._client.close()


@pytest.fixture
def stream(gateway: Gateway) -> Iterator[Streamed]:
    stream = Streamed(gateway.grpc_url)
    yield stream
    stream.close()


ONE = np.ones((1, 1), np.float32)


def test_a_stream_answers_in_order(stream: Streamed) -> None:
    count = 50
    for i in range(count):
        if i % 10 == 0:
            stream.ask(
                "spinning", {"iterations": np.array([[500]], np.int64), "x": np.ones((1, 128), np.float32)}, id=str(i)
            )
        else:
            stream.ask("free", {"x": np.float32([[i]])}, id=str(i))
    for i in range(count):
        result, error = stream.next()
        assert error is None
        assert result.get_response().id == str(i)
        if i % 10:
            assert result.as_numpy("y").tolist() == [[i]]


def test_every_good_reply_says_that_it_is_final(stream: Streamed) -> None:
    stream.ask("free", {"x": ONE}, enable_empty_final_response=True)
    result, error = stream.next()
    assert error is None
    assert result.get_response().parameters["triton_final_response"].bool_param is True
    assert stream.replies.empty()


def test_an_error_is_a_message_and_the_stream_goes_on(stream: Streamed) -> None:
    stream.ask("nothing", {"x": ONE}, id="bad")
    stream.ask("free", {"x": ONE}, id="good")
    result, error = stream.next()
    assert error is not None
    assert "Request for unknown model: 'nothing' is not found" in error.message()
    result, error = stream.next()
    assert error is None
    assert result.get_response().id == "good"


def test_an_error_keeps_its_id(channel: grpc.Channel) -> None:
    call = channel.stream_stream(SERVICE + "ModelStreamInfer")
    requests = [inference_pb2.ModelInferRequest(model_name="nothing", id="bad").SerializeToString()]
    (raw,) = call(iter(requests))
    reply = inference_pb2.ModelStreamInferResponse.FromString(raw)
    assert reply.infer_response.id == "bad"
    assert reply.error_message


def test_a_caller_may_ask_for_true_statuses(gateway: Gateway) -> None:
    stream = Streamed(gateway.grpc_url, headers={"triton_grpc_error": "true"})
    stream.ask("nothing", {"x": ONE})
    result, error = stream.next()
    assert error is not None
    assert error.status() == "StatusCode.NOT_FOUND"
    stream.close()


def test_a_cancelled_stream_leaves_the_gateway_serving(gateway: Gateway, stream: Streamed) -> None:
    for _ in range(5):
        with grpc.insecure_channel(gateway.grpc_url) as channel:
            request = inference_pb2.ModelInferRequest(model_name="nothing").SerializeToString()
            call = channel.stream_stream(SERVICE + "ModelStreamInfer")(iter([request] * 100))
            next(call)
            call.cancel()
    stream.ask("free", {"x": ONE})
    assert stream.next()[1] is None


def test_a_large_stream_is_answered_whole(channel: grpc.Channel) -> None:
    array = np.arange(50_000, dtype=np.float32).reshape(1, -1)
    request = inference_pb2.ModelInferRequest(model_name="free", raw_input_contents=[array.tobytes()])
    request.inputs.add(name="x", datatype="FP32", shape=array.shape)
    call = channel.stream_stream(SERVICE + "ModelStreamInfer")
    replies = list(call(iter([request.SerializeToString()] * 60)))
    assert len(replies) == 60
    for raw in replies:
        response = inference_pb2.ModelStreamInferResponse.FromString(raw).infer_response
        assert response.raw_output_contents[0] == array.tobytes()


@pytest.mark.parametrize(
    ("service", "status"), [("", "SERVING"), ("inference.GRPCInferenceService", "SERVING"), ("free", "SERVING")]
)
def test_health_is_checked_by_service(channel: grpc.Channel, service: str, status: str) -> None:
    check = channel.unary_unary(HEALTH + "Check")
    raw = check(health_pb2.HealthCheckRequest(service=service).SerializeToString())
    assert health_pb2.HealthCheckResponse.ServingStatus.Name(health_pb2.HealthCheckResponse.FromString(raw).status) == (
        status
    )


def test_the_health_of_an_unknown_service_is_not_found(channel: grpc.Channel) -> None:
    check = channel.unary_unary(HEALTH + "Check")
    with pytest.raises(grpc.RpcError) as caught:
        check(health_pb2.HealthCheckRequest(service="nothing").SerializeToString())
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND


def test_the_health_of_everything_is_listed(channel: grpc.Channel) -> None:
    raw = channel.unary_unary(HEALTH + "List")(b"")
    statuses = health_pb2.HealthListResponse.FromString(raw).statuses
    assert {"", "free", "which"} <= set(statuses)


def test_health_is_watched_through_load_and_drain(start_gateway: StartGateway) -> None:
    gateway = start_gateway({"which": {1: models.version_of(1)}}, settings={"drain.delay_seconds": 0.2})
    with grpc.insecure_channel(gateway.grpc_url) as channel:
        watch = channel.unary_stream(HEALTH + "Watch")
        seen: list[int] = []
        ended = threading.Event()

        def read(call: Any) -> None:
            try:
                for raw in call:
                    seen.append(health_pb2.HealthCheckResponse.FromString(raw).status)
                    first.set()
            except grpc.RpcError:
                pass
            ended.set()

        first = threading.Event()
        thread = threading.Thread(target=read, args=(watch(b""),))
        thread.start()
        assert first.wait(30)
        gateway.terminate()
        assert ended.wait(30)
        thread.join()
        assert gateway.wait_stopped() == 0
    assert seen == [1, 2]


def ask_reflection(channel: grpc.Channel, version: str, **question: Any) -> reflection_pb2.ServerReflectionResponse:
    call = channel.stream_stream(f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo")
    (raw,) = call(iter([reflection_pb2.ServerReflectionRequest(**question).SerializeToString()]))
    return reflection_pb2.ServerReflectionResponse.FromString(raw)


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
def test_reflection_lists_the_services(channel: grpc.Channel, version: str) -> None:
    response = ask_reflection(channel, version, list_services="")
    names = [each.name for each in response.list_services_response.service]
    assert {"inference.GRPCInferenceService", "grpc.health.v1.Health"} <= set(names)


def test_reflection_describes_the_service(channel: grpc.Channel) -> None:
    response = ask_reflection(channel, "v1", file_containing_symbol="inference.GRPCInferenceService")
    assert len(response.file_descriptor_response.file_descriptor_proto) == 2


@pytest.mark.parametrize(
    ("method", "code"),
    [
        ("SystemSharedMemoryStatus", grpc.StatusCode.UNIMPLEMENTED),
        ("TraceSetting", grpc.StatusCode.UNIMPLEMENTED),
        ("Nothing", grpc.StatusCode.UNIMPLEMENTED),
    ],
)
def test_what_is_not_offered_says_so(channel: grpc.Channel, method: str, code: grpc.StatusCode) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(SERVICE + method)(b"")
    assert caught.value.code() == code
    assert caught.value.details()


def infer_request(**more: Any) -> inference_pb2.ModelInferRequest:
    request = inference_pb2.ModelInferRequest(model_name="free", **more)
    request.inputs.add(name="x", datatype="FP32", shape=[1, 2])
    return request


def refusal(channel: grpc.Channel, message: bytes) -> tuple[Code, str]:
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(SERVICE + "ModelInfer")(message)
    return Code(caught.value.code().value[0]), caught.value.details()


def test_a_refusal_tells_programs_why(channel: grpc.Channel) -> None:
    def reason(message: bytes) -> bytes:
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary(SERVICE + "ModelInfer")(message)
        details = dict(caught.value.trailing_metadata())["grpc-status-details-bin"]
        assert b"type.googleapis.com/google.rpc.ErrorInfo" in details
        return bytes(details)

    assert b"MALFORMED_REQUEST" in reason(b"\x0a\xff")
    assert b"UNKNOWN_MODEL" in reason(inference_pb2.ModelInferRequest(model_name="no").SerializeToString())
    assert b"UNKNOWN_VERSION" in reason(
        infer_request(model_version="99", raw_input_contents=[bytes(8)]).SerializeToString()
    )
    assert b"SIGNATURE_MISMATCH" in reason(
        infer_request(raw_input_contents=[bytes(8)], outputs=[{"name": "no"}]).SerializeToString()
    )


def test_typed_contents_are_answered_typed(channel: grpc.Channel) -> None:
    request = infer_request()
    request.inputs[0].contents.fp32_contents.extend([1, 2])
    raw = channel.unary_unary(SERVICE + "ModelInfer")(request.SerializeToString())
    response = inference_pb2.ModelInferResponse.FromString(raw)
    assert list(response.outputs[0].contents.fp32_contents) == [1, 2]
    assert not response.raw_output_contents


def test_raw_contents_are_answered_raw(channel: grpc.Channel) -> None:
    request = infer_request(raw_input_contents=[np.float32([1, 2]).tobytes()])
    raw = channel.unary_unary(SERVICE + "ModelInfer")(request.SerializeToString())
    response = inference_pb2.ModelInferResponse.FromString(raw)
    assert response.raw_output_contents[0] == np.float32([1, 2]).tobytes()
    assert not response.outputs[0].HasField("contents")


@pytest.mark.parametrize(
    ("field", "datatype", "values"),
    [
        ("bool_contents", "BOOL", [True, False]),
        ("int_contents", "INT8", [-128, 127]),
        ("int_contents", "INT16", [-(2**15), 2**15 - 1]),
        ("int_contents", "INT32", [-(2**31), 2**31 - 1]),
        ("int64_contents", "INT64", [-(2**63), 2**63 - 1]),
        ("uint_contents", "UINT8", [0, 255]),
        ("uint_contents", "UINT16", [0, 2**16 - 1]),
        ("uint_contents", "UINT32", [0, 2**32 - 1]),
        ("uint64_contents", "UINT64", [0, 2**64 - 1]),
        ("fp32_contents", "FP32", [1.5, -0.0]),
        ("fp64_contents", "FP64", [1e300, 0.1]),
        ("bytes_contents", "BYTES", [b"", "é\0".encode()]),
    ],
)
def test_every_datatype_travels_as_typed_contents(
    start_module_gateway: StartGateway, identities: Gateway, field: str, datatype: str, values: list[Any]
) -> None:
    with grpc.insecure_channel(identities.grpc_url) as channel:
        request = inference_pb2.ModelInferRequest(model_name=datatype)
        tensor = request.inputs.add(name="x", datatype=datatype, shape=[1, 2])
        getattr(tensor.contents, field).extend(values)
        raw = channel.unary_unary(SERVICE + "ModelInfer")(request.SerializeToString())
        (output,) = inference_pb2.ModelInferResponse.FromString(raw).outputs
        assert list(getattr(output.contents, field)) == values


@pytest.fixture(scope="module")
def identities(start_module_gateway: StartGateway) -> Gateway:
    typed = [each for each in models.DATATYPES if each not in ("FP16", "BF16")]
    return start_module_gateway({each: {1: models.identity(each, ("N", 2))} for each in typed})


TRUE = inference_pb2.InferParameter(bool_param=True)
REFUSED = {
    "raw-and-typed": (
        lambda r: (r.inputs[0].contents.fp32_contents.extend([1, 2]), r.raw_input_contents.append(b"\0" * 8)),
        "contents field must not be specified when using raw_input_contents for 'x' for model 'free'",
    ),
    "no-bytes": (lambda r: None, "unable to find data for input tensor 'x' for model 'free' in request."),
    "short": (
        lambda r: r.raw_input_contents.append(b"\0" * 7),
        "input byte size mismatch for input 'x' for model 'free'. Expected 8, got 7",
    ),
    "typed-short": (lambda r: r.inputs[0].contents.fp32_contents.append(1), "x"),
    "duplicate": (
        lambda r: (r.inputs.append(r.inputs[0]), r.raw_input_contents.extend([b"\0" * 8] * 2)),
        "input 'x' already exists in request",
    ),
    "reserved-parameter": (
        lambda r: (r.parameters["triton_secret"].MergeFrom(TRUE), r.raw_input_contents.append(b"\0" * 8)),
        "triton_secret",
    ),
    "negative-shape": (
        lambda r: (r.inputs[0].shape.__setitem__(1, -2), r.raw_input_contents.append(b"\0" * 8)),
        "x",
    ),
    "huge-shape": (
        lambda r: (r.inputs[0].shape.__setitem__(1, 2**62), r.raw_input_contents.append(b"\0" * 8)),
        "x",
    ),
}


@pytest.mark.parametrize(("change", "text"), REFUSED.values(), ids=REFUSED)
def test_a_bad_message_is_an_invalid_argument(channel: grpc.Channel, change: Any, text: str) -> None:
    request = infer_request()
    change(request)
    code, details = refusal(channel, request.SerializeToString())
    assert code == Code.INVALID_ARGUMENT
    assert text in details


@pytest.mark.parametrize("message", [b"\xff" * 10, b"\x0a\x7f", b"\x2a\x05ab"], ids=["noise", "cut", "cut-tensor"])
def test_an_unreadable_message_is_an_invalid_argument(channel: grpc.Channel, message: bytes) -> None:
    assert refusal(channel, message)[0] == Code.INVALID_ARGUMENT


def test_trailers_name_the_version_that_answered(channel: grpc.Channel) -> None:
    request = inference_pb2.ModelInferRequest(model_name="which", raw_input_contents=[b"\0" * 4])
    request.inputs.add(name="x", datatype="FP32", shape=[1, 1])
    _, call = channel.unary_unary(SERVICE + "ModelInfer").with_call(request.SerializeToString())
    assert ("sluice-model-version", "10") in list(call.trailing_metadata())


def test_a_thousand_cancelled_calls_leave_the_gateway_serving(channel: grpc.Channel) -> None:
    request = inference_pb2.ModelInferRequest(model_name="spinning")
    request.inputs.add(name="iterations", datatype="INT64", shape=[1, 1])
    request.inputs.add(name="x", datatype="FP32", shape=[1, 128])
    request.raw_input_contents.extend([np.array([2], np.int64).tobytes(), b"\0" * 512])
    method = channel.unary_unary(SERVICE + "ModelInfer")
    message = request.SerializeToString()
    for i in range(20):
        calls = [method.future(message) for _ in range(50)]
        if i % 2:
            calls[0].result()
        for call in calls:
            call.cancel()
    assert method(message)
