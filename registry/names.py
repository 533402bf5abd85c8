"""What models and aliases may be called. A name is an opaque id that matches a pattern; nobody joins it to a path or a
query without asking here first."""

from __future__ import annotations

import re

from registry.errors import InvalidName

MAX_NAME = 128

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_NUMBER = re.compile(r"[0-9]+")


def is_name(name: str) -> bool:
    """Whether a model of the catalog may have that name."""
    return _NAME.fullmatch(name) is not None


def is_alias(alias: str) -> bool:
    """Whether an alias may have that name: as a model's, and never one that reads as a version."""
    return is_name(alias) and _NUMBER.fullmatch(alias) is None


def check_name(name: str) -> str:
    """The name itself.

    Raises:
        InvalidName: it cannot be a model's.
    """
    if not is_name(name):
        raise InvalidName("model", name)
    return name


def check_alias(alias: str) -> str:
    """The alias itself.

    Raises:
        InvalidName: it cannot be an alias.
    """
    if not is_alias(alias):
        raise InvalidName("alias", alias)
    return alias
