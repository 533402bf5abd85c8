"""ModelInferRequest and ModelInferResponse in plain Python, from the definition of the protobuf wire format: what tests
compare the native decoder and encoder with. A message that cannot be read raises ValueError, of whatever kind.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from kernels.reference import checked, finished, raw_from_integers, refuse_shared_memory, requested_output
from kernels.tensors import DTYPES, Request, Tensor, pack_bytes, unpack_bytes

#: The field of InferTensorContents for each datatype that has one.
CONTENTS_FIELDS = {
    "BOOL": 1,
    "INT8": 2,
    "INT16": 2,
    "INT32": 2,
    "INT64": 3,
    "UINT8": 4,
    "UINT16": 4,
    "UINT32": 4,
    "UINT64": 5,
    "FP32": 6,
    "FP64": 7,
    "BYTES": 8,
}


def varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def chunk(field: int, payload: bytes) -> bytes:
    return varint(field << 3 | 2) + varint(len(payload)) + payload


def text(field: int, value: str) -> bytes:
    return chunk(field, value.encode()) if value else b""


def read_varint(data: bytes, at: int, most: int = 10) -> tuple[int, int]:
    value = 0
    for i in range(most):
        if at >= len(data):
            raise ValueError("truncated varint")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << (7 * i)
        if byte < 0x80:
            return value & ((1 << 64) - 1), at
    raise ValueError("varint is too long")


def read_fields(
    data: bytes, group: int = 0, at: int = 0, depth: int = 0
) -> Iterator[tuple[int, int, int | bytes, int]]:
    """Yields (field, wire type, value, position behind it) of each field, up to the end of `group` if there is one."""
    while at < len(data) or group:
        tag, at = read_varint(data, at, 5)
        field, wire = tag >> 3, tag & 7
        value: int | bytes = b""
        if field == 0 or tag >= 1 << 32:
            raise ValueError("impossible tag")
        if wire == 0:
            value, at = read_varint(data, at)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
            value = data[at : at + size]
            at += size
        elif wire == 2:
            length, at = read_varint(data, at, 5)
            if length > (1 << 31) - 1:
                raise ValueError("field is too long")
            value = data[at : at + length]
            at += length
        elif wire == 3:
            if depth == 100:
                raise ValueError("groups nest too deeply")
            for _, _, _, behind in read_fields(data, field, at, depth + 1):
                at = behind
        elif wire == 4 and field == group:
            yield field, wire, b"", at
            return
        else:
            raise ValueError("impossible wire type")
        if at > len(data):
            raise ValueError("truncated field")
        yield field, wire, value, at


def read_repeated(field_wire: int, wire: int, value: int | bytes) -> list[int | bytes]:
    """The elements that one occurrence of a repeated scalar field carries, packed or not."""
    if wire != 2:
        return [value]
    assert isinstance(value, bytes)
    elements: list[int | bytes] = []
    at = 0
    size = {0: 0, 1: 8, 5: 4}[field_wire]
    if size and len(value) % size:
        raise ValueError("packed field is torn")
    while at < len(value):
        if size:
            elements.append(value[at : at + size])
            at += size
        else:
            element, at = read_varint(value, at)
            elements.append(element)
    return elements


def int64(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value


def read_parameter(entry: bytes) -> tuple[str, Any]:
    key = ""
    value: Any = None
    for field, wire, payload, _ in read_fields(entry):
        if wire != 2:
            continue
        assert isinstance(payload, bytes)
        if field == 1:
            key = payload.decode()
        elif field == 2:
            for kind, kind_wire, bits, _ in read_fields(payload):
                if kind_wire == 0 and isinstance(bits, int) and kind in (1, 2, 5):
                    value = bool(bits) if kind == 1 else int64(bits) if kind == 2 else bits
                elif kind_wire == 2 and isinstance(bits, bytes) and kind == 3:
                    value = bits.decode()
                elif kind_wire == 1 and isinstance(bits, bytes) and kind == 4:
                    (value,) = struct.unpack("<d", bits)
    return key, value


def read_proto_tensor(message: bytes) -> tuple[Tensor, dict[str, Any], dict[int, list[int | bytes]] | None]:
    """An InferInputTensor (or InferOutputTensor): name, datatype and shape, its parameters, its contents by field."""
    name = datatype = ""
    shape: list[int] = []
    parameters: dict[str, Any] = {}
    contents: dict[int, list[int | bytes]] | None = None
    for field, wire, payload, _ in read_fields(message):
        if field == 3 and wire in (0, 2):
            shape += [int64(element) for element in read_repeated(0, wire, payload) if isinstance(element, int)]
        if wire != 2:
            continue
        assert isinstance(payload, bytes)
        if field == 1:
            name = payload.decode()
        elif field == 2:
            datatype = payload.decode()
        elif field == 4:
            key, value = read_parameter(payload)
            parameters[key] = value
        elif field == 5:
            contents = {} if contents is None else contents
            for kind, kind_wire, value, _ in read_fields(payload):
                scalar = {6: 5, 7: 1, 8: 2}.get(kind, 0)
                if 1 <= kind <= 8 and kind_wire in (scalar, 2):
                    elements = [value] if kind == 8 else read_repeated(scalar, kind_wire, value)
                    contents.setdefault(kind, []).extend(elements)
    return Tensor(name, datatype, tuple(shape), b""), parameters, contents


def raw_from_contents(datatype: str, contents: Mapping[int, Sequence[int | bytes]]) -> bytes:
    field = CONTENTS_FIELDS.get(datatype, 0)
    if any(elements for kind, elements in contents.items() if kind != field):
        raise ValueError("contents of another datatype")
    elements = contents.get(field, [])
    if not elements:
        return b""
    if datatype == "BYTES":
        return pack_bytes(element for element in elements if isinstance(element, bytes))
    if field in (6, 7):
        return b"".join(element for element in elements if isinstance(element, bytes))
    numbers = [element for element in elements if isinstance(element, int)]
    if field == 1:
        numbers = [int(number != 0) for number in numbers]
    elif field == 2:
        numbers = [(number & 0xFFFFFFFF) - ((number & 0x80000000) << 1) for number in numbers]
    elif field == 3:
        numbers = [int64(number) for number in numbers]
    elif field == 4:
        numbers = [number & 0xFFFFFFFF for number in numbers]
    return raw_from_integers(datatype, numbers)


def decode_proto(message: bytes) -> Request:
    """A ModelInferRequest."""
    strings = {1: "", 2: "", 3: ""}
    parameters: dict[str, Any] = {}
    inputs = []
    outputs = []
    raws = []
    for field, wire, payload, _ in read_fields(message):
        if wire != 2:
            continue
        assert isinstance(payload, bytes)
        if field in strings:
            strings[field] = payload.decode()
        elif field == 4:
            key, value = read_parameter(payload)
            parameters[key] = value
        elif field == 5:
            inputs.append(read_proto_tensor(payload))
        elif field == 6:
            name = ""
            output_parameters = {}
            for kind, kind_wire, value, _ in read_fields(payload):
                if kind_wire == 2 and isinstance(value, bytes) and kind == 1:
                    name = value.decode()
                elif kind_wire == 2 and isinstance(value, bytes) and kind == 2:
                    output_key, output_value = read_parameter(value)
                    output_parameters[output_key] = output_value
            outputs.append(requested_output(name, output_parameters, http=False))
        elif field == 7:
            raws.append(payload)
    tensors = []
    for i, (tensor, input_parameters, contents) in enumerate(inputs):
        if tensor.datatype not in DTYPES and tensor.datatype != "BYTES":
            raise ValueError("unknown datatype")
        refuse_shared_memory(input_parameters)
        if raws and (contents is not None or i >= len(raws)):
            raise ValueError("raw and typed contents together, or raw contents missing")
        raw = raws[i] if raws else raw_from_contents(tensor.datatype, contents or {})
        tensors.append(checked(Tensor(tensor.name, tensor.datatype, tensor.shape, raw)))
    is_typed = not raws and any(contents is not None for _, _, contents in inputs)
    return finished(
        Request(
            model=strings[1],
            version=strings[2],
            id=strings[3] or None,
            inputs=tuple(tensors),
            outputs=tuple(outputs),
            raw=not is_typed,
        ),
        parameters,
        http=False,
    )


def proto_contents(tensor: Tensor) -> bytes:
    """InferTensorContents of a tensor."""
    field = CONTENTS_FIELDS[tensor.datatype]
    if tensor.datatype == "BYTES":
        return b"".join(chunk(8, element) for element in unpack_bytes(tensor.raw))
    if field in (6, 7):
        packed = tensor.raw
    else:
        packed = b"".join(varint(int(number)) for number in tensor.to_numpy().reshape(-1).tolist())
    return chunk(field, packed) if packed else b""


def proto_tensor(tensor: Tensor, *, is_raw: bool) -> bytes:
    shape = b"".join(varint(dimension) for dimension in tensor.shape)
    message = text(1, tensor.name) + text(2, tensor.datatype) + (chunk(3, shape) if shape else b"")
    contents = b"" if is_raw else proto_contents(tensor)
    return message + (chunk(5, contents) if contents else b"")


def proto_request(request: Request) -> bytes:
    """A ModelInferRequest without parameters; typed contents unless `request.raw`."""
    message = text(1, request.model) + text(2, request.version) + text(3, request.id or "")
    message += b"".join(chunk(5, proto_tensor(tensor, is_raw=request.raw)) for tensor in request.inputs)
    message += b"".join(chunk(6, text(1, output.name)) for output in request.outputs)
    return message + b"".join(chunk(7, tensor.raw) for tensor in request.inputs if request.raw)


def proto_response(outputs: Sequence[Tensor], model: str, version: str, id: str, *, is_raw: bool) -> bytes:
    """A ModelInferResponse."""
    is_raw = is_raw or any(output.datatype not in CONTENTS_FIELDS for output in outputs)
    message = text(1, model) + text(2, version) + text(3, id)
    message += b"".join(chunk(5, proto_tensor(output, is_raw=is_raw)) for output in outputs)
    return message + b"".join(chunk(6, output.raw) for output in outputs if is_raw)
