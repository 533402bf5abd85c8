"""The `sluice` command: one file for each subcommand, and the shape of what goes wrong.

A subcommand's file is imported when it is asked for: what one needs to start should not slow down the others.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

import typer
from rich.console import Console
from rich.text import Text
from typer.core import TyperGroup

from gateway import __version__
from gateway.cli.failure import CommandFailed, ExitCode

COMMANDS = {
    "serve": "serve",
    "infer": "infer",
    "models": "models",
    "push": "push",
    "versions": "versions",
    "diff": "diff",
    "alias": "alias",
    "policy": "policy",
    "rollout": "rollout",
    "approve": "approve",
    "reject": "approve",
    "verify": "verify",
    "audit": "audit",
    "gc": "gc",
    "token": "token",
    "doctor": "doctor",
    "demo": "demo",
}
"""Each subcommand, in the order of the help, and the module of this package that has a function (or a Typer, for a
group of subcommands) of its name."""


class Commands(TyperGroup):
    """The table above as a group."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] not in COMMANDS and not args[0].startswith("-") and not ctx.resilient_parsing:
            import difflib  # for a slip only

            near = difflib.get_close_matches(args[0], COMMANDS, 1)
            hint = f"did you mean `sluice {near[0]}`?" if near else "`sluice --help` lists them"
            raise CommandFailed(f"there is no command {args[0]}", hint, ExitCode.USAGE)
        return super().resolve_command(ctx, args)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in COMMANDS:
            return None
        found = getattr(importlib.import_module(f"gateway.cli.{COMMANDS[cmd_name]}"), cmd_name)
        if isinstance(found, typer.Typer):
            command = typer.main.get_command(found)
        else:
            alone = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
            alone.command(cmd_name)(found)
            command = typer.main.get_command(alone)
        command.name = cmd_name
        return command


app = typer.Typer(
    name="sluice",
    help="A model serving gateway: versioned models over HTTP and gRPC in the Open Inference Protocol.",
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"sluice {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(False, "--version", help="Show the version.", callback=_show_version, is_eager=True),
) -> None:
    pass


def main() -> None:
    """Runs the command line; a failure that we foresaw is told in a line or two, without a traceback."""
    try:
        app()
    except CommandFailed as failure:
        console = Console(stderr=True)
        console.print(Text.assemble(("error: ", "bold red"), str(failure)), soft_wrap=True)
        if failure.hint:
            console.print(Text.assemble(("hint:  ", "bold cyan"), failure.hint), soft_wrap=True)
        sys.exit(failure.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
