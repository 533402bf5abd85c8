"""The registry over HTTP: one method an operation, each in a few lines from the request to the service and back.

Who asks and whether they may was settled before; here preconditions are checked, and what blocks runs in threads.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

from aiohttp import web

from gateway.admin.access import Caller
from gateway.admin.bodies import Body, query_integer, read_body
from gateway.admin.openapi import Operation
from gateway.admin.preconditions import etag_of, is_not_modified, require_match
from gateway.admin.problems import Problem, ProblemError, from_error
from gateway.admin.publishing import publication_from, publish
from gateway.admin.registry_operations import JSON_LINES, MAX_PAGE, OPERATIONS
from gateway.admin.registry_service import Decision, Doc, RegistryService
from gateway.admin.uploads import SILENCE_SECONDS, Uploads
from registry.artifacts import ArtifactStore
from registry.catalog import Catalog
from registry.errors import RegistryError
from registry.names import check_alias, check_name

THREADS = 8
MAX_VERSION = 2**53 - 1
PROGRESS_BYTES = 16 << 20
Handler = Callable[[web.Request, Caller], Awaitable[web.StreamResponse]]
T = TypeVar("T")


class Parts:
    """The catalog and the store, opened by the first who asks, and again after that failed."""

    def __init__(self, open_catalog: Callable[[], Catalog], open_store: Callable[[], ArtifactStore]) -> None:
        self._open_catalog, self._open_store = open_catalog, open_store
        # Held while either is opened; both are set once.
        self._lock = threading.Lock()
        self._catalog: Catalog | None = None
        self._store: ArtifactStore | None = None

    def catalog(self) -> Catalog:
        with self._lock:
            if self._catalog is None:
                self._catalog = self._open_catalog()
            return self._catalog

    def store(self) -> ArtifactStore:
        with self._lock:
            if self._store is None:
                self._store = self._open_store()
            return self._store

    def close(self) -> None:
        """Idempotent."""
        if self._catalog is not None:
            self._catalog.close()


class RegistryApi:
    """What `OPERATIONS` announce.

    Args:
        folder: for uploads under way; this process's alone.
        max_bytes: of one version.
        sources, cache: what to show of the gateway's own sources and its cache.
    """

    def __init__(
        self,
        parts: Parts,
        folder: Path,
        max_bytes: int,
        sources: Callable[[], list[Any]] = list,
        cache: Callable[[], Any] = lambda: None,
        *,
        silence: float = SILENCE_SECONDS,
    ) -> None:
        self._parts, self._folder, self._max_bytes = parts, folder, max_bytes
        self._sources, self._cache = sources, cache
        self._threads = ThreadPoolExecutor(THREADS, "registry-api")
        self._uploads = Uploads(folder, max_bytes, silence=silence)

    def start(self) -> None:
        """Clears what an earlier process left."""
        self._uploads.clear()

    def close(self) -> None:
        """Waits for nothing. Idempotent."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._parts.close()

    def handlers(self) -> Iterator[tuple[Operation, Handler]]:
        for operation in OPERATIONS:
            yield operation, getattr(self, f"_{operation.id}")

    # Looking

    async def _list_models(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        return _cached(request, {"models": await self._do(caller, lambda service: service.models())})

    async def _list_versions(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        model = _model(request)
        return _cached(request, {"versions": await self._do(caller, lambda service: service.versions(model))})

    async def _get_version(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        model, version = _model(request), _version(request)
        return _cached(request, await self._do(caller, lambda service: service.version(model, version)))

    async def _get_manifest(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        model, version = _model(request), _version(request)
        text, digest = await self._do(caller, lambda service: service.manifest_json(model, version))
        if is_not_modified(request.headers.get("If-None-Match"), f'"{digest}"'):
            return web.Response(status=304, headers={"ETag": f'"{digest}"'})
        return web.Response(text=text, content_type="application/json", headers={"ETag": f'"{digest}"'})

    async def _diff_versions(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        model = _model(request)
        before, after = (query_integer(request, name, None, 1, MAX_VERSION) for name in ("before", "after"))
        return _cached(request, await self._do(caller, lambda service: service.diff(model, before, after)))

    async def _list_aliases(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        model = _model(request)
        return _cached(request, {"aliases": await self._do(caller, lambda service: service.aliases(model))})

    async def _get_alias(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        model, alias = _model(request), _alias(request)
        document = await self._do(caller, lambda service: service.alias(model, alias))
        if document is None:
            raise ProblemError(Problem(404, "not-found", f"there is no alias {model}@{alias}"))
        return _cached(request, document, _generation(document))

    async def _get_alias_history(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        model, alias = _model(request), _alias(request)
        history = await self._do(caller, lambda service: service.alias_history(model, alias))
        return _cached(request, {"history": history})

    async def _get_policy(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        model = _model(request)
        document = await self._do(caller, lambda service: service.policy(model))
        return _cached(request, document, _digest(document))

    async def _get_audit(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        after = query_integer(request, "after", 0, 0, MAX_VERSION)
        limit = query_integer(request, "limit", 100, 1, MAX_PAGE)
        return _cached(request, {"entries": await self._do(caller, lambda service: service.audit(after, limit))})

    async def _verify_audit(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        anchors = _anchors(request)
        return web.json_response(await self._do(caller, lambda service: service.verify_audit(anchors)))

    async def _list_sources(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        return web.json_response({"sources": [_plain(one) for one in self._sources()]})

    async def _get_cache(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        found = self._cache()
        return web.json_response({"cache": None if found is None else _plain(found)})

    # Publishing

    async def _has_object(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        sha256 = request.match_info["sha256"]
        is_there = await self._do(caller, lambda service: service.store.has(sha256))
        return web.Response(status=200 if is_there else 404)

    async def _put_object(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        store = await self._thread(self._parts.store)
        document = await self._uploads.receive(request, request.match_info["sha256"], store)
        return web.json_response(document, status=201 if document["is_new"] else 200)

    async def _publish_version(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        publication = publication_from(_model(request), await read_body(request), self._max_bytes)
        if publication.alias is not None and not caller.may("operate"):
            facts = {"scope": "operate"}
            raise ProblemError(Problem(403, "forbidden", "pointing an alias needs the scope operate", facts))
        document = await self._do(caller, lambda service: publish(service, publication, self._folder))
        return web.json_response(document, status=201 if document["is_new"] else 200)

    # Changing

    async def _move_alias(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        body = await read_body(request)
        version, reason = body.integer("version", low=1), body.text("reason", "", max_length=1000)
        body.end()
        return await self._move(request, caller, version, reason)

    async def _delete_alias(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        reason = Body({"reason": request.query.get("reason", "")}).text("reason", max_length=1000)
        return await self._move(request, caller, None, reason)

    async def _move(self, request: web.Request, caller: Caller, version: int | None, reason: str) -> web.StreamResponse:
        model, alias = _model(request), _alias(request)

        def move(service: RegistryService) -> Doc:
            before = service.alias(model, alias)
            _require(request, _generation(before) if before else None)
            return service.move_alias(model, alias, version, before["generation"] if before else 0, reason)

        document = await self._do(caller, move)
        return web.json_response(document, headers={"ETag": _generation(document)} if version else None)

    async def _set_policy(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        model, body = _model(request), await read_body(request)
        policy, reason = body.object("policy"), body.text("reason", "", max_length=1000)
        body.end()

        def change(service: RegistryService) -> Doc:
            before = service.policy(model)
            _require(request, _digest(before))
            return service.set_policy(model, policy, before["digest"], reason)

        document = await self._do(caller, change)
        return web.json_response(document, headers={"ETag": _digest(document)})

    async def _decide_version(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        model, version, body = _model(request), _version(request), await read_body(request)
        decision: Decision = body.choice("decision", ("approved", "rejected"))
        reason = body.text("reason", max_length=1000, is_empty_ok=False)
        body.end()
        if not caller.is_known:
            detail = "who decides must be known: ask with a token"
            raise ProblemError(Problem(403, "approver-unknown", detail))

        def decide(service: RegistryService) -> Doc:
            _require(request, etag_of(service.version(model, version)))
            return service.decide(model, version, decision, reason)

        return _tagged(await self._do(caller, decide))

    async def _verify_version(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        model, version = _model(request), _version(request)
        events = await self._do(caller, lambda service: service.verify(model, version))
        event = await self._thread(lambda: next(events, None))  # whatever is wrong with the question is known now
        response = web.StreamResponse(headers={"Content-Type": JSON_LINES})
        await response.prepare(request)
        told = 0
        while event is not None:
            if event.get("done", told) - told >= PROGRESS_BYTES or "done" not in event:
                told = event.get("done", told)
                await response.write(json.dumps(event).encode() + b"\n")
            try:
                event = await self._thread(lambda: next(events, None))
            except RegistryError as error:
                await response.write(json.dumps({"error": from_error(error).to_dict()}).encode() + b"\n")
                break
        await response.write_eof()
        return response

    async def _collect(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        body = await read_body(request)
        dry_run, grace = body.boolean("dry_run", False), body.number("grace_seconds", 3600.0)
        body.end()
        return web.json_response(await self._do(caller, lambda service: service.collect(dry_run, grace)))

    async def _do(self, caller: Caller, work: Callable[[RegistryService], T]) -> T:
        """In a thread, as the caller."""

        def act() -> T:
            return work(RegistryService(self._parts.catalog(), self._parts.store(), caller.name, work=self._folder))

        return await self._thread(act)

    async def _thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)


def _model(request: web.Request) -> str:
    return check_name(request.match_info["model"])


def _alias(request: web.Request) -> str:
    return check_alias(request.match_info["alias"])


def _version(request: web.Request) -> int:
    text = request.match_info["version"]
    if not (text.isascii() and text.isdigit()) or len(text) > 16 or not 1 <= int(text) <= MAX_VERSION:
        raise ProblemError(Problem(400, "invalid-request", "version: must be a whole number from 1 on"))
    return int(text)


def _anchors(request: web.Request) -> list[tuple[int, str]]:
    anchors = []
    for text in request.query.getall("anchor", []):
        number, _, digest = text.partition(":")
        if not (number.isascii() and number.isdigit()) or len(number) > 16 or len(digest) != 64:
            raise ProblemError(Problem(400, "invalid-request", "anchor: must be NUMBER:HASH of an entry"))
        anchors.append((int(number), digest))
    return anchors


def _require(request: web.Request, current: str | None) -> None:
    require_match(request.headers.get("If-Match"), request.headers.get("If-None-Match"), current)


def _generation(alias: Mapping[str, Any]) -> str:
    return f'"{alias["generation"]}"'


def _digest(policy: Mapping[str, Any]) -> str:
    return f'"{policy["digest"]}"'


def _cached(request: web.Request, document: Doc, etag: str | None = None) -> web.Response:
    etag = etag or etag_of(document)
    if is_not_modified(request.headers.get("If-None-Match"), etag):
        return web.Response(status=304, headers={"ETag": etag})
    return web.json_response(document, headers={"ETag": etag})


def _tagged(document: Doc) -> web.Response:
    return web.json_response(document, headers={"ETag": etag_of(document)})


def _plain(value: Any) -> Any:
    """JSON values of a dataclass that others own; keys that are tuples become `model/version`."""
    if is_dataclass(value) and not isinstance(value, type):
        return _plain(asdict(value))
    if isinstance(value, Mapping):
        return {"/".join(map(str, k)) if isinstance(k, tuple) else str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(one) for one in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)
