"""grpc.health.v1 for the server and for each model by its name. Knows readiness, not what it depends on."""

from __future__ import annotations

from collections.abc import Callable

from gateway.errors import UnknownModel
from gateway.frontends import Call, DataPlane
from gateway.frontends.status import Code
from gateway.pb import health_pb2

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVICE_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN

SERVER = ("", "inference.GRPCInferenceService")
"""The names by which probes ask for the server as a whole."""


class Health:
    def __init__(self, plane: DataPlane) -> None:
        self._plane = plane
        # The open Watch calls: each adds itself, and leaves when it is cancelled or ended.
        self._watchers: set[_Watcher] = set()
        self._is_draining = False

    def check(self, request: health_pb2.HealthCheckRequest) -> health_pb2.HealthCheckResponse:
        """Raises UnknownModel, as NOT_FOUND, for a service that is neither the server nor a model."""
        status = self.status(request.service)
        if status == SERVICE_UNKNOWN:
            raise UnknownModel(request.service)
        return health_pb2.HealthCheckResponse(status=status)

    def list_all(self, request: health_pb2.HealthListRequest) -> health_pb2.HealthListResponse:
        names = ["", *self._models()]
        return health_pb2.HealthListResponse(
            statuses={name: health_pb2.HealthCheckResponse(status=self.status(name)) for name in names}
        )

    def watch(self, request: health_pb2.HealthCheckRequest, call: Call) -> None:
        """Sends the status now and whenever it changes, until the caller leaves or `drain`."""
        watcher = _Watcher(call, lambda: self.status(request.service), self._plane, self._watchers.discard)
        self._watchers.add(watcher)
        if self._is_draining:
            watcher.end()

    def drain(self) -> None:
        """Ends every Watch, after the status it has not sent yet, also those that still come; callers ask again
        elsewhere."""
        self._is_draining = True
        for watcher in tuple(self._watchers):
            watcher.end()

    def status(self, service: str) -> health_pb2.HealthCheckResponse.ServingStatus:
        if service in SERVER:
            return SERVING if self._plane.is_ready() else NOT_SERVING
        if self._plane.is_model_ready(service):
            return SERVING
        return NOT_SERVING if service in self._models() else SERVICE_UNKNOWN

    def _models(self) -> list[str]:
        return sorted({entry.name for entry in self._plane.repository_index(False)})


class _Watcher:
    """One Watch. It never queues: a peer that reads slowly gets the newest status when it can take one."""

    def __init__(
        self,
        call: Call,
        status: Callable[[], health_pb2.HealthCheckResponse.ServingStatus],
        plane: DataPlane,
        left: Callable[[_Watcher], None],
    ) -> None:
        self._call = call
        self._status = status
        self._left = left
        self._sent: int | None = None
        self._can_send = True
        call.on_writable = self._resume
        call.on_cancel = self._leave
        self._unsubscribe = plane.subscribe(self._update)
        self._update()

    def end(self) -> None:
        self._update()
        self._leave()
        self._call.finish(Code.UNAVAILABLE, "the server is shutting down")

    def _update(self) -> None:
        status = self._status()
        if self._can_send and status != self._sent:
            self._sent = status
            self._can_send = self._call.send(health_pb2.HealthCheckResponse(status=status).SerializeToString())

    def _resume(self) -> None:
        self._can_send = True
        self._update()

    def _leave(self) -> None:
        self._unsubscribe()
        self._left(self)
