"""`sluice models`: what a running gateway serves and how that is, or what a registry holds."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from gateway.cli.columns import Cell, print_columns
from gateway.cli.failure import CommandFailed, ExitCode
from gateway.cli.options import AsJson, Config, DataDir, TokenFile, address, messages, output, print_json, when
from gateway.cli.registry import Doc, list_models, settings_of, token_of, told
from gateway.registry_places import is_catalog_there
from gateway.settings_sources import ADMIN_URL_VARIABLE

WIDE = 100
"""Columns of a terminal from which the less asked-for ones are shown."""
STATE_STYLES = {"READY": "green", "LOADING": "yellow", "UNLOADING": "yellow", "UNAVAILABLE": "bold red"}

Url = Annotated[
    str | None,
    typer.Option(
        "--admin-url",
        "--url",
        help="A running gateway's admin address \\[http://127.0.0.1:8002].",
        envvar=ADMIN_URL_VARIABLE,
        show_envvar=True,
        rich_help_panel="Registry",
    ),
]


def models(
    registered: Annotated[
        bool, typer.Option("--registered", help="What the registry holds, served or not. So does --data-dir.")
    ] = False,
    data_dir: DataDir = None,
    admin_url: Url = None,
    token_file: TokenFile = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Show what a gateway serves, its state and its latency; or what is registered.

    Without options the gateway of this machine is asked, and the registry where none answers.
    """
    if registered or (data_dir is not None and ADMIN_URL_VARIABLE not in os.environ):
        show_registered(data_dir, admin_url, token_file, config, as_json)
        return
    from gateway.cli.remote import AdminClient  # not for a listing of a file, which should start quickly

    settings = settings_of(data_dir, config)
    client = AdminClient(admin_url or address(settings.admin.host, settings.admin_port), token_of(token_file))
    try:
        with told():
            answer, _ = client.call("GET", "/api/v1/models")
    except CommandFailed as failure:
        # A script is told: what it reads must not depend on whether a gateway runs.
        is_told = as_json or admin_url is not None
        if is_told or failure.exit_code != ExitCode.UNAVAILABLE or not is_catalog_there(settings):
            raise
        messages().print(f"No gateway answers at {client.url}: this is the registry.", style="yellow")
        show_registered(data_dir, None, None, config, as_json)
        return
    if as_json:
        print_json(answer)
    elif not answer["models"]:
        output().print("No model is loaded.")
    else:
        console = output()
        print_served(console, answer["models"], is_wide=console.width >= WIDE)


def show_registered(
    data_dir: Path | None, admin_url: str | None, token_file: Path | None, config: Path | None, as_json: bool
) -> None:
    documents, place = list_models(data_dir, admin_url, token_file, config)
    if as_json:
        print_json({"models": documents})
    elif documents:
        print_registered(output(), documents)
    else:
        output().print(f"No model is registered in {place}: `sluice push` publishes one.", soft_wrap=True)


def print_registered(console: Console, documents: list[Doc]) -> None:
    titles = ("MODEL", "VERSIONS", "LATEST", "ALIASES", "SERVED BY", "PUBLISHED")
    rows: list[list[Cell]] = [
        [
            Text(one["name"], "bold"),
            f"{one['versions']:,}",
            str(one["latest"] or "–"),
            Text(", ".join(f"{alias} → {version or '–'}" for alias, version in one["aliases"].items()), "cyan"),
            one["served_by"],
            when(one["published_at"]),
        ]
        for one in documents
    ]
    print_columns(console, titles, rows, right=("VERSIONS", "LATEST"))


def print_served(console: Console, documents: list[dict[str, Any]], *, is_wide: bool = True) -> None:
    counts = ("REQUESTS", "REQ/S", "FAILED", "P50", "P99", *(("BATCH", "QUEUE", "WORKERS") if is_wide else ()))
    rows: list[list[Cell]] = []
    for model in documents:
        for version in model["versions"]:
            recent, requests = version["recent"], version["requests"]
            batch = "–" if recent["batch_size"] is None else f"{recent['batch_size']:.1f}"
            state = Text(version["state"], STATE_STYLES.get(version["state"], ""))
            if version["reason"]:
                state.append(f"\n{version['reason']}", "dim")
            cells: list[Cell] = [
                Text(model["name"], "bold"),
                version["version"],
                state,
                f"{requests['total']:,}",
                f"{recent['requests_per_second']:,.1f}",
                Text(f"{requests['failed']:,}", "red" if requests["failed"] else ""),
                duration(recent["p50_seconds"]),
                duration(recent["p99_seconds"]),
                *((batch, f"{version['queue']['requests']:,}", f"{version['instances']}") if is_wide else ()),
            ]
            rows.append(cells)
    print_columns(console, ("MODEL", "VERSION", "STATE", *counts), rows, right=counts)


def duration(seconds: float | None) -> str:
    """A time as people read it: 180 µs, 2.4 ms, 1.2 s."""
    if seconds is None:
        return "–"
    for limit, scale, unit in ((1e-3, 1e6, "µs"), (1.0, 1e3, "ms")):
        if seconds < limit:
            return f"{seconds * scale:.3g} {unit}"
    return f"{seconds:.3g} s"
