"""gRPC server reflection, from the descriptors of the generated messages."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from google.protobuf.descriptor import Descriptor, FileDescriptor, ServiceDescriptor

from gateway.frontends import Call
from gateway.frontends.status import Code
from gateway.pb import reflection_pb2 as pb

_DRAINING = (Code.UNAVAILABLE, "the server is shutting down")


class Descriptors(Protocol):
    """A `google.protobuf` descriptor pool. Each raises KeyError for what it does not have."""

    def FindFileByName(self, file_name: str) -> FileDescriptor: ...
    def FindFileContainingSymbol(self, symbol: str) -> FileDescriptor: ...
    def FindServiceByName(self, full_name: str) -> ServiceDescriptor: ...
    def FindMessageTypeByName(self, full_name: str) -> Descriptor: ...


class Reflection:
    """Answers for the files in `pool`, of which `services` are served. Version v1alpha has the same messages as v1
    under other names, so one object serves both."""

    def __init__(self, pool: Descriptors, services: Sequence[str]) -> None:
        self._pool = pool
        self._services = tuple(sorted(services))
        # The open calls: each is added by `open`, and leaves when it is over.
        self._calls: set[Call] = set()
        self._is_draining = False

    def open(self, call: Call) -> None:
        """One answer for each question, until the caller closes its side or `drain`."""
        self._calls.add(call)
        call.on_message = lambda message: self._answer(call, message)
        call.on_end = lambda: self._finish(call)
        call.on_cancel = lambda: self._calls.discard(call)
        if self._is_draining:
            self._finish(call, *_DRAINING)

    def drain(self) -> None:
        """Ends every call, also those that still come; callers ask again elsewhere."""
        self._is_draining = True
        for call in tuple(self._calls):
            self._finish(call, *_DRAINING)

    def answer(self, request: pb.ServerReflectionRequest) -> pb.ServerReflectionResponse:
        response = pb.ServerReflectionResponse(valid_host=request.host, original_request=request)
        try:
            self._fill(request, response)
        except KeyError:
            response.error_response.error_code = Code.NOT_FOUND
            response.error_response.error_message = "not found"
        return response

    def _answer(self, call: Call, message: bytes) -> None:
        try:
            request = pb.ServerReflectionRequest.FromString(message)
        except Exception as error:  # protobuf's DecodeError; with some implementations also others
            return self._finish(call, Code.INVALID_ARGUMENT, f"cannot parse the request: {error}")
        call.send(self.answer(request).SerializeToString())

    def _finish(self, call: Call, code: Code = Code.OK, text: str = "") -> None:
        self._calls.discard(call)
        call.finish(code, text)

    def _fill(self, request: pb.ServerReflectionRequest, response: pb.ServerReflectionResponse) -> None:
        asked: dict[str | None, Callable[[], None]] = {
            "list_services": lambda: self._list_services(response),
            "file_by_filename": lambda: _add_files(response, self._pool.FindFileByName(request.file_by_filename)),
            "file_containing_symbol": lambda: _add_files(response, self._file_with(request.file_containing_symbol)),
            "all_extension_numbers_of_type": lambda: self._extensions_of(request, response),
        }
        fill = asked.get(request.WhichOneof("message_request"))
        if fill is None:  # extensions of messages, which proto3 does not have, or nothing at all
            raise KeyError
        fill()

    def _file_with(self, symbol: str) -> FileDescriptor:
        try:
            return self._pool.FindFileContainingSymbol(symbol)
        except KeyError:  # the pool does not find methods
            name, _, method = symbol.rpartition(".")
            file: FileDescriptor = self._pool.FindServiceByName(name).methods_by_name[method].containing_service.file
            return file

    def _list_services(self, response: pb.ServerReflectionResponse) -> None:
        response.list_services_response.service.extend(pb.ServiceResponse(name=name) for name in self._services)

    def _extensions_of(self, request: pb.ServerReflectionRequest, response: pb.ServerReflectionResponse) -> None:
        name = request.all_extension_numbers_of_type
        self._pool.FindMessageTypeByName(name)
        response.all_extension_numbers_response.base_type_name = name


def _add_files(response: pb.ServerReflectionResponse, file: FileDescriptor) -> None:
    found = dict.fromkeys(_with_dependencies(file))
    response.file_descriptor_response.file_descriptor_proto.extend(each.serialized_pb for each in found)


def _with_dependencies(file: FileDescriptor) -> Iterator[FileDescriptor]:
    yield file
    for dependency in file.dependencies:
        yield from _with_dependencies(dependency)
