"""The `sluice` command: one file for each subcommand, and the shape of what goes wrong."""

from __future__ import annotations

import sys

import typer
from rich.console import Console
from rich.text import Text

from gateway import __version__
from gateway.cli import demo, doctor, infer, models, serve
from gateway.cli.failure import CommandFailed

app = typer.Typer(
    name="sluice",
    help="A model serving gateway: versioned models over HTTP and gRPC in the Open Inference Protocol.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(serve.serve)
app.command()(infer.infer)
app.command()(models.models)
app.command()(doctor.doctor)
app.command()(demo.demo)


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
