"""The two clients of the protocol, tritonclient's over HTTP and over gRPC, behind one face, so that a test of behaviour
is written once."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from google.protobuf import json_format
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from gateway.frontends.status import HTTP_STATUS, Code

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Answer:
    model: str
    version: str
    id: str | None
    outputs: dict[str, Array]
    datatypes: dict[str, str]
    parameters: dict[str, Any]


class Refused(Exception):
    """The gateway answered with an error: `status` is an HTTP status, or a gRPC code."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(status, text)
        self.status = status
        self.text = text


class Client(Protocol):
    protocol: str

    def is_live(self) -> bool: ...
    def is_ready(self) -> bool: ...
    def is_model_ready(self, model: str, version: str = "") -> bool: ...
    def server_metadata(self) -> dict[str, Any]: ...
    def model_metadata(self, model: str, version: str = "") -> dict[str, Any]: ...
    def model_config(self, model: str, version: str = "") -> dict[str, Any]: ...
    def statistics(self, model: str = "", version: str = "") -> list[dict[str, Any]]: ...
    def index(self) -> list[dict[str, Any]]: ...
    def load(self, model: str, config: str | None = None, files: dict[str, bytes] | None = None) -> None: ...
    def unload(self, model: str) -> None: ...
    def infer(
        self,
        model: str,
        inputs: Mapping[str, Array],
        *,
        outputs: Sequence[str] | None = None,
        classification: int = 0,
        version: str = "",
        id: str = "",
        deadline: float | None = None,
        timeout_us: int | None = None,
        priority: int = 0,
        binary: bool = True,
        compression: str | None = None,
        parameters: Mapping[str, Any] | None = None,
    ) -> Answer: ...
    def close(self) -> None: ...


class HttpClient:
    """`binary` says how tensors travel, both ways."""

    protocol = "http"

    def __init__(self, url: str, **options: Any) -> None:
        self._client = triton_http.InferenceServerClient(url, network_timeout=60.0, **options)

    def is_live(self) -> bool:
        return bool(self._client.is_server_live())

    def is_ready(self) -> bool:
        return bool(self._client.is_server_ready())

    def is_model_ready(self, model: str, version: str = "") -> bool:
        return bool(self._client.is_model_ready(model, version))

    def server_metadata(self) -> dict[str, Any]:
        with _refusals():
            return dict(self._client.get_server_metadata())

    def model_metadata(self, model: str, version: str = "") -> dict[str, Any]:
        with _refusals():
            return dict(self._client.get_model_metadata(model, version))

    def model_config(self, model: str, version: str = "") -> dict[str, Any]:
        with _refusals():
            return dict(self._client.get_model_config(model, version))

    def statistics(self, model: str = "", version: str = "") -> list[dict[str, Any]]:
        with _refusals():
            return list(self._client.get_inference_statistics(model, version)["model_stats"])

    def index(self) -> list[dict[str, Any]]:
        with _refusals():
            return list(self._client.get_model_repository_index())

    def load(self, model: str, config: str | None = None, files: dict[str, bytes] | None = None) -> None:
        with _refusals():
            self._client.load_model(model, config=config, files=files)

    def unload(self, model: str) -> None:
        with _refusals():
            self._client.unload_model(model)

    def infer(
        self,
        model: str,
        inputs: Mapping[str, Array],
        *,
        outputs: Sequence[str] | None = None,
        classification: int = 0,
        version: str = "",
        id: str = "",
        deadline: float | None = None,
        timeout_us: int | None = None,
        priority: int = 0,
        binary: bool = True,
        compression: str | None = None,
        parameters: Mapping[str, Any] | None = None,
    ) -> Answer:
        tensors = []
        for name, array in inputs.items():
            datatype = np_to_triton_dtype(array.dtype)
            tensor = triton_http.InferInput(name, list(array.shape), datatype)
            tensor.set_data_from_numpy(array, binary_data=binary)
            tensors.append(tensor)
        wanted = None
        if outputs is not None:
            wanted = [
                triton_http.InferRequestedOutput(name, binary_data=binary, class_count=classification)
                for name in outputs
            ]
        with _refusals():
            result = self._client.infer(
                model,
                tensors,
                model_version=version,
                outputs=wanted,
                request_id=id,
                priority=priority,
                timeout=timeout_us,
                headers={"request-timeout": str(deadline)} if deadline is not None else None,
                request_compression_algorithm=compression,
                response_compression_algorithm=compression,
                parameters=dict(parameters) if parameters else None,
            )
        response = result.get_response()
        return Answer(
            response["model_name"],
            response["model_version"],
            response.get("id"),
            {each["name"]: result.as_numpy(each["name"]) for each in response["outputs"]},
            {each["name"]: each["datatype"] for each in response["outputs"]},
            response.get("parameters", {}),
        )

    def close(self) -> None:
        self._client.close()


