"""`sluice alias`: point a name such as `champion` at a version, see where names point, and where they pointed."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.text import Text

from gateway.cli.failure import CommandFailed, ExitCode
from gateway.cli.options import AdminUrl, AsJson, Config, DataDir, Reason, TokenFile, output, print_json, table, when
from gateway.cli.registry import Model, complete_alias, complete_version, open_registry, resolve, warn_if_unserved


def alias(
    name: Model,
    alias: Annotated[
        str | None, typer.Argument(help="The alias. Without it, all are shown.", autocompletion=complete_alias)
    ] = None,
    version: Annotated[
        str | None,
        typer.Argument(
            help="A version, or another alias. Without it, where the alias pointed is shown.",
            autocompletion=complete_version,
        ),
    ] = None,
    delete: Annotated[bool, typer.Option("--delete", help="Remove the alias.")] = False,
    expect: Annotated[
        str | None, typer.Option(metavar="VERSION", help="Move it only if it points there now; `none`: to nothing.")
    ] = None,
    reason: Reason = "",
    data_dir: DataDir = None,
    admin_url: AdminUrl = None,
    token_file: TokenFile = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Show or move aliases. A move is one compare-and-set: whoever comes second is told so."""
    if delete and (alias is None or version is not None):
        raise CommandFailed("--delete takes an alias, and no version", exit_code=ExitCode.USAGE)
    with open_registry(data_dir, admin_url, token_file, config) as registry:
        if alias is None:
            documents = registry.aliases(name)
            if as_json:
                print_json({"aliases": documents})
                return
            rows = table(("ALIAS", "VERSION", "MOVES"), right=("VERSION", "MOVES"))
            for one in documents:
                rows.add_row(Text(one["alias"], "bold cyan"), str(one["version"]), str(one["generation"]))
            output().print(rows if documents else f"{name} has no aliases.")
            return
        if version is None and not delete:
            documents = registry.alias_history(name, alias)
            if as_json:
                print_json({"history": documents})
                return
            rows = table(("WHEN", "VERSION", "BY", "REASON"), right=("VERSION",))
            for one in documents:
                rows.add_row(when(one["at"]), str(one["version"] or "–"), one["actor"], one["reason"])
            output().print(rows)
            return
        before = registry.alias(name, alias)
        was = before["version"] if before else None
        if delete and was is None:
            raise CommandFailed(f"there is no alias {name}@{alias}", exit_code=ExitCode.NOT_FOUND)
        if expect is not None and was != (None if expect == "none" else resolve(registry, name, expect)):
            raise CommandFailed(f"{name}@{alias} points at {was or 'nothing'}, not {expect}", "", ExitCode.CONFLICT)
        target = None if version is None else resolve(registry, name, version)
        if was == target:
            moved = before or {"model": name, "alias": alias, "version": None, "generation": 0}
        else:
            moved = registry.move_alias(name, alias, target, before["generation"] if before else 0, reason)
        if target is not None:
            warn_if_unserved(registry, name, target)
    if as_json:
        print_json({**moved, "previous_version": was, "moved": was != target})
    elif was == target:
        output().print(f"{name}@{alias} pointed at {_version(was)} already: nothing changed.")
    else:
        output().print(f"{name}@{alias} → {_version(target)} (was {_version(was)})")


def _version(version: int | None) -> str:
    return "nothing" if version is None else f"version {version}"
