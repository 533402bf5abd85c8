"""`sluice audit`: everything that changed what is served, by whom and why, in a chain that shows tampering."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from rich.text import Text

from gateway.cli.failure import CommandFailed, ExitCode
from gateway.cli.options import AdminUrl, AsJson, Config, DataDir, TokenFile, output, print_json, table, when
from gateway.cli.registry import Doc, open_registry

audit = typer.Typer(
    help="Read, export and verify the audit log.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
PAGE = 1000


@audit.command()
def verify(
    anchor: Annotated[
        list[str] | None,
        typer.Option(metavar="ENTRY:HASH", help="A head that was noted elsewhere earlier, as this command prints it."),
    ] = None,
    data_dir: DataDir = None,
    admin_url: AdminUrl = None,
    token_file: TokenFile = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Check the whole chain of hashes. Fails at the first entry that was changed, or before which one is missing."""
    anchors = [_anchor(text) for text in anchor or []]
    with open_registry(data_dir, admin_url, token_file, config) as registry:
        document = registry.verify_audit(anchors)
    if as_json:
        print_json(document)
    elif document["ok"]:
        output().print(f"The audit log is whole. Its head: {document['entries']}:{document['head']}")
    if not document["ok"]:
        bad = document["first_bad"]
        what = f"the audit log was tampered with: entry {bad['seq']}: {bad['reason']}"
        raise CommandFailed(what, exit_code=ExitCode.DAMAGED)


@audit.command()
def export(
    after: Annotated[int, typer.Option(help="Only entries after this number.")] = 0,
    data_dir: DataDir = None,
    admin_url: AdminUrl = None,
    token_file: TokenFile = None,
    config: Config = None,
) -> None:
    """Print every entry as a line of JSON, oldest first."""
    with open_registry(data_dir, admin_url, token_file, config) as registry:
        while page := registry.audit(after, PAGE):
            for entry in page:
                typer.echo(json.dumps(entry, sort_keys=True, separators=(",", ":"), ensure_ascii=False))
            after = int(page[-1]["seq"])


@audit.command()
def show(
    count: Annotated[int, typer.Option("--count", "-n", min=1, max=PAGE, help="How many of the latest.")] = 20,
    model: Annotated[str | None, typer.Option(help="Only this model's.")] = None,
    data_dir: DataDir = None,
    admin_url: AdminUrl = None,
    token_file: TokenFile = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Show the latest entries."""
    entries: list[Doc] = []
    with open_registry(data_dir, admin_url, token_file, config) as registry:
        after = 0
        while page := registry.audit(after, PAGE):
            entries += [one for one in page if model is None or _model_of(one) == model]
            entries = entries[-count:]
            after = int(page[-1]["seq"])
    if as_json:
        print_json({"entries": entries})
        return
    rows = table(("ENTRY", "WHEN", "WHO", "ACTION", "TARGET", "REASON"), right=("ENTRY",))
    for one in reversed(entries):
        action = Text(str(one["action"]), "bold")
        rows.add_row(
            str(one["seq"]), when(str(one["at"])), str(one["actor"]), action, str(one["target"]), str(one["reason"])
        )
    output().print(rows)


def _anchor(text: str) -> tuple[int, str]:
    number, _, digest = text.partition(":")
    if not (number.isascii() and number.isdigit() and len(digest) == 64):
        raise CommandFailed(f"--anchor takes ENTRY:HASH, not {text!r}", exit_code=ExitCode.USAGE)
    return int(number), digest


def _model_of(entry: Doc) -> str:
    """Of a target that is `model`, `model/version` or `model@alias`."""
    return str(entry["target"]).replace("@", "/").partition("/")[0]
