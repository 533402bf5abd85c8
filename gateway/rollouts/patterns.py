"""Regular expressions over what callers send, by RE2: whatever the pattern and the text, matching takes time linear in
the text, and never holds up the event loop. What Python's `re` knows beyond that, such as look-ahead and
back-references, is refused."""

from __future__ import annotations

from typing import Protocol

import re2

MAX_BYTES = 1 << 20
"""Of memory for one pattern."""


class InvalidPattern(ValueError):
    """`str()` says what RE2 does not take."""


class Pattern(Protocol):
    def fullmatch(self, text: str) -> object | None: ...


def compile_pattern(text: str) -> Pattern:
    """Raises InvalidPattern."""
    options = re2.Options()
    options.log_errors = False
    options.max_mem = MAX_BYTES
    try:
        compiled: Pattern = re2.compile(text, options)
    except re2.error as error:
        raise InvalidPattern(error.args[0].decode(errors="replace")) from None
    except UnicodeEncodeError:
        raise InvalidPattern("no Unicode text") from None
    return compiled
