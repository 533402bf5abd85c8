"""The load generators: wrk for HTTP, h2load for gRPC. Each call runs one for a while and returns what it saw."""

from __future__ import annotations

import json
import re
import statistics
import struct
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0}


@dataclass(frozen=True)
class Figures:
    """One run: answers a second, latency quantiles in seconds, how many answers were not good."""

    rate: float
    p50: float
    p99: float
    failed: int


def json_body(rows: int = 1, features: int = 30) -> bytes:
    values = np.random.default_rng(7).normal(size=(rows, features)).round(4).tolist()
    tensor = {
        "name": "features",
        "datatype": "FP32",
        "shape": [rows, features],
        "data": values[0] if rows == 1 else values,
    }
    return json.dumps({"inputs": [tensor]}).encode()


def grpc_message(rows: int = 1, features: int = 30) -> bytes:
    """The 5-byte prefix and one ModelInferRequest with raw contents, as h2load sends it."""
    from gateway.pb import inference_pb2 as pb

    request = pb.ModelInferRequest(model_name="tabular")
    tensor = request.inputs.add(name="features", datatype="FP32", shape=[rows, features])
    assert tensor is not None
    request.raw_input_contents.append(
        np.random.default_rng(7).normal(size=(rows, features)).astype(np.float32).tobytes()
    )
    message = request.SerializeToString()
    return struct.pack(">BI", 0, len(message)) + message


def wrk(port: int, path: str, body: bytes, *, connections: int, seconds: float) -> Figures:
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "post.lua"
        script.write_text(
            'wrk.method = "POST"\nwrk.headers["Content-Type"] = "application/json"\n'
            f"wrk.body = [==[{body.decode()}]==]\n"
        )
        out = _run(
            "wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "--latency", "-s", str(script),
            f"http://127.0.0.1:{port}{path}",
        )  # fmt: skip
    bad = re.search(r"Non-2xx or 3xx responses: (\d+)", out)
    errors = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", out)
    failed = (int(bad[1]) if bad else 0) + (sum(map(int, errors.groups())) if errors else 0)
    return Figures(float(_find(r"Requests/sec:\s+([\d.]+)", out)), _wrk_time("50%", out), _wrk_time("99%", out), failed)


def h2load(port: int, body: bytes, *, clients: int, streams: int, seconds: float) -> Figures:
    with tempfile.TemporaryDirectory() as folder:
        data, log = Path(folder) / "body", Path(folder) / "log"
        data.write_bytes(body)
        out = _run(
            "h2load", f"-c{clients}", f"-m{streams}", "-t1", f"-D{seconds:g}", "--warm-up-time=1", "-d", str(data),
            "-H", "content-type: application/grpc", "-H", "te: trailers", f"--log-file={log}",
            f"http://127.0.0.1:{port}/inference.GRPCInferenceService/ModelInfer",
        )  # fmt: skip
        times = np.fromiter((int(line.split()[2]) for line in log.open()), dtype=np.int64)
    good = int(_find(r"status codes: (\d+) 2xx", out))
    failed = int(_find(r"(\d+) failed", out))
    if not len(times):
        raise RuntimeError(f"h2load saw no answer:\n{out}")
    p50, p99 = np.percentile(times, [50, 99]) * 1e-6
    return Figures(good / seconds, float(p50), float(p99), failed)


def median(runs: list[Figures]) -> Figures:
    return Figures(
        statistics.median(run.rate for run in runs),
        statistics.median(run.p50 for run in runs),
        statistics.median(run.p99 for run in runs),
        sum(run.failed for run in runs),
    )


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{command[0]} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def _find(pattern: str, text: str) -> str:
    found = re.search(pattern, text)
    if found is None:
        raise RuntimeError(f"no {pattern!r} in:\n{text}")
    return found[1]


def _wrk_time(label: str, out: str) -> float:
    found = re.search(rf"\s+{re.escape(label)}\s+([\d.]+)(us|ms|s|m)", out)
    if found is None:
        raise RuntimeError(f"no {label} in:\n{out}")
    return float(found[1]) * _UNITS[found[2]]
