"""The few calls of MLflow's REST API that serving needs, with nothing but the standard library. One host is contacted
and no other: redirects and proxies are not followed. What the server says is taken for a stranger's word.
"""

from __future__ import annotations

import base64
import http.client
import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from email.message import Message
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote, unquote, urlencode, urlsplit, urlunsplit

from registry.errors import SourceUnavailable
from registry.redaction import redact

MAX_ANSWER_BYTES = 4 << 20
CHUNK_BYTES = 1 << 20
TIMEOUT_SECONDS = 10.0
_API = "/api/2.0/mlflow"
_ARTIFACTS = "/api/2.0/mlflow-artifacts/artifacts"


@dataclass(frozen=True)
class MlflowAccess:
    """How a tracking server is reached, by the variables that MLflow's own client reads. Not shown in any repr."""

    url: str = ""
    username: str = field(default="", repr=False)
    password: str = field(default="", repr=False)
    token: str = field(default="", repr=False)
    ca_file: str = ""
    client_certificate_file: str = ""
    is_insecure: bool = False
    """Whatever certificate the server has."""

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> MlflowAccess:
        def named(name: str) -> str:
            return environ.get(f"MLFLOW_TRACKING_{name}", "")

        return cls(
            named("URI"),
            named("USERNAME"),
            named("PASSWORD"),
            named("TOKEN"),
            named("SERVER_CERT_PATH"),
            named("CLIENT_CERT_PATH"),
            named("INSECURE_TLS").lower() == "true",
        )


@dataclass(frozen=True)
class ModelVersion:
    """A registered version, as far as it matters here."""

    name: str
    version: int
    source: str
    run_id: str
    created_at: int
    status: str

    @property
    def identity(self) -> str:
        """What the server says it is; none of this ever changes for one version."""
        return f"mlflow:{self.source}:{self.run_id}:{self.created_at}"


