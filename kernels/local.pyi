"""Inference from inside the process, by the same way as a request from the network."""

from collections.abc import Callable

from kernels.exchange import Intake

class LocalCall:
    """One ModelInferRequest, submitted when it is made.

    Args:
        message: the request's protobuf bytes.
        deadline: monotonic seconds; 0.0 for none.
        done: called once, possibly before the constructor returns, with the gRPC status code, its text, the bytes of
            the ModelInferResponse and the seconds after which a retry makes sense (0.0 when there is nothing to say).
    """

    def __init__(
        self, intake: Intake, message: bytes, deadline: float, done: Callable[[int, bytes, bytes, float], None]
    ) -> None: ...
    def cancel(self) -> None:
        """Nobody waits any more: `done` will not be called. Does nothing after it was."""
