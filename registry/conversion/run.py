"""One conversion, inside the process that is there for it: load, convert, put into the form that is served, and see
whether the ONNX model answers as the original does. Converters are wrong in silence now and then (an objective without
its last step, a forest without its average), so a model that answers differently is refused here."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from registry.conversion import NO_TORCH, NOT_INSTALLED, SOURCE_FOLDER
from registry.conversion.agreement import disagreement
from registry.conversion.original import Original
from registry.errors import ArtifactRefused, ConversionFailed
from registry.formats import LIGHTGBM, PT2, SKOPS, XGBOOST
from registry.manifest import MODEL_FILENAME

# Each with the module that converts, the distributions whose versions are kept, and what to do instead.
_CONVERTERS: Mapping[str, tuple[str, tuple[str, ...], str]] = {
    SKOPS: (
        "registry.conversion.from_skops",
        ("skl2onnx", "scikit-learn", "skops"),
        "Convert it where it was trained, by skl2onnx.to_onnx with the types of its inputs, and push the ONNX file",
    ),
    LIGHTGBM: (
        "registry.conversion.from_lightgbm",
        ("onnxmltools", "lightgbm"),
        "Train it with boosting gbdt or dart and an objective that onnxmltools knows, or convert it by yourself",
    ),
    XGBOOST: (
        "registry.conversion.from_xgboost",
        ("onnxmltools", "xgboost"),
        "Train it with the booster gbtree and an objective that onnxmltools knows (binary:logistic, multi:softprob, "
        "reg:squarederror, …), or convert it by yourself",
    ),
    PT2: ("registry.conversion.from_torch", ("torch", "onnxscript"), NO_TORCH),
}


def perform(folder: Path, request: Mapping[str, Any]) -> dict[str, Any]:
    """Converts the file that `request["source"]` names, in a `request["format"]`, into `model.onnx` of the folder.
    `request["has_walls"]` says whether this process can neither write elsewhere nor reach a network.

    Returns:
        `converter`: names and versions of what converted it.

    Raises:
        ArtifactRefused: ConversionFailed, or UnsafeFormat for what names types that nobody trusts.
    """
    name, kind = str(request["source"]), str(request["format"])
    module, distributions, advice = _CONVERTERS[kind]
    if kind == PT2 and not request["has_walls"]:
        reason = "reading it evaluates what is in it, and this kernel cannot keep that in (no Landlock, or no seccomp)"
        raise ConversionFailed(name, kind, reason, NO_TORCH)
    warnings.simplefilter("ignore")  # of releases, for those who train
    try:
        original: Original = importlib.import_module(module).load(folder / SOURCE_FOLDER / name)
        model = original.to_onnx()
        versions = ", ".join(f"{one} {metadata.version(one)}" for one in distributions)
    except ModuleNotFoundError as error:
        way = NO_TORCH if kind == PT2 else NOT_INSTALLED
        raise ConversionFailed(name, kind, f"there is no {error.name} here", way) from None
    except ArtifactRefused:
        raise
    except Exception as error:  # whatever these libraries raise for a model that they cannot read or convert
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ConversionFailed(name, kind, reason[:500], advice) from error
    if difference := disagreement(original, model):
        raise ConversionFailed(name, kind, f"the ONNX model answers differently: {difference}", advice)
    (folder / MODEL_FILENAME).write_bytes(model)
    return {"converter": versions}
