"""`sluice models`: what a running gateway serves and how that is, or what a registry holds."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from gateway.cli.failure import CommandFailed, ExitCode
from gateway.cli.options import AsJson, Config, DataDir, TokenFile, messages, output, print_columns, print_json, when
from gateway.cli.options import table as make_table
from gateway.cli.registry import Doc, open_registry, settings_of, token_of, told
from gateway.cli.remote import AdminClient
from gateway.cli.serve import address
from gateway.registry_places import catalog_file
from gateway.settings import Settings
from gateway.settings_sources import ADMIN_URL_VARIABLE

WIDE = 100
"""Columns of a terminal from which the less asked-for ones are shown."""
LONG = 200
"""Lines from which a table is plain: at once, and without reasons."""
REGISTERED = ("MODEL", "VERSIONS", "LATEST", "ALIASES", "SERVED BY", "PUBLISHED")
COUNTS = ("REQUESTS", "REQ/S", "FAILED", "P50", "P99", "BATCH", "QUEUE", "WORKERS")
STATE_STYLES = {"READY": "green", "LOADING": "yellow", "UNLOADING": "yellow", "UNAVAILABLE": "bold red"}

Url = Annotated[
    str | None,
    typer.Option(
        "--admin-url",
        "--url",
        help="A running gateway's admin address [http://127.0.0.1:8002].",
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
    settings = settings_of(data_dir, config)
    client = AdminClient(admin_url or address(settings.admin.host, settings.admin_port), token_of(token_file))
    try:
        with told():
            answer, _ = client.call("GET", "/api/v1/models")
    except CommandFailed as failure:
        # A script is told: what it reads must not depend on whether a gateway runs.
        if as_json or admin_url is not None or failure.exit_code != ExitCode.UNAVAILABLE or not _has_catalog(settings):
            raise
        messages().print(f"No gateway answers at {client.url}: this is the registry.", style="yellow")
        show_registered(data_dir, None, None, config, as_json)
        return
    if as_json:
        print_json(answer)
    elif not answer["models"]:
        output().print("No model is loaded.")
    elif sum(len(model["versions"]) for model in answer["models"]) > LONG:
        print_columns(("MODEL", "VERSION", "STATE", *COUNTS), _served_rows(answer["models"]))
    else:
        console = output()
        console.print(served_table(answer["models"], is_wide=console.width >= WIDE))


def show_registered(
    data_dir: Path | None, admin_url: str | None, token_file: Path | None, config: Path | None, as_json: bool
) -> None:
    with open_registry(data_dir, admin_url, token_file, config) as registry:
        documents, place = registry.models(), registry.place
    if as_json:
        print_json({"models": documents})
    elif len(documents) > LONG:
        print_columns(REGISTERED, [_registered_row(one) for one in documents])
    elif documents:
        output().print(registered_table(documents))
    else:
        output().print(f"No model is registered in {place}: `sluice push` publishes one.", soft_wrap=True)


def _has_catalog(settings: Settings) -> bool:
    file = catalog_file(settings)
    return file is None or file.is_file()


def registered_table(documents: list[Doc]) -> Table:
    table = make_table(REGISTERED, right=("VERSIONS", "LATEST"))
    for one in documents:
        name, versions, latest, aliases, *others = _registered_row(one)
        table.add_row(Text(name, "bold"), versions, latest, Text(aliases, "cyan"), *others)
    return table


def _registered_row(one: Doc) -> tuple[str, ...]:
    """In the order of `REGISTERED`."""
    return (
        one["name"],
        f"{one['versions']:,}",
        str(one["latest"] or "–"),
        ", ".join(f"{alias} → {version or '–'}" for alias, version in one["aliases"].items()),
        one["served_by"],
        when(one["published_at"]),
    )


def served_table(documents: list[dict[str, Any]], *, is_wide: bool = True) -> Table:
    counts = COUNTS if is_wide else COUNTS[:-3]
    table = make_table(("MODEL", "VERSION", "STATE", *counts), right=counts)
    for model in documents:
        for version in model["versions"]:
            state = Text(version["state"], STATE_STYLES.get(version["state"], ""))
            if version["reason"]:
                state.append(f"\n{version['reason']}", "dim")
            total, rate, failed, *others = _counts(version)[: len(counts)]
            red = Text(failed, "red" if version["requests"]["failed"] else "")
            table.add_row(Text(model["name"], "bold"), version["version"], state, total, rate, red, *others)
    return table


def _served_rows(documents: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    return [
        (model["name"], version["version"], version["state"], *_counts(version))
        for model in documents
        for version in model["versions"]
    ]


def _counts(version: dict[str, Any]) -> tuple[str, ...]:
    """In the order of `COUNTS`."""
    recent, requests = version["recent"], version["requests"]
    return (
        f"{requests['total']:,}",
        f"{recent['requests_per_second']:,.1f}",
        f"{requests['failed']:,}",
        duration(recent["p50_seconds"]),
        duration(recent["p99_seconds"]),
        "–" if recent["batch_size"] is None else f"{recent['batch_size']:.1f}",
        f"{version['queue']['requests']:,}",
        f"{version['instances']}",
    )


def duration(seconds: float | None) -> str:
    """A time as people read it: 180 µs, 2.4 ms, 1.2 s."""
    if seconds is None:
        return "–"
    for limit, scale, unit in ((1e-3, 1e6, "µs"), (1.0, 1e3, "ms")):
        if seconds < limit:
            return f"{seconds * scale:.3g} {unit}"
    return f"{seconds:.3g} s"
