"""Reads a model card: a YAML or JSON mapping, or Markdown with such a mapping on top. Its prose becomes the field
`text`."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path
from typing import Any

import yaml

from registry.errors import InvalidCard, LimitExceeded
from registry.manifest import canonical_json

MAX_CARD_BYTES = 256 << 10
MAX_CARD_DEPTH = 16
_FENCE = "---"


def read_card(path: Path) -> dict[str, Any]:
    """The fields of the card in a file.

    Raises:
        InvalidCard: it is no mapping, or cannot be parsed.
        LimitExceeded: it is too large.
        OSError: it cannot be read.
    """
    if (size := path.stat().st_size) > MAX_CARD_BYTES:
        raise LimitExceeded(path.name, "bytes", size, MAX_CARD_BYTES)
    try:
        return parse_card(path.read_text("utf-8"), is_markdown=path.suffix.lower() in (".md", ".markdown", ""))
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        raise InvalidCard(path.name, str(error).replace("\n", " ")) from None


def parse_card(text: str, *, is_markdown: bool) -> dict[str, Any]:
    """The fields of a card. Raises ValueError or yaml.YAMLError."""
    prose = ""
    if is_markdown:
        text, prose = _split(text)
    plain = yaml.load(text, _Loader) if text.strip() else {}
    if not isinstance(plain, dict):
        raise ValueError("a card is a mapping of field names to values")
    card = {str(key): _to_json(value) for key, value in plain.items()}
    if prose.strip():
        card.setdefault("text", prose.strip())
    json.loads(canonical_json(card))
    return card


def _split(text: str) -> tuple[str, str]:
    lines = text.splitlines()
    if not lines or lines[0].strip() != _FENCE:
        return "", text
    ends = [number for number, line in enumerate(lines[1:], 1) if line.strip() == _FENCE]
    if not ends:
        raise ValueError("the mapping on top does not end")
    return "\n".join(lines[1 : ends[0]]), "\n".join(lines[ends[0] + 1 :])


def _to_json(value: Any, depth: int = 0) -> Any:
    if depth > MAX_CARD_DEPTH:
        raise ValueError(f"nested deeper than {MAX_CARD_DEPTH} levels")
    if isinstance(value, dict):
        return {str(key): _to_json(inner, depth + 1) for key, inner in value.items()}
    if isinstance(value, list):
        return [_to_json(inner, depth + 1) for inner in value]
    if isinstance(value, date):
        return value.isoformat()
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise ValueError(f"a {type(value).__name__} has no place in a card")


class _Loader(yaml.SafeLoader):
    """Plain values only: a reference may stand for a value many times its own size."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise ValueError("references (*name) are not allowed in a card")
        return super().compose_node(parent, index)
