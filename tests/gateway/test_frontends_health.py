import pytest
from frontend_fakes import FakeCall, FakeDataPlane

from gateway.errors import UnknownModel
from gateway.frontends.health import NOT_SERVING, SERVICE_UNKNOWN, SERVING, Health
from gateway.frontends.status import Code
from gateway.pb import health_pb2


@pytest.fixture
def plane() -> FakeDataPlane:
    return FakeDataPlane()


@pytest.fixture
def health(plane: FakeDataPlane) -> Health:
    return Health(plane)


def watch(health: Health, service: str = "", call: FakeCall | None = None) -> FakeCall:
    call = call or FakeCall("/grpc.health.v1.Health/Watch")
    health.watch(health_pb2.HealthCheckRequest(service=service), call)
    return call


def seen(call: FakeCall) -> list[int]:
    return [health_pb2.HealthCheckResponse.FromString(message).status for message in call.sent]


@pytest.mark.parametrize("service", ["", "inference.GRPCInferenceService"])
@pytest.mark.parametrize("ready", [True, False])
def test_the_server_serves_when_it_is_ready(health: Health, plane: FakeDataPlane, service: str, ready: bool) -> None:
    plane.ready = ready
    response = health.check(health_pb2.HealthCheckRequest(service=service))
    assert response.status == (SERVING if ready else NOT_SERVING)


def test_a_model_is_a_service(health: Health) -> None:
    assert health.check(health_pb2.HealthCheckRequest(service="iris")).status == SERVING
    assert health.check(health_pb2.HealthCheckRequest(service="wine")).status == NOT_SERVING


def test_what_is_no_model_is_not_found(health: Health) -> None:
    with pytest.raises(UnknownModel):
        health.check(health_pb2.HealthCheckRequest(service="nothing"))


def test_the_list_has_the_server_and_every_model(health: Health) -> None:
    response = health.list_all(health_pb2.HealthListRequest())
    states = {name: each.status for name, each in response.statuses.items()}
    assert states == {"": SERVING, "iris": SERVING, "wine": NOT_SERVING}


def test_a_watch_tells_the_status_now_and_each_change(health: Health, plane: FakeDataPlane) -> None:
    call = watch(health)
    plane.changed()
    plane.ready = False
    plane.changed()
    plane.changed()
    plane.ready = True
    plane.changed()
    assert seen(call) == [SERVING, NOT_SERVING, SERVING]


def test_a_watched_service_may_appear_later(health: Health, plane: FakeDataPlane) -> None:
    call = watch(health, "late")
    plane.ready_models.add(("late", ""))
    plane.changed()
    assert seen(call) == [SERVICE_UNKNOWN, SERVING]


def test_a_watch_ends_with_its_caller(health: Health, plane: FakeDataPlane) -> None:
    call = watch(health)
    call.cancel()
    plane.ready = False
    plane.changed()
    assert plane.listeners == []
    assert seen(call) == [SERVING]
    health.drain()
    assert call.code is None


def test_a_slow_watcher_gets_the_newest_status_only(health: Health, plane: FakeDataPlane) -> None:
    call = FakeCall("/grpc.health.v1.Health/Watch")
    call.is_writable = False
    watch(health, call=call)
    for ready in (False, True, False):
        plane.ready = ready
        plane.changed()
    assert seen(call) == [SERVING]
    call.make_writable()
    assert seen(call) == [SERVING, NOT_SERVING]


def test_a_drain_sends_the_last_status_and_ends_every_watch(health: Health, plane: FakeDataPlane) -> None:
    calls = [watch(health), watch(health, "iris")]
    plane.ready = False
    plane.ready_models.clear()
    health.drain()
    assert [seen(call)[-1] for call in calls] == [NOT_SERVING, NOT_SERVING]
    assert [call.code for call in calls] == [Code.UNAVAILABLE] * 2
    assert plane.listeners == []


def test_a_watch_that_comes_after_the_drain_ends_too(health: Health) -> None:
    health.drain()
    assert watch(health).code == Code.UNAVAILABLE
