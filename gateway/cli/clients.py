"""Two small clients of the Open Inference Protocol, one for each transport, with the same two methods.

They send and receive raw tensor bytes, so that every datatype is exact; errors become `CommandFailed` with the text of
the server.
"""

from __future__ import annotations

import http.client
import json
import ssl
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from gateway.cli.failure import CommandFailed
from gateway.cli.tensors import Array, from_raw, to_raw


@dataclass(frozen=True)
class TensorSpec:
    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Tensor:
    spec: TensorSpec
    """With the shape that the tensor has."""
    array: Array


@dataclass(frozen=True)
class Signature:
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


@dataclass(frozen=True)
class Answer:
    model: str
    version: str
    outputs: tuple[Tensor, ...]


class Client(Protocol):
    def signature(self, model: str, version: str) -> Signature: ...
    def infer(self, model: str, version: str, inputs: Sequence[Tensor], outputs: Sequence[str]) -> Answer: ...


class HttpClient:
    """HTTP with the binary tensor extension."""

    def __init__(self, url: str, timeout: float, context: ssl.SSLContext | None = None) -> None:
        self._url = (url if "://" in url else f"http://{url}").rstrip("/")
        self._timeout = timeout
        self._context = context

    def signature(self, model: str, version: str) -> Signature:
        metadata = json.loads(self._call(_path(model, version))[0])
        return Signature(_specs(metadata["inputs"]), _specs(metadata["outputs"]))

    def infer(self, model: str, version: str, inputs: Sequence[Tensor], outputs: Sequence[str]) -> Answer:
        raws = [to_raw(tensor.array, tensor.spec.datatype) for tensor in inputs]
        head: dict[str, Any] = {
            "inputs": [
                {
                    "name": tensor.spec.name,
                    "datatype": tensor.spec.datatype,
                    "shape": list(tensor.spec.shape),
                    "parameters": {"binary_data_size": len(raw)},
                }
                for tensor, raw in zip(inputs, raws, strict=True)
            ]
        }
        if outputs:
            head["outputs"] = [{"name": name, "parameters": {"binary_data": True}} for name in outputs]
        else:
            head["parameters"] = {"binary_data_output": True}
        text = json.dumps(head).encode()
        headers = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(len(text))}
        body, length = self._call(_path(model, version) + "/infer", text + b"".join(raws), headers)
        answer = json.loads(body[:length])
        return Answer(answer["model_name"], answer.get("model_version", ""), _outputs(answer["outputs"], body[length:]))

    def _call(self, path: str, body: bytes | None = None, headers: dict[str, str] | None = None) -> tuple[bytes, int]:
        """The body, and how much of it is JSON."""
        request = urllib.request.Request(self._url + path, body, headers or {})
        try:
            with urllib.request.urlopen(request, timeout=self._timeout, context=self._context) as response:
                content = response.read()
                return content, int(response.headers.get("Inference-Header-Content-Length", len(content)))
        except urllib.error.HTTPError as error:
            with error:
                raise CommandFailed(f"{_error_text(error.read())} (HTTP {error.code})") from None
        except (urllib.error.URLError, http.client.HTTPException, OSError, ValueError) as error:
            reason = getattr(error, "reason", error)
            raise CommandFailed(f"{self._url} does not answer: {reason}", "is `sluice serve` running?") from None


class GrpcClient:
    """gRPC with raw contents."""

    def __init__(self, url: str, timeout: float) -> None:
        import grpc

        from gateway.pb import inference_pb2

        self._grpc, self._pb = grpc, inference_pb2
        self._url, self._timeout = url.removeprefix("grpc://"), timeout
        limit = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        self._channel = grpc.insecure_channel(self._url, options=limit)

    def signature(self, model: str, version: str) -> Signature:
        request = self._pb.ModelMetadataRequest(name=model, version=version)
        metadata = self._call("ModelMetadata", request, self._pb.ModelMetadataResponse)
        return Signature(
            *(
                tuple(TensorSpec(one.name, one.datatype, tuple(one.shape)) for one in side)
                for side in (metadata.inputs, metadata.outputs)
            )
        )

    def infer(self, model: str, version: str, inputs: Sequence[Tensor], outputs: Sequence[str]) -> Answer:
        request = self._pb.ModelInferRequest(model_name=model, model_version=version)
        for tensor in inputs:
            request.inputs.add(name=tensor.spec.name, datatype=tensor.spec.datatype, shape=tensor.spec.shape)
            request.raw_input_contents.append(to_raw(tensor.array, tensor.spec.datatype))
        for name in outputs:
            request.outputs.add(name=name)
        answer = self._call("ModelInfer", request, self._pb.ModelInferResponse)
        tensors = []
        for output, raw in zip(answer.outputs, answer.raw_output_contents, strict=True):
            spec = TensorSpec(output.name, output.datatype, tuple(output.shape))
            tensors.append(Tensor(spec, from_raw(raw, spec.datatype, spec.shape)))
        return Answer(answer.model_name, answer.model_version, tuple(tensors))

    def _call(self, method: str, request: Any, response: Any) -> Any:
        call: Any = self._channel.unary_unary(
            f"/inference.GRPCInferenceService/{method}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=response.FromString,
        )
        try:
            return call(request, timeout=self._timeout)
        except self._grpc.RpcError as error:
            code, details = error.code(), error.details()
            hint = "is `sluice serve` running?" if code == self._grpc.StatusCode.UNAVAILABLE else ""
            raise CommandFailed(f"{details} (gRPC {code.name})", hint) from None


def _path(model: str, version: str) -> str:
    path = f"/v2/models/{urllib.parse.quote(model, safe='')}"
    return f"{path}/versions/{urllib.parse.quote(version, safe='')}" if version else path


def _specs(tensors: Sequence[Any]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(one["name"], one["datatype"], tuple(one["shape"])) for one in tensors)


def _outputs(outputs: Sequence[Any], raw: bytes) -> tuple[Tensor, ...]:
    tensors, at = [], 0
    for spec, output in zip(_specs(outputs), outputs, strict=True):
        size = output["parameters"]["binary_data_size"]
        tensors.append(Tensor(spec, from_raw(raw[at : at + size], spec.datatype, spec.shape)))
        at += size
    return tuple(tensors)


def _error_text(body: bytes) -> str:
    try:
        return str(json.loads(body)["error"])
    except (ValueError, KeyError, TypeError):
        return body.decode("utf-8", "replace").strip()[:200] or "the request was refused"
