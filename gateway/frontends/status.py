"""How failures are told to callers: two tables and the texts. Nothing else maps an error to a status.

The texts are those that clients of Triton know and match.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from typing import Any, NamedTuple

from gateway import errors


class Code(IntEnum):
    """The status codes of gRPC."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


HTTP_STATUS: tuple[int, ...] = (
    200,  # OK
    499,  # CANCELLED: the caller has gone, nobody reads it
    500,  # UNKNOWN
    400,  # INVALID_ARGUMENT
    504,  # DEADLINE_EXCEEDED
    404,  # NOT_FOUND
    400,  # ALREADY_EXISTS
    403,  # PERMISSION_DENIED
    429,  # RESOURCE_EXHAUSTED
    400,  # FAILED_PRECONDITION
    409,  # ABORTED
    400,  # OUT_OF_RANGE
    501,  # UNIMPLEMENTED
    500,  # INTERNAL
    503,  # UNAVAILABLE
    500,  # DATA_LOSS
    401,  # UNAUTHENTICATED
)
"""The HTTP status of each gRPC code, by its number."""


class Status(NamedTuple):
    """What a caller is told."""

    code: Code
    text: str

    @property
    def http(self) -> int:
        return HTTP_STATUS[self.code]


def _version(version: str) -> str:
    return f" version {version}" if version else ""


def _no_statistics(e: errors.NoStatistics) -> str:
    version = f", version {e.version}," if e.version else ""
    return f"requested model '{e.model}'{version} is not available"


def _bad_config(e: errors.ConfigError) -> str:
    return f"configuration of model '{e.model}': {f'{e.field}: ' if e.field else ''}{e.reason}"


def _load_failed(e: errors.LoadFailed) -> str:
    return f"load failed for model '{e.model}'{_version(e.version)}: {e.reason}"


_TABLE: dict[type[errors.SluiceError], tuple[Code, Callable[[Any], str]]] = {
    errors.InvalidRequest: (Code.INVALID_ARGUMENT, lambda e: e.reason),
    errors.UnknownModel: (Code.NOT_FOUND, lambda e: f"Request for unknown model: '{e.model}' is not found"),
    errors.UnknownVersion: (
        Code.NOT_FOUND,
        lambda e: f"Request for unknown model: '{e.model}' version {e.version} is not found",
    ),
    errors.NoVersionAvailable: (
        Code.NOT_FOUND,
        lambda e: f"Request for unknown model: '{e.model}' has no available versions",
    ),
    errors.NoStatistics: (Code.INVALID_ARGUMENT, _no_statistics),
    errors.VersionNotReady: (
        Code.UNAVAILABLE,
        lambda e: f"Request for unknown model: '{e.model}'{_version(e.version)} is not at ready state",
    ),
    errors.Unsupported: (Code.UNIMPLEMENTED, lambda e: f"{e.feature} is not supported"),
    errors.ControlNotAllowed: (
        Code.UNAVAILABLE,
        lambda e: "explicit model load / unload is not allowed if polling is enabled",
    ),
    errors.NotServing: (Code.UNAVAILABLE, lambda e: "the server is not ready"),
    errors.ConfigError: (Code.INVALID_ARGUMENT, _bad_config),
    errors.ModelNotInRepository: (
        Code.INTERNAL,
        lambda e: f"failed to load '{e.model}', failed to poll from model repository",
    ),
    errors.LoadFailed: (Code.INVALID_ARGUMENT, _load_failed),
}


def status_of(error: BaseException) -> Status | None:
    """The status of an error from `gateway.errors`, by the nearest class of its line in the table; None for any other
    exception, which is a bug of ours: log it, and answer `UNEXPECTED`."""
    for cls in type(error).__mro__:
        if row := _TABLE.get(cls):
            code, text = row
            return Status(code, text(error))
    return None


UNEXPECTED = Status(Code.INTERNAL, "internal error")
