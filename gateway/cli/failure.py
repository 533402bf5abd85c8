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
