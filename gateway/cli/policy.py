"""`sluice policy`: how a model's versions are served, and what is asked of them before."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from gateway.cli.failure import CommandFailed, ExitCode
from gateway.cli.options import AdminUrl, AsJson, Config, DataDir, Reason, TokenFile, output, print_json
from gateway.cli.registry import Doc, Model, Registry, open_registry, warn_if_unserved

SHOWN_DIGITS = 12


def policy(
    name: Model,
    served_by: Annotated[
        str | None,
        typer.Option(help="default (champion, else the latest), alias:NAME, latest, latest:N, all, versions:1,3"),
    ] = None,
    on_alias_move: Annotated[
        str | None, typer.Option(help="swap: at once; propose: it is offered to a rollout.")
    ] = None,
    require_approval: Annotated[bool | None, typer.Option(help="Served only when somebody else approved.")] = None,
    signed_by: Annotated[
        list[Path] | None, typer.Option(metavar="PEM", help="Public key whose signature is needed; one or more.")
    ] = None,
    card_field: Annotated[list[str] | None, typer.Option(help="A field that the model card must have.")] = None,
    no_signature: Annotated[bool, typer.Option("--no-signature", help="Ask for no signature any more.")] = False,
    golden: Annotated[
        Path | None, typer.Option(metavar="JSON", help="Inputs, and the outputs that a version must answer with.")
    ] = None,
    golden_rtol: Annotated[float | None, typer.Option(help="Of the golden set: relative tolerance.")] = None,
    golden_atol: Annotated[float | None, typer.Option(help="Of the golden set: absolute tolerance.")] = None,
    no_golden: Annotated[bool, typer.Option("--no-golden", help="Ask for no golden set any more.")] = False,
    load_on_demand: Annotated[bool | None, typer.Option(help="Loaded by its first request.")] = None,
    expect: Annotated[
        str | None, typer.Option(metavar="DIGEST", help="Change it only if this is its digest now, or its beginning.")
    ] = None,
    reason: Reason = "",
    data_dir: DataDir = None,
    admin_url: AdminUrl = None,
    token_file: TokenFile = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Show the policy of a model, or change what the options name: one compare-and-set, as with an alias."""
    asked: dict[str, Any] = {
        "served_by": served_by,
        "on_alias_move": on_alias_move,
        "load_on_demand": load_on_demand,
    }
    approval: dict[str, Any] = {
        "require_approval": require_approval,
        "signed_by": [] if no_signature else [_read_key(file) for file in signed_by] if signed_by else None,
        "card_fields": card_field or None,
    }
    if no_golden and (golden is not None or golden_rtol is not None or golden_atol is not None):
        raise CommandFailed("--no-golden and a golden set contradict each other", exit_code=ExitCode.USAGE)
    if golden is not None and not golden.is_file():
        raise CommandFailed(f"there is no golden set {golden}", exit_code=ExitCode.USAGE)
    tolerances = _given({"relative_tolerance": golden_rtol, "absolute_tolerance": golden_atol})
    with open_registry(data_dir, admin_url, token_file, config) as registry:
        document = registry.policy(name)
        if expect is not None and not is_beginning(expect, document["digest"]):
            problem = f"the policy of {name} has the digest {document['digest'][:SHOWN_DIGITS]}, not {expect}"
            raise CommandFailed(problem, exit_code=ExitCode.CONFLICT)
        changes, inner = _given(asked), _given(approval)
        if golden is not None or tolerances:
            inner["golden"] = (_put(registry, golden) if golden is not None else {}) | tolerances
        elif no_golden:
            inner["golden"] = None
        if inner:
            changes["approval"] = inner
        if changes:
            document = registry.set_policy(name, merged(document["policy"], changes), document["digest"], reason)
            # A policy holds at once, also for what is loaded.
            for version in sorted({one["version"] for one in registry.aliases(name) if one["version"] is not None}):
                warn_if_unserved(registry, name, version)
    if as_json:
        print_json(document)
    else:
        output().print(to_table(document))


def is_beginning(text: str, digest: str) -> bool:
    """Whether this is the digest, or enough of its beginning to mean no other."""
    return len(text) >= SHOWN_DIGITS and digest.startswith(text)


def merged(document: Mapping[str, Any], changes: Mapping[str, Any]) -> Doc:
    """`document` with `changes` laid over it, objects member by member."""
    result = dict(document)
    for name, value in changes.items():
        before = result.get(name)
        result[name] = merged(before, value) if isinstance(value, dict) and isinstance(before, dict) else value
    return result


def to_table(document: Doc) -> Table:
    made = Table.grid(padding=(0, 2))
    made.add_column(style="dim")
    made.add_column(overflow="fold")
    found = dict(document["policy"])
    for name, value in {**found, **found.pop("approval", {})}.items():
        if name == "signed_by":
            value = [f"{len(value)} keys"] if value else []
        if name == "golden" and value:
            value = f"{value['sha256'][:SHOWN_DIGITS]} rtol={value['relative_tolerance']:g} " + (
                f"atol={value['absolute_tolerance']:g}"
            )
        if name != "approval":
            made.add_row(name, _shown(value))
    made.add_row("digest", document["digest"][:SHOWN_DIGITS])
    return made


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "–"
    return "–" if value is None else str(value)


def _put(registry: Registry, file: Path) -> Doc:
    try:
        return registry.put_golden_set(file)
    except OSError as error:
        raise CommandFailed(f"{file} cannot be read: {error.strerror}", exit_code=ExitCode.USAGE) from None


def _given(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _read_key(file: Path) -> str:
    try:
        text = file.read_text("ascii")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "is not text"
        raise CommandFailed(f"{file} cannot be read: {reason}", exit_code=ExitCode.USAGE) from None
    if "PUBLIC KEY" not in text:
        raise CommandFailed(f"{file} is no public key in PEM", exit_code=ExitCode.USAGE)
    return text
