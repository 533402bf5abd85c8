"""The registry behind a running gateway's admin API, with the same methods as one that is opened here."""

from __future__ import annotations

import contextlib
import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import quote, urlencode

from gateway.admin.problems import Problem, ProblemError
from gateway.cli.failure import CommandFailed, ExitCode

if TYPE_CHECKING:
    from gateway.cli.registry import Publication, Report

Doc = dict[str, Any]
TIMEOUT_SECONDS = 60.0
LONG_SECONDS = 3600.0
"""Of what may read a store, or ask versions about a golden set."""
ROOT = "/api/v1/registry"


class Readable(Protocol):
    def read(self, size: int = -1) -> bytes: ...


class AdminClient:
    """JSON over HTTP: one method, problems as `ProblemError`. A redirect is refused: it could take the token along."""

    def __init__(self, url: str, token: str, timeout: float = TIMEOUT_SECONDS) -> None:
        self.url = (url if "://" in url else f"http://{url}").rstrip("/")
        self._token, self._timeout = token, timeout
        self._opener = urllib.request.build_opener(_NoRedirects)

    def call(
        self,
        method: str,
        path: str,
        document: Any = None,
        *,
        query: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        body: Readable | None = None,
        timeout: float | None = None,
    ) -> tuple[Any, Mapping[str, str]]:
        """The document that comes back (None when there is none) and the headers.

        Raises:
            ProblemError: the gateway refused.
            CommandFailed: nothing that speaks for a gateway answered.
        """
        request = self._request(method, path, document, query, headers, body)
        with self._answer(request, timeout) as response:
            content = response.read()
            return (json.loads(content) if content else None), dict(response.headers.items())

    def lines(self, method: str, path: str) -> Iterator[Any]:
        """A document for each line that comes back. Raises as `call` does, at any line."""
        with self._answer(self._request(method, path, None, None, None, None), None) as response:
            for line in response:
                yield json.loads(line)

    def _request(
        self,
        method: str,
        path: str,
        document: Any,
        query: Mapping[str, Any] | None,
        headers: Mapping[str, str] | None,
        body: Readable | None,
    ) -> urllib.request.Request:
        url = f"{self.url}{path}" + (f"?{urlencode(query, doseq=True)}" if query else "")
        data: Any = body if body is not None else None if document is None else json.dumps(document).encode()
        try:
            request = urllib.request.Request(url, data, method=method)
        except ValueError as error:
            raise CommandFailed(f"--admin-url: {error}", exit_code=ExitCode.USAGE) from None
        if document is not None:
            request.add_header("Content-Type", "application/json")
        if self._token:
            request.add_header("Authorization", f"Bearer {self._token}")
        for name, value in (headers or {}).items():
            request.add_header(name, value)
        return request

    @contextlib.contextmanager
    def _answer(self, request: urllib.request.Request, timeout: float | None) -> Iterator[Any]:
        try:
            with self._opener.open(request, timeout=timeout or self._timeout) as response:
                yield response
        except urllib.error.HTTPError as error:
            with error:
                raise ProblemError(_problem(error)) from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            reason = why_not(error)
            hint = "is `sluice serve` running there, and is this its admin port?"
            raise CommandFailed(f"{self.url} does not answer: {reason}", hint, ExitCode.UNAVAILABLE) from None


def why_not(error: Exception) -> str:
    """Why there was no answer over HTTP, in words."""
    if isinstance(error, http.client.BadStatusLine) and not isinstance(error, http.client.RemoteDisconnected):
        return "what listens there does not speak HTTP"
    reason = getattr(error, "reason", error)
    return str(getattr(reason, "strerror", None) or reason)


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


def _problem(error: urllib.error.HTTPError) -> Problem:
    try:
        document = json.loads(error.read(1 << 20))
    except (ValueError, OSError, http.client.HTTPException):
        document = None
    if not isinstance(document, dict) or "detail" not in document:
        # Whatever stands between, or another port of the gateway.
        document = {"detail": f"{error.url} answers HTTP {error.code} {error.reason}: is this an admin address?"}
    return Problem.from_dict(document, error.code)