class GrpcClient:
    protocol = "grpc"

    def __init__(self, url: str, **options: Any) -> None:
        self._client = triton_grpc.InferenceServerClient(url, **options)

    def is_live(self) -> bool:
        return bool(self._client.is_server_live())

    def is_ready(self) -> bool:
        return bool(self._client.is_server_ready())

    def is_model_ready(self, model: str, version: str = "") -> bool:
        return bool(self._client.is_model_ready(model, version))

    def server_metadata(self) -> dict[str, Any]:
        with _refusals():
            return _numbers(self._client.get_server_metadata())

    def model_metadata(self, model: str, version: str = "") -> dict[str, Any]:
        with _refusals():
            return _numbers(self._client.get_model_metadata(model, version))

    def model_config(self, model: str, version: str = "") -> dict[str, Any]:
        with _refusals():
            return dict(_numbers(self._client.get_model_config(model, version))["config"])

    def statistics(self, model: str = "", version: str = "") -> list[dict[str, Any]]:
        with _refusals():
            return list(_numbers(self._client.get_inference_statistics(model, version))["model_stats"])

    def index(self) -> list[dict[str, Any]]:
        with _refusals():
            entries = _numbers(self._client.get_model_repository_index())["models"]
        return [{name: value for name, value in entry.items() if value} for entry in entries]

    def load(self, model: str, config: str | None = None, files: dict[str, bytes] | None = None) -> None:
        with _refusals():
            self._client.load_model(model, config=config, files=files)

    def unload(self, model: str) -> None:
        with _refusals():
            self._client.unload_model(model)

    def infer(
        self,
        model: str,
        inputs: Mapping[str, Array],
        *,
        outputs: Sequence[str] | None = None,
        classification: int = 0,
        version: str = "",
        id: str = "",
        deadline: float | None = None,
        timeout_us: int | None = None,
        priority: int = 0,
        binary: bool = True,
        compression: str | None = None,
        parameters: Mapping[str, Any] | None = None,
    ) -> Answer:
        tensors = []
        for name, array in inputs.items():
            datatype = np_to_triton_dtype(array.dtype)
            tensor = triton_grpc.InferInput(name, list(array.shape), datatype)
            tensor.set_data_from_numpy(array)
            tensors.append(tensor)
        wanted = None
        if outputs is not None:
            wanted = [triton_grpc.InferRequestedOutput(name, class_count=classification) for name in outputs]
        with _refusals():
            result = self._client.infer(
                model,
                tensors,
                model_version=version,
                outputs=wanted,
                request_id=id,
                priority=priority,
                timeout=timeout_us,
                client_timeout=deadline,
                compression_algorithm=compression,
                parameters=dict(parameters) if parameters else None,
            )
        response = result.get_response()
        return Answer(
            response.model_name,
            response.model_version,
            response.id or None,
            {each.name: result.as_numpy(each.name) for each in response.outputs},
            {each.name: each.datatype for each in response.outputs},
            {name: getattr(value, value.WhichOneof("parameter_choice")) for name, value in response.parameters.items()},
        )

    def close(self) -> None:
        self._client.close()


def connect(protocol: str, http_url: str, grpc_url: str) -> Client:
    return HttpClient(http_url) if protocol == "http" else GrpcClient(grpc_url)


@contextmanager
def refused(client: Client, code: Code, *texts: str) -> Iterator[None]:
    """What is inside must be refused with this code (over HTTP: its status), in words that contain each of `texts`."""
    with pytest.raises(Refused) as caught:
        yield
    expected = HTTP_STATUS[code] if client.protocol == "http" else int(code)
    assert caught.value.status == expected, caught.value
    for text in texts:
        assert text in caught.value.text


@contextmanager
def _refusals() -> Iterator[None]:
    try:
        yield
    except InferenceServerException as error:
        status = error.status()
        if status is None:  # the client's own complaint
            raise
        if status.startswith("StatusCode."):
            raise Refused(Code[status.removeprefix("StatusCode.")], error.message()) from None
        raise Refused(int(status), error.message()) from None


def _numbers(message: Any) -> dict[str, Any]:
    """A message as a dict, 64-bit numbers as the ints they are."""
    plain = json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    fixed: dict[str, Any] = json.loads(json.dumps(plain), object_hook=_fix)
    return fixed


_TEXT_FIELDS = {"name", "version", "versions", "string_value", "model_version", "reason", "state"}


def _fix(pairs: dict[str, Any]) -> dict[str, Any]:
    return {name: value if name in _TEXT_FIELDS else _number(value) for name, value in pairs.items()}


def _number(value: Any) -> Any:
    if isinstance(value, list):
        return [_number(each) for each in value]
    return int(value) if isinstance(value, str) and value.lstrip("-").isdigit() else value
