"""`sluice push`: a model file or folder becomes the next version of a model."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from gateway.cli.conversion import Converted, converted
from gateway.cli.failure import CommandFailed, ExitCode
from gateway.cli.options import (
    AdminUrl,
    AsJson,
    Config,
    DataDir,
    Reason,
    TokenFile,
    byte_size,
    messages,
    output,
    print_json,
)
from gateway.cli.registry import Doc, Publication, complete_model, open_registry, progress_bar, warn_if_unserved


def push(
    path: Annotated[
        Path, typer.Argument(help="An ONNX file, a model folder, or one of skops, LightGBM, XGBoost, torch.export.")
    ],
    name: Annotated[str, typer.Option("--name", "-n", help="The model.", autocompletion=complete_model)],
    alias: Annotated[str | None, typer.Option("--alias", "-a", help="Point this alias at the version.")] = None,
    tag: Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="A tag; one or more.")] = None,
    metric: Annotated[list[str] | None, typer.Option(metavar="KEY=NUMBER", help="A metric; one or more.")] = None,
    card: Annotated[Path | None, typer.Option(help="The model card: YAML, JSON, or Markdown with YAML on top.")] = None,
    data_ref: Annotated[
        str, typer.Option(help="Version of the data: a .dvc file, a DVC revision, a Pachyderm commit, …")
    ] = "",
    run: Annotated[str, typer.Option(help="The experiment run: an MLflow run id, a W&B run path, …")] = "",
    sign: Annotated[Path | None, typer.Option(metavar="KEY", help="Sign with this private key (PEM).")] = None,
    reason: Reason = "",
    data_dir: DataDir = None,
    admin_url: AdminUrl = None,
    token_file: TokenFile = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Publish a model file or folder as the next version. The same bytes again are no new version."""
    if not path.exists():
        raise CommandFailed(f"there is no {path}", exit_code=ExitCode.USAGE)
    if sign is not None and not sign.is_file():
        raise CommandFailed(f"there is no key {sign}", exit_code=ExitCode.USAGE)
    began = time.perf_counter()
    with open_registry(data_dir, admin_url, token_file, config) as registry:
        publication = prepared(path, name, alias, tag or [], metric or [], card, data_ref, run, sign, reason)
        with converted(path) as source:
            if source.converter:
                publication = of_converted(publication, source)
            with progress_bar() as report:
                published = registry.push(publication, report)
        if published["alias"]:
            warn_if_unserved(registry, published["model"], published["version"])
        place = registry.place
    if as_json:
        print_json(published)
    else:
        output().print(sentence(published))
        messages().print(Text(f"{place}, {time.perf_counter() - began:.1f} s", "dim"), soft_wrap=True)
    golden = published.get("golden", {"is_passed": True})
    if not golden["is_passed"]:
        problem = f"it will not be served: it differs from the golden set: {golden['detail']}"
        hint = f"no alias was moved; `sluice versions {name} {published['version']}` shows its checks"
        raise CommandFailed(problem, hint, ExitCode.REFUSED)


def prepared(
    path: Path,
    name: str,
    alias: str | None,
    tags: Sequence[str],
    metrics: Sequence[str],
    card: Path | None,
    data_ref: str,
    run: str,
    sign: Path | None,
    reason: str,
) -> Publication:
    """Reads what the options name."""
    from registry.card import read_card
    from registry.lineage import find_lineage

    return Publication(
        path=path,
        model=name,
        alias=alias,
        tags=dict(pair("--tag", text) for text in tags),
        metrics={key: _number(key, value) for key, value in (pair("--metric", text) for text in metrics)},
        card={} if card is None else _card(card, read_card),
        lineage=find_lineage(path, now=time.time(), data_ref=data_ref, run=run),
        sign_key=sign,
        reason=reason,
    )


def of_converted(publication: Publication, source: Converted) -> Publication:
    """The same of what came out of a conversion; the lineage says what went in."""
    lineage = replace(publication.lineage, source_sha256=source.source_sha256, converter=source.converter)
    return replace(publication, path=source.path, lineage=lineage)


def sentence(published: Doc) -> Text:
    """What a push came to, for a person."""
    version = Text.assemble((published["model"], "bold"), " version ", (str(published["version"]), "bold cyan"))
    if published["is_new"]:
        total, stored = published["bytes"], published["bytes_stored"]
        size = byte_size(total) if stored == total else f"{byte_size(total)}, {byte_size(stored)} of it new"
        made = Text.assemble("Published ", version, f" ({size})")
    else:
        made = Text.assemble("Nothing to do: these are the bytes of ", version, " already")
    if published["alias"]:
        made.append(f", {published['alias']} points at it")
    return made.append(".")


def pair(option: str, text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise CommandFailed(f"{option} takes KEY=VALUE, not {text!r}", exit_code=ExitCode.USAGE)
    return key.strip(), value.strip()


def _number(key: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise CommandFailed(f"--metric {key}: {text!r} is no number", exit_code=ExitCode.USAGE)
    return value


def _card(path: Path, read: Any) -> dict[str, Any]:
    try:
        return dict(read(path))
    except OSError as error:
        raise CommandFailed(f"{path} cannot be read: {error.strerror}", exit_code=ExitCode.USAGE) from None
