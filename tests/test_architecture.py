"""Arrows between the parts that never exist, read from the imports (and cimports) of every file."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
OURS = ("gateway", "registry", "kernels")
CYTHON_IMPORT = re.compile(r"^\s*(?:from\s+([\w.]+)\s+c?import\s+\(?([^#\n]*)|c?import\s+([\w.]+))", re.MULTILINE)


@dataclass(frozen=True)
class Source:
    path: str
    """From the root, such as `gateway/frontends/http.py`."""
    imports: frozenset[str]
    """Dotted names: modules, and what is taken out of them."""

    def reaches(self, *targets: str) -> set[str]:
        """Those imports that lie in one of the modules or packages."""
        return {name for name in self.imports for target in targets if name == target or name.startswith(f"{target}.")}


def python_imports(tree: ast.Module, path: Path) -> Iterator[str]:
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join((*base, *([node.module] if node.module else [])))
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def cython_imports(text: str) -> Iterator[str]:
    for module, names, plain in CYTHON_IMPORT.findall(text):
        yield plain or module
        yield from (f"{module}.{name.split()[0]}" for name in names.strip(" ()\\").split(",") if name.strip(" ()\\"))


@cache
def sources(*folders: str) -> tuple[Source, ...]:
    found = []
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix not in (".py", ".pyx", ".pxd", ".pyi"):
                continue
            text = path.read_text("utf-8")
            is_cython = path.suffix in (".pyx", ".pxd")
            names = cython_imports(text) if is_cython else python_imports(ast.parse(text), path)
            found.append(Source(str(path.relative_to(ROOT)), frozenset(names)))
    assert found, f"nothing in {folders}"
    return tuple(found)


def arrows(folders: tuple[str, ...], *targets: str) -> dict[str, set[str]]:
    """The forbidden imports that exist, by file."""
    return {source.path: source.reaches(*targets) for source in sources(*folders) if source.reaches(*targets)}


def test_the_imports_of_cython_files_are_seen() -> None:
    text = (
        "from kernels.exchange cimport Exchange, OK\ncimport cython\nimport time\nfrom libc.stdint cimport (int64_t,\n"
    )
    assert set(cython_imports(text)) == {
        "kernels.exchange",
        "kernels.exchange.Exchange",
        "kernels.exchange.OK",
        "cython",
        "time",
        "libc.stdint",
        "libc.stdint.int64_t",
    }
    wire = next(source for source in sources("kernels") if source.path == "kernels/exchange.pxd")
    assert wire.reaches("kernels.infer")


def test_kernels_know_nothing_of_ours_but_each_other() -> None:
    assert arrows(("kernels",), "gateway", "registry") == {}


def test_kernels_know_no_log_and_only_the_two_protocols_know_the_event_loop() -> None:
    assert arrows(("kernels",), "logging", "uvloop") == {}
    users = {Path(path).stem for path in arrows(("kernels",), "asyncio")}
    assert users <= {"http1", "http2"}


def test_the_registry_knows_nothing_of_serving() -> None:
    assert arrows(("registry",), "gateway", "kernels") == {}


CONVERTERS = ("skops", "sklearn", "skl2onnx", "onnxmltools", "lightgbm", "xgboost", "torch")


def test_libraries_that_convert_are_loaded_by_conversions_and_the_demonstration_only() -> None:
    assert {Path(path).parent.name for path in arrows(("registry",), *CONVERTERS)} == {"conversion"}
    assert set(arrows(("gateway",), *CONVERTERS)) <= {"gateway/demo.py"}


def test_what_runs_confined_is_imported_by_nobody_else() -> None:
    inside = ("registry.conversion.run", "registry.conversion.agreement", "gateway.confined.golden")
    importers = arrows(("gateway", "registry"), *inside).keys()
    assert {path for path in importers if not path.startswith("registry/conversion/")} == set()


def test_front_ends_know_the_data_plane_and_not_what_is_behind_it() -> None:
    assert arrows(("gateway/frontends",), "gateway.workers", "gateway.backends", "gateway.models", "registry") == {}


def test_backends_know_no_batcher_and_of_workers_only_what_they_are_told_to_load() -> None:
    assert (
        arrows(("gateway/backends",), "kernels.batching", "kernels.dispatch", "gateway.dataplane", "gateway.models")
        == {}
    )
    of_workers = set().union(*arrows(("gateway/backends",), "gateway.workers").values())
    assert {name for name in of_workers if not f"{name}.".startswith("gateway.workers.spec.")} == set()


def test_workers_know_no_network_and_no_front_end() -> None:
    assert (
        arrows(("gateway/workers",), "aiohttp", "grpc", "gateway.frontends", "gateway.admin", "gateway.dataplane") == {}
    )


def test_the_admin_plane_reads_meters_and_knows_no_request() -> None:
    assert (
        arrows(("gateway/admin",), "gateway.frontends", "gateway.workers", "kernels.dispatch", "kernels.batching") == {}
    )


ROLLOUTS_PURE = tuple(
    f"gateway/rollouts/{name}.py"
    for name in (
        "absolute",
        "actions",
        "analysis",
        "errors",
        "evidence",
        "guards",
        "machine",
        "node",
        "patterns",
        "plan",
        "plan_reader",
        "plan_writer",
        "readiness",
        "status",
        "steps",
        "tally",
        "tolerances",
        "transitions",
        "units",
    )
)
ROLLOUTS_FOLLOWED = tuple(
    f"gateway/rollouts/{name}.py"
    for name in ("changes", "documents", "feedback", "follower", "remembering", "routing")
)
"""They know what the catalog keeps, and no clock either."""
PURE = (
    "gateway/activity.py",
    "gateway/comparison.py",
    "gateway/lifecycle.py",
    "gateway/admin/access.py",
    "registry/policy.py",
    *ROLLOUTS_PURE,
    *ROLLOUTS_FOLLOWED,
)


@pytest.mark.parametrize("path", PURE)
def test_what_decides_has_no_clock_no_socket_and_no_task(path: str) -> None:
    source = next(source for source in sources(*OURS) if source.path == path)
    assert source.reaches("asyncio", "time", "socket", "threading", "logging", "aiohttp", "prometheus_client") == set()


def test_what_decides_a_rollout_knows_nothing_of_ours_but_itself() -> None:
    reached = {path: ours for path in ROLLOUTS_PURE if (ours := _ours(path))}
    assert reached == {}


def _ours(path: str) -> set[str]:
    """What a pure part of rollouts imports of ours that is not one."""
    source = next(source for source in sources("gateway") if source.path == path)
    pure = tuple(one.removesuffix(".py").replace("/", ".") for one in ROLLOUTS_PURE)
    return source.reaches(*OURS) - source.reaches(*pure)


def test_settings_from_the_environment_are_read_by_the_command_line_only() -> None:
    others = {
        "gateway/backends/__init__.py",  # tells ONNX Runtime, which listens to nothing else before its import
        "gateway/workers/supervisor.py",  # hands a small part of it on to the workers
    }
    readers = {
        source.path
        for source in sources("gateway", "registry", "kernels")
        if re.search(
            r"os\.(environ|getenv)|from os import .*\b(environ|getenv)\b", (ROOT / source.path).read_text("utf-8")
        )
    }
    assert {path for path in readers if not path.startswith("gateway/cli/")} <= others


# What is called on a container to change it.
CHANGES = {"append", "extend", "insert", "add", "update", "setdefault", "pop", "popitem", "remove", "discard", "clear"}
CONTAINERS = (ast.List, ast.Dict, ast.Set, ast.ListComp, ast.DictComp, ast.SetComp)
MAKERS = {"list", "dict", "set", "deque", "defaultdict", "OrderedDict", "Counter"}


def module_mutables(path: Path) -> Iterator[str]:
    """What makes a module hold state: `global` statements, and containers of the module that its code changes."""
    tree = ast.parse(path.read_text("utf-8"))
    containers: set[str] = set()
    for node in tree.body:
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        made = getattr(node, "value", None)
        maker = getattr(made.func, "id", getattr(made.func, "attr", "")) if isinstance(made, ast.Call) else ""
        if isinstance(made, CONTAINERS) or maker in MAKERS:
            names = {target.id for target in targets if isinstance(target, ast.Name)}
            yield from (
                f"{name} is not named as a constant" for name in names if name != name.upper() and name != "__all__"
            )
            containers |= names
    for node in ast.walk(tree):
        if isinstance(node, ast.Global):
            yield f"global {', '.join(node.names)}"
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if node.value.id in containers and node.attr in CHANGES:
                yield f"{node.value.id}.{node.attr}"
        elif isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name):
            if node.value.id in containers and isinstance(node.ctx, ast.Store | ast.Del):
                yield f"{node.value.id}[...] ="


def test_no_module_holds_state() -> None:
    found = {
        str(path.relative_to(ROOT)): list(module_mutables(path))
        for folder in OURS
        for path in sorted((ROOT / folder).rglob("*.py"))
        if "pb" not in path.parts
    }
    assert {path: state for path, state in found.items() if state} == {}


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("LIMITS = {'a': 1}\n", []),
        ("seen = set()\n", ["seen is not named as a constant"]),
        ("SEEN = set()\ndef f(x):\n    SEEN.add(x)\n", ["SEEN.add"]),
        ("CACHE: dict[str, int] = {}\ndef f(x):\n    CACHE[x] = 1\n", ["CACHE[...] ="]),
        ("def f():\n    global count\n    count = 1\n", ["global count"]),
        ("def f():\n    seen = set()\n    seen.add(1)\n", []),
    ],
)
def test_state_of_modules_is_recognised(tmp_path: Path, code: str, found: list[str]) -> None:
    path = tmp_path / "module.py"
    path.write_text(code)
    assert list(module_mutables(path)) == found


def test_every_cython_module_has_its_stub() -> None:
    assert [path.name for path in (ROOT / "kernels").glob("*.pyx") if not path.with_suffix(".pyi").is_file()] == []


def test_whatever_follows_a_source_never_reads_the_wall_clock() -> None:
    """So that a clock that jumps changes neither what is pulled nor what is served."""
    files = [*(ROOT / "registry/sources").glob("*.py"), *(ROOT / "registry").glob("cache*.py")]
    files += [ROOT / "registry" / name for name in ("first_sight.py", "ledger.py", "staging.py", "daemon_pool.py")]
    files += [ROOT / "gateway" / name for name in ("watch.py", "models.py", "models_ports.py", "reconcile.py")]
    readers = {path.name for path in files if re.search(r"\btime\.time|\bdatetime\b", path.read_text("utf-8"))}
    assert readers == set()
