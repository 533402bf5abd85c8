"""All settings as a Markdown table: `python -m gateway.settings_table README.md` writes it between its markers."""

from __future__ import annotations

import sys
import typing
from pathlib import Path
from typing import Any

from gateway.settings import GIB, Leaf
from gateway.settings_sources import Entry, entries, quantity

BEGIN, END = "<!-- settings -->\n", "<!-- /settings -->"
# Upper limits that are there against nonsense, and would only fill the table.
_BEYOND_REASON = (86400, 2**31 - 1, 64 * GIB, 2**47)


def settings_table() -> str:
    """One row a leaf, in the order of the declarations."""
    rows = ["| setting | default | meaning |", "| --- | --- | --- |"]
    rows += [
        f"| `{one.key}` | {_default(one.default, one.leaf)} | {one.leaf.help}{_limits(one)} |" for one in entries()
    ]
    return "\n".join(rows) + "\n"


def rewritten(text: str) -> str:
    """`text` with what stands between the markers replaced; ValueError when it has no markers."""
    head, begin, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"no {BEGIN.strip()} … {END}")
    return head + begin + settings_table() + end + tail


def _limits(entry: Entry) -> str:
    if typing.get_origin(entry.type) is typing.Literal:
        return f" ({', '.join(typing.get_args(entry.type))})"
    low, high = entry.leaf.low, entry.leaf.high
    if low is None or high is None or high in _BEYOND_REASON:
        return ""
    return f" ({quantity(low, entry.leaf)} to {quantity(high, entry.leaf)})"


def _default(value: Any, leaf: Leaf) -> str:
    if value is None or value == ():
        return "none"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{quantity(value, leaf)}`" if isinstance(value, int | float) else f"`{value}`"


if __name__ == "__main__":
    for name in sys.argv[1:]:
        file = Path(name)
        file.write_text(rewritten(file.read_text("utf-8")), "utf-8")
