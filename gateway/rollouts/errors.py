"""What may be wrong with a plan, and with what is asked of a rollout.

RolloutError
├── InvalidPlan      a key, guard or value that a plan cannot have, by its path
└── CommandRefused   a command that makes no sense in the rollout's state
"""

from __future__ import annotations


class RolloutError(Exception):
    """Of rollouts."""


class InvalidPlan(RolloutError):
    """`field` is the path of what is wrong, such as `steps[2].bake.minTime`; empty when it is the document."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}" if field else reason)
        self.field = field
        self.reason = reason


class CommandRefused(RolloutError):
    """The rollout's state does not allow the command; nothing changed."""

    def __init__(self, command: str, state: str) -> None:
        super().__init__(f"cannot {command} a rollout that is {state}")
        self.command = command
        self.state = state
