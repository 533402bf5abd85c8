"""`sluice models`: what a running gateway serves, from its admin API."""

from __future__ import annotations

import json
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from gateway.cli.failure import CommandFailed

PIPE_WIDTH, WIDE = 160, 100
"""Columns that a pipe gets, and from which width the less asked-for ones are shown."""
STATE_STYLES = {"READY": "green", "LOADING": "yellow", "UNLOADING": "yellow", "UNAVAILABLE": "bold red"}


def models(
    url: Annotated[str, typer.Option(help="The admin address.")] = "http://127.0.0.1:8002",
    token_file: Annotated[Path | None, typer.Option(help="File with the admin token.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the API's answer.")] = False,
) -> None:
    """Show what is loaded, its state and its latency."""
    answer = fetch(url, token_file)
    if as_json:
        typer.echo(json.dumps(answer, indent=2))
        return
    console = Console() if sys.stdout.isatty() else Console(width=PIPE_WIDTH)
    if not answer["models"]:
        console.print("No model is loaded.")
        return
    console.print(to_table(answer["models"], is_wide=console.width >= WIDE))


def fetch(url: str, token_file: Path | None) -> Any:
    url = (url if "://" in url else f"http://{url}").rstrip("/")
    request = urllib.request.Request(f"{url}/api/v1/models")
    if token_file is not None:
        try:
            lines = token_file.read_text("utf-8").splitlines()
        except OSError as error:
            raise CommandFailed(f"{token_file} cannot be read: {error.strerror}") from None
        token = next((line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")), "")
        request.add_header("Authorization", f"Bearer {token}")
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return json.load(response)
    except urllib.error.HTTPError as error:
        with error:
            hint = "give the admin token by --token-file" if error.code == 401 else ""
            raise CommandFailed(f"{url} refused: HTTP {error.code} {error.reason}", hint) from None
    except (OSError, ValueError) as error:
        raise CommandFailed(
            f"{url} does not answer: {getattr(error, 'reason', error)}", "is `sluice serve` running there?"
        ) from None


def to_table(models: list[dict[str, Any]], *, is_wide: bool = True) -> Table:
    table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0))
    for title in ("MODEL", "VERSION", "STATE"):
        table.add_column(title)
    for title in ("REQUESTS", "REQ/S", "FAILED", "P50", "P99", *(("BATCH", "QUEUE", "WORKERS") if is_wide else ())):
        table.add_column(title, justify="right", no_wrap=True)
    for model in models:
        for version in model["versions"]:
            recent, requests = version["recent"], version["requests"]
            batch = "–" if recent["batch_size"] is None else f"{recent['batch_size']:.1f}"
            state = Text(version["state"], STATE_STYLES.get(version["state"], ""))
            if version["reason"]:
                state.append(f"\n{version['reason']}", "dim")
            table.add_row(
                Text(model["name"], "bold"),
                version["version"],
                state,
                f"{requests['total']:,}",
                f"{recent['requests_per_second']:,.1f}",
                Text(f"{requests['failed']:,}", "red" if requests["failed"] else ""),
                duration(recent["p50_seconds"]),
                duration(recent["p99_seconds"]),
                *((batch, f"{version['queue']['requests']:,}", f"{version['instances']}") if is_wide else ()),
            )
    return table


def duration(seconds: float | None) -> str:
    """A time as people read it: 180 µs, 2.4 ms, 1.2 s."""
    if seconds is None:
        return "–"
    for limit, scale, unit in ((1e-3, 1e6, "µs"), (1.0, 1e3, "ms")):
        if seconds < limit:
            return f"{seconds * scale:.3g} {unit}"
    return f"{seconds:.3g} s"
