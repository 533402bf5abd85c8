"""What the subcommands of the registry share: their options, and how they print."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from gateway.settings_sources import ADMIN_URL_VARIABLE, CONFIG_VARIABLE, TOKEN_VARIABLE

PIPE_WIDTH = 160

DataDir = Annotated[
    Path | None, typer.Option(help="The data folder whose registry is meant [~/.sluice].", rich_help_panel="Registry")
]
AdminUrl = Annotated[
    str | None,
    typer.Option(
        help="A running gateway's admin address: ask it instead of opening the registry here.",
        envvar=ADMIN_URL_VARIABLE,
        show_envvar=True,
        rich_help_panel="Registry",
    ),
]
TokenFile = Annotated[
    Path | None,
    typer.Option(help=f"File with the token for --admin-url [${TOKEN_VARIABLE}].", rich_help_panel="Registry"),
]
Config = Annotated[
    Path | None,
    typer.Option(help="YAML file of settings.", envvar=CONFIG_VARIABLE, show_envvar=True, rich_help_panel="Registry"),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Reason = Annotated[str, typer.Option("--reason", "-r", help="Why: it is kept in the audit log.")]


def output() -> Console:
    """Standard output, wide enough for a table when it is no terminal."""
    return Console(highlight=False) if sys.stdout.isatty() else Console(width=PIPE_WIDTH, highlight=False)


def messages() -> Console:
    """Standard error: what a person wants to know and a script does not."""
    return Console(stderr=True, highlight=False)


def print_json(document: Any) -> None:
    typer.echo(json.dumps(document, indent=2))


def table(titles: Iterable[str], right: Iterable[str] = ()) -> Table:
    """With the given titles, those of `right` aligned to the right."""
    made, at_right = Table(box=None, header_style="dim", padding=(0, 2, 0, 0)), set(right)
    for title in titles:
        made.add_column(title, justify="right" if title in at_right else "left", no_wrap=title in at_right)
    return made


def when(moment: str | float | None, now: float | None = None) -> str:
    """A past or coming moment (ISO 8601, or seconds since the epoch) as people say it: 5 min ago, in 3 d."""
    if moment is None or moment == "":
        return "–"
    try:
        at = datetime.fromisoformat(moment).timestamp() if isinstance(moment, str) else moment
    except ValueError:
        return str(moment)
    seconds = (time.time() if now is None else now) - at
    amount = abs(seconds)
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if amount >= size:
            text = f"{amount / size:.0f} {unit}"
            break
    else:
        text = f"{amount:.0f} s"
    return f"{text} ago" if seconds >= 0 else f"in {text}"


def address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def short(digest: str | None) -> Text:
    return Text((digest or "").removeprefix("sha256:")[:12], "dim")


def byte_size(size: int) -> str:
    """7 B, 1.5 KiB, 20 MiB."""
    amount = float(size)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024 or unit == "GiB":
            return f"{amount:.0f} {unit}" if unit == "B" or amount >= 100 else f"{amount:.1f} {unit}"
        amount /= 1024
    raise AssertionError("this is a bug: the last unit takes everything")
