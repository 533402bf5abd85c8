"""What a bad version costs: canaries that fail in different ways, each rolled out to a real gateway under steady traffic.

For each fault and protocol: how the rollout ended, the canary's failed requests before the decision, the calls that saw
an error, and how long after the decision a request was still sent to the canary and answered by it. A good version, last,
must be promoted.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import numpy as np
import onnx
from bench_peers import ROOT, commit, machine
from onnx import TensorProto, helper, numpy_helper
from sides import free_port

SLUICE = Path(sys.executable).parent / "sluice"
COLUMNS = 30
ITERATIONS = 2000
"""About 2 ms: slower by less than a millisecond is not slow to a rollout."""
PLAN = """\
steps:
  - setWeight: 5
  - bake: {minTime: 5s, minRequests: 100}
  - setWeight: 50
  - bake: {minTime: 5s, minRequests: 300}
terminationWait: 1s
maxDuration: 5m
"""
FAULTS: dict[str, dict[str, Any]] = {
    "fails all requests": {"fails": 1.0},
    "fails 20 %": {"fails": 0.2},
    "fails 5 %": {"fails": 0.05},
    "2x slower": {"iterations": 2 * ITERATIONS},
    "answers NaN": {"is_nan": True},
    "gives too few rows": {"is_short": True},
    "none: a good version": {"seed": 2},
}


def model(*, iterations: int = ITERATIONS, fails: float = 0.0, is_nan: bool = False, is_short: bool = False,
          seed: int = 1) -> onnx.ModelProto:  # fmt: skip
    """FP32 features [N,30] -> scores [N,30], after `iterations` multiplications. It fails for rows whose first feature,
    from 0 to 1, is above 1 - `fails`."""

    def value(name: str, kind: int, shape: list[int | str]) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, kind, shape)

    def constant(name: str, array: object, kind: type) -> onnx.TensorProto:
        return numpy_helper.from_array(np.array(array, kind), name)

    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["carried", "eye"], ["carried_on"]),
            helper.make_node("Identity", ["go"], ["go_on"]),
        ],
        "body",
        [value("step", TensorProto.INT64, []), value("go", TensorProto.BOOL, []),
         value("carried", TensorProto.FLOAT, ["N", COLUMNS])],
        [value("go_on", TensorProto.BOOL, []), value("carried_on", TensorProto.FLOAT, ["N", COLUMNS])],
    )  # fmt: skip
    nodes = [
        helper.make_node("Loop", ["count", "", "features"], ["looped"], body=body),
        helper.make_node("Gather", ["features", "first"], ["feature"], axis=1),
        helper.make_node("Greater", ["feature", "limit"], ["is_above"]),
        helper.make_node("Cast", ["is_above"], ["index"], to=TensorProto.INT64),
        helper.make_node("Gather", ["table", "index"], ["extra"]),  # the table has no row 1
        helper.make_node("Reshape", ["extra", "column"], ["added"]),
        helper.make_node("Add", ["looped", "added"], ["whole"]),
        helper.make_node("Slice", ["whole", "zero", "end", "zero"], ["scores"]),
    ]
    constants = [
        numpy_helper.from_array(np.eye(COLUMNS, dtype=np.float32), "eye"),
        constant("count", iterations, np.int64),
        constant("first", [0], np.int64),
        constant("limit", 1 - fails, np.float32),
        constant("table", [np.nan if is_nan else seed * 1e-3], np.float32),
        constant("column", [-1, 1], np.int64),
        constant("zero", [0], np.int64),
        constant("end", [-1 if is_short else 2**31], np.int64),
    ]
    graph = helper.make_graph(
        nodes,
        "scores",
        [value("features", TensorProto.FLOAT, ["N", COLUMNS])],
        [value("scores", TensorProto.FLOAT, ["N", COLUMNS])],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


@dataclass(frozen=True)
class Answer:
    """`sent` in seconds since the epoch."""

    sent: float
    is_good: bool
    version: str


Ask = Callable[[np.ndarray], Awaitable[tuple[bool, str]]]


async def steadily(ask: Ask, rate: float, until: asyncio.Event, answers: list[Answer]) -> None:
    """An open loop: requests leave on schedule, whatever becomes of those before."""
    random = np.random.default_rng(5)
    pending: set[asyncio.Task[None]] = set()

    async def one(row: np.ndarray) -> None:
        sent = time.time()
        good, version = await ask(row)
        answers.append(Answer(sent, good, version))

    start, number = time.monotonic(), 0
    while not until.is_set():
        number += 1
        task = asyncio.create_task(one(random.random((1, COLUMNS), np.float32)))
        pending.add(task)
        task.add_done_callback(pending.discard)
        await asyncio.sleep(max(0.0, start + number / rate - time.monotonic()))
    await asyncio.gather(*pending)


async def with_http(port: int, rate: float, until: asyncio.Event, answers: list[Answer]) -> None:
    url = f"http://127.0.0.1:{port}/v2/models/scores/infer"
    async with aiohttp.ClientSession() as session:

        async def ask(row: np.ndarray) -> tuple[bool, str]:
            tensor = {"name": "features", "datatype": "FP32", "shape": [1, COLUMNS], "data": row[0].tolist()}
            async with session.post(url, json={"inputs": [tensor]}) as response:
                document = await response.json(content_type=None)
                return response.status == 200, document.get("model_version", "")

        await steadily(ask, rate, until, answers)


async def with_grpc(port: int, rate: float, until: asyncio.Event, answers: list[Answer]) -> None:
    from gateway.pb import inference_pb2 as pb

    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            request_serializer=pb.ModelInferRequest.SerializeToString,
            response_deserializer=pb.ModelInferResponse.FromString,
        )

        async def ask(row: np.ndarray) -> tuple[bool, str]:
            request = pb.ModelInferRequest(model_name="scores")
            request.inputs.add(name="features", datatype="FP32", shape=[1, COLUMNS])
            request.raw_input_contents.append(row.astype("<f4").tobytes())
            try:
                return True, (await call(request)).model_version
            except grpc.aio.AioRpcError:
                return False, ""

        await steadily(ask, rate, until, answers)


@dataclass(frozen=True)
class Outcome:
    """How one rollout went. Seconds: of the rollout, and from the decision to the last request sent to the canary."""

    exit_code: int
    rule: str
    failed: int
    requests: int
    errors: int
    calls: int
    seconds: float
    late: float


def measure(work: Path, protocol: str, canary: onnx.ModelProto, rate: float) -> Outcome:
    (work / "plan.yaml").write_text(PLAN)
    for number, version in enumerate((model(), canary), 1):
        file = work / f"{number}.onnx"
        onnx.save(version, file)
        alias = ["--alias", "champion"] if number == 1 else []
        command = [SLUICE, "push", file, "--name", "scores", "--data-dir", work / "data", *alias]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    http, rpc, admin = free_port(), free_port(), free_port()
    ports = ["--http-port", str(http), "--grpc-port", str(rpc), "--admin-port", str(admin)]
    log = (work / "log").open("wb")
    with log, subprocess.Popen([SLUICE, "serve", "--data-dir", work / "data", *ports], stderr=log) as gateway:
        try:
            port = http if protocol == "HTTP" else rpc
            exit_code, seconds, answers = asyncio.run(roll_out(work, protocol, http, port, admin, rate))
        finally:
            gateway.terminate()
    line = decision(work / "log")
    decided = datetime.fromisoformat(str(line["@timestamp"])).timestamp() if line else 0.0
    sent = [answer.sent for answer in answers if answer.version == "2"]
    late = max(0.0, max(sent, default=0.0) - decided) if exit_code == 2 else 0.0
    errors = sum(not answer.is_good for answer in answers)
    return Outcome(
        exit_code, line.get("rule", ""), line.get("canary_failed", 0), line.get("canary_requests", 0), errors,
        len(answers), seconds, late,
    )  # fmt: skip


async def roll_out(
    work: Path, protocol: str, http: int, port: int, admin: int, rate: float
) -> tuple[int, float, list[Answer]]:
    await ready(http)
    until, answers = asyncio.Event(), list[Answer]()
    callers = with_http if protocol == "HTTP" else with_grpc
    traffic = asyncio.create_task(callers(port, rate, until, answers))
    await asyncio.sleep(3)  # what stable's latency is
    began = time.monotonic()
    command = ["rollout", "start", "scores", "--to", "2", "--plan", str(work / "plan.yaml"), "--wait"]
    operator = await asyncio.create_subprocess_exec(
        SLUICE, *command, "--admin-url", f"http://127.0.0.1:{admin}",
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    exit_code = await operator.wait()
    seconds = time.monotonic() - began
    until.set()
    await traffic
    return exit_code, seconds, answers


def decision(log: Path) -> dict[str, Any]:
    """The line of the decision that ended the rollout: weight 0, or all of it."""
    found: dict[str, Any] = {}
    for text in log.read_text().splitlines():
        line = json.loads(text) if text.startswith("{") else {}
        line |= line.pop("sluice", {})
        line |= line.pop("labels", {})
        if line.get("event.action", line.get("action")) == "rollout-decision":
            found = line
            if float(line.get("weight", 1)) == 0:
                break
    return found


async def ready(port: int, seconds: float = 60.0) -> None:
    async with aiohttp.ClientSession() as session:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            try:
                async with session.get(f"http://127.0.0.1:{port}/v2/models/scores/ready") as answer:
                    if answer.status == 200:
                        return
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.1)
    raise RuntimeError(f"the gateway did not become ready in {seconds:.0f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=150.0, help="requests a second")
    parser.add_argument("--only", help="faults whose names contain this")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "rollouts.md")
    arguments = parser.parse_args()
    lines = [
        "# What a bad version costs",
        "",
        f"- {datetime.now(UTC):%Y-%m-%d}, commit {commit()}, {machine()}; load included.",
        f"- {arguments.rate:.0f} requests a second on a schedule, one row each; a canary at 5 %, then 50 %, retry on.",
        "- Exit codes of `sluice rollout start --wait`: 0 promoted, 2 rolled back. `late`: from the decision to the last",
        "  request that was sent and answered by the canary.",
        "",
        "| canary | protocol | exit | rule | canary failed / asked | calls that saw an error | seconds | late, ms |",
        "|---|---|--:|---|--:|--:|--:|--:|",
    ]
    print("\n".join(lines))
    for name, fault in FAULTS.items():
        for protocol in ("HTTP", "gRPC"):
            if arguments.only and arguments.only not in name:
                continue
            with tempfile.TemporaryDirectory() as folder:
                outcome = measure(Path(folder), protocol, model(**fault), arguments.rate)
            lines.append(
                f"| {name} | {protocol} | {outcome.exit_code} | {outcome.rule} | {outcome.failed} / {outcome.requests} "
                f"| {outcome.errors} of {outcome.calls:,} | {outcome.seconds:.1f} | {outcome.late * 1e3:.0f} |"
            )
            print(lines[-1], flush=True)
    arguments.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    os.chdir(ROOT)
    main()
