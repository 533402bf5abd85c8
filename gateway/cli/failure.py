"""How a subcommand says that it cannot go on."""

from __future__ import annotations

from enum import IntEnum

from gateway.errors import SettingsError


class ExitCode(IntEnum):
    """What a script may rely on; docs/registry.md has the table."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    NOT_FOUND = 3
    REFUSED = 4
    CONFLICT = 5
    DAMAGED = 6
    UNAVAILABLE = 7
    NOT_PERMITTED = 8


_BY_STATUS = {
    400: ExitCode.USAGE,
    401: ExitCode.NOT_PERMITTED,
    404: ExitCode.NOT_FOUND,
    409: ExitCode.REFUSED,
    412: ExitCode.CONFLICT,
    428: ExitCode.CONFLICT,
    429: ExitCode.UNAVAILABLE,
    502: ExitCode.UNAVAILABLE,
    503: ExitCode.UNAVAILABLE,
    504: ExitCode.UNAVAILABLE,
    507: ExitCode.UNAVAILABLE,
}


def exit_code_of(status: int) -> ExitCode:
    """What an answer with this HTTP status comes to."""
    return _BY_STATUS.get(status, ExitCode.REFUSED if status < 500 else ExitCode.FAILED)


class CommandFailed(Exception):
    """Told to the person at the terminal: what is wrong and, as `hint`, what to do about it."""

    def __init__(self, problem: str, hint: str = "", exit_code: int = ExitCode.FAILED) -> None:
        super().__init__(problem)
        self.hint = hint
        self.exit_code = exit_code

    @classmethod
    def from_settings_error(cls, error: SettingsError) -> CommandFailed:
        origin = f" (from {error.origin})" if error.origin else ""
        return cls(f"{error.key}: {error.reason}{origin}", exit_code=ExitCode.USAGE)
