"""A content-addressed store in a bucket: S3, Google Cloud Storage or Azure, through one library. Objects lie at
`objects/ab/abcdef…` below the URL's prefix, as they do in a local directory. Needs the extra `objects`.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from registry.artifacts import ArtifactStore, StoredObject, read_file
from registry.errors import DigestMismatch, NotFound, StoreUnavailable
from registry.manifest import is_sha256
from registry.redaction import redact

if TYPE_CHECKING:
    from obstore.store import ObjectStore

CONNECT_SECONDS = 5
READ_SECONDS = 30
"""Without a byte."""
RETRY_SECONDS = 20
STREAM_CHUNK_BYTES = 1 << 20
NOT_INSTALLED = "buckets need the extra `objects`: pip install 'sluice-gateway[objects]'"


class ObjectArtifacts(ArtifactStore):
    """A store in a bucket.

    Args:
        url: `s3://bucket/prefix`, `gs://bucket/prefix` or `az://account/container/prefix`.
        options: of the store by their names in obstore, such as `endpoint`, `region` and `access_key_id`. What is not
            among them is found as the provider's own tools find it. `allow_http` is `true` or `false`, the default.

    Raises:
        StoreUnavailable: a URL or options that make no sense, or the extra is not installed.
    """

    def __init__(self, url: str, *, options: Mapping[str, str] | None = None) -> None:
        self._place = redact(url)
        self._store = open_bucket(self._place, url, dict(options or {}))

    @property
    def place(self) -> str:
        return self._place

    def put(self, path: Path, sha256: str) -> bool:
        import obstore

        key = _key(sha256)
        if self._size(key) == path.stat().st_size:
            for _ in _verified(path, sha256):
                pass
            return False
        chunks = _Chunks(path, sha256)
        try:
            obstore.put(self._store, key, chunks)
        except Exception as error:
            # The library hands on what the chunks raise in its own words; an upload that failed leaves no object.
            raise chunks.error or StoreUnavailable(self._place, reason_of(error)) from error
        return True

    def open(self, sha256: str) -> BinaryIO:
        import obstore

        with self._errors(sha256):
            return cast(BinaryIO, io.BufferedReader(_Reader(obstore.open_reader(self._store, _key(sha256)))))

    def has(self, sha256: str) -> bool:
        return is_sha256(sha256) and self._size(_key(sha256)) is not None

    def delete(self, sha256: str) -> None:
        import obstore

        try:
            with self._errors(sha256):
                obstore.delete(self._store, _key(sha256))
        except NotFound:
            pass

    def list(self) -> Iterator[StoredObject]:
        import obstore

        with self._errors(""):
            for batch in obstore.list(self._store, prefix="objects/"):
                for meta in batch:
                    name = meta["path"].rpartition("/")[2]
                    if is_sha256(name) and meta["path"] == _key(name):
                        yield StoredObject(name, meta["size"], meta["last_modified"].timestamp())

    def remove_unfinished(self, before: float) -> None:
        """Nothing: parts of an upload that was cut off are for the bucket's own rules to expire."""

    def _size(self, key: str) -> int | None:
        import obstore

        try:
            with self._errors(key):
                return obstore.head(self._store, key)["size"]
        except NotFound:
            return None

    def chunks(self, sha256: str, offset: int) -> Iterator[bytes]:
        import obstore

        key = _key(sha256)
        if offset and offset == self._size(key):
            return  # a range that begins at the end is an error of the protocol
        with self._errors(sha256):
            found = obstore.get(self._store, key, options={"range": {"offset": offset}} if offset else None)
            for chunk in found.stream(min_chunk_size=STREAM_CHUNK_BYTES):
                yield bytes(chunk)

    @contextmanager
    def _errors(self, sha256: str) -> Iterator[None]:
        from obstore.exceptions import BaseError, NotFoundError

        try:
            yield
        except (NotFoundError, FileNotFoundError):
            raise NotFound("object", sha256) from None
        except (BaseError, OSError) as error:
            raise StoreUnavailable(self._place, reason_of(error)) from error


class _Chunks:
    """A file's chunks for an upload, which fails at its end when the bytes were not the announced ones."""

    def __init__(self, path: Path, sha256: str) -> None:
        self._chunks = _verified(path, sha256)
        self.error: Exception | None = None

    def __iter__(self) -> _Chunks:
        return self

    def __next__(self) -> bytes:
        try:
            return next(self._chunks)
        except StopIteration:
            raise
        except Exception as error:
            self.error = error
            raise


def _verified(path: Path, sha256: str) -> Iterator[bytes]:
    sha = hashlib.sha256()
    for chunk in read_file(path):
        sha.update(chunk)
        yield chunk
    if sha.hexdigest() != sha256:
        raise DigestMismatch(str(path), sha256, sha.hexdigest())


class _Reader(io.RawIOBase):
    """One of the library's readers as Python's readers are."""

    def __init__(self, reader: Any) -> None:
        self._reader = reader

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = bytes(self._reader.read(len(buffer)))
        buffer[: len(data)] = data
        return len(data)


def _key(sha256: str) -> str:
    if not is_sha256(sha256):
        raise NotFound("object", sha256)
    return f"objects/{sha256[:2]}/{sha256}"


def open_bucket(place: str, url: str, options: dict[str, str]) -> ObjectStore:
    """What the library reads a bucket with. StoreUnavailable as for `ObjectArtifacts`."""
    try:
        from obstore.store import from_url
    except ImportError:
        raise StoreUnavailable(place, NOT_INSTALLED) from None
    allow_http = options.pop("allow_http", "false").lower() == "true"
    timeouts = {"connect_timeout": timedelta(seconds=CONNECT_SECONDS), "read_timeout": timedelta(seconds=READ_SECONDS)}
    # No limit on a whole transfer: a large object on a slow line takes its time.
    client: Any = {"allow_http": allow_http, "timeout": timedelta(days=1), **timeouts}
    retry: Any = {"max_retries": 5, "retry_timeout": timedelta(seconds=RETRY_SECONDS)}
    config: Any = options
    try:
        return from_url(url, config=config, client_options=client, retry_config=retry)
    except Exception as error:
        raise StoreUnavailable(place, reason_of(error)) from error


def reason_of(error: Exception) -> str:
    """The library's words without its debugging dump."""
    return redact(f"{type(error).__name__}: {error}".partition("Debug source:")[0])
