"""`sluice infer`: one request, its tensors read from files or the command line, its answer as tables."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from gateway.cli.clients import Answer, Client, GrpcClient, HttpClient, Signature, Tensor, Tls
from gateway.cli.failure import CommandFailed, ExitCode
from gateway.cli.options import Config, address
from gateway.cli.registry import settings_of
from gateway.cli.tensors import read_value, to_array, to_json
from registry.manifest import TensorSpec

MAX_ROWS, MAX_COLUMNS, CELL_WIDTH = 20, 12, 14


def infer(
    model: Annotated[str, typer.Argument(help="The model's name.")],
    inputs: Annotated[
        list[str],
        typer.Option(
            "--input",
            "-i",
            metavar="NAME=VALUE",
            help="A .npy or .json file, or JSON. One for each input; "
            "the name may be left out when the model has one input.",
        ),
    ],
    version: Annotated[str, typer.Option(help="A version; the gateway's choice when left out.")] = "",
    use_grpc: Annotated[bool, typer.Option("--grpc", help="Use gRPC instead of HTTP.")] = False,
    url: Annotated[str | None, typer.Option(help="[127.0.0.1:8000, or 127.0.0.1:8001 for gRPC]")] = None,
    outputs: Annotated[
        list[str] | None, typer.Option("--output", "-o", metavar="NAME", help="Only these outputs.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the answer as JSON.")] = False,
    timeout: Annotated[float, typer.Option(help="Seconds to wait.")] = 30.0,
    config: Config = None,
    ca_file: Annotated[
        Path | None,
        typer.Option(metavar="PEM", help="The authorities that vouch for the gateway.", rich_help_panel="TLS"),
    ] = None,
    certificate_file: Annotated[
        Path | None, typer.Option(metavar="PEM", help="Your certificate, for mutual TLS.", rich_help_panel="TLS")
    ] = None,
    private_key_file: Annotated[
        Path | None, typer.Option(metavar="PEM", help="Its private key.", rich_help_panel="TLS")
    ] = None,
) -> None:
    """Ask a model for a prediction. An https:// address, or a file for TLS, connects with TLS over both transports."""
    tls = Tls(ca_file, certificate_file, private_key_file)
    client: Client
    settings = settings_of(None, config)
    if use_grpc:
        client = GrpcClient(url or address(settings.host, settings.grpc_port), timeout, tls)
    else:
        client = HttpClient(url or address(settings.host, settings.http_port), timeout, tls)
    signature = client.signature(model, version)
    tensors = read_inputs(signature, inputs)
    began = time.perf_counter()
    answer = client.infer(model, version, tensors, outputs or [])
    seconds = time.perf_counter() - began
    if as_json:
        typer.echo(json.dumps(to_document(answer)))
    else:
        show(Console() if sys.stdout.isatty() else Console(width=200), answer, seconds)


def read_inputs(signature: Signature, given: Sequence[str]) -> list[Tensor]:
    """One tensor for each `NAME=VALUE`, shaped as the model wants it."""
    specs = {spec.name: spec for spec in signature.inputs}
    tensors = []
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or name not in specs:
            if len(specs) != 1 or (equals and name.isidentifier()):
                raise CommandFailed(
                    f"--input {text[:40]}: give NAME=VALUE, where NAME is one of {', '.join(specs)}",
                    exit_code=ExitCode.USAGE,
                )
            name, value = next(iter(specs)), text
        spec = specs[name]
        array = to_array(name, read_value(value), spec.datatype, spec.shape)
        tensors.append(Tensor(TensorSpec(name, spec.datatype, array.shape), array))
    return tensors


def to_document(answer: Answer) -> dict[str, Any]:
    """The answer as the Open Inference Protocol writes it in JSON, with nested data."""
    return {
        "model_name": answer.model,
        "model_version": answer.version,
        "outputs": [
            {
                "name": tensor.spec.name,
                "datatype": tensor.spec.datatype,
                "shape": list(tensor.spec.shape),
                "data": to_json(tensor.array),
            }
            for tensor in answer.outputs
        ],
    }


def show(console: Console, answer: Answer, seconds: float) -> None:
    version = f" version {answer.version}" if answer.version else ""
    console.print(Text.assemble((answer.model, "bold"), version, (f"  {seconds * 1000:.1f} ms", "dim")))
    for tensor in answer.outputs:
        shape = "×".join(map(str, tensor.spec.shape)) or "scalar"
        kind = (f"  {tensor.spec.datatype} {shape}", "dim")
        console.print(Text.assemble("\n", (tensor.spec.name, "bold cyan"), kind))
        console.print(as_table(tensor, max(1, (console.width - 20) // CELL_WIDTH)))


def as_table(tensor: Tensor, room: int = MAX_COLUMNS) -> Table:
    """A row for each of the first dimension, cut to what a terminal with room for so many columns shows."""
    array = tensor.array.reshape(1, 1) if tensor.array.ndim == 0 else tensor.array
    flat = array.reshape(array.shape[0], int(np.prod(array.shape[1:], dtype=np.int64)))
    columns = min(flat.shape[1], room, MAX_COLUMNS)
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(style="dim", justify="right")
    for _ in range(columns + 1):
        table.add_column(justify="right", no_wrap=True)
    for index, row in enumerate(flat[:MAX_ROWS]):
        more = Text(f"… {flat.shape[1] - columns} more", "dim") if flat.shape[1] > columns else Text()
        table.add_row(Text(str(index)), *(Text(_cell(value)) for value in row[:columns]), more)
    if len(flat) > MAX_ROWS:
        table.add_row(Text("…"), Text(f"{len(flat) - MAX_ROWS} more rows", "dim"))
    return table


def _cell(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")[:40]
    if isinstance(value, float | np.floating):
        return f"{float(value):.6g}"
    return str(value)
