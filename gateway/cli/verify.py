"""`sluice verify`: read every stored byte again and compare it with what was published."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.text import Text

from gateway.cli.failure import CommandFailed, ExitCode
from gateway.cli.options import AdminUrl, AsJson, Config, DataDir, TokenFile, output, print_json, table
from gateway.cli.registry import Doc, Model, Registry, Report, complete_version, open_registry, progress_bar, resolve


def verify(
    name: Model,
    version: Annotated[
        str | None,
        typer.Argument(help="A version, or an alias. Without it, all of them.", autocompletion=complete_version),
    ] = None,
    data_dir: DataDir = None,
    admin_url: AdminUrl = None,
    token_file: TokenFile = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Hash the stored files again. Fails when one is missing or has other bytes."""
    with open_registry(data_dir, admin_url, token_file, config) as registry, progress_bar() as progress:
        if version is None:
            chosen = [int(one["version"]) for one in registry.versions(name)]
        else:
            chosen = [resolve(registry, name, version)]
        results = [check(registry, name, one, progress) for one in chosen]
    is_whole = all(one["ok"] for one in results)
    if as_json:
        print_json({"ok": is_whole, "versions": results})
    else:
        rows = table(("VERSION", "FILES", "STATE"), right=("VERSION", "FILES"))
        for one in results:
            problems = [f"{file['path'] or 'manifest'}: {file['problem']}" for file in one["files"] if file["problem"]]
            state = Text("whole", "green") if one["ok"] else Text("\n".join(problems), "red")
            rows.add_row(str(one["version"]), str(len(one["files"])), state)
        output().print(rows)
    if not is_whole:
        damaged = ", ".join(str(one["version"]) for one in results if not one["ok"])
        hint = "push the same files again, or restore the store from a backup: contents are found by their digest"
        raise CommandFailed(f"{name}: damaged: version {damaged}", hint, ExitCode.DAMAGED)


def check(registry: Registry, model: str, version: int, report: Report) -> Doc:
    """Follows the reading of one version to its end."""
    files = []
    for event in registry.verify(model, version):
        if "done" in event:
            report(f"version {version}", event["done"], event["total"])
        else:
            files.append(event)
    return {"version": version, "ok": not any(one["problem"] for one in files), "files": files}
