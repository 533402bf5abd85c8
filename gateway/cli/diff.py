"""`sluice diff`: what changed between two versions of a model."""

from __future__ import annotations

import difflib
from typing import Annotated, Any

import typer
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from gateway.cli.options import AdminUrl, AsJson, Config, DataDir, TokenFile, byte_size, output, print_json
from gateway.cli.registry import Doc, Model, complete_version, open_registry, resolve

Version = Annotated[str, typer.Argument(help="A version, or an alias.", autocompletion=complete_version)]
_PROSE = ("config", "card")
_DIGITS = 12


def diff(
    name: Model,
    before: Version,
    after: Version,
    data_dir: DataDir = None,
    admin_url: AdminUrl = None,
    token_file: TokenFile = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Show what changed: signature, operators, size, files, metrics, lineage, tags, card."""
    with open_registry(data_dir, admin_url, token_file, config) as registry:
        document = registry.diff(name, resolve(registry, name, before), resolve(registry, name, after))
    if as_json:
        print_json(document)
    else:
        show(output(), document)


def show(console: Console, document: Doc) -> None:
    title = f"{document['model']} {document['before']} → {document['after']}"
    if not document["changes"]:
        console.print(Text.assemble((title, "bold"), ": no difference"))
        return
    verdict = (
        ("callers need no change", "green") if document["compatible"] else ("callers have to change", "bold yellow")
    )
    console.print(Text.assemble((title, "bold"), ": ", verdict))
    sections: dict[str, list[Doc]] = {}
    for change in document["changes"]:
        sections.setdefault(change["section"], []).append(change)
    for section, changes in sections.items():
        console.print(Text(f"\n{section}", "bold cyan"))
        console.print(Group(*map(_prose, changes)) if section in _PROSE else _rows(section, changes))


def _rows(section: str, changes: list[Doc]) -> Table:
    made = Table(box=None, show_header=False, padding=(0, 2, 0, 2))
    for change in changes:
        before, after = change["before"], change["after"]
        mark = ("+", "green") if before is None else ("-", "red") if after is None else ("~", "yellow")
        made.add_row(
            Text(*mark), change["item"], Text(_shown(section, before), "red"), Text(_shown(section, after), "green"),
            Text(_change(section, before, after), "dim"),
        )  # fmt: skip
    return made


def _prose(change: Doc) -> Text:
    """Lines of a longer text, as `diff -u` shows them."""
    before, after = (str(change[side] or "").splitlines() for side in ("before", "after"))
    made = Text()
    if change["item"] not in ("text", "config.pbtxt"):
        made.append(f"  {change['item']}\n", "dim")
    for line in list(difflib.unified_diff(before, after, lineterm="", n=1))[2:]:
        style = {"+": "green", "-": "red", "@": "dim"}.get(line[:1], "")
        made.append(f"  {line}\n", style)
    made.rstrip()
    return made


def _shown(section: str, value: Any) -> str:
    if value is None:
        return ""
    if section == "size":
        return byte_size(value)
    return str(value)[:_DIGITS] if section == "files" else str(value)


def _change(section: str, before: Any, after: Any) -> str:
    """By how much a number changed."""
    if isinstance(before, bool) or not isinstance(before, int | float) or not isinstance(after, int | float):
        return ""
    if section == "size" and before:
        return f"{(after - before) / before:+.1%}"
    return f"{after - before:+.6g}" if section in ("metrics", "operators") else ""
