"""A model repository in a bucket as a source: `<prefix>/<model>/<version>/…`, with `config.pbtxt` beside the versions,
in S3, Google Cloud Storage or Azure.

One listing at each look tells what is there. A version is taken when its listing has held still, since an upload of
several files is not atomic; from then on it is pinned, by the tags of the store and by the digests of what came.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from registry.cache import ContentCache
from registry.errors import NotFound, PullFailed, SourceUnavailable
from registry.first_sight import RemoteFile, bring, identity_of
from registry.ledger import Ledger
from registry.manifest import FileEntry
from registry.redaction import without_user
from registry.sources.directory import CONFIG_FILENAME, MAX_CONFIG_BYTES, is_model_name
from registry.sources.remote import RemoteSource, View
from registry.sources.replica import Candidate, Wanted

if TYPE_CHECKING:
    from obstore.store import ObjectStore

MAX_OBJECTS = 100_000
"""Below one prefix."""
SETTLE_SECONDS = 2.0
"""For which a new version's listing must hold still."""
CHUNK_BYTES = 1 << 20

_VERSION = re.compile(r"[1-9][0-9]{0,17}")
_WARMUP = "warmup"

Choose = Callable[[str, bytes | None, Collection[int]], Collection[int]]
"""Which of a model's versions are wanted, by its name, its config.pbtxt and those that are there."""


@dataclass
class _Folder:
    """One model as the listing has it."""

    versions: dict[int, list[RemoteFile]] = field(default_factory=lambda: defaultdict(list))
    companions: list[RemoteFile] = field(default_factory=list)
    config: RemoteFile | None = None


@dataclass
class _Stable:
    identity: str
    since: float


