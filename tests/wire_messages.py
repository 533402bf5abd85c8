"""Tensors and messages for the wire tests: hypothesis strategies, and the same message in other forms."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2

from kernels import reference_proto
from kernels.tensors import DTYPES, Tensor, pack_bytes

DATATYPES = (*DTYPES, "BYTES")
TYPED_DATATYPES = tuple(reference_proto.CONTENTS_FIELDS)
FLOAT_BITS = {"FP16": (5, 10), "BF16": (8, 7), "FP32": (8, 23), "FP64": (11, 52)}

names = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
shapes = st.lists(st.integers(0, 4), max_size=4).map(tuple)


@st.composite
def tensors(
    draw: st.DrawFn,
    datatypes: Iterable[str] = DATATYPES,
    *,
    as_text: bool = False,
    name: st.SearchStrategy[str] = names,
) -> Tensor:
    """Any tensor; `as_text`: one that JSON can carry."""
    datatype = draw(st.sampled_from(sorted(datatypes)))
    shape = draw(shapes)
    elements = math.prod(shape)
    if datatype == "BYTES":
        texts = st.text(st.characters(exclude_categories=["Cs"])).map(str.encode)
        element = texts if as_text else st.binary()
        raw = pack_bytes(draw(st.lists(element, min_size=elements, max_size=elements)))
    elif datatype == "BOOL":
        raw = bytes(draw(st.lists(st.integers(0, 1), min_size=elements, max_size=elements)))
    else:
        size = elements * DTYPES[datatype].itemsize
        raw = draw(st.binary(min_size=size, max_size=size))
    return Tensor(draw(name), datatype, shape, raw)


def distinct_tensors(
    datatypes: Iterable[str] = DATATYPES, *, as_text: bool = False, max_size: int = 4
) -> st.SearchStrategy[list[Tensor]]:
    return st.lists(tensors(tuple(datatypes), as_text=as_text), max_size=max_size, unique_by=lambda tensor: tensor.name)


def with_one_nan(tensor: Tensor) -> Tensor:
    """The tensor with each NaN as the quiet one without a sign, which is what JSON's null reads as."""
    if tensor.datatype not in FLOAT_BITS:
        return tensor
    exponent_bits, mantissa_bits = FLOAT_BITS[tensor.datatype]
    bits = np.frombuffer(tensor.raw, dtype=f"<u{(exponent_bits + mantissa_bits + 1) // 8}").copy()
    infinity = ((1 << exponent_bits) - 1) << mantissa_bits
    magnitude = bits & bits.dtype.type((1 << (exponent_bits + mantissa_bits)) - 1)
    bits[magnitude > infinity] = infinity | 1 << (mantissa_bits - 1)
    return Tensor(tensor.name, tensor.datatype, tensor.shape, bits.tobytes())


def proto_message(inputs: Iterable[Tensor], *, is_raw: bool) -> service_pb2.ModelInferRequest:
    """The request as tritonclient's protobuf classes build it."""
    message = service_pb2.ModelInferRequest(model_name="m", model_version="3", id="a1")
    for tensor in inputs:
        entry = message.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        if is_raw:
            message.raw_input_contents.append(tensor.raw)
        else:
            entry.contents.MergeFromString(reference_proto.proto_contents(tensor))
    return message


def one_input(
    datatype: str = "FP32",
    shape: tuple[int, ...] = (2,),
    raw: bytes | None = None,
    name: str = "I",
) -> service_pb2.ModelInferRequest:
    """A request for model "m" with one raw input, of zeros unless told."""
    if raw is None:
        raw = bytes(math.prod(shape) * DTYPES[datatype].itemsize)
    return proto_message([Tensor(name, datatype, shape, raw)], is_raw=True)