class MlflowError(Exception):
    """An answer that is an error. `code` is MLflow's own, such as RESOURCE_DOES_NOT_EXIST."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(f"{code or status}: {message}")
        self.status, self.code = status, code


class MlflowClient:
    """One tracking server.

    Args:
        url: with the static prefix, if the server has one. A user and password in it are used and not shown.

    Raises:
        SourceUnavailable: a URL that is none, or a certificate that cannot be read. Every call raises it when the
            server cannot be reached or is of no use now.
    """

    def __init__(self, url: str, access: MlflowAccess = MlflowAccess()) -> None:
        parts = urlsplit(url)
        host = parts.netloc.rpartition("@")[2]
        self.place = urlunsplit((parts.scheme, host, parts.path.rstrip("/"), "", ""))
        if parts.scheme not in ("http", "https") or not host:
            raise SourceUnavailable(self.place, "not an http or https URL")
        self._authorization = _authorization(
            access, unquote(parts.username or "") or access.username, unquote(parts.password or "") or access.password
        )
        handlers: list[urllib.request.BaseHandler] = [urllib.request.ProxyHandler({}), _NoRedirects()]
        if parts.scheme == "https":
            handlers.append(urllib.request.HTTPSHandler(context=_context(self.place, access)))
        self._opener = urllib.request.build_opener(*handlers)

    # The registry

    def by_alias(self, name: str, alias: str) -> ModelVersion | None:
        """None when there is no such alias. Raises MlflowError, also when there is no such model."""
        try:
            answer = self._get(f"{_API}/registered-models/alias", name=name, alias=alias)
        except MlflowError as error:
            if error.code == "INVALID_PARAMETER_VALUE":  # how the server says that an alias is not there
                return None
            raise
        return _version(name, answer.get("model_version"))

    def by_number(self, name: str, version: int) -> ModelVersion:
        answer = self._get(f"{_API}/model-versions/get", name=name, version=str(version))
        return _version(name, answer.get("model_version"))

    def latest(self, name: str) -> ModelVersion | None:
        """The newest version that is READY."""
        query = {"filter": f"name='{name}'", "order_by": "version_number DESC", "max_results": "20"}
        found = self._get(f"{_API}/model-versions/search", **query).get("model_versions", [])
        versions = [_version(name, each) for each in found if isinstance(found, list)]
        return next((each for each in versions if each.status == "READY"), None)

    # Artifacts, which the server hands out itself

    def artifact_root(self, version: ModelVersion) -> str:
        """Where its files are, below the server's own artifacts. Raises MlflowError when they are anywhere else: no
        other host is contacted."""
        query = {"name": version.name, "version": str(version.version)}
        uri = self._get(f"{_API}/model-versions/get-download-uri", **query).get("artifact_uri")
        parts = urlsplit(uri if isinstance(uri, str) else "")
        is_here = parts.netloc in ("", urlsplit(self.place).netloc)
        if parts.scheme != "mlflow-artifacts" or not is_here or parts.query or parts.fragment:
            reason = f"its files are at {parts.scheme or 'an unknown place'}: only what the server hands out is fetched"
            raise MlflowError(0, "NOT_PROXIED", reason)
        path = unquote(parts.path).strip("/")
        if any(part in ("", ".", "..") for part in path.split("/")):
            raise MlflowError(0, "UNSAFE_PATH", "its files are at a path that is none")
        return path

    def files(self, root: str) -> list[tuple[str, bool, int]]:
        """Path below `root`, whether it is a folder, and size, of what is directly in it."""
        found = self._get(_ARTIFACTS, path=root).get("files", [])
        if not isinstance(found, list):
            raise MlflowError(0, "BAD_ANSWER", "a listing without files")
        return [_file(each) for each in found]

    def small_file(self, path: str, limit: int) -> bytes:
        """Raises MlflowError when it is larger than `limit`."""
        data = b""
        for chunk in self.chunks(path, 0):
            data += chunk
            if len(data) > limit:
                raise MlflowError(0, "TOO_LARGE", f"{path} is larger than {limit} bytes")
        return data

    def chunks(self, path: str, offset: int) -> Iterator[bytes]:
        """The bytes of an artifact from an offset on."""
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        with self._open(f"{_ARTIFACTS}/{quote(path)}", headers) as response:
            if offset and response.status != 206:  # a server that does not know ranges
                _skip(response, offset)
            while chunk := self._read(response, CHUNK_BYTES):
                yield chunk

    # HTTP

    def _get(self, route: str, **query: str) -> dict[str, Any]:
        with self._open(f"{route}?{urlencode(query)}") as response:
            body = self._read(response, MAX_ANSWER_BYTES + 1)
        try:
            answer = json.loads(body) if len(body) <= MAX_ANSWER_BYTES else None
        except (ValueError, RecursionError):
            answer = None
        if not isinstance(answer, dict):
            raise SourceUnavailable(self.place, "answers with something that is no JSON object of a sensible size")
        return answer

    def _open(self, path: str, headers: Mapping[str, str] | None = None) -> http.client.HTTPResponse:
        request = urllib.request.Request(self.place + path, headers={"User-Agent": "sluice", **(headers or {})})
        if self._authorization:
            request.add_unredirected_header("Authorization", self._authorization)
        try:
            response: http.client.HTTPResponse = self._opener.open(request, timeout=TIMEOUT_SECONDS)
            return response
        except urllib.error.HTTPError as error:
            with error:
                raise self._error(error) from None
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)
            raise SourceUnavailable(self.place, redact(str(reason) or type(error).__name__)) from None

    def _read(self, response: http.client.HTTPResponse, count: int) -> bytes:
        try:
            return response.read(count)
        except (OSError, http.client.HTTPException) as error:
            raise SourceUnavailable(self.place, redact(str(error) or type(error).__name__)) from None

    def _error(self, error: urllib.error.HTTPError) -> Exception:
        """Refusals of one thing as MlflowError; what stands for the server as a whole as SourceUnavailable."""
        try:
            body = json.loads(error.read(65536))
            code, message = str(body.get("error_code", "")), redact(str(body.get("message", "")))
        except (ValueError, AttributeError, OSError, RecursionError):
            code, message = "", ""
        status = error.code
        if status in (401, 407, 408, 429) or status >= 500 or 300 <= status < 400:
            return SourceUnavailable(self.place, f"answers {status} {code} {message}".strip())
        return MlflowError(status, code, message or f"answers {status}")


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str
    ) -> None:
        return None


def _authorization(access: MlflowAccess, username: str, password: str) -> str:
    if username:
        return "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode()
    return f"Bearer {access.token}" if access.token else ""


def _context(place: str, access: MlflowAccess) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=access.ca_file or None)
        if access.client_certificate_file:
            context.load_cert_chain(Path(access.client_certificate_file))
    except OSError as error:
        raise SourceUnavailable(place, f"a certificate cannot be read: {error.strerror or error}") from None
    if access.is_insecure:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def _version(name: str, found: object) -> ModelVersion:
    if not isinstance(found, dict) or found.get("name") != name:
        raise MlflowError(0, "BAD_ANSWER", "an answer about another model")
    number = str(found.get("version", ""))
    if not (number.isascii() and number.isdigit() and 0 < int(number) < 10**18):
        raise MlflowError(0, "BAD_ANSWER", "a version that is no number")
    created = found.get("creation_timestamp", 0)
    return ModelVersion(
        name,
        int(number),
        str(found.get("source", "")),
        str(found.get("run_id", "")),
        int(created) if isinstance(created, int) or str(created).isdigit() else 0,
        str(found.get("status", "")),
    )


def _file(found: object) -> tuple[str, bool, int]:
    if not isinstance(found, dict) or not isinstance(found.get("path"), str):
        raise MlflowError(0, "BAD_ANSWER", "a listing with something that is no file")
    size = found.get("file_size") or 0
    return found["path"], bool(found.get("is_dir")), int(size) if str(size).isdigit() else 0


def _skip(response: http.client.HTTPResponse, count: int) -> None:
    while count > 0 and (chunk := response.read(min(count, CHUNK_BYTES))):
        count -= len(chunk)