class RemoteRegistry:
    """What `gateway.cli.registry.Registry` says, by asking."""

    def __init__(self, client: AdminClient) -> None:
        self._client = client

    @property
    def place(self) -> str:
        return self._client.url

    def push(self, publication: Publication, report: Report) -> Doc:
        from gateway.cli.remote_push import push  # reads models, which others need not

        return push(self._client, publication, report)

    def models(self) -> list[Doc]:
        return self._list("/models", "models")

    def versions(self, model: str) -> list[Doc]:
        return self._list(f"{model_path(model)}/versions", "versions")

    def version(self, model: str, version: int) -> Doc:
        return self._get(f"{model_path(model)}/versions/{version}")

    def aliases(self, model: str) -> list[Doc]:
        return self._list(f"{model_path(model)}/aliases", "aliases")

    def alias(self, model: str, alias: str) -> Doc | None:
        return next((one for one in self.aliases(model) if one["alias"] == alias), None)

    def alias_history(self, model: str, alias: str) -> list[Doc]:
        return self._list(f"{model_path(model)}/aliases/{quote(alias, safe='')}/history", "history")

    def move_alias(self, model: str, alias: str, version: int | None, expected: int, reason: str) -> Doc:
        path = f"{ROOT}{model_path(model)}/aliases/{quote(alias, safe='')}"
        condition = {"If-Match": f'"{expected}"'} if expected else {"If-None-Match": "*"}
        if version is None:
            answer, _ = self._client.call("DELETE", path, query={"reason": reason}, headers=condition)
        else:
            document = {"version": version, "reason": reason}
            answer, _ = self._client.call("PUT", path, document, headers=condition, timeout=LONG_SECONDS)
        return dict(answer)

    def decide(self, model: str, version: int, decision: str, reason: str) -> Doc:
        path = f"{ROOT}{model_path(model)}/versions/{version}"
        _, headers = self._client.call("GET", path)
        document = {"decision": decision, "reason": reason}
        condition = {"If-Match": _etag(headers)}
        answer, _ = self._client.call("PUT", f"{path}/approval", document, headers=condition, timeout=LONG_SECONDS)
        return dict(answer)

    def policy(self, model: str) -> Doc:
        return self._get(f"{model_path(model)}/policy")

    def put_golden_set(self, path: Path) -> Doc:
        from gateway.cli.remote_push import send_file
        from registry.golden import read_golden_set

        read_golden_set(path.read_bytes())
        return send_file(self._client, path)

    def set_policy(self, model: str, policy: Doc, expected: str, reason: str) -> Doc:
        document = {"policy": policy, "reason": reason}
        headers = {"If-Match": f'"{expected}"'}
        path = f"{ROOT}{model_path(model)}/policy"
        answer, _ = self._client.call("PUT", path, document, headers=headers, timeout=LONG_SECONDS)
        return dict(answer)

    def verify(self, model: str, version: int) -> Iterator[Doc]:
        for event in self._client.lines("POST", f"{ROOT}{model_path(model)}/versions/{version}/verification"):
            if "error" in event:
                raise ProblemError(Problem.from_dict(event["error"], event["error"].get("status", 500)))
            yield event

    def diff(self, model: str, before: int, after: int) -> Doc:
        return self._get(f"{model_path(model)}/diff", before=before, after=after)

    def collect(self, dry_run: bool, grace: float) -> Doc:
        document = {"dry_run": dry_run, "grace_seconds": grace}
        answer, _ = self._client.call("POST", f"{ROOT}/gc", document, timeout=LONG_SECONDS)
        return dict(answer)

    def audit(self, after: int, limit: int) -> list[Doc]:
        return list(self._get("/audit", after=after, limit=limit)["entries"])

    def verify_audit(self, anchors: Sequence[tuple[int, str]] = ()) -> Doc:
        texts = [f"{number}:{digest}" for number, digest in anchors]
        return self._get("/audit/verification", anchor=texts)

    def _list(self, path: str, name: str) -> list[Doc]:
        return list(self._get(path)[name])

    def _get(self, path: str, **query: Any) -> Doc:
        answer, _ = self._client.call("GET", ROOT + path, query=query)
        return dict(answer)


def read_token(file: Path) -> str:
    """The first line that is no comment."""
    try:
        lines = file.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "is not text"
        raise CommandFailed(f"{file} cannot be read: {reason}", exit_code=ExitCode.USAGE) from None
    token = next((line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")), "")
    if not token:
        raise CommandFailed(f"{file} holds no token", exit_code=ExitCode.USAGE)
    return token


def model_path(model: str) -> str:
    return f"/models/{quote(model, safe='')}"


def _etag(headers: Mapping[str, str]) -> str:
    return next((value for name, value in headers.items() if name.lower() == "etag"), "")