class ObjectStoreSource(RemoteSource):
    """One prefix of one bucket.

    Args:
        url: `s3://bucket/prefix` and the like.
        connect: opens the bucket at that prefix; called again after it failed.
        choose: reads version policies.
        settle_seconds: for which a new version's listing must hold still; 0 believes the first one.
        bounds: see `RemoteSource`.
    """

    def __init__(
        self,
        url: str,
        connect: Callable[[], ObjectStore],
        cache: ContentCache,
        ledger: Ledger,
        choose: Choose,
        *,
        settle_seconds: float = SETTLE_SECONDS,
        sleep: Callable[[float], None] = time.sleep,
        **bounds: Any,
    ) -> None:
        super().__init__("objects", without_user(url), cache, ledger, **bounds)
        self._connect, self._choose = connect, choose
        self._settle_seconds, self._sleep = settle_seconds, sleep
        # Changed by `look` alone.
        self._store: ObjectStore | None = None
        self._stable: dict[tuple[str, int], _Stable] = {}
        self._configs: dict[tuple[str, str], bytes] = {}

    def look(self, last: View | None) -> View:
        if self._store is None:
            self._store = self._connect()
        problems: dict[str, list[str]] = defaultdict(list)
        folders = self._folders(self._list(), problems)
        if not folders and last is not None and last.wanted:
            raise SourceUnavailable(self.place, "holds no model any more, where it held some")
        wanted = {name: self._wanted(name, folder, tuple(problems[name])) for name, folder in folders.items()}
        view = View(MappingProxyType(wanted))
        return last if last == view else view

    # The listing

    def _list(self) -> Iterator[RemoteFile]:
        import obstore

        assert self._store is not None
        count = 0
        with _errors(self.place):
            for batch in obstore.list(self._store, chunk_size=1000):
                for meta in batch:
                    count += 1
                    if count > MAX_OBJECTS:
                        raise SourceUnavailable(self.place, f"holds more than {MAX_OBJECTS} objects")
                    tag = meta.get("e_tag") or meta.get("version") or ""
                    yield RemoteFile("", meta["path"], meta["size"], tag)

    def _folders(self, files: Iterator[RemoteFile], problems: dict[str, list[str]]) -> dict[str, _Folder]:
        folders: dict[str, _Folder] = defaultdict(_Folder)
        for file in files:
            model, _, rest = file.key.partition("/")
            first, slash, path = rest.partition("/")
            if not rest or not is_model_name(model) or first.startswith("."):
                continue
            folder = folders[model]
            if rest == CONFIG_FILENAME:
                folder.config = file
            elif slash and _VERSION.fullmatch(first):
                if path:  # a name that ends in a slash is somebody's idea of a folder
                    folder.versions[int(first)].append(RemoteFile(path, file.key, file.size, file.tag))
            elif slash and first.isdigit():
                reason = f"{first}: a version is a number from 1 on, without leading zeros, of at most 18 digits"
                if reason not in problems[model]:
                    problems[model].append(reason)
            elif not slash or (first == _WARMUP and "/" not in path and path):
                folder.companions.append(RemoteFile(rest, file.key, file.size, file.tag))
        return {name: each for name, each in folders.items() if each.versions or each.config}

    # What one model wants

    def _wanted(self, name: str, folder: _Folder, problems: tuple[str, ...]) -> Wanted:
        try:
            config = self._config(name, folder.config)
        except PullFailed as error:
            return Wanted(reasons=(f"{CONFIG_FILENAME}: {error.reason}",), is_chosen=False)
        chosen = self._choose(name, config, folder.versions.keys())
        candidates = []
        unsettled = []
        for version in sorted(chosen):
            files = tuple(sorted(folder.versions[version]))
            if self._has_settled(name, version, identity_of(files)):
                candidates.append(self._candidate(version, files))
            else:
                unsettled.append(version)
        if folder.companions:
            files = tuple(sorted(folder.companions))
            number = -1 - int(hashlib.sha256(identity_of(files).encode()).hexdigest()[:12], 16)
            candidates.append(self._candidate(number, files))
        waits = tuple(f"version {version} is still being uploaded" for version in unsettled)
        return Wanted(tuple(candidates), config, is_chosen=False, reasons=waits, notes=problems)

    def _has_settled(self, name: str, version: int, identity: str) -> bool:
        now, key = self.clock(), (name, version)
        stable = self._stable.get(key)
        if stable is None or stable.identity != identity:
            stable = self._stable[key] = _Stable(identity, now)
        is_known = self.replica.pinned_identity(name, version) is not None
        return is_known or now - stable.since >= self._settle_seconds

    def _candidate(self, version: int, files: tuple[RemoteFile, ...]) -> Candidate:
        return Candidate(version, identity_of(files), partial(self._bring, files))

    def _bring(self, files: tuple[RemoteFile, ...], pinned: tuple[FileEntry, ...] | None) -> tuple[FileEntry, ...]:
        """Runs in a thread of the replica."""
        return bring(self.cache, files, pinned, self._chunks, clock=self.clock, sleep=self._sleep)

    def _config(self, name: str, file: RemoteFile | None) -> bytes | None:
        if file is None:
            return None
        if file.size > MAX_CONFIG_BYTES:
            raise PullFailed("", f"{file.size} bytes, at most {MAX_CONFIG_BYTES} are read")
        key = (name, file.tag)
        if not file.tag or key not in self._configs:
            self._configs = {known: text for known, text in self._configs.items() if known[0] != name}
            self._configs[key] = b"".join(self._chunks(file, 0))
        return self._configs[key]

    def _chunks(self, file: RemoteFile, offset: int) -> Iterator[bytes]:
        """The bytes of exactly the object that was listed: a replaced one is refused by the store."""
        import obstore

        assert self._store is not None
        if offset == file.size:
            return
        options: Any = {"if_match": file.tag} if file.tag else {}
        if offset:
            options["range"] = {"offset": offset}
        with _reading(file):
            for chunk in obstore.get(self._store, file.key, options=options).stream(min_chunk_size=CHUNK_BYTES):
                yield bytes(chunk)


@contextmanager
def _errors(place: str) -> Iterator[None]:
    from obstore.exceptions import BaseError

    from registry.object_artifacts import reason_of

    try:
        yield
    except (BaseError, OSError) as error:
        raise SourceUnavailable(place, reason_of(error)) from error


@contextmanager
def _reading(file: RemoteFile) -> Iterator[None]:
    from obstore.exceptions import BaseError, NotFoundError, PreconditionError

    from registry.object_artifacts import reason_of

    try:
        yield
    except (NotFoundError, FileNotFoundError):
        raise NotFound("object", file.key) from None
    except PreconditionError:
        raise PullFailed(file.path, "was replaced while it was read") from None
    except (BaseError, OSError) as error:
        raise PullFailed(file.path, reason_of(error)) from error
