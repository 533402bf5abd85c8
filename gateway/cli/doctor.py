"""`sluice doctor`: what this machine can do, what is missing, and the command that fixes it.

Each check is a function that looks at one thing and returns findings; none changes anything.
"""

from __future__ import annotations

import ctypes.util
import importlib.metadata
import importlib.util
import json
import os
import platform
import resource
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

import kernels
from gateway.cli.options import Config
from gateway.cli.serve import port_problem
from gateway.errors import SettingsError
from gateway.settings import GIB
from gateway.settings_sources import load

Status = Literal["ok", "warning", "missing"]
_MARKS: dict[Status, tuple[str, str]] = {"ok": ("✓", "green"), "warning": ("!", "yellow"), "missing": ("✗", "bold red")}
LIBRARIES = {"nghttp2": "libnghttp2-dev", "simdjson": "libsimdjson-dev"}
EXTRAS = {
    "tritonclient": ("demo", "the demo's snippet"),
    "obstore": ("objects", "a bucket"),
    "psycopg": ("postgresql", "a catalog that gateways share"),
    "model-signing": ("signing", "a signature on a version"),
    "onnxmltools": ("convert", "a push of another format than ONNX"),
}
"""Packages that not everybody needs: the extra that brings each, and who does."""
BUILD_TOOLS = {"g++": "g++", "cmake": "cmake", "pkg-config": "pkg-config"}
CPU_FEATURES = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "asimd", "sve")


@dataclass(frozen=True)
class Finding:
    """`missing` means that the gateway cannot serve without it; `fix` is a command, or a sentence."""

    subject: str
    status: Status
    detail: str
    fix: str = ""


