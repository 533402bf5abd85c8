"""Receiving the files of a version: bounded, hashed on the way, and known to nobody before every byte was verified."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from aiohttp import web

from gateway.admin.problems import Problem, ProblemError
from registry.artifacts import ArtifactStore

CHUNK_BYTES = 1 << 20
SILENCE_SECONDS = 30.0
"""Without a byte, before an upload is given up."""
AT_ONCE = 4
_PREFIX = "upload-"
T = TypeVar("T")


class Uploads:
    """Puts uploads into a store. `folder` holds those under way, and is this process's alone."""

    def __init__(self, folder: Path, max_bytes: int, *, silence: float = SILENCE_SECONDS) -> None:
        self._folder, self._max_bytes, self._silence = folder, max_bytes, silence
        self._free = asyncio.Semaphore(AT_ONCE)

    def clear(self) -> None:
        """Removes what a process before this one left behind."""
        shutil.rmtree(self._folder, ignore_errors=True)

    async def receive(self, request: web.Request, sha256: str, store: ArtifactStore) -> dict[str, Any]:
        """Stores the body of a request under its digest.

        Raises:
            ProblemError: no length, too long, too slow, other bytes than announced, or no room.
            RegistryError: the store failed.
        """
        size = request.content_length
        if size is None:
            raise ProblemError(Problem(411, "invalid-request", "an upload needs a Content-Length"))
        if size > self._max_bytes:
            detail = f"{size} bytes, {self._max_bytes} are allowed"
            raise ProblemError(Problem(413, "limit-exceeded", detail, {"limit": self._max_bytes}))
        async with self._free:
            path = await _thread(self._new_file)
            try:
                await self._write(request, path, sha256, size)
                is_new = await _thread(lambda: store.put(path, sha256))
            except OSError as error:
                raise _no_room(error) from error
            finally:
                await _thread(lambda: path.unlink(missing_ok=True))
        return {"sha256": sha256, "size": size, "is_new": is_new}

    def _new_file(self) -> Path:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(prefix=_PREFIX, dir=self._folder)
        except OSError as error:
            raise _no_room(error) from error
        os.close(handle)
        return Path(name)

    async def _write(self, request: web.Request, path: Path, sha256: str, size: int) -> None:
        digest, received = hashlib.sha256(), 0
        file: BinaryIO = await _thread(lambda: path.open("wb"))

        def keep(chunk: bytes) -> None:
            digest.update(chunk)
            file.write(chunk)

        try:
            while chunk := await self._next(request):
                received += len(chunk)
                if received > size:
                    break
                await _thread(partial(keep, chunk))
        finally:
            await _thread(file.close)
        if received != size:
            raise ProblemError(Problem(400, "invalid-request", f"{received} of {size} bytes came"))
        if digest.hexdigest() != sha256:
            facts = {"expected": sha256, "found": digest.hexdigest()}
            detail = f"the bytes have the digest {digest.hexdigest()}"
            raise ProblemError(Problem(422, "digest-mismatch", detail, facts))

    async def _next(self, request: web.Request) -> bytes:
        """Some more bytes, up to a chunk; none at the end."""
        parts, count = [], 0
        try:
            async with asyncio.timeout(self._silence):
                while count < CHUNK_BYTES and (part := await request.content.readany()):
                    parts.append(part)
                    count += len(part)
        except TimeoutError:
            detail = f"no progress within {self._silence:g} s"
            raise ProblemError(Problem(408, "invalid-request", detail)) from None
        return b"".join(parts)


async def _thread(work: Callable[[], T]) -> T:
    return await asyncio.get_running_loop().run_in_executor(None, work)


def _no_room(error: OSError) -> ProblemError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return ProblemError(Problem(507, "no-room", "the gateway has no room left for it"))
    return ProblemError(Problem(503, "unavailable", f"the upload cannot be kept: {error.strerror}"))
