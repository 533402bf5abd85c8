"""Generates this package's `*_pb2.py` and `*_pb2.pyi` from every file in `proto/`: `python -m gateway.pb.generate`.

What protoc writes is changed in three ways. Imports of sibling modules become relative to the package. Stubs lose the
few spots that a strict type checker refuses. And descriptors go to the private pool of `_pool.py` instead of the
default one: client libraries of the same protocol (tritonclient, grpcio's health and reflection packages) register
files of the same names there, and the default pool refuses a file that differs from the one it knows. Messages of the
two copies are distinct classes that read each other's bytes.

The compiler is the one of grpcio-tools, pinned in the development extras because the runtime must be at least as new as
the generated code: 1.72 writes for protobuf 6.30.
"""

import re
import sys
import tempfile
from collections.abc import Mapping
from importlib import resources
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
_PROTO = _PACKAGE.parent.parent / "proto"

_POOL_IMPORT = "from google.protobuf import descriptor_pool as _descriptor_pool\n"
_SIBLING_IMPORT = re.compile(r"^import (\w+_pb2) as (\w+)$", re.MULTILINE)
_MODULE_NAME = re.compile(r"'\w+_pb2', _globals\)")
_FOREIGN_IMPORT = re.compile(r"^from google\.protobuf import (\w+_pb2) as (\w+)$", re.MULTILINE)


class GenerationFailed(Exception):
    """protoc refused a file, or wrote something that this script does not know how to change."""


def generate(proto: Path = _PROTO) -> Mapping[str, str]:
    """Compiles every `.proto` file directly in the folder `proto`.

    Returns the text of each module by file name (`x_pb2.py` and `x_pb2.pyi`); writes nothing. Raises GenerationFailed;
    protoc's own messages go to stderr.
    """
    from grpc_tools import protoc  # type: ignore[import-untyped]  # a development dependency

    sources = sorted(path.name for path in proto.glob("*.proto"))
    bundled = str(resources.files("grpc_tools") / "_proto")
    with tempfile.TemporaryDirectory() as out:
        arguments = ["protoc", f"-I{proto}", f"-I{bundled}", f"--python_out={out}", f"--pyi_out={out}", *sources]
        if protoc.main(arguments) != 0:
            raise GenerationFailed(proto)
        modules = {path.name: path.read_text() for path in sorted(Path(out).iterdir())}
    return {
        name: _to_private_pool(text) if name.endswith(".py") else _to_strict(_to_relative(text))
        for name, text in modules.items()
    }


def write(modules: Mapping[str, str], folder: Path = _PACKAGE) -> None:
    """Makes the generated modules in `folder` exactly these: others with a generated name are removed."""
    for stale in {path.name for path in folder.glob("*_pb2.py*")} - modules.keys():
        (folder / stale).unlink()
    for name, text in modules.items():
        (folder / name).write_text(text)


def _to_relative(text: str) -> str:
    return _SIBLING_IMPORT.sub(r"from . import \1 as \2", text)


def _to_strict(stub: str) -> str:
    stub = re.sub(r"_Mapping(?=\])", "_Mapping[str, object]", stub)
    return stub.replace("**kwargs)", "**kwargs: object)")


def _to_private_pool(text: str) -> str:
    if _POOL_IMPORT not in text or text.count("_descriptor_pool.Default()") != 1:
        raise GenerationFailed("the generated code does not fetch its descriptor pool in the expected way")
    # A private pool starts empty: files of protobuf itself that are imported must be added to it first.
    foreign = "".join(
        f"POOL.AddSerializedFile({alias}.DESCRIPTOR.serialized_pb)\n" for _, alias in _FOREIGN_IMPORT.findall(text)
    )
    text = text.replace(_POOL_IMPORT, "from ._pool import POOL\n").replace("_descriptor_pool.Default()", "POOL")
    text = _MODULE_NAME.sub("__name__, _globals)", text)  # so that messages pickle
    return _to_relative(text).replace("\nDESCRIPTOR = ", f"\n{foreign}DESCRIPTOR = ", 1)


if __name__ == "__main__":
    try:
        write(generate())
    except GenerationFailed as failure:
        sys.exit(f"generation failed: {failure}")
