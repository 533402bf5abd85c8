"""How the subcommands reach a registry: the catalog of a data folder, opened here, or a gateway's admin API.

Both have the same methods and give the same documents, so a subcommand does not know which it talks to. Errors of
either become `CommandFailed` with one table of exit codes. What only one of the ways needs is loaded there: a listing
should start quickly.
"""

from __future__ import annotations

import contextlib
import os
import pwd
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

import typer
from rich.console import Console

from gateway.admin.problems import Problem, ProblemError, from_error
from gateway.cli.failure import CommandFailed, ExitCode, exit_code_of
from gateway.errors import SettingsError
from gateway.registry_places import catalog_file, is_catalog_there
from gateway.settings import Settings
from gateway.settings_sources import ADMIN_URL_VARIABLE, TOKEN_VARIABLE, load
from registry.errors import RegistryError
from registry.listing import list_file
from registry.manifest import Lineage

Doc = dict[str, Any]
Decision = Literal["approved", "rejected"]
Report = Callable[[str, int, int], None]
"""Told what is under way, how much of it is done, and how much there is."""

HINTS = {
    "unauthorized": f"give a token by --token-file or ${TOKEN_VARIABLE}; `sluice token create` makes one",
    "approver-unknown": "ask with a token of your own, or give --data-dir",
    "alias-conflict": "look with `sluice alias NAME`, then decide again",
    "policy-conflict": "look with `sluice policy NAME`, then decide again",
    "precondition-failed": "somebody was faster: look again, then decide",
}


@dataclass(frozen=True)
class Publication:
    """What `sluice push` was asked to publish."""

    path: Path
    model: str
    alias: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    card: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    lineage: Lineage = field(default_factory=Lineage)
    sign_key: Path | None = None
    reason: str = ""


class Registry(Protocol):
    """What the subcommands ask for."""

    @property
    def place(self) -> str: ...
    def push(self, publication: Publication, report: Report) -> Doc: ...
    def models(self) -> list[Doc]: ...
    def versions(self, model: str) -> list[Doc]: ...
    def version(self, model: str, version: int) -> Doc: ...
    def aliases(self, model: str) -> list[Doc]: ...
    def alias(self, model: str, alias: str) -> Doc | None: ...
    def alias_history(self, model: str, alias: str) -> list[Doc]: ...
    def move_alias(self, model: str, alias: str, version: int | None, expected: int, reason: str) -> Doc: ...
    def decide(self, model: str, version: int, decision: Decision, reason: str) -> Doc: ...
    def policy(self, model: str) -> Doc: ...
    def put_golden_set(self, path: Path) -> Doc: ...
    def set_policy(self, model: str, policy: Doc, expected: str, reason: str) -> Doc: ...
    def verify(self, model: str, version: int) -> Iterator[Doc]: ...
    def diff(self, model: str, before: int, after: int) -> Doc: ...
    def collect(self, dry_run: bool, grace: float) -> Doc: ...
    def audit(self, after: int, limit: int) -> list[Doc]: ...
    def verify_audit(self, anchors: Sequence[tuple[int, str]] = ()) -> Doc: ...


@contextlib.contextmanager
def open_registry(
    data_dir: Path | None, admin_url: str | None, token_file: Path | None, config: Path | None
) -> Iterator[Registry]:
    """The registry that the options name. Whatever it raises inside is told as `CommandFailed`."""
    with told():
        if (url := _gateway(data_dir, admin_url)) is not None:
            from gateway.cli.remote import AdminClient, RemoteRegistry

            yield RemoteRegistry(AdminClient(url, token_of(token_file)))
            return
        from gateway.cli.local import opened  # the database is loaded only by who opens it

        with opened(settings_of(data_dir, config), user_name()) as registry:
            yield registry


def list_models(
    data_dir: Path | None, admin_url: str | None, token_file: Path | None, config: Path | None
) -> tuple[list[Doc], str]:
    """What the registry that the options name holds, and where it is. A catalog that is a file is read without the
    library that opens it for all else: that takes longer to load than a thousand models to list."""
    if _gateway(data_dir, admin_url) is None:
        settings = settings_of(data_dir, config)
        if is_catalog_there(settings) and (file := catalog_file(settings)) is not None:
            with told():
                return [one._asdict() for one in list_file(file)], str(file)
    with open_registry(data_dir, admin_url, token_file, config) as registry:
        return registry.models(), registry.place


def _gateway(data_dir: Path | None, admin_url: str | None) -> str | None:
    """The address of the gateway that the options name, if they do; CommandFailed when they name a data folder too."""
    if admin_url and data_dir is not None and ADMIN_URL_VARIABLE not in os.environ:
        raise CommandFailed("--data-dir and --admin-url name two registries: give one", exit_code=ExitCode.USAGE)
    return admin_url if admin_url and data_dir is None else None


