"""Inference messages in every encoding of the protocol, to and from tensors: protobuf bytes of ModelInferRequest and
ModelInferResponse, V2 JSON, and the binary tensor extension. Does not know who asked, or which models there are.

These functions run the code of the data plane, for tests and tools; the data plane itself calls it through wire.pxd.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

from kernels.tensors import Request, Tensor

def decode_request(
    body: bytes,
    encoding: Literal["json", "proto"],
    *,
    header_length: int = -1,
    model: str = "",
    max_tensors: int | None = None,
    max_rank: int | None = None,
    max_json_depth: int | None = None,
    max_tensor_bytes: int | None = None,
    repeat: int = 1,
) -> Request:
    """Decodes one request.

    `header_length` is the Inference-Header-Content-Length of an HTTP body: -1 when the header is absent, 0 when all of
    the body is the bytes of the only input, which then has neither name, datatype nor shape. `model` is the model that
    an HTTP path names, for error texts. `repeat` decodes as often into the same recycled request, and gives the last.
    Raises RefusedError for anything that is not a valid request within the limits.
    """

def encode_response(
    outputs: Sequence[Tensor],
    encoding: Literal["json", "proto"],
    *,
    model: str = "",
    version: str = "",
    id: str | None = None,
    binary: Mapping[str, bool] = ...,
    binary_data_output: bool = False,
    raw: bool = True,
    repeat: int = 1,
) -> tuple[bytes, int]:
    """Encodes one response; gives the message and the length of its JSON part, -1 unless binary tensors follow one.

    `binary` says by name which outputs the request wanted as binary tensors (or not), and `binary_data_output` says it
    for the others; both mean nothing to protobuf. `raw`: protobuf outputs go to raw_output_contents, as they always do
    when one of them is FP16 or BF16. Raises RefusedError when an output's bytes do not match its shape, or when JSON
    cannot carry them.
    """

def match_path(path: bytes) -> tuple[str, str] | None:
    """Model and version ("" without one) when an HTTP path, without its query, is that of an inference call."""

def split_bytes_tensor(raw: bytes, skip: int, count: int) -> bytes | None:
    """The bytes of `count` elements behind the first `skip` of a BYTES tensor; None when it has fewer."""
