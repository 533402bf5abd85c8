"""What one decode and one encode cost, in nanoseconds, by the code that serves: `python loadtests/bench_wire.py`.

Each figure is the best of several rounds, on one core, into recycled memory; the copy of the message into the request's
body is part of a decode, and the bare call of the wrapper is taken off.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from kernels import reference, reference_proto, wire
from kernels.tensors import Request, Tensor


def nanoseconds(call: Callable[[int], object], repeat: int, rounds: int) -> float:
    """Time of one of `repeat` inner repetitions of `call(repeat)`."""

    def best(inner: int) -> float:
        times = []
        for _ in range(rounds):
            begin = time.perf_counter_ns()
            call(inner)
            times.append(time.perf_counter_ns() - begin)
        return min(times)

    return (best(repeat + 1) - best(1)) / repeat


def json_body(tensor: Tensor) -> bytes:
    data = [str(float(f"{value:.6g}")) for value in tensor.to_numpy().reshape(-1).tolist()]
    head = {"id": "42", "inputs": [{"name": tensor.name, "shape": tensor.shape, "datatype": tensor.datatype}]}
    return json.dumps(head, separators=(",", ":"))[:-3].encode() + f',"data":[{",".join(data)}]}}]}}'.encode()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=101)
    parser.add_argument("--repeat", type=int, default=1_000)
    arguments = parser.parse_args()

    generator = np.random.default_rng(7)
    row = Tensor.from_numpy("input", generator.normal(size=(1, 30)).astype("f4"), "FP32")
    image = Tensor.from_numpy("image", generator.normal(size=(1, 3, 224, 224)).astype("f4"), "FP32")
    texts = np.array([f"sentence {i}".encode() for i in range(32)], dtype=object)
    answer = Tensor.from_numpy("probabilities", np.array([[0.124671, 0.875329]], dtype="f4"), "FP32")

    print(f"{platform.processor() or platform.machine()}, Python {platform.python_version()}")
    print(f"{'decode':44} {'bytes':>9} {'ns':>10}")
    row_json = json_body(row)
    full_json = json.dumps(reference.json_request(Request(inputs=(row,)))).encode()
    text_json = json.dumps(
        reference.json_request(Request(inputs=(Tensor.from_numpy("text", texts, "BYTES"),)))
    ).encode()
    binary, header_length = reference.binary_request(Request(inputs=(image,)))
    for name, body, encoding, length in [
        ("1x30 FP32, JSON, 6 digits", row_json, "json", -1),
        ("1x30 FP32, JSON, 17 digits", full_json, "json", -1),
        ("1x30 FP32, protobuf, raw", reference_proto.proto_request(Request("m", inputs=(row,), raw=True)), "proto", -1),
        ("1x30 FP32, protobuf, typed", reference_proto.proto_request(Request("m", inputs=(row,))), "proto", -1),
        ("32 BYTES, JSON", text_json, "json", -1),
        ("1x3x224x224 FP32, binary tensor", binary, "json", header_length),
    ]:
        big = len(body) > 100_000
        repeat = max(1, arguments.repeat // 100) if big else arguments.repeat

        def decode(times: int, body: bytes = body, encoding: str = encoding, length: int = length) -> object:
            return wire.decode_request(body, encoding, header_length=length, repeat=times)  # type: ignore[arg-type]

        print(f"{name:44} {len(body):9} {nanoseconds(decode, repeat, arguments.rounds):10.0f}")

    print(f"\n{'encode':44} {'bytes':>9} {'ns':>10}")
    for name, encoding, raw, is_binary in [
        ("1x2 FP32, JSON", "json", True, False),
        ("1x2 FP32, binary tensor", "json", True, True),
        ("1x2 FP32, protobuf, raw", "proto", True, False),
        ("1x2 FP32, protobuf, typed", "proto", False, False),
    ]:

        def encode(times: int, encoding: str = encoding, raw: bool = raw, is_binary: bool = is_binary) -> bytes:
            message, _ = wire.encode_response(
                [answer],
                encoding,  # type: ignore[arg-type]
                model="tabular",
                version="1",
                id="42",
                raw=raw,
                binary={"probabilities": is_binary},
                repeat=times,
            )
            return message

        print(f"{name:44} {len(encode(1)):9} {nanoseconds(encode, arguments.repeat, arguments.rounds):10.0f}")


if __name__ == "__main__":
    main()
