"""MLflow's model registry as a source: versions by alias, by number or the latest one, ONNX flavour only.

MLflow keeps no digests, so each version is digested when it is first seen, and held to that. The alias is asked for at
each look; what it points at is followed, never asked for at a request.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any

import yaml

from registry.cache import ContentCache
from registry.errors import InvalidPolicy, LimitExceeded, PullFailed, SourceUnavailable, UnsupportedFormat
from registry.first_sight import RemoteFile, bring
from registry.ledger import Ledger
from registry.manifest import FileEntry
from registry.policies import DEFAULT_ALIAS
from registry.redaction import redact
from registry.sources.directory import is_model_name
from registry.sources.mlflow_client import MlflowAccess, MlflowClient, MlflowError, ModelVersion
from registry.sources.remote import RemoteSource, View
from registry.sources.replica import Candidate, Wanted

MODEL_FILENAME = "model.onnx"
MAX_MLMODEL_BYTES = 1 << 20
MAX_FOLDERS = 64

_ALIAS = re.compile(r"[\w-]{1,255}")
_NOT_THE_MODEL = re.compile(
    r"MLmodel|conda\.yaml|python_env\.yaml|requirements\.txt|registered_model_meta|\w*input_example.*|code/.*|metadata/.*"
)


@dataclass(frozen=True)
class Reference:
    """Which version of a registered model is served: at most one of `alias` and `version`; neither for the latest."""

    name: str
    alias: str = ""
    version: int = 0

    @classmethod
    def parse(cls, text: str) -> Reference:
        """`name@alias`, `name/3`, `name/latest`; `name` alone for its alias champion.

        Raises:
            InvalidPolicy: none of these, or a name that no model can be served under.
        """
        name, at, alias = text.partition("@")
        name, slash, version = name.partition("/")
        is_version = version == "latest" or (version.isascii() and version.isdigit() and 0 < int(version) < 10**18)
        if (
            not is_model_name(name)
            or set(name) & set("'\"\\")
            or (at and not _ALIAS.fullmatch(alias))
            or (slash and not is_version)
            or (at and slash)
        ):
            raise InvalidPolicy("mlflow_models", text)
        if at or not slash:
            return cls(name, alias=alias or DEFAULT_ALIAS)
        return cls(name, version=0 if version == "latest" else int(version))


class MlflowSource(RemoteSource):
    """Some models of one tracking server.

    Args:
        references: one for each model.
        access: how the server is reached.
        bounds: see `RemoteSource`.
    """

    def __init__(
        self,
        url: str,
        references: tuple[Reference, ...],
        access: MlflowAccess,
        cache: ContentCache,
        ledger: Ledger,
        *,
        sleep: Callable[[float], None] = time.sleep,
        **bounds: Any,
    ) -> None:
        """Raises SourceUnavailable for a URL or a certificate that cannot be used."""
        self._client = MlflowClient(url, access)
        super().__init__("mlflow", self._client.place, cache, ledger, **bounds)
        self._references, self._sleep = references, sleep
        # Changed by `look` alone: the model file of each version that was seen, by its identity.
        self._descriptions: dict[str, tuple[tuple[RemoteFile, ...], str]] = {}

    def look(self, last: View | None) -> View:
        view = View(MappingProxyType({each.name: self._wanted(each) for each in self._references}))
        return last if last == view else view

    def _wanted(self, reference: Reference) -> Wanted:
        """SourceUnavailable is for all models; anything else is this one's own problem."""
        try:
            found = self._resolve(reference)
            if found is None:
                what = f"no alias {reference.alias}" if reference.alias else "no version that is READY"
                return Wanted(reasons=(f"the registry has {what}",))
            if found.status != "READY":
                return Wanted(reasons=(f"version {found.version} is {found.status or 'not READY'}",))
            if (known := self._descriptions.get(found.identity)) is None:
                known = self._descriptions[found.identity] = self._describe(found)
        except MlflowError as error:
            return Wanted(reasons=(redact(str(error)),))
        except UnsupportedFormat as error:
            return Wanted(reasons=(f"{error.path} is {error.format}: {error.advice}",))
        files, model_file = known
        config = (
            None if model_file == MODEL_FILENAME else f"default_model_filename: {json.dumps(model_file)}\n".encode()
        )
        candidate = Candidate(found.version, found.identity, partial(self._bring, files))
        return Wanted((candidate,), config)

    def _resolve(self, reference: Reference) -> ModelVersion | None:
        if reference.alias:
            return self._client.by_alias(reference.name, reference.alias)
        if reference.version:
            return self._client.by_number(reference.name, reference.version)
        return self._client.latest(reference.name)

    def _describe(self, version: ModelVersion) -> tuple[tuple[RemoteFile, ...], str]:
        """The files to take, and which of them is the model. Raises UnsupportedFormat for other flavours."""
        root = self._client.artifact_root(version)
        text = self._client.small_file(f"{root}/MLmodel", MAX_MLMODEL_BYTES)
        model_file = onnx_file(text, f"version {version.version}")
        files = [file for file in self._walk(root) if not _NOT_THE_MODEL.fullmatch(file.path)]
        if model_file not in {file.path for file in files}:
            raise UnsupportedFormat(model_file, "not among the files", "log the model again")
        return tuple(sorted(files)), model_file

    def _walk(self, root: str) -> list[RemoteFile]:
        found: list[RemoteFile] = []
        folders = [""]
        for count, folder in enumerate(folders):
            if count >= MAX_FOLDERS:
                raise LimitExceeded("", "folders", len(folders), MAX_FOLDERS)
            for name, is_folder, size in self._client.files(f"{root}/{folder}".rstrip("/")):
                # Some servers name what is in a folder from there, some from the root.
                path = name if not folder or name.startswith(f"{folder}/") else f"{folder}/{name}"
                if is_folder:
                    folders.append(path)
                else:
                    found.append(RemoteFile(path, f"{root}/{path}", size))
        return found

    def _bring(self, files: tuple[RemoteFile, ...], pinned: tuple[FileEntry, ...] | None) -> tuple[FileEntry, ...]:
        """Runs in a thread of the replica."""
        return bring(self.cache, files, pinned, self._chunks, clock=self.clock, sleep=self._sleep)

    def _chunks(self, file: RemoteFile, offset: int) -> Iterator[bytes]:
        if offset == file.size:
            return
        try:
            yield from self._client.chunks(file.key, offset)
        except SourceUnavailable as error:
            raise PullFailed(file.path, error.reason) from None
        except MlflowError as error:
            raise PullFailed(file.path, redact(str(error))) from None


def onnx_file(text: bytes, what: str) -> str:
    """The model file that an MLmodel file names. Raises UnsupportedFormat when it has no ONNX flavour."""
    try:
        flavours = yaml.safe_load(text)["flavors"]
        names = sorted(map(str, flavours))
        data = flavours.get("onnx", {}).get("data")
    except (yaml.YAMLError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise UnsupportedFormat(what, "without a readable MLmodel file", "log the model again") from None
    if not isinstance(data, str):
        advice = "convert it to ONNX and log it by mlflow.onnx; other flavours run code when they are loaded"
        raise UnsupportedFormat(what, f"of flavour {', '.join(names)[:200]}", advice)
    return data
