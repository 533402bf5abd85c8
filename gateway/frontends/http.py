"""HTTP paths and what answers each. Inference is not among them: connections match it themselves.

A path is a tuple of decoded segments; the routes are one table of patterns, tried in order, in which `{}` is any
segment.
"""

from __future__ import annotations

import base64
import binascii
import json
import logging
from collections.abc import Callable
from typing import NamedTuple
from urllib.parse import unquote

from gateway.errors import InvalidRequest, Unsupported
from gateway.frontends import DataPlane, HttpRequest, ParameterValue, answers
from gateway.frontends.control import Finished, ModelControl
from gateway.frontends.json_form import Json, dump, to_json, to_value
from gateway.frontends.status import UNEXPECTED, status_of

_log = logging.getLogger("sluice.frontends")


class Answer(NamedTuple):
    status: int
    body: bytes = b""


class Route(NamedTuple):
    method: str
    pattern: tuple[str, ...]
    answer: Callable[..., Answer | None]
    """Called with the request and what stands for each `{}`. None: it is answered later."""


class HttpFrontend:
    """`handle` is what an `Http1Protocol` calls."""

    def __init__(self, plane: DataPlane, control: ModelControl) -> None:
        self._plane = plane
        self._control = control
        self._routes = self._table()

    def handle(self, request: HttpRequest) -> None:
        """Answers now, or later from a task. Never raises."""
        method = "GET" if request.method == "HEAD" else request.method
        segments = to_segments(request.path)
        fits = [(route, given) for route in self._routes if (given := match(route.pattern, segments)) is not None]
        if not fits:
            return _respond(request, Answer(404, error_body("Not Found")))
        for route, given in fits:
            if route.method == method:
                return self._run(request, route, given)
        allowed = ", ".join(sorted({name for route, _ in fits for name in _verbs(route.method)}))
        _respond(request, Answer(405, error_body("Method Not Allowed")), (b"allow", allowed.encode()))

    def _run(self, request: HttpRequest, route: Route, given: list[str]) -> None:
        try:
            answer = route.answer(request, *given)
        except Exception as error:
            return _respond_error(request, error)
        if answer is not None:
            _respond(request, answer)

    def _table(self) -> tuple[Route, ...]:
        table = [
            Route("GET", (), self._about),
            Route("GET", ("v2",), self._server_metadata),
            Route("GET", ("v2", "health", "live"), self._live),
            Route("GET", ("v2", "health", "ready"), self._ready),
            Route("GET", ("v2", "models", "stats"), self._statistics),
            Route("POST", ("v2", "repository", "index"), self._index),
            Route("POST", ("v2", "repository", "models", "{}", "load"), self._load),
            Route("POST", ("v2", "repository", "models", "{}", "unload"), self._unload),
            Route("POST", ("v2", "repository", "{}", "index"), _unsupported("repository names")),
            Route("POST", ("v2", "repository", "{}", "models", "{}", "load"), _unsupported("repository names")),
            Route("POST", ("v2", "repository", "{}", "models", "{}", "unload"), _unsupported("repository names")),
        ]
        for model in (("v2", "models", "{}"), ("v2", "models", "{}", "versions", "{}")):
            table += [
                Route("GET", model, self._model_metadata),
                Route("GET", (*model, "ready"), self._model_ready),
                Route("GET", (*model, "config"), self._model_config),
                Route("GET", (*model, "stats"), self._statistics),
                # A POST reaches this table only when its path is no inference call to the connection.
                Route("POST", (*model, "infer"), _not_found),
                Route("POST", (*model, "generate"), _unsupported("generate")),
                Route("POST", (*model, "generate_stream"), _unsupported("generate")),
            ]
        for kind, name in (("systemsharedmemory", "system shared memory"), ("cudasharedmemory", "CUDA shared memory")):
            for region in ((), ("region", "{}")):
                table += [
                    Route("GET", ("v2", kind, *region, "status"), _unsupported(name)),
                    Route("POST", ("v2", kind, *region, "register"), _unsupported(name)),
                    Route("POST", ("v2", kind, *region, "unregister"), _unsupported(name)),
                ]
        for method in ("GET", "POST"):
            table += [
                Route(method, ("v2", "trace", "setting"), _unsupported("trace")),
                Route(method, ("v2", "models", "{}", "trace", "setting"), _unsupported("trace")),
                Route(method, ("v2", "logging"), _unsupported("logging")),
            ]
        return tuple(table)

    def _about(self, request: HttpRequest) -> Answer:
        facts = self._plane.server_metadata()
        return Answer(200, dump({"name": facts.name, "version": facts.version, "inference": "/v2"}))

    def _server_metadata(self, request: HttpRequest) -> Answer:
        return Answer(200, to_json(answers.server_metadata(self._plane)))

    def _live(self, request: HttpRequest) -> Answer:
        live = self._plane.is_live()
        return Answer(200 if live else 503, dump({"live": live}))

    def _ready(self, request: HttpRequest) -> Answer:
        ready = self._plane.is_ready()
        return Answer(200 if ready else 503, dump({"ready": ready}))

    def _model_ready(self, request: HttpRequest, model: str, version: str = "") -> Answer:
        ready = self._plane.is_model_ready(model, version)
        return Answer(200 if ready else 503, dump({"name": model, "ready": ready}))

    def _model_metadata(self, request: HttpRequest, model: str, version: str = "") -> Answer:
        return Answer(200, to_json(answers.model_metadata(self._plane, model, version)))

    def _model_config(self, request: HttpRequest, model: str, version: str = "") -> Answer:
        return Answer(200, to_json(answers.model_config(self._plane, model, version).config))

    def _statistics(self, request: HttpRequest, model: str = "", version: str = "") -> Answer:
        return Answer(200, to_json(answers.model_statistics(self._plane, model, version)))

    def _index(self, request: HttpRequest) -> Answer:
        ready = parse_object(request.body).get("ready", False)
        if not isinstance(ready, bool):
            raise InvalidRequest("'ready' must be true or false")
        entries = to_value(answers.repository_index(self._plane, ready))["models"]
        return Answer(200, dump([{name: text for name, text in entry.items() if text} for entry in entries]))

    def _load(self, request: HttpRequest, model: str) -> None:
        self._control.load(model, parse_parameters(request.body), _responder(request))

    def _unload(self, request: HttpRequest, model: str) -> None:
        self._control.unload(model, parse_parameters(request.body), _responder(request))


