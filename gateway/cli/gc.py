"""`sluice gc`: delete stored files that no version refers to, such as those of a push that was cut off."""

from __future__ import annotations

from typing import Annotated

import typer

from gateway.cli.options import (
    AdminUrl,
    AsJson,
    Config,
    DataDir,
    TokenFile,
    byte_size,
    output,
    print_json,
    short,
    table,
)
from gateway.cli.registry import open_registry
from gateway.cli.token import duration


def gc(
    dry_run: Annotated[bool, typer.Option("--dry-run", "-n", help="Only show what would go.")] = False,
    grace: Annotated[str, typer.Option(help="Leave what is younger: a push may be under way.")] = "1h",
    data_dir: DataDir = None,
    admin_url: AdminUrl = None,
    token_file: TokenFile = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Delete what no version refers to. Versions are never deleted."""
    seconds = duration(grace)
    with open_registry(data_dir, admin_url, token_file, config) as registry:
        document = registry.collect(dry_run, seconds)
    if as_json:
        print_json(document)
        return
    objects = document["objects"]
    if not objects:
        output().print("Nothing to delete.")
        return
    if dry_run:
        rows = table(("OBJECT", "SIZE"), right=("SIZE",))
        for one in objects:
            rows.add_row(short(one["sha256"]), byte_size(one["size"]))
        output().print(rows)
    verb = "Would delete" if dry_run else "Deleted"
    output().print(f"{verb} {len(objects)} stored files, {byte_size(document['bytes'])}.")