@contextlib.contextmanager
def told() -> Iterator[None]:
    """Turns what the registry raises into what a person is told."""
    try:
        yield
    except RegistryError as error:
        raise failure_of(from_error(error)) from error
    except ProblemError as error:
        raise failure_of(error.problem) from error


def failure_of(problem: Problem) -> CommandFailed:
    code = exit_code_of(problem.status)
    if problem.kind == "forbidden" and "scope" in problem.facts:
        code = ExitCode.NOT_PERMITTED
    return CommandFailed(problem.detail, _hint(problem), code)


def _hint(problem: Problem) -> str:
    """What to do about it; empty where the sentence says so already."""
    if problem.kind == "not-found":
        model = str(problem.facts.get("name", "")).partition("/")[0].partition("@")[0]
        return {
            "model": "`sluice models --registered` lists what there is",
            "version": f"`sluice versions {model}` lists what there is",
            "alias": f"`sluice alias {model}` lists what there is",
        }.get(str(problem.facts.get("kind")), "")
    return "" if problem.facts.get("advice") else HINTS.get(problem.kind, "")


def resolve(registry: Registry, model: str, reference: str) -> int:
    """A version's number, from a number, an alias or `latest`."""
    if reference.isascii() and reference.isdigit():
        return int(reference)
    if (found := registry.alias(model, reference)) is not None and found["version"] is not None:
        return int(found["version"])
    if reference == "latest" and (versions := registry.versions(model)):
        return max(int(one["version"]) for one in versions)
    known = ", ".join(one["alias"] for one in registry.aliases(model))
    hint = f"its aliases are {known}" if known else "it has no aliases; versions are numbers"
    raise CommandFailed(f"{model} has no alias {reference}", hint, ExitCode.NOT_FOUND)


def warn_if_unserved(registry: Registry, model: str, version: int) -> None:
    """Says on standard error what keeps the version that an alias points at now from being served."""
    if reasons := registry.version(model, version)["reasons"]:
        text = f"{model} version {version} is not served: {'; '.join(reasons)}"
        Console(stderr=True, highlight=False).print(text, style="yellow", soft_wrap=True)


def settings_of(data_dir: Path | None, config: Path | None) -> Settings:
    """The settings as `sluice serve` would read them, so that both mean the same registry."""
    try:
        return load(config, os.environ, {"data_dir": data_dir})
    except SettingsError as error:
        raise CommandFailed.from_settings_error(error) from None


def token_of(file: Path | None) -> str:
    if file is None:
        return os.environ.get(TOKEN_VARIABLE, "").strip()
    from gateway.cli.remote import read_token

    return read_token(file)


def user_name() -> str:
    """Who runs this, by the system's word: an environment variable may say anything."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return f"uid-{os.getuid()}"


@contextlib.contextmanager
def progress_bar() -> Iterator[Report]:
    """A bar on standard error for each thing under way; nothing when it is no terminal."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda what, done, total: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(True), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as progress:
        tasks: dict[str, Any] = {}

        def report(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = progress.add_task(what, total=total)
            progress.update(tasks[what], completed=done, total=total)

        yield report


# Completion in a shell must be quick and silent: only a catalog that is there already is asked, never a gateway.


def complete_model(ctx: typer.Context, incomplete: str) -> list[str]:
    return _completions(ctx, incomplete, lambda registry, _: [one["name"] for one in registry.models()])


def complete_alias(ctx: typer.Context, incomplete: str) -> list[str]:
    return _completions(ctx, incomplete, lambda registry, model: [one["alias"] for one in registry.aliases(model)])


def complete_version(ctx: typer.Context, incomplete: str) -> list[str]:
    def find(registry: Registry, model: str) -> list[str]:
        numbers = [str(one["version"]) for one in registry.versions(model)]
        return numbers + [one["alias"] for one in registry.aliases(model)]

    return _completions(ctx, incomplete, find)


Model = Annotated[str, typer.Argument(help="The model's name.", autocompletion=complete_model)]


def _completions(ctx: typer.Context, incomplete: str, find: Callable[[Registry, str], list[str]]) -> list[str]:
    from gateway.cli.local import opened

    try:
        settings = settings_of(ctx.params.get("data_dir"), ctx.params.get("config"))
        if not is_catalog_there(settings):
            return []
        with opened(settings, "") as registry:
            return [word for word in find(registry, ctx.params.get("name") or "") if word.startswith(incomplete)]
    except (CommandFailed, RegistryError):
        return []