def to_segments(path: str) -> tuple[str, ...]:
    """The decoded segments of a path, without one trailing slash. A decoded slash stays inside its segment."""
    parts = path.removeprefix("/").split("/")
    if parts[-1] == "":
        parts.pop()
    return tuple(unquote(part) for part in parts)  # what is no UTF-8 becomes U+FFFD, and the name of nothing


def match(pattern: tuple[str, ...], segments: tuple[str, ...]) -> list[str] | None:
    """What stands for each `{}` of the pattern, or None. An empty segment stands for nothing."""
    if len(pattern) != len(segments) or "" in segments:
        return None
    pairs = list(zip(pattern, segments, strict=True))
    if any(wanted not in ("{}", segment) for wanted, segment in pairs):
        return None
    return [segment for wanted, segment in pairs if wanted == "{}"]


def parse_object(body: bytes) -> dict[str, Json]:
    """The JSON object in a body; an empty body is an empty object."""
    if not body.strip():
        return {}
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"failed to parse the request JSON buffer: {error}") from None
    if not isinstance(value, dict):
        raise InvalidRequest("failed to parse the request JSON buffer: not an object")
    return value


def parse_parameters(body: bytes) -> dict[str, ParameterValue]:
    """The `parameters` of a load or unload. Those named `file:...` are base64 here and bytes after."""
    parameters = parse_object(body).get("parameters", {})
    if not isinstance(parameters, dict):
        raise InvalidRequest("'parameters' must be an object")
    return {name: _parameter(name, value) for name, value in parameters.items()}


def _parameter(name: str, value: Json) -> ParameterValue:
    if not isinstance(value, (bool, int, str)):
        raise InvalidRequest(f"parameter '{name}' must be a string, an integer, or true or false")
    if not name.startswith("file:"):
        return value
    if not isinstance(value, str):
        raise InvalidRequest(f"parameter '{name}' must be base64 text")
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        raise InvalidRequest(f"parameter '{name}' must be base64 text") from None


def error_body(text: str) -> bytes:
    return dump({"error": text})


def _verbs(method: str) -> tuple[str, ...]:
    return ("GET", "HEAD") if method == "GET" else (method,)


def _unsupported(feature: str) -> Callable[..., Answer]:
    def answer(request: HttpRequest, *given: str) -> Answer:
        raise Unsupported(feature)

    return answer


def _not_found(request: HttpRequest, *given: str) -> Answer:
    return Answer(404, error_body("Not Found"))


def _respond_error(request: HttpRequest, error: BaseException) -> None:
    status = status_of(error)
    if status is None:
        _log.error("%s %s failed", request.method, request.path, exc_info=error)
        status = UNEXPECTED
    _respond(request, Answer(status.http, error_body(status.text)))


def _respond(request: HttpRequest, answer: Answer, *headers: tuple[bytes, bytes]) -> None:
    # An asynchronous tritonclient accepts gzip without knowing it, and can inflate the answers to inference only.
    plain = [(b"content-encoding", b"identity")] if request.header(b"accept-encoding") else []
    request.respond(answer.status, answer.body, headers=[*headers, *plain])


def _responder(request: HttpRequest) -> Finished:
    def respond(error: BaseException | None) -> None:
        if error is None:
            _respond(request, Answer(200))
        else:
            _respond_error(request, error)

    return respond
