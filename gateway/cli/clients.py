"""Two small clients of the Open Inference Protocol, one for each transport, with the same two methods.

They send and receive raw tensor bytes, so that every datatype is exact; errors become `CommandFailed` with the text of
the server.
"""

from __future__ import annotations

import http.client
import json
import os
import ssl
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from gateway.cli.failure import CommandFailed, ExitCode, exit_code_of
from gateway.cli.remote import why_not
from gateway.cli.tensors import Array, from_raw, to_raw
from registry.manifest import TensorSpec

_ABSENT_HINT = "is `sluice serve` running there? `--url` names another address, https:// one with TLS"
_UNKNOWN_HINT = "`sluice models` shows what is served"
_TLS_HINT = "is this its inference port with TLS, and does --ca-file hold the authority of its certificate?"
_EXIT_CODES = {
    "INVALID_ARGUMENT": ExitCode.USAGE,
    "NOT_FOUND": ExitCode.NOT_FOUND,
    "UNAVAILABLE": ExitCode.UNAVAILABLE,
    "RESOURCE_EXHAUSTED": ExitCode.UNAVAILABLE,
    "DEADLINE_EXCEEDED": ExitCode.UNAVAILABLE,
    "UNAUTHENTICATED": ExitCode.NOT_PERMITTED,
    "PERMISSION_DENIED": ExitCode.NOT_PERMITTED,
}


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


@dataclass(frozen=True)
class Tls:
    """PEM files: who may vouch for the gateway (the system's authorities when None), and who we are."""

    ca_file: Path | None = None
    certificate_file: Path | None = None
    private_key_file: Path | None = None

    @property
    def is_asked_for(self) -> bool:
        return any((self.ca_file, self.certificate_file, self.private_key_file))

    def check(self) -> None:
        """CommandFailed for what cannot be."""
        if (self.certificate_file is None) != (self.private_key_file is None):
            what = "--certificate-file and --private-key-file belong together: give both"
            raise CommandFailed(what, exit_code=ExitCode.USAGE)

    def context(self) -> ssl.SSLContext:
        try:
            context = ssl.create_default_context(cafile=self.ca_file)
            if self.certificate_file is not None:
                context.load_cert_chain(self.certificate_file, self.private_key_file)
        except ssl.SSLError as error:
            raise CommandFailed(f"TLS: the PEM files do not do: {error}", exit_code=ExitCode.USAGE) from None
        except OSError as error:
            raise CommandFailed(f"TLS: a PEM file cannot be read: {error.strerror}", exit_code=ExitCode.USAGE) from None
        return context

    def contents(self) -> dict[str, bytes | None]:
        """As gRPC's credentials take them, checked as `context` does."""
        self.context()
        files = {
            "root_certificates": self.ca_file,
            "private_key": self.private_key_file,
            "certificate_chain": self.certificate_file,
        }
        return {name: None if file is None else file.read_bytes() for name, file in files.items()}


class Client(Protocol):
    def signature(self, model: str, version: str) -> Signature: ...
    def infer(self, model: str, version: str, inputs: Sequence[Tensor], outputs: Sequence[str]) -> Answer: ...


class HttpClient:
    """HTTP with the binary tensor extension; with TLS by an `https://` address or by what `tls` names."""

    def __init__(self, url: str, timeout: float, tls: Tls = Tls()) -> None:
        tls.check()
        scheme = "https" if tls.is_asked_for else "http"
        self._url = (url if "://" in url else f"{scheme}://{url}").rstrip("/")
        if tls.is_asked_for and not self._url.startswith("https://"):
            raise CommandFailed(f"{self._url} has no TLS: write https://", exit_code=ExitCode.USAGE)
        self._timeout = timeout
        self._context = tls.context() if self._url.startswith("https://") else None

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
                code = exit_code_of(error.code)
                hint = _UNKNOWN_HINT if code == ExitCode.NOT_FOUND else ""
                raise CommandFailed(f"{_error_text(error.read())} (HTTP {error.code})", hint, code) from None
        except (urllib.error.URLError, http.client.HTTPException, OSError, ValueError) as error:
            is_tls = isinstance(getattr(error, "reason", error), ssl.SSLError)
            hint = _TLS_HINT if is_tls else _ABSENT_HINT
            raise CommandFailed(f"{self._url} does not answer: {why_not(error)}", hint, ExitCode.UNAVAILABLE) from None


class GrpcClient:
    """gRPC with raw contents; with TLS by an `https://` or `grpcs://` address or by what `tls` names."""

    def __init__(self, url: str, timeout: float, tls: Tls = Tls()) -> None:
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # what fails is told once, by us
        import grpc

        from gateway.pb import inference_pb2

        tls.check()
        self._grpc, self._pb, self._timeout = grpc, inference_pb2, timeout
        scheme, _, self._address = url.rpartition("://")
        self._address = self._address.rstrip("/")
        self._has_tls = tls.is_asked_for or scheme in ("https", "grpcs")
        if tls.is_asked_for and scheme in ("http", "grpc"):
            raise CommandFailed(f"{url} has no TLS: write grpcs://", exit_code=ExitCode.USAGE)
        limits = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        if self._has_tls:
            credentials = grpc.ssl_channel_credentials(**tls.contents())
            self._channel = grpc.secure_channel(self._address, credentials, options=limits)
        else:
            self._channel = grpc.insecure_channel(self._address, options=limits)

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
            code, details = error.code(), error.details() or ""
            hint = ""
            if code == self._grpc.StatusCode.UNAVAILABLE:
                hint = _TLS_HINT if self._has_tls else _ABSENT_HINT
                details = details.replace("failed to connect to all addresses; last error: ", "no connection: ")
            exit_code = _EXIT_CODES.get(code.name, ExitCode.FAILED)
            if exit_code == ExitCode.NOT_FOUND:
                hint = _UNKNOWN_HINT
            raise CommandFailed(f"{details} (gRPC {code.name})", hint, exit_code) from None


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
