"""JSON that callers send, checked member by member before anything is done with it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, NoReturn, TypeVar

from aiohttp import web

from gateway.admin.problems import Problem, ProblemError

MAX_BYTES = 4 << 20
MAX_INTEGER = 2**53 - 1
T = TypeVar("T")


class Body:
    """An object that came in. Each member is taken once; `end` refuses what nobody took."""

    def __init__(self, members: Mapping[str, Any], path: str = "") -> None:
        self._members, self._path = dict(members), path

    def text(self, name: str, default: str | None = None, *, max_length: int = 4096, is_empty_ok: bool = True) -> str:
        value = self._take(name, default)
        if not isinstance(value, str) or len(value) > max_length or not (value.strip() or is_empty_ok):
            self._refuse(name, f"text of {'' if is_empty_ok else '1 to '}at most {max_length} characters")
        if any(ord(letter) < 32 and letter not in "\n\r\t" or 0xD800 <= ord(letter) < 0xE000 for letter in value):
            self._refuse(name, "text without control characters")
        return value

    def integer(self, name: str, *, low: int = 0) -> int:
        value = self._take(name, None)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= MAX_INTEGER:
            self._refuse(name, f"a whole number from {low} on")
        return value

    def number(self, name: str, default: float) -> float:
        value = self._take(name, default)
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= MAX_INTEGER:
            self._refuse(name, "a number from 0 on")
        return float(value)

    def real(self, name: str) -> float:
        value = self._take(name, None)
        if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
            self._refuse(name, "a number")
        return float(value)

    def choice(self, name: str, choices: tuple[T, ...]) -> T:
        value = self._take(name, None)
        for choice in choices:
            if value == choice:
                return choice
        self._refuse(name, f"one of {', '.join(map(str, choices))}")

    def names(self) -> tuple[str, ...]:
        """Of members that nobody took yet."""
        return tuple(self._members)

    def has(self, name: str) -> bool:
        """Whether it is there and not null; null is taken."""
        if self._members.get(name) is None:
            self._members.pop(name, None)
            return False
        return True

    def boolean(self, name: str, default: bool | None) -> bool:
        """Without a default it must be there."""
        value = self._take(name, default)
        if not isinstance(value, bool):
            self._refuse(name, "true or false")
        return value

    def object(self, name: str, default: Mapping[str, Any] | None = None) -> dict[str, Any]:
        value = self._take(name, default)
        if not isinstance(value, Mapping):
            self._refuse(name, "an object")
        return dict(value)

    def list(self, name: str, default: Any = None, *, max_items: int = 4096) -> list[Any]:
        value = self._take(name, default)
        if not isinstance(value, list) or len(value) > max_items:
            self._refuse(name, f"a list of at most {max_items}")
        return list(value)

    def inner(self, name: str, default: Mapping[str, Any] | None = None) -> Body:
        return Body(self.object(name, default), f"{self._path}{name}.")

    def optional_text(self, name: str, *, max_length: int = 4096) -> str | None:
        return self.text(name, max_length=max_length) if self.has(name) else None

    def end(self) -> None:
        """ProblemError for members that are not known."""
        for name in self._members:
            raise _invalid(f"{self._path}{name[:64]}: there is no such member")

    def _take(self, name: str, default: Any) -> Any:
        return self._members.pop(name, default)

    def _refuse(self, name: str, wanted: str) -> NoReturn:
        raise _invalid(f"{self._path}{name}: must be {wanted}")


async def read_body(request: web.Request, *, is_optional: bool = False) -> Body:
    """ProblemError when it is no JSON object, or too large. The content type must say JSON: a form of another page
    cannot."""
    if is_optional and not request.body_exists:
        return Body({})
    if request.content_type != "application/json":
        raise ProblemError(Problem(415, "invalid-request", "the content type must be application/json"))
    content = bytearray()
    async for part in request.content.iter_any():
        content += part
        if len(content) > MAX_BYTES:
            raise ProblemError(Problem(413, "limit-exceeded", f"a body of at most {MAX_BYTES} bytes is taken"))
    try:
        document = json.loads(content, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise _invalid("the body is no JSON") from None
    if not isinstance(document, dict):
        raise _invalid("the body must be an object")
    return Body(document)


def query_integer(request: web.Request, name: str, default: int | None, low: int, high: int) -> int:
    text = request.query.get(name)
    if text is None and default is not None:
        return default
    if text is None or not (text.isascii() and text.isdigit()) or len(text) > 16 or not low <= int(text) <= high:
        raise _invalid(f"{name}: must be a whole number from {low} to {high}")
    return int(text)


def _invalid(detail: str) -> ProblemError:
    return ProblemError(Problem(400, "invalid-request", detail))


def _no_constant(name: str) -> float:
    raise ValueError(name)
