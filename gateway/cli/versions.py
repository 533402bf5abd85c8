"""`sluice versions`: what was published under a name, who vouches for it, and which aliases point where."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from gateway.cli.options import AdminUrl, AsJson, Config, DataDir, TokenFile, byte_size, output, print_json, short, when
from gateway.cli.options import table as make_table
from gateway.cli.registry import Doc, Model, open_registry, resolve

STAGE_STYLES = {"approved": "green", "pending": "yellow", "rejected": "red"}


def versions(
    name: Model,
    version: Annotated[str | None, typer.Argument(help="One version, or an alias, in full.")] = None,
    data_dir: DataDir = None,
    admin_url: AdminUrl = None,
    token_file: TokenFile = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Show the versions of a model."""
    with open_registry(data_dir, admin_url, token_file, config) as registry:
        if version is not None:
            document = registry.version(name, resolve(registry, name, version))
            if as_json:
                print_json(document)
            else:
                output().print(to_details(document))
            return
        documents = registry.versions(name)
    if as_json:
        print_json({"versions": documents})
    else:
        output().print(to_table(documents))


def to_table(documents: list[Doc]) -> Table:
    """Newest first."""
    titles = ("VERSION", "ALIASES", "STAGE", "SIZE", "DIGEST", "AUTHOR", "PUBLISHED", "LINEAGE")
    made = make_table(titles, right=("VERSION", "SIZE"))
    for one in sorted(documents, key=lambda one: -int(one["version"])):
        made.add_row(
            Text(str(one["version"]), "bold"),
            Text(", ".join(one["aliases"]), "cyan"),
            Text(one["stage"], STAGE_STYLES.get(one["stage"], "")),
            byte_size(one["size"]),
            short(one["digest"]),
            one["author"],
            when(one["created_at"]),
            Text(lineage(one["lineage"]), "dim"),
        )
    return made


def to_details(document: Doc) -> Table:
    """Everything about one version, a line each."""
    made = Table.grid(padding=(0, 2))
    made.add_column(style="dim")
    made.add_column(overflow="fold")
    for name in ("model", "version", "stage", "aliases", "digest", "author", "created_at", "format", "opset"):
        made.add_row(name, _shown(document.get(name)))
    served = Text("; ".join(document["reasons"]), "red") if document["reasons"] else Text("yes", "green")
    made.add_row("may be served", served)
    made.add_row("size", byte_size(document["size"]))
    for side in ("inputs", "outputs"):
        tensors = (f"{one['name']}  {one['datatype']} {list(one['shape'])}" for one in document[side])
        made.add_row(side, "\n".join(tensors))
    made.add_row("files", "\n".join(f"{one['sha256'][:12]}  {one['path']}" for one in document["files"]))
    for name in ("operators", "metrics", "tags", "lineage"):
        pairs = {key: value for key, value in (document.get(name) or {}).items() if value not in (None, "", False)}
        if pairs:
            made.add_row(name, "\n".join(f"{key}  {_shown(value)}" for key, value in pairs.items()))
    for check in document["checks"]:
        outcome = Text("passed", "green") if check["is_passed"] else Text(f"failed: {check['detail']}", "red")
        made.add_row(f"check {check['name']}", outcome)
    if not document["may_serve"]:
        made.add_row("not served", Text("; ".join(document["reasons"]), "red"))
    if document.get("card"):
        made.add_row("card", _shown(document["card"]))
    return made


def lineage(found: dict[str, Any]) -> str:
    """The commit, the data and the run, as far as they are known."""
    commit = (found.get("git_commit") or "")[:9]
    if commit and found.get("git_dirty"):
        commit += "+"
    return "  ".join(str(part) for part in (commit, found.get("data_ref"), found.get("run")) if part)


def _shown(value: Any) -> Text:
    if isinstance(value, list):
        return Text(", ".join(map(str, value)))
    return Text("–" if value is None else str(value))
