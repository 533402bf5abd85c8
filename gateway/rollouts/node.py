"""A value of a document together with its path, so that whoever reads it can say what is wrong where."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from gateway.rollouts.errors import InvalidPlan
from gateway.rollouts.patterns import InvalidPattern, compile_pattern

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)?")
_UNITS = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0, None: 1.0}
MAX_TEXT = 4096


@dataclass(frozen=True)
class Node:
    """Each method returns the value as what it says, or raises InvalidPlan with the path."""

    value: object
    path: str

    def refuse(self, reason: str) -> NoReturn:
        raise InvalidPlan(self.path, reason)

    def keys(self, *known: str, required: tuple[str, ...] = ()) -> dict[str, Node]:
        """Of a mapping without other keys than the known ones."""
        if not isinstance(self.value, Mapping):
            self.refuse("needs a mapping")
        for key in self.value:
            if key not in known:
                raise InvalidPlan(self._below(key), f"unknown; known: {', '.join(known)}")
        for key in required:
            if key not in self.value:
                raise InvalidPlan(self._below(key), "missing")
        return {key: Node(value, self._below(key)) for key, value in self.value.items()}

    def entries(self, most: int) -> dict[str, Node]:
        """Of a mapping whose keys are names."""
        if not isinstance(self.value, Mapping):
            self.refuse("needs a mapping")
        if len(self.value) > most:
            self.refuse(f"needs at most {most} entries, not {len(self.value)}")
        for key in self.value:
            Node(key, self._below(key)).text()
        return {key: Node(value, self._below(key)) for key, value in self.value.items()}

    def one_of(self, *known: str) -> tuple[Any, Node]:
        """The one key of a mapping, and its value."""
        keys = self.keys(*known)
        if len(keys) != 1:
            self.refuse(f"needs exactly one of {', '.join(known)}")
        return next(iter(keys.items()))

    def switch(self, *known: str) -> dict[str, Node] | None:
        """A mapping, or true for an empty one, or false for None."""
        if isinstance(self.value, bool):
            return {} if self.value else None
        return self.keys(*known)

    def items(self, least: int, most: int) -> list[Node]:
        if not isinstance(self.value, list | tuple):
            self.refuse("needs a list")
        if not least <= len(self.value) <= most:
            self.refuse(f"needs {least} to {most} items, not {len(self.value)}")
        return [Node(value, f"{self.path}[{index}]") for index, value in enumerate(self.value)]

    def number(self, least: float, most: float) -> float:
        if isinstance(self.value, bool) or not isinstance(self.value, int | float) or math.isnan(self.value):
            self.refuse("needs a number")
        if not least <= self.value <= most:
            self.refuse(f"must be from {least:g} to {most:g}, not {self.value:g}")
        return float(self.value)

    def integer(self, least: int, most: int) -> int:
        if isinstance(self.value, bool) or not isinstance(self.value, int):
            self.refuse("needs a whole number")
        if not least <= self.value <= most:
            self.refuse(f"must be from {least} to {most}, not {self.value}")
        return self.value

    def percent(self) -> float:
        """0 to 100, as a ratio."""
        return self.number(0, 100) / 100

    def duration(self, least: float, most: float) -> float:
        """Seconds: a number, or text such as 30s, 5m, 1h."""
        if not isinstance(self.value, str):
            return self.number(least, most)
        match = _DURATION.fullmatch(self.value.strip())
        if match is None:
            self.refuse("needs a duration such as 30s, 5m or 1h")
        return Node(float(match[1]) * _UNITS[match[2]], self.path).number(least, most)

    def flag(self) -> bool:
        if not isinstance(self.value, bool):
            self.refuse("needs true or false")
        return self.value

    def text(self) -> str:
        if not isinstance(self.value, str) or not 0 < len(self.value) <= MAX_TEXT:
            self.refuse(f"needs text of 1 to {MAX_TEXT} characters")
        return self.value

    def pattern(self) -> str:
        text = self.text()
        try:
            compile_pattern(text)
        except InvalidPattern as error:
            self.refuse(f"no regular expression of RE2: {error}")
        return text

    def choice(self, known: tuple[str, ...]) -> Any:
        if self.value not in known:
            self.refuse(f"must be one of {', '.join(known)}")
        return self.value

    def _below(self, key: object) -> str:
        return f"{self.path}.{key}" if self.path else str(key)
