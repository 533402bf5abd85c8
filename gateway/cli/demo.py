"""`sluice demo`: two small models published in a registry, a gateway in the foreground that serves them from there, and
the lines to paste into another terminal."""

from __future__ import annotations

import importlib.util
import json
import os
import shlex
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from gateway import demo as demo_models
from gateway.cli.failure import CommandFailed
from gateway.cli.local import LocalRegistry, opened
from gateway.cli.options import address
from gateway.cli.registry import Publication, told, user_name
from gateway.cli.serve import check_ports, run
from gateway.demo import RECIPES, SAMPLE_ROW, Recipe, make
from gateway.errors import SettingsError
from gateway.settings import Settings
from gateway.settings_sources import load
from registry.lineage import find_lineage

READY_SECONDS = 120.0
SHOWN_MODEL, SHOWN_ALIAS = "tumours", "champion"
_NEEDED = {"sklearn": "scikit-learn", "skl2onnx": "skl2onnx"}
# What would make the gateway serve something else than the demo's registry.
_OTHER_SOURCES = ("SLUICE_MODEL_REPOSITORY", "SLUICE_REGISTRY__", "SLUICE_DATA_DIR")


def demo(
    data_dir: Annotated[Path, typer.Option(help="Where the registry and all state are kept.")] = Path("demo/data"),
    http_port: Annotated[int | None, typer.Option(help="HTTP inference [8000].")] = None,
    grpc_port: Annotated[int | None, typer.Option(help="gRPC inference [8001].")] = None,
    admin_port: Annotated[int | None, typer.Option(help="Metrics, JSON API and console [8002].")] = None,
    prepare_only: Annotated[bool, typer.Option("--prepare-only", help="Publish the models, start nothing.")] = False,
) -> None:
    """Train two small models, publish two versions of each, and serve them."""
    console = Console(stderr=True)
    settings = settings_for(data_dir, {"http_port": http_port, "grpc_port": grpc_port, "admin_port": admin_port})
    if not prepare_only:
        check_ports(settings)
    champion = prepare(settings, console)
    if prepare_only:
        return
    stop = threading.Event()
    guide = threading.Thread(target=_guide, args=(settings, champion, console, stop), name="demo-guide", daemon=True)
    guide.start()
    try:
        code = run(settings)
    finally:
        stop.set()
        guide.join()
    raise typer.Exit(code)


def settings_for(data_dir: Path, ports: Mapping[str, int | None]) -> Settings:
    """Of a gateway over the registry in the data folder, whatever else the environment says."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(_OTHER_SOURCES)}
    try:
        return load(None, environment, {"data_dir": data_dir, **ports})
    except SettingsError as error:
        raise CommandFailed.from_settings_error(error) from None


def prepare(settings: Settings, console: Console) -> int:
    """Publishes what the registry does not have yet; a second call finds everything, and leaves aliases where somebody
    moved them. Returns the version that the alias of `instructions` points at."""
    with told(), opened(settings, user_name()) as registry:
        known = {one["name"]: one["versions"] for one in registry.models()}
        wanted = [recipe for recipe in RECIPES if known.get(recipe.model, 0) < recipe.version]
        if wanted:
            _check_packages()
            console.print(Text(f"Training two small models into the registry in {settings.data_dir} ..."))
        for recipe in wanted:
            line = _publish(registry, recipe)
            console.print(Text(f"  {line}", "dim"))
        pointed = registry.alias(SHOWN_MODEL, SHOWN_ALIAS)
        return int((pointed and pointed["version"]) or known.get(SHOWN_MODEL, 0))


def _check_packages() -> None:
    missing = [package for module, package in _NEEDED.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise CommandFailed(f"the demo trains with {' and '.join(missing)}", "pip install 'sluice-gateway[demo]'")


def _publish(registry: LocalRegistry, recipe: Recipe) -> str:
    """Trains one version and pushes it; what to say about it."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / recipe.model
        accuracy = make(recipe, folder)
        publication = Publication(
            path=folder,
            model=recipe.model,
            alias=recipe.alias,
            tags={"estimator": recipe.estimator},
            metrics={"accuracy": round(accuracy, 4)},
            # The commit of the recipes, not of the scratch folder.
            lineage=find_lineage(
                Path(demo_models.__file__), now=time.time(), data_ref=f"sklearn.datasets.{recipe.data}", source="demo"
            ),
            reason="sluice demo",
        )
        pushed = registry.push(publication, lambda what, done, total: None)
    return f"{recipe.model} version {pushed['version']}, {recipe.alias}: {accuracy:.1%} of held-out rows right"


def _guide(settings: Settings, champion: int, console: Console, stop: threading.Event) -> None:
    """Waits until the gateway is ready, then says what to try."""
    probe = f"http://{address(settings.admin.host, settings.admin_port)}/readyz"
    waited = 0.0
    while not _answers(probe):
        if stop.wait(0.1) or (waited := waited + 0.1) > READY_SECONDS:
            return
    console.print(instructions(settings, champion), soft_wrap=True, highlight=False)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as response:
            return bool(response.status == 200)
    except (OSError, urllib.error.URLError):
        return False


def instructions(settings: Settings, champion: int) -> Text:
    """The lines to paste. `champion`: the version that the alias points at; its line moves it to the other."""
    admin = f"http://{address(settings.admin.host, settings.admin_port)}"
    return Text.assemble(
        ("\nReady. Paste into another terminal:\n\n", "bold green"),
        curl_line(settings),
        "\n\n",
        snippet(settings),
        ("\n\nServe the other version, while requests go on:\n\n", "bold green"),
        alias_line(settings, 1 if champion == 2 else 2),
        ("\n\nConsole and metrics: ", "bold"),
        f"{admin}/  {admin}/metrics",
        ("\nStop with Ctrl-C.\n", "dim"),
    )


def curl_line(settings: Settings) -> str:
    row = list(SAMPLE_ROW)
    body = {"inputs": [{"name": "measurements", "datatype": "FP32", "shape": [1, len(row)], "data": row}]}
    url = f"http://{address(settings.host, settings.http_port)}/v2/models/{SHOWN_MODEL}/infer"
    return f"curl -s {url} -d '{json.dumps(body, separators=(',', ':'))}'"


def snippet(settings: Settings) -> str:
    """Python, for a shell."""
    return f"""\
{_program(Path(sys.executable))} - <<'EOF'
import numpy, tritonclient.grpc as triton
client = triton.InferenceServerClient("{address(settings.host, settings.grpc_port)}")
pixels = triton.InferInput("pixels", [1, 64], "FP32")
pixels.set_data_from_numpy(numpy.arange(64, dtype=numpy.float32).reshape(1, 64) % 16)
print(client.infer("digits", [pixels]).as_numpy("probabilities").round(3))
EOF"""


def alias_line(settings: Settings, version: int) -> str:
    sluice = _program(Path(sys.executable).with_name("sluice"))
    return f"{sluice} alias {SHOWN_MODEL} {SHOWN_ALIAS} {version} --data-dir {shlex.quote(str(settings.data_dir))}"


def _program(path: Path) -> str:
    """The path from here where that is shorter to read."""
    near = os.path.relpath(path)
    return shlex.quote(str(path) if near.startswith("..") else near)
