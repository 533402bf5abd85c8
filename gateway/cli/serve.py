"""`sluice serve`: settings from file, environment and flags, then the server until it is told to stop."""

from __future__ import annotations

import errno
import os
import socket
import ssl
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from gateway import __version__, logs
from gateway.cli.failure import CommandFailed
from gateway.cli.options import address
from gateway.errors import SettingsError, StartFailed
from gateway.settings import Settings
from gateway.settings_sources import CONFIG_VARIABLE, load
from registry.errors import StagingFailed
from registry.redaction import without_user
from registry.sources.mlflow_client import MlflowAccess


def serve(
    model_repository: Annotated[
        Path | None,
        typer.Option(
            "--model-repository",
            "-m",
            help="Folder of <model>/<version>/model.onnx \\[the registry in the data folder].",
        ),
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address of the inference ports [127.0.0.1].")] = None,
    http_port: Annotated[int | None, typer.Option(help="HTTP inference [8000].")] = None,
    grpc_port: Annotated[int | None, typer.Option(help="gRPC inference [8001].")] = None,
    admin_port: Annotated[int | None, typer.Option(help="Metrics, JSON API and console [8002].")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Folder for what the gateway keeps [~/.sluice].")] = None,
    config: Annotated[
        Path | None, typer.Option(help="YAML file of settings.", envvar=CONFIG_VARIABLE, show_envvar=True)
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Any other setting, such as batching.max_queue_rows=1024."),
    ] = None,
) -> None:
    """Serve the models of the registry, or of a repository folder, over HTTP and gRPC."""
    flags: dict[str, Any] = {
        "model_repository": model_repository,
        "host": host,
        "http_port": http_port,
        "grpc_port": grpc_port,
        "admin_port": admin_port,
        "data_dir": data_dir,
        **read_assignments(settings or []),
    }
    try:
        chosen = load(config, os.environ, flags)
    except SettingsError as error:
        raise CommandFailed.from_settings_error(error) from None
    raise typer.Exit(run(chosen))


def run(settings: Settings) -> int:
    """Checks what would fail anyway, and better said here; then serves. The exit code is the server's."""
    if settings.model_repository is not None:
        check_repository(settings.model_repository)
    check_ports(settings)
    from gateway import server  # the engine and the native modules load only for those who serve

    logs.configure(settings.logs.format, settings.logs.level)
    show_banner(settings)
    try:
        return server.run(settings, MlflowAccess.from_environment(os.environ))
    except Exception as error:
        failure = foreseen(error)
        if failure is None:
            raise
        raise failure from None


def foreseen(error: BaseException) -> CommandFailed | None:
    """What to say about a failed start; None for what is a defect of ours and wants its traceback."""
    if isinstance(error, BaseExceptionGroup):
        return foreseen(error.exceptions[0]) if len(error.exceptions) == 1 else None
    if isinstance(error, SettingsError):
        return CommandFailed.from_settings_error(error)
    if isinstance(error, StartFailed):
        return CommandFailed(f"{error.part} cannot start: {error.reason}", "`sluice doctor` shows what is missing")
    if isinstance(error, StagingFailed):
        return CommandFailed(f"data_dir: {error.path} cannot be used: {error.reason}")
    if isinstance(error, ssl.SSLError):
        return CommandFailed(f"TLS: {error}", "check tls.certificate_file, tls.private_key_file and tls.client_ca_file")
    if isinstance(error, OSError) and error.errno in (errno.EADDRINUSE, errno.EACCES, errno.EADDRNOTAVAIL):
        return CommandFailed(f"cannot listen: {error.strerror}", "`sluice doctor` shows which ports are free")
    return None


def read_assignments(pairs: list[str]) -> dict[str, str]:
    """`KEY=VALUE` words as a mapping."""
    chosen: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise CommandFailed(f"--set takes KEY=VALUE, not {pair!r}", exit_code=2)
        chosen[key.strip()] = value.strip()
    return chosen


def check_repository(folder: Path) -> None:
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        raise CommandFailed(
            f"the model repository {folder} {what}",
            "it holds <model>/<version>/model.onnx; without --model-repository, the registry in --data-dir is served",
        )
    if not os.access(folder, os.R_OK | os.X_OK):
        raise CommandFailed(f"the model repository {folder} may not be read by this user")


def check_ports(settings: Settings) -> None:
    """Says which of the three ports cannot be bound, and why."""
    for name, host, number in (
        ("http_port", settings.host, settings.http_port),
        ("grpc_port", settings.host, settings.grpc_port),
        ("admin_port", settings.admin.host, settings.admin_port),
    ):
        problem = port_problem(host, number) if number else None
        if problem:
            raise CommandFailed(
                f"port {number} of {host} cannot be used: {problem}",
                f"stop what uses it, or choose another by --{name.replace('_', '-')}",
            )


def port_problem(host: str, number: int) -> str | None:
    """Why the port cannot be bound; None when it can."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, number, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        return f"{host} is no address of ours ({error.strerror})"
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError as error:
            return (error.strerror or str(error)).lower()
    return None


def show_banner(settings: Settings) -> None:
    """Where to find what, for a person; nothing when standard error is not a terminal."""
    console = Console(stderr=True)
    if not console.is_terminal:
        return
    scheme = "https" if settings.tls.is_enabled else "http"
    rows = (
        ("models", origin(settings)),
        ("HTTP", f"{scheme}://{address(settings.host, settings.http_port)}"),
        ("gRPC", address(settings.host, settings.grpc_port) + (" (TLS)" if settings.tls.is_enabled else "")),
        ("admin", f"http://{address(settings.admin.host, settings.admin_port)}"),
    )
    console.print()
    console.print(Text.assemble(("  Sluice ", "bold cyan"), (__version__, "cyan")))
    for name, value in rows:
        console.print(Text.assemble((f"  {name:<7}", "dim"), value), soft_wrap=True)
    console.print()


def origin(settings: Settings) -> str:
    """Where the models come from, without secrets."""
    if settings.model_repository is not None:
        return str(settings.model_repository)
    match settings.registry.source:
        case "catalog":
            return f"the registry in {settings.data_dir}" if not settings.registry.database_url else "a shared registry"
        case "mlflow":
            return f"MLflow at {without_user(settings.registry.mlflow_url)}"
        case "objects":
            return without_user(settings.registry.objects_url)