def doctor(
    config: Config = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Show what this machine can do, what is missing, and how to fix it."""
    findings = examine(config)
    if as_json:
        typer.echo(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        show(Console(), findings)
    raise typer.Exit(int(any(finding.status == "missing" for finding in findings)))


def examine(config: Path | None = None) -> list[Finding]:
    checks: list[Callable[[], Iterator[Finding]]] = [*CHECKS, partial(check_ports, config)]
    return [finding for check in checks for finding in check()]


def show(console: Console, findings: Iterable[Finding]) -> None:
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    fixes = []
    for finding in findings:
        mark, style = _MARKS[finding.status]
        table.add_row(Text(mark, style), Text(finding.subject, "bold"), Text(finding.detail))
        if finding.fix:
            fixes.append(finding)
    console.print(table)
    if fixes:
        console.print(Text("\nTo fix:", "bold"))
    for finding in fixes:
        console.print(Text.assemble((f"  {finding.subject}: ", "dim"), finding.fix), soft_wrap=True)


def check_python() -> Iterator[Finding]:
    yield Finding("Python", "ok", f"{platform.python_version()} at {sys.executable}")


def check_cpu() -> Iterator[Finding]:
    usable = len(os.sched_getaffinity(0))
    features = ", ".join(cpu_features(_read("/proc/cpuinfo"))) or "no known vector units"
    detail = f"{usable} of {os.cpu_count()} cores usable, {platform.machine()}, {features}"
    if usable < 2:
        yield Finding("CPU", "warning", detail, "give the gateway two cores: one for its loop, one for a worker")
    else:
        yield Finding("CPU", "ok", detail)


def cpu_features(cpuinfo: str) -> list[str]:
    """Those vector extensions that make inference faster."""
    for line in cpuinfo.splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):
            present = set(value.split())
            return [feature for feature in CPU_FEATURES if feature in present]
    return []


def check_memory() -> Iterator[Finding]:
    available = memory_available(_read("/proc/meminfo"))
    shared = shutil.disk_usage("/dev/shm").total if Path("/dev/shm").is_dir() else 0
    detail = f"{available / GIB:.1f} GiB available, {shared / GIB:.1f} GiB in /dev/shm"
    if available < GIB:
        fix = "free some memory, or lower workers.slot_bytes and batching.max_queue_bytes"
        yield Finding("memory", "warning", detail, fix)
    else:
        yield Finding("memory", "ok", detail)


def memory_available(meminfo: str) -> int:
    for line in meminfo.splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0


def check_native_modules() -> Iterator[Finding]:
    names = native_modules(Path(kernels.__path__[0]))
    absent = [name for name in names if importlib.util.find_spec(f"kernels.{name}") is None]
    if absent:
        yield Finding("native modules", "missing", f"not built: {', '.join(absent)}", "make setup")
    else:
        yield Finding("native modules", "ok", f"{len(names)} built")


def native_modules(folder: Path) -> list[str]:
    """What has to be compiled: each native module has its declarations beside it, built or not."""
    return sorted(path.stem for path in folder.glob("*.pyi"))


def check_libraries() -> Iterator[Finding]:
    """The shared libraries are needed to run; the tools only to build."""
    for library, package in LIBRARIES.items():
        found = ctypes.util.find_library(library)
        if found:
            yield Finding(library, "ok", found)
        else:
            yield Finding(library, "missing", "the shared library is not installed", f"apt-get install {package}")
    absent = [tool for tool in BUILD_TOOLS if shutil.which(tool) is None]
    if absent:
        packages = " ".join(BUILD_TOOLS[tool] for tool in absent)
        yield Finding(
            "build tools",
            "warning",
            f"no {', '.join(absent)}: a checkout cannot be built",
            f"apt-get install {packages}",
        )
    else:
        yield Finding("build tools", "ok", ", ".join(BUILD_TOOLS))


def check_packages() -> Iterator[Finding]:
    for package in ("uvloop", "httptools", "aiohttp", "grpcio", "protobuf", "prometheus-client"):
        try:
            yield Finding(package, "ok", importlib.metadata.version(package))
        except importlib.metadata.PackageNotFoundError:
            yield Finding(package, "missing", "not installed", "pip install sluice-gateway")
    for package, (extra, purpose) in EXTRAS.items():
        try:
            yield Finding(package, "ok", importlib.metadata.version(package))
        except importlib.metadata.PackageNotFoundError:
            fix = f"pip install 'sluice-gateway[{extra}]'"
            yield Finding(package, "warning", f"not installed; only {purpose} needs it", fix)


def check_engine() -> Iterator[Finding]:
    if importlib.util.find_spec("onnxruntime") is None:
        yield Finding("ONNX Runtime", "missing", "not installed", "pip install sluice-gateway")
        return
    import onnxruntime

    providers = [name.removesuffix("ExecutionProvider") for name in onnxruntime.get_available_providers()]
    yield Finding("ONNX Runtime", "ok", f"{onnxruntime.__version__} with {', '.join(providers)}")
    yield gpu_finding(Path("/dev/nvidiactl").exists(), "CUDA" in providers, _installed_engines())


def gpu_finding(has_device: bool, has_provider: bool, engines: list[str]) -> Finding:
    """A GPU helps only with the engine that was built for it, and the two engines hide each other."""
    if has_device and has_provider:
        return Finding("GPU", "ok", "an NVIDIA device, and ONNX Runtime can use it")
    swap = "pip uninstall -y onnxruntime onnxruntime-gpu && pip install 'sluice-gateway[gpu]'"
    if has_device:
        why = "both ONNX Runtimes are installed" if len(engines) > 1 else "this ONNX Runtime is for the CPU"
        return Finding("GPU", "warning", f"an NVIDIA device, but {why}", swap)
    return Finding("GPU", "ok", "none: models run on the CPU")


def _installed_engines() -> list[str]:
    return [name for name in ("onnxruntime", "onnxruntime-gpu") if _is_installed(name)]


def _is_installed(package: str) -> bool:
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def check_ports(config: Path | None = None) -> Iterator[Finding]:
    """Those that `sluice serve` would take."""
    try:
        settings = load(config, os.environ)
    except SettingsError as error:
        yield Finding("settings", "missing", f"{error.key}: {error.reason}", f"change {error.origin or error.key}")
        return
    for name, host, port in (
        ("HTTP port", settings.host, settings.http_port),
        ("gRPC port", settings.host, settings.grpc_port),
        ("admin port", settings.admin.host, settings.admin_port),
    ):
        problem = port_problem(host, port) if port else None
        if problem is None:
            yield Finding(name, "ok", f"{port} is free")
        else:
            fix = f"sluice serve --{name.lower().replace(' ', '-')} NUMBER, if it is not the gateway that has it"
            yield Finding(name, "warning", f"{port}: {problem}", fix)


def check_limits() -> Iterator[Finding]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 16384
    if soft >= wanted:
        yield Finding("open files", "ok", f"{soft:,} allowed")
    else:
        detail = f"{soft:,} allowed; each connection takes one"
        yield Finding("open files", "warning", detail, f"ulimit -n {min(hard, 65536)}")


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


CHECKS: tuple[Callable[[], Iterator[Finding]], ...] = (
    check_python,
    check_cpu,
    check_memory,
    check_native_modules,
    check_libraries,
    check_packages,
    check_engine,
    check_limits,
)
