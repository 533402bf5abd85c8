"""The process of a Python target: `driver.py COMMAND TARGET [libFuzzer options]`. Counts the branches of the code under
test and hands the target's `one_input` to atheris. Tests use the targets without it.

COMMAND is what to run instead of this file, for libFuzzer when it starts itself again.
"""

from __future__ import annotations

import importlib
import os
import sys
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType

import atheris

import kernels

#: The packages whose Python code is under test, by target. Native modules are built to count for themselves.
COUNTED = {"config": ["gateway", "google"]}


def is_native(module: ModuleType) -> bool:
    return str(module.__file__).endswith(".so")


def main() -> None:
    _, command, target, *options = sys.argv
    modules = os.environ["SLUICE_FUZZ_MODULES"]
    kernels.__path__.insert(0, modules)
    with atheris.instrument_imports(include=COUNTED[target]) if target in COUNTED else nullcontext():
        module = importlib.import_module(f"fuzz.{target}")
    native = [name for name, found in sys.modules.items() if name.startswith("kernels.") and is_native(found)]
    strange = [name for name in native if Path(str(sys.modules[name].__file__)).parent != Path(modules)]
    assert not strange, f"not built to be fuzzed: {strange}"
    atheris.Setup([command, *options], module.one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
