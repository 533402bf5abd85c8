"""ONNX models by ONNX Runtime.

The common batch has been seen before: the same number of rows, at the same place in the same slot. For such a batch
the session is bound once to the slot's memory, inputs and outputs, and from then on executing it copies nothing and
takes half the time of `session.run` for a small model (measured on a 30-64-64-2 network: 5.8 us against 11.8 us for
one row). A batch seen for the first time, one with BYTES, and a model whose output shapes depend on the data take the
ordinary way.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from gateway.backends import INVALID_ARGUMENT, BackendError, Batch, Output, as_buffer, strings
from gateway.backends.external_data import MalformedModel, OutsideData, check_external_data
from gateway.backends.onnxruntime_options import provider_options, run_options, session_options
from gateway.workers.spec import DATATYPE_NUMBERS, ELEMENT_SIZES, InstanceSpec, TensorSpec

DATATYPE_OF_TYPE = {
    "tensor(bool)": "BOOL",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(float16)": "FP16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(string)": "BYTES",
    "tensor(bfloat16)": "BF16",
}
# ONNX's numbers for the element types, in which memory is bound.
ELEMENT_TYPES = {
    "BOOL": 9, "UINT8": 2, "UINT16": 4, "UINT32": 12, "UINT64": 13, "INT8": 3, "INT16": 5, "INT32": 6, "INT64": 7,
    "FP16": 10, "FP32": 1, "FP64": 11, "BF16": 16,
}  # fmt: skip

MAX_PLANS = 1024
"""Bound batches kept, and batches remembered as seen. When full all are dropped: the steady ones come back at once."""
ALIGNMENT = 64
MAX_MESSAGE = 512


@dataclass(slots=True, frozen=True)
class Seen:
    """A batch that ran the ordinary way, and what shapes came out."""

    views: list[NDArray[Any]]
    shapes: list[tuple[int, ...]]


@dataclass(slots=True, frozen=True)
class Plan:
    """A batch bound to its place in a slot."""

    views: list[NDArray[Any]]
    binding: Any
    outputs: list[Output]


class OnnxRuntimeBackend:
    """One ONNX model in one session. Not for more than one thread."""

    def __init__(self, spec: InstanceSpec) -> None:
        check_providers(spec.kind, onnxruntime.get_available_providers())
        try:
            check_external_data(spec.path)
            self._session = onnxruntime.InferenceSession(
                str(spec.path),
                session_options(spec.parameters, spec.graph_level),
                providers=provider_options(spec.kind, spec.device, spec.parameters),
            )
        except (OutsideData, MalformedModel) as error:
            raise BackendError(str(error)) from error
        except OSError as error:
            raise BackendError(f"the model file cannot be read: {error.strerror}") from error
        except BackendError:
            raise
        except Exception as error:
            raise BackendError(without_paths(str(error))) from error
        self.inputs = tuple(_tensor_spec("input", each) for each in self._session.get_inputs())
        self.outputs = tuple(_tensor_spec("output", each) for each in self._session.get_outputs())
        self._run_options = run_options(spec.parameters)
        # Batches by slot, wanted outputs and the identity of their views, which both kinds of entry keep alive. A
        # batch is noted when it runs for the first time, with the shapes of its outputs, and bound the second time.
        self._seen: dict[tuple[int, ...], Seen] = {}
        self._plans: dict[tuple[int, ...], Plan] = {}
        # Turned off for good when a bound batch fails where the ordinary way succeeds: its output shapes depend on
        # the data.
        self._can_bind = spec.kind == "CPU" and all(each.datatype != "BYTES" for each in self.inputs + self.outputs)
        # BF16 has no numpy type, so it crosses as values that the engine made.
        bf16 = [each.name for each in self.inputs + self.outputs if each.datatype == "BF16"]
        text = [each.name for each in self.inputs if each.datatype == "BYTES"]
        if bf16 and text:
            raise BackendError(
                f"the engine takes no BYTES input ('{text[0]}') together with a BF16 tensor ('{bf16[0]}'): "
                "cast one of them inside the model"
            )
        self._has_bf16 = bool(bf16)

    def execute(self, batch: Batch) -> Sequence[Output]:
        if batch.area is None or not self._can_bind:
            return self._execute_unbound(batch)
        key = _key(batch)
        plan = self._plans.get(key)
        if plan is None and key in self._seen:
            plan = self._bind(batch, key)
        if plan is not None:
            try:
                self._session._sess.run_with_iobinding(plan.binding._iobinding, self._run_options)
                return plan.outputs
            except Exception:
                # Either these rows are at fault, and then they fail again below with a better message, or the binding
                # is.
                outputs = self._execute_unbound(batch)
                self._can_bind = False
                self._plans.clear()
                self._seen.clear()
                return outputs
        outputs = self._execute_unbound(batch)
        if len(self._seen) + len(self._plans) >= MAX_PLANS:
            self._seen.clear()
            self._plans.clear()
        self._seen[key] = Seen([view for _, view in batch.inputs], [tuple(output[2]) for output in outputs])
        return outputs

    def repeater(self, batch: Batch) -> Callable[[], object] | None:
        plan = self._plans.get(_key(batch))
        if plan is None:
            return None
        return partial(self._session._sess.run_with_iobinding, plan.binding._iobinding, self._run_options)

    def _execute_unbound(self, batch: Batch) -> list[Output]:
        wanted = self._wanted(batch.wanted)
        names = [self.outputs[index].name for index in wanted]
        try:
            if self._has_bf16:
                values = self._session.run_with_ort_values(names, self._feed(batch, self._value), self._run_options)
                return [self._from_value(index, value) for index, value in zip(wanted, values, strict=True)]
            results = self._session.run(names, self._feed(batch, self._array), self._run_options)
        except BackendError:
            raise
        except Exception as error:
            raise _run_error(error) from error
        return [self._from_array(index, result) for index, result in zip(wanted, results, strict=True)]

    def _feed(self, batch: Batch, convert: Callable[[int, Batch, int], Any]) -> dict[str, Any]:
        return {self.inputs[index].name: convert(index, batch, at) for at, (index, _) in enumerate(batch.inputs)}

    def _wanted(self, mask: int) -> list[int]:
        return [index for index in range(len(self.outputs)) if mask == 0 or mask >> index & 1]

    def _array(self, index: int, batch: Batch, at: int) -> NDArray[Any]:
        view = batch.inputs[at][1]
        if self.inputs[index].datatype != "BYTES":
            return view
        name = self.inputs[index].name
        try:
            return strings.to_text(strings.from_raw(view, batch.shape_of(at)))
        except UnicodeDecodeError as error:
            raise BackendError(f"an element of input '{name}' is not UTF-8 text", INVALID_ARGUMENT) from error
        except ValueError as error:
            raise BackendError(f"input '{name}' is malformed: {error}", INVALID_ARGUMENT) from error

    def _value(self, index: int, batch: Batch, at: int) -> Any:
        if self.inputs[index].datatype == "BF16":
            return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(batch.inputs[at][1], ELEMENT_TYPES["BF16"])
        return onnxruntime.OrtValue.ortvalue_from_numpy(self._array(index, batch, at))

    def _from_value(self, index: int, value: Any) -> Output:
        if self.outputs[index].datatype != "BF16":
            return self._from_array(index, value.numpy())
        shape = tuple(value.shape())
        data = ctypes.string_at(value.data_ptr(), 2 * int(np.prod(shape, dtype=np.int64)))
        return index, DATATYPE_NUMBERS["BF16"], shape, data

    def _from_array(self, index: int, array: NDArray[Any]) -> Output:
        datatype = self.outputs[index].datatype
        if datatype == "BYTES":
            return index, DATATYPE_NUMBERS[datatype], array.shape, strings.to_raw(array.flat)
        return index, DATATYPE_NUMBERS[datatype], array.shape, as_buffer(array)

    def _bind(self, batch: Batch, key: tuple[int, ...]) -> Plan | None:
        """Bind this batch where it lies, its outputs one behind the other in the slot; None when they do not fit."""
        assert batch.area is not None
        area = np.frombuffer(batch.area, np.uint8)
        outputs: list[Output] = []
        binding, offset = self._session.io_binding(), 0
        for at, (index, view) in enumerate(batch.inputs):
            element_type = ELEMENT_TYPES[self.inputs[index].datatype]
            binding.bind_input(self.inputs[index].name, "cpu", 0, element_type, batch.shape_of(at), view.ctypes.data)
        for index, shape in zip(self._wanted(batch.wanted), self._seen[key].shapes, strict=True):
            datatype = self.outputs[index].datatype
            size = ELEMENT_SIZES[datatype] * int(np.prod(shape, dtype=np.int64))
            if offset + size > len(area):
                return None
            place = area[offset : offset + size]
            binding.bind_output(
                self.outputs[index].name, "cpu", 0, ELEMENT_TYPES[datatype], shape, area.ctypes.data + offset
            )
            outputs.append((index, DATATYPE_NUMBERS[datatype], shape, place))
            offset = -(-(offset + size) // ALIGNMENT) * ALIGNMENT
        plan = self._plans[key] = Plan(self._seen.pop(key).views, binding, outputs)
        return plan


def _key(batch: Batch) -> tuple[int, ...]:
    return batch.slot, batch.wanted, *(id(view) for _, view in batch.inputs)


def check_providers(kind: str, available: Sequence[str]) -> None:
    """Raises BackendError when the installed engine cannot run on that kind of device."""
    if kind == "GPU" and "CUDAExecutionProvider" not in available:
        raise BackendError(
            "instance_group kind KIND_GPU needs ONNX Runtime's CUDAExecutionProvider, which is not there: install the "
            "package onnxruntime-gpu in place of onnxruntime, with CUDA and cuDNN, or use KIND_CPU"
        )


def without_paths(text: str) -> str:
    """An engine's message as one bounded line, its own prefix gone, and of each file path only the last part."""
    text = re.sub(r"\[ONNXRuntimeError\] : \d+ : [A-Z_]+ : ", "", text)
    text = re.sub(r"(?<![\w.])(?:/[^\s/:\"',]+)+/([^\s/:\"',]+)", r"\1", text)
    text = " ".join(text.split())
    return text if len(text) <= MAX_MESSAGE else text[: MAX_MESSAGE - 3] + "..."


def _run_error(error: Exception) -> BackendError:
    text = str(error)
    is_callers = re.search(r"Got invalid dimensions for input|Invalid rank for input|Unexpected input data type", text)
    return BackendError(without_paths(text), *([INVALID_ARGUMENT] if is_callers else []))


def _tensor_spec(what: str, argument: Any) -> TensorSpec:
    datatype = DATATYPE_OF_TYPE.get(argument.type)
    if datatype is None:
        hint = "; export scikit-learn models with options={'zipmap': False}" if "seq(map" in argument.type else ""
        raise BackendError(f"{what} '{argument.name}' is a {argument.type}, which the protocol cannot carry{hint}")
    shape = tuple(size if isinstance(size, int) and size >= 0 else -1 for size in argument.shape)
    return TensorSpec(argument.name, datatype, shape)
