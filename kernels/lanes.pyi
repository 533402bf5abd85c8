"""The shared-memory mailbox between the gateway and one worker: two slots, filled and run strictly in turn.

Neither end knows what a model is. The layout and the protocol of a slot's states are drawn in ``lanes.hpp``.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

class Lane:
    """The gateway's end. Owns the memory and both doorbells; `close` (idempotent) gives them back.

    Args:
        slot_bytes: size of each slot's input area and output area, a multiple of 4096. The file is sparse: memory is
            used only where a batch has touched it.
    """

    slot_bytes: int
    memfd: int
    doorbell: int
    completion: int
    def __init__(self, slot_bytes: int) -> None: ...
    @property
    def fds(self) -> tuple[int, int, int]:
        """The memory, the doorbell to the worker, the doorbell back: what `LanePort` takes."""

    @property
    def is_idle(self) -> bool: ...
    @property
    def oldest_started(self) -> float:
        """Monotonic seconds since when the running batch has had the worker to itself: when it was handed over or, if
        it waited behind another one, when that came back. 0.0 when nothing runs."""

    def nudge(self) -> None:
        """Wake the worker for a message on its control socket."""

    def close(self) -> None: ...
    def put(self, inputs: Sequence[tuple[int, int, Sequence[int], bytes]], rows: int, wanted: int = ...) -> int:
        """Fill the next slot by hand with (index, datatype, shape, raw bytes) and ring. The slot; -1: it is busy."""

    def get(self) -> tuple[int, int, str, list[tuple[int, int, tuple[int, ...], bytes]]] | None:
        """The oldest result as (slot, code, message, outputs), freeing its slot; None when none has come back."""

class LanePort:
    """The worker's end. Its memory stays mapped until the process ends."""

    def __init__(self, memfd: int, doorbell: int, completion: int) -> None: ...
    @property
    def slot_size(self) -> int:
        """Bytes of a slot's output area."""

    def wait(self, timeout_ms: int = -1) -> int:
        """The next filled slot; -1 when a control message waits; -2 when `timeout_ms` passed. Releases the GIL."""

    def describe(self, slot: int) -> bytes:
        """All that is known of the batch but its values: equal batches have inputs of one shape at one place."""

    def repeat(self, slot: int, outputs: bytes, compute_start_ns: int, compute_end_ns: int) -> None:
        """Answer with outputs that lie where those of an earlier, equal batch did: `outputs` is what `complete` gave
        then."""

    def rows(self, slot: int) -> int: ...
    def wanted(self, slot: int) -> int:
        """A mask of the outputs wanted, bit i for output i of the signature."""

    def inputs(self, slot: int) -> list[tuple[int, NDArray[Any]]]:
        """(index in the signature, view of the slot's memory) per input; BYTES come as their flat raw form.

        The views are valid until the slot is completed or failed.
        """

    def input_shape(self, slot: int, position: int) -> tuple[int, ...]: ...
    def input_datatype(self, slot: int, position: int) -> int: ...
    def output_area(self, slot: int) -> memoryview:
        """Where outputs may be written in place: `complete` copies nothing that lies there."""

    def complete(
        self,
        slot: int,
        outputs: Sequence[tuple[int, int, Sequence[int], np.ndarray[Any, Any] | bytes | memoryview]],
        compute_start_ns: int,
        compute_end_ns: int,
    ) -> bytes:
        """Answer with (index, datatype, shape, C-contiguous buffer) per output.

        Returns:
            Where the outputs lie, for `repeat`.

        Raises:
            ValueError: more outputs, dimensions or bytes than a slot holds; the slot is still to be answered.
        """

    def fail(self, slot: int, code: int, message: str) -> None:
        """Answer that the batch failed, with a gRPC status code and a text for the caller."""
