"""How a subcommand says that it cannot go on."""

from __future__ import annotations

from gateway.errors import SettingsError


class CommandFailed(Exception):
    """Told to the person at the terminal: what is wrong and, as `hint`, what to do about it."""

    def __init__(self, problem: str, hint: str = "", exit_code: int = 1) -> None:
        super().__init__(problem)
        self.hint = hint
        self.exit_code = exit_code

    @classmethod
    def from_settings_error(cls, error: SettingsError) -> CommandFailed:
        origin = f" (from {error.origin})" if error.origin else ""
        return cls(f"{error.key}: {error.reason}{origin}", exit_code=2)
