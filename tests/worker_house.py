"""A loop with a supervisor in it, for tests that talk to real workers from ordinary functions."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import uvloop
from numpy.typing import NDArray

from gateway.settings import WorkersSettings
from gateway.workers.instance import Instance
from gateway.workers.spec import DATATYPE_NUMBERS, DATATYPES, Exit, InstanceSpec
from gateway.workers.supervisor import Supervisor
from kernels.lanes import Lane

T = TypeVar("T")
TESTS = Path(__file__).parent
NUMPY_DTYPES = {
    "BOOL": "?", "UINT8": "u1", "UINT16": "<u2", "UINT32": "<u4", "UINT64": "<u8", "INT8": "i1", "INT16": "<i2",
    "INT32": "<i4", "INT64": "<i8", "FP16": "<f2", "FP32": "<f4", "FP64": "<f8", "BF16": "<u2",
}  # fmt: skip


class Refused(Exception):
    """The worker answered a batch with an error."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class House:
    """`run` drives a coroutine on the house's loop. Instances launched by `launch` report their ends to `exits`."""

    def __init__(self, runner: asyncio.Runner, supervisor: Supervisor) -> None:
        self._runner = runner
        self.supervisor = supervisor
        self.exits: list[tuple[Instance, Exit]] = []
        self.exited = asyncio.Event()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self._runner.run(coroutine)

    def launch(self, spec: InstanceSpec) -> Instance:
        return self.run(self.supervisor.launch(spec, self.on_exit))

    def on_exit(self, instance: Instance, exit: Exit) -> None:
        self.exits.append((instance, exit))
        self.exited.set()

    def end_of(self, instance: Instance) -> Exit:
        """Wait for it to end by itself."""

        async def wait() -> Exit:
            while True:
                for each, exit in self.exits:
                    if each is instance:
                        return exit
                self.exited.clear()
                await self.exited.wait()

        return self.run(wait())

    def infer(
        self, instance: Instance, *inputs: NDArray[Any] | tuple[str, Sequence[int], bytes], wanted: int = 0
    ) -> list[NDArray[Any]]:
        """One batch through the lane, inputs in the order of the signature; the outputs as arrays, BYTES as raw
        bytes."""
        return self.run(infer(instance, *inputs, wanted=wanted))


async def infer(
    instance: Instance, *inputs: NDArray[Any] | tuple[str, Sequence[int], bytes], wanted: int = 0
) -> list[NDArray[Any]]:
    put(instance, *inputs, wanted=wanted)
    return await result(instance.lane)


def put(instance: Instance, *inputs: NDArray[Any] | tuple[str, Sequence[int], bytes], wanted: int = 0) -> None:
    tensors, rows = [], 1
    for index, each in enumerate(inputs):
        datatype = instance.inputs[index].datatype
        if isinstance(each, tuple):
            datatype, shape, raw = each
        else:
            shape, raw = each.shape, each.tobytes()
        tensors.append((index, DATATYPE_NUMBERS[datatype], tuple(shape), raw))
        rows = shape[0] if shape else 1
    slot = instance.lane.put(tensors, rows, wanted)
    assert slot >= 0, "the lane is full"


async def result(lane: Lane) -> list[NDArray[Any]]:
    """The next result of the lane, waited for by its doorbell."""
    loop = asyncio.get_running_loop()
    rung = asyncio.Event()
    loop.add_reader(lane.completion, rung.set)
    try:
        while (answer := lane.get()) is None:
            await rung.wait()
            rung.clear()
    finally:
        loop.remove_reader(lane.completion)
    _, code, message, outputs = answer
    if code != 0:
        raise Refused(code, message)
    return [_array(DATATYPES[datatype], shape, raw) for _, datatype, shape, raw in outputs]


def _array(datatype: str, shape: tuple[int, ...], raw: bytes) -> NDArray[Any]:
    if datatype == "BYTES":
        return np.frombuffer(raw, np.uint8)
    return np.frombuffer(raw, NUMPY_DTYPES[datatype]).reshape(shape)


@contextmanager
def house(
    settings: WorkersSettings | None = None,
    *,
    new_loop: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop,
    **options: Any,
) -> Iterator[House]:
    options = {"allow_any_backend": True, "python_path": [TESTS]} | options
    with asyncio.Runner(loop_factory=new_loop) as runner:

        async def build() -> Supervisor:
            supervisor = Supervisor(settings or WorkersSettings(slot_bytes=1024 * 1024), **options)
            await supervisor.start()
            return supervisor

        supervisor = runner.run(build())
        try:
            yield House(runner, supervisor)
        finally:
            runner.run(supervisor.stop())
