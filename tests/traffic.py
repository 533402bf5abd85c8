"""Steady callers for chaos tests: each sends its next request when the last one is answered, and keeps book.

A caller whose connection is closed in good order (`Connection: close`, GOAWAY) connects again; one that cannot connect
leaves, as behind a load balancer. A request that was sent and got no good answer is a failure.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from types import TracebackType
from typing import NamedTuple

import grpc
import numpy as np

from gateway.pb import inference_pb2 as pb

METHOD = "/inference.GRPCInferenceService/ModelInfer"


class Outcome(NamedTuple):
    """One request: when it was sent (monotonic seconds), how long it took, its status and the version that answered."""

    at: float
    seconds: float
    status: str
    version: str

    @property
    def is_good(self) -> bool:
        return self.status in ("200", "OK")


class Traffic:
    """`callers` callers of one model from `__enter__` to `__exit__`, in a thread of their own."""

    def __init__(
        self, protocol: str, port: int, model: str, values: np.ndarray, *, name: str = "x", callers: int = 8,
        deadline: float = 30.0,
    ) -> None:  # fmt: skip
        self.outcomes: list[Outcome] = []
        self.left = 0
        """Callers that could not connect any more."""
        self._protocol, self._port, self._callers, self._deadline = protocol, port, callers, deadline
        request = pb.ModelInferRequest(model_name=model)
        request.inputs.add(name=name, datatype="FP32", shape=values.shape)
        request.raw_input_contents.append(values.astype("<f4").tobytes())
        self._message = request.SerializeToString()
        shape = ",".join(map(str, values.shape))
        data = ",".join(repr(float(value)) for value in values.ravel())
        body = f'{{"inputs":[{{"name":"{name}","datatype":"FP32","shape":[{shape}],"data":[{data}]}}]}}'.encode()
        head = f"POST /v2/models/{model}/infer HTTP/1.1\r\nHost: gateway\r\nContent-Length: {len(body)}\r\n\r\n"
        self._body = head.encode() + body
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="traffic")

    def __enter__(self) -> Traffic:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def failures(self) -> Counter[str]:
        return Counter(outcome.status for outcome in self.outcomes if not outcome.is_good)

    def p99(self, since: float = 0.0, until: float = float("inf")) -> float:
        """Seconds, of the requests sent between two moments."""
        taken = [outcome.seconds for outcome in self.outcomes if since <= outcome.at < until]
        return float(np.percentile(taken, 99))

    async def _run(self) -> None:
        caller = self._http if self._protocol == "http" else self._grpc
        async with asyncio.TaskGroup() as group:
            for _ in range(self._callers):
                group.create_task(caller())

    def _note(self, at: float, status: str, version: str = "") -> None:
        self.outcomes.append(Outcome(at, time.monotonic() - at, status, version))

    async def _http(self) -> None:
        while not self._stop.is_set():
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
            except OSError:
                self.left += 1
                return
            try:
                while not self._stop.is_set():
                    at = time.monotonic()
                    try:
                        writer.write(self._body)
                        async with asyncio.timeout(self._deadline):
                            head = await reader.readuntil(b"\r\n\r\n")
                            fields = dict(
                                line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:] if b": " in line
                            )
                            await reader.readexactly(int(fields[b"content-length"]))
                    except (OSError, EOFError, TimeoutError) as error:
                        self._note(at, type(error).__name__)
                        break
                    version = fields.get(b"sluice-model-version", b"").decode()
                    self._note(at, head.split(b" ", 2)[1].decode(), version)
                    if fields.get(b"connection") == b"close":
                        break
            finally:
                writer.close()

    async def _grpc(self) -> None:
        # A channel of its own for each caller: they would share one connection otherwise.
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]
        async with grpc.aio.insecure_channel(f"127.0.0.1:{self._port}", options=options) as channel:
            call = channel.unary_unary(METHOD, response_deserializer=pb.ModelInferResponse.FromString)
            while not self._stop.is_set():
                at = time.monotonic()
                try:
                    answer = await call(self._message, timeout=self._deadline)
                    self._note(at, "OK", answer.model_version)
                except grpc.aio.AioRpcError as error:
                    if "Failed to connect" in (error.details() or "") or "Connection refused" in (
                        error.details() or ""
                    ):
                        self.left += 1
                        return
                    self._note(at, f"{error.code().name} {error.details()}")
