"""Callers on a schedule: requests leave when they are due, whatever became of those before, and each answer is kept."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass

import aiohttp
import grpc
import numpy as np
from faulty_models import COLUMNS

MODEL = "scores"


@dataclass(frozen=True)
class Answer:
    """`sent` in seconds of the monotonic clock; `version` is empty where the answer names none."""

    sent: float
    is_good: bool
    version: str


Ask = Callable[[np.ndarray], Awaitable[tuple[bool, str]]]


async def call(
    protocol: str, ports: Sequence[int], rate: float, until: asyncio.Event, answers: list[Answer]
) -> None:
    """One row in each request, random from 0 to 1, to the gateways in turn. Returns when all that were sent before
    `until` are answered."""
    async with contextlib.AsyncExitStack() as stack:
        connect = _http if protocol == "HTTP" else _grpc
        gateways = [await stack.enter_async_context(connect(port)) for port in ports]
        await _steadily(itertools.cycle(gateways), rate, until, answers)


async def _steadily(gateways: itertools.cycle[Ask], rate: float, until: asyncio.Event, answers: list[Answer]) -> None:
    random = np.random.default_rng(5)
    pending: set[asyncio.Task[None]] = set()

    async def one(ask: Ask, row: np.ndarray) -> None:
        sent = time.monotonic()
        good, version = await ask(row)
        answers.append(Answer(sent, good, version))

    start, number = time.monotonic(), 0
    while not until.is_set():
        number += 1
        task = asyncio.create_task(one(next(gateways), random.random((1, COLUMNS), np.float32)))
        pending.add(task)
        task.add_done_callback(pending.discard)
        await asyncio.sleep(max(0.0, start + number / rate - time.monotonic()))
    await asyncio.gather(*pending)


@contextlib.asynccontextmanager
async def _http(port: int) -> AsyncIterator[Ask]:
    url = f"http://127.0.0.1:{port}/v2/models/{MODEL}/infer"
    async with aiohttp.ClientSession() as session:

        async def ask(row: np.ndarray) -> tuple[bool, str]:
            tensor = {"name": "features", "datatype": "FP32", "shape": [1, COLUMNS], "data": row[0].tolist()}
            try:
                async with session.post(url, json={"inputs": [tensor]}) as response:
                    document = await response.json(content_type=None)
                    return response.status == 200, document.get("model_version", "")
            except (aiohttp.ClientError, TimeoutError, ValueError):
                return False, ""

        yield ask


@contextlib.asynccontextmanager
async def _grpc(port: int) -> AsyncIterator[Ask]:
    from gateway.pb import inference_pb2 as pb

    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        infer = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            request_serializer=pb.ModelInferRequest.SerializeToString,
            response_deserializer=pb.ModelInferResponse.FromString,
        )

        async def ask(row: np.ndarray) -> tuple[bool, str]:
            request = pb.ModelInferRequest(model_name=MODEL)
            request.inputs.add(name="features", datatype="FP32", shape=[1, COLUMNS])
            request.raw_input_contents.append(row.astype("<f4").tobytes())
            try:
                return True, (await infer(request)).model_version
            except grpc.aio.AioRpcError:
                return False, ""

        yield ask
