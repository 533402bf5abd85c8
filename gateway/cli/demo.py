"""`sluice demo`: two small models, a gateway in the foreground, and the lines to paste into another terminal."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import threading
import urllib.error
import urllib.request
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from gateway.cli.failure import CommandFailed
from gateway.cli.serve import address, check_ports, run
from gateway.errors import SettingsError
from gateway.settings import Settings
from gateway.settings_sources import load

READY_SECONDS = 120.0
_NEEDED = {"sklearn": "scikit-learn", "skl2onnx": "skl2onnx"}


def demo(
    folder: Annotated[Path, typer.Option(help="Where models and state are kept.")] = Path("demo"),
    http_port: Annotated[int | None, typer.Option(help="HTTP inference [8000].")] = None,
    grpc_port: Annotated[int | None, typer.Option(help="gRPC inference [8001].")] = None,
    admin_port: Annotated[int | None, typer.Option(help="Metrics, JSON API and console [8002].")] = None,
    prepare_only: Annotated[bool, typer.Option("--prepare-only", help="Make the models, start nothing.")] = False,
) -> None:
    """Train two small models and serve them."""
    console = Console(stderr=True)
    repository = folder / "models"
    flags = {
        "model_repository": repository,
        "data_dir": folder / "data",
        "http_port": http_port,
        "grpc_port": grpc_port,
        "admin_port": admin_port,
    }
    try:
        settings = load(None, os.environ, flags)
    except SettingsError as error:
        raise CommandFailed.from_settings_error(error) from None
    if not prepare_only:
        check_ports(settings)
    prepare(repository, console)
    if prepare_only:
        return
    stop = threading.Event()
    guide = threading.Thread(target=_guide, args=(settings, console, stop), name="demo-guide", daemon=True)
    guide.start()
    try:
        code = run(settings)
    finally:
        stop.set()
        guide.join()
    raise typer.Exit(code)


def prepare(repository: Path, console: Console) -> None:
    """Trains and exports once; a second call finds the models and returns at once."""
    from gateway import demo as models

    if models.is_prepared(repository):
        return
    missing = [package for module, package in _NEEDED.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise CommandFailed(f"the demo trains with {' and '.join(missing)}", "pip install 'sluice-gateway[demo]'")
    console.print(f"Training two small models into {repository} ...")
    models.prepare(repository, lambda line: console.print(Text(f"  {line}", "dim")))


def _guide(settings: Settings, console: Console, stop: threading.Event) -> None:
    """Waits until the gateway is ready, then says what to try."""
    probe = f"http://{address(settings.admin.host, settings.admin_port)}/readyz"
    waited = 0.0
    while not _answers(probe):
        if stop.wait(0.1) or (waited := waited + 0.1) > READY_SECONDS:
            return
    console.print(instructions(settings), soft_wrap=True, highlight=False)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as response:
            return bool(response.status == 200)
    except (OSError, urllib.error.URLError):
        return False


def instructions(settings: Settings) -> Text:
    """The lines to paste."""
    from gateway.demo import sample_row

    row = sample_row()
    body = {"inputs": [{"name": "measurements", "datatype": "FP32", "shape": [1, len(row)], "data": row}]}
    curl = (
        f"curl -s http://{address(settings.host, settings.http_port)}/v2/models/tumours/infer "
        f"-d '{json.dumps(body, separators=(',', ':'))}'"
    )
    python = os.path.relpath(sys.executable)
    snippet = f"""\
{sys.executable if python.startswith("..") else python} - <<'EOF'
import numpy, tritonclient.grpc as triton
client = triton.InferenceServerClient("{address(settings.host, settings.grpc_port)}")
pixels = triton.InferInput("pixels", [1, 64], "FP32")
pixels.set_data_from_numpy(numpy.arange(64, dtype=numpy.float32).reshape(1, 64) % 16)
print(client.infer("digits", [pixels]).as_numpy("probabilities").round(3))
EOF"""
    admin = f"http://{address(settings.admin.host, settings.admin_port)}"
    return Text.assemble(
        ("\nReady. Paste into another terminal:\n\n", "bold green"),
        curl,
        "\n\n",
        snippet,
        ("\n\nConsole and metrics: ", "bold"),
        f"{admin}/  {admin}/metrics",
        ("\nStop with Ctrl-C.\n", "dim"),
    )
