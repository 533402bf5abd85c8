"""What the native modules compute, in plain Python and NumPy, slowly and plainly. Tests compare the two; nothing that
serves requests imports this.

Messages here are Requests and Tensors. Small floats, V2 JSON and the binary tensor extension are written from their
definitions (protobuf is in `reference_proto`). A message that cannot be read raises ValueError, of whatever kind.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from kernels.tensors import DTYPES, Request, RequestedOutput, Tensor, pack_bytes, unpack_bytes

# Floats of 16 bits


def round_to_bits(value: float, exponent_bits: int) -> int:
    """The pattern of the 16-bit float that is nearest to `value`, ties to even: FP16 has 5 exponent bits, BF16 8."""
    mantissa_bits = 15 - exponent_bits
    bias = (1 << (exponent_bits - 1)) - 1
    infinity = ((1 << exponent_bits) - 1) << mantissa_bits
    sign = 0x8000 if math.copysign(1.0, value) < 0 else 0
    if math.isnan(value):
        return sign | infinity | 1 << (mantissa_bits - 1)
    if math.isinf(value):
        return sign | infinity
    if value == 0:
        return sign
    exponent = max(math.frexp(abs(value))[1] - 1, 1 - bias)
    # round() of a Fraction goes to the nearest integer, ties to even.
    steps = round(Fraction(abs(value)) / Fraction(2) ** (exponent - mantissa_bits))
    return sign | min(infinity, steps + ((exponent + bias - 1) << mantissa_bits))


def float_from_bits(bits: int, exponent_bits: int) -> float:
    """The value of a 16-bit float."""
    mantissa_bits = 15 - exponent_bits
    bias = (1 << (exponent_bits - 1)) - 1
    sign = -1.0 if bits & 0x8000 else 1.0
    exponent = (bits & 0x7FFF) >> mantissa_bits
    fraction = bits & ((1 << mantissa_bits) - 1)
    if exponent == (1 << exponent_bits) - 1:
        return sign * math.inf if fraction == 0 else math.nan
    if exponent == 0:
        return sign * math.ldexp(fraction, 1 - bias - mantissa_bits)
    return sign * math.ldexp(fraction + (1 << mantissa_bits), exponent - bias - mantissa_bits)


# Tensors


def raw_from_integers(datatype: str, numbers: Sequence[int]) -> bytes:
    dtype = DTYPES[datatype]
    if datatype != "BOOL":
        limits = np.iinfo(dtype.str)
        if any(not int(limits.min) <= number <= int(limits.max) for number in numbers):
            raise ValueError("an element is out of range")
    return np.array(numbers, dtype=dtype).tobytes()


def checked(tensor: Tensor) -> Tensor:
    """The tensor, if its bytes match its shape and datatype."""
    if any(dimension < 0 for dimension in tensor.shape):
        raise ValueError("negative dimension")
    elements = math.prod(tensor.shape)
    if tensor.datatype == "BYTES":
        if len(unpack_bytes(tensor.raw)) != elements:
            raise ValueError("element count does not match the shape")
    elif len(tensor.raw) != elements * DTYPES[tensor.datatype].itemsize:
        raise ValueError("byte size does not match the shape")
    return tensor


# Parameters


def requested_output(name: str, parameters: Mapping[str, Any], *, http: bool) -> RequestedOutput:
    refuse_shared_memory(parameters)
    binary = parameters.get("binary_data") if http else None
    if "binary_data" in parameters and http and not isinstance(binary, bool):
        raise ValueError("binary_data is no bool")
    return RequestedOutput(name, natural(parameters.get("classification", 0), 63), binary)


def natural(value: Any, bits: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << bits:
        raise ValueError("not a natural number")
    return value


def refuse_shared_memory(parameters: Mapping[str, Any]) -> None:
    if any(key.startswith("shared_memory_") for key in parameters):
        raise ValueError("shared memory")


def finished(request: Request, parameters: Mapping[str, Any], *, http: bool) -> Request:
    """The request with what its own parameters say."""
    for key, value in parameters.items():
        if key in ("sequence_id", "sequence_start", "sequence_end") and isinstance(value, bool | int | float | str):
            if value:
                raise ValueError("sequences")
        elif key.startswith("triton_") and key != "triton_enable_empty_final_response":
            raise ValueError("reserved parameter")
    for names in ([tensor.name for tensor in request.inputs], [output.name for output in request.outputs]):
        if len(set(names)) != len(names):
            raise ValueError("duplicate name")
    known = {key: value for key, value in parameters.items() if value is not None or http}
    binary_data_output = known.get("binary_data_output", False) if http else False
    if not isinstance(binary_data_output, bool):
        raise ValueError("binary_data_output is no bool")
    return Request(
        request.model,
        request.version,
        request.id,
        request.inputs,
        request.outputs,
        natural(known.get("priority", 0), 64),
        natural(known.get("timeout", 0), 63),
        binary_data_output,
        request.raw,
    )


# JSON


def elements_from_json(data: Any, shape: tuple[int, ...]) -> list[Any]:
    """`data` in row-major order: flat, or nested exactly as the shape says."""
    if not isinstance(data, list):
        return [data]
    if not any(isinstance(element, list) for element in data):
        return data

    def level(value: Any, depth: int) -> list[Any]:
        if depth == len(shape):
            if isinstance(value, list):
                raise ValueError("nested too deeply")
            return [value]
        if not isinstance(value, list) or len(value) != shape[depth]:
            raise ValueError("does not match the shape")
        return [element for part in value for element in level(part, depth + 1)]

    if 0 in shape:
        data_shape = np.array(data, dtype=object).shape
        if data_shape != shape[: len(data_shape)] or np.array(data, dtype=object).size:
            raise ValueError("does not match the shape")
        return []
    return level(data, 0)


def raw_from_json(datatype: str, data: Any, shape: tuple[int, ...]) -> bytes:
    elements = elements_from_json(data, shape)
    if datatype == "BYTES":
        if not all(isinstance(element, str) for element in elements):
            raise ValueError("not a string")
        return pack_bytes(element.encode() for element in elements)
    if datatype == "BOOL":
        if not all(isinstance(element, bool) for element in elements):
            raise ValueError("not a bool")
        return bytes(elements)
    if datatype in ("FP16", "BF16", "FP32", "FP64"):
        if not all(element is None or is_integer(element) or isinstance(element, float) for element in elements):
            raise ValueError("not a number")
        floats = [math.nan if element is None else as_float(element) for element in elements]
        if datatype in ("FP16", "BF16"):
            bits = [round_to_bits(value, 5 if datatype == "FP16" else 8) for value in floats]
            return np.array(bits, dtype="<u2").tobytes()
        with np.errstate(over="ignore"):
            return np.array(floats, dtype=np.float64).astype(DTYPES[datatype]).tobytes()
    if not all(is_integer(element) for element in elements):
        raise ValueError("not an integer")
    return raw_from_integers(datatype, elements)


class MinusZero(int):
    """The integer that JSON spells -0: a float keeps its sign."""


def parse_int(text: str) -> int:
    return MinusZero() if text == "-0" else int(text)


def is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def as_float(value: int | float) -> float:
    try:
        return -0.0 if isinstance(value, MinusZero) else float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def decode_json(body: bytes, header_length: int = -1, model: str = "") -> Request:
    """An HTTP inference body; `header_length` as the header of that name says, -1 without it."""
    if header_length == 0:
        return Request(model, inputs=(Tensor("", "", (), body),), binary_data_output=True)
    if header_length > len(body):
        raise ValueError("header length exceeds the body")
    end = len(body) if header_length < 0 else header_length
    document = json.loads(body[:end].decode(), parse_int=parse_int, parse_constant=refuse_constant)
    tail = body[end:]
    inputs = []
    for entry in document["inputs"]:
        name, datatype, shape = entry["name"], entry["datatype"], tuple(entry["shape"])
        if not all(type(dimension) is int and dimension >= 0 for dimension in shape):
            raise ValueError("shape")
        parameters = entry.get("parameters") or {}
        refuse_shared_memory(parameters)
        if ("data" in entry) == ("binary_data_size" in parameters):
            raise ValueError("data given twice, or not at all")
        if "data" in entry:
            raw = raw_from_json(datatype, entry["data"], shape)
        else:
            size = natural(parameters["binary_data_size"], 63)
            if size > len(tail):
                raise ValueError("binary data missing")
            raw, tail = tail[:size], tail[size:]
        inputs.append(checked(Tensor(name, datatype, shape, raw)))
    if tail:
        raise ValueError("binary data left over")
    outputs = [
        requested_output(entry["name"], entry.get("parameters") or {}, http=True)
        for entry in document.get("outputs") or []
    ]
    return finished(
        Request(model, id=document.get("id"), inputs=tuple(inputs), outputs=tuple(outputs)),
        document.get("parameters") or {},
        http=True,
    )


def refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def json_elements(tensor: Tensor) -> list[Any]:
    """The elements of a tensor as JSON has them; floats that JSON cannot carry are None."""
    if tensor.datatype == "BYTES":
        return [element.decode() for element in unpack_bytes(tensor.raw)]
    values = tensor.to_numpy().reshape(-1).tolist()
    if tensor.datatype == "BF16":
        values = [float_from_bits(bits, 8) for bits in values]
    return [None if isinstance(value, float) and math.isnan(value) else value for value in values]


def json_request(request: Request) -> dict[str, Any]:
    """The request as V2 JSON, all data flat and in the text."""
    document: dict[str, Any] = {} if request.id is None else {"id": request.id}
    document["inputs"] = [
        {"name": t.name, "datatype": t.datatype, "shape": list(t.shape), "data": json_elements(t)}
        for t in request.inputs
    ]
    if request.outputs:
        document["outputs"] = [
            {"name": output.name}
            if output.binary is None
            else {"name": output.name, "parameters": {"binary_data": output.binary}}
            for output in request.outputs
        ]
    return document


def binary_request(request: Request) -> tuple[bytes, int]:
    """The request with all data as binary tensors, and the length of its JSON part."""
    document = json_request(Request(id=request.id, outputs=request.outputs))
    document["inputs"] = [
        {
            "name": t.name,
            "datatype": t.datatype,
            "shape": list(t.shape),
            "parameters": {"binary_data_size": len(t.raw)},
        }
        for t in request.inputs
    ]
    head = json.dumps(document).encode()
    return head + b"".join(t.raw for t in request.inputs), len(head)


def decode_json_response(message: bytes, header_length: int = -1) -> tuple[dict[str, Any], list[Tensor]]:
    """An HTTP inference answer: its document, and its outputs as tensors."""
    end = len(message) if header_length < 0 else header_length
    document = json.loads(message[:end].decode(), parse_int=parse_int, parse_constant=refuse_constant)
    tail = message[end:]
    outputs = []
    for entry in document["outputs"]:
        name, datatype, shape = entry["name"], entry["datatype"], tuple(entry["shape"])
        if "data" in entry:
            raw = raw_from_json(datatype, entry["data"], shape)
        else:
            size = entry["parameters"]["binary_data_size"]
            raw, tail = tail[:size], tail[size:]
        outputs.append(checked(Tensor(name, datatype, shape, raw)))
    if tail:
        raise ValueError("bytes left over")
    return document, outputs
