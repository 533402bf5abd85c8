"""Triton's parameter names for ONNX Runtime, turned into the engine's own options.

Threads default to one: a gateway has many workers and keeps cores busy by running batches beside each other; a second
thread inside one small batch costs more in waking than it saves. Idle engine threads never spin, for the same reason.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import onnxruntime

from gateway.backends import BackendError

T = TypeVar("T")

_GRAPH_LEVELS = {
    -1: onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    0: onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
    1: onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    2: onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
}
_EXECUTION_MODES = {
    "0": onnxruntime.ExecutionMode.ORT_SEQUENTIAL,
    "1": onnxruntime.ExecutionMode.ORT_PARALLEL,
}
# Passed on as they are. Options that write files or load libraries are not among them.
SESSION_ENTRIES = (
    "session.use_device_allocator_for_initializers",
    "session.intra_op.allow_spinning",
    "session.inter_op.allow_spinning",
    "session.set_denormal_as_zero",
    "session.disable_prepacking",
)
CUDA_OPTIONS = (
    "gpu_mem_limit",
    "arena_extend_strategy",
    "cudnn_conv_algo_search",
    "cudnn_conv_use_max_workspace",
    "do_copy_in_default_stream",
    "use_tf32",
)
ARENA_SHRINKAGE = "memory.enable_memory_arena_shrinkage"


def session_options(parameters: Mapping[str, str], graph_level: int | None) -> onnxruntime.SessionOptions:
    """Raises BackendError that names the parameter when a value makes no sense. Parameters of other names are not
    ours."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = _parse(parameters, "intra_op_thread_count", _threads, 1)
    options.inter_op_num_threads = _parse(parameters, "inter_op_thread_count", _threads, 1)
    options.execution_mode = _parse(
        parameters, "execution_mode", _EXECUTION_MODES.__getitem__, onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    )
    options.enable_cpu_mem_arena = _parse(parameters, "enable_mem_arena", _flag, True)
    options.enable_mem_pattern = _parse(parameters, "enable_mem_pattern", _flag, True)
    if graph_level not in {None, *_GRAPH_LEVELS}:
        raise BackendError(f"optimization graph level {graph_level} is unknown; there are: {sorted(_GRAPH_LEVELS)}")
    options.graph_optimization_level = _GRAPH_LEVELS[graph_level or 0]
    entries = {"session.intra_op.allow_spinning": "0", "session.inter_op.allow_spinning": "0"}
    entries |= {name: parameters[name] for name in SESSION_ENTRIES if name in parameters}
    for name, value in entries.items():
        options.add_session_config_entry(name, value)
    # A failing batch is told to its caller; it need not be told to the log as well.
    options.log_severity_level = 4
    return options


def run_options(parameters: Mapping[str, str]) -> Any:
    """None unless something asks for them: passing them costs a little on every run."""
    shrink = parameters.get(ARENA_SHRINKAGE)
    if not shrink:
        return None
    options = onnxruntime.RunOptions()
    options.add_run_config_entry(ARENA_SHRINKAGE, shrink)
    return options


def provider_options(kind: str, device: int, parameters: Mapping[str, str]) -> list[Any]:
    """The execution providers for `InferenceSession`, the preferred one first."""
    if kind != "GPU":
        return ["CPUExecutionProvider"]
    cuda = {"device_id": str(device)} | {name: parameters[name] for name in CUDA_OPTIONS if name in parameters}
    return [("CUDAExecutionProvider", cuda), "CPUExecutionProvider"]


def _parse(parameters: Mapping[str, str], name: str, convert: Callable[[str], T], default: T) -> T:
    if name not in parameters:
        return default
    try:
        return convert(parameters[name].strip().lower())
    except (ValueError, KeyError) as error:
        raise BackendError(f"parameter '{name}' has a bad value: '{parameters[name]}'") from error


def _threads(text: str) -> int:
    count = int(text)
    if not 0 <= count <= 1024:
        raise ValueError(text)
    return count


def _flag(text: str) -> bool:
    return {"0": False, "false": False, "1": True, "true": True}[text]
