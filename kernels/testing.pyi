"""Intakes for tests, and for measuring a front end alone: no model, no queue, no worker.

Both notice when a sink breaks the rules of ownership (cancel after reply, release twice, ...) and note it in `faults`.
"""

from collections.abc import Callable

from kernels.exchange import Exchange, Intake

class EchoIntake(Intake):
    """Answers every request at once with its own body, or with `constant`.

    `call_soon` runs the flush that sinks ask for by `touch` (`loop.call_soon`); without it the test calls `flush`.
    """

    live: int
    """Exchanges acquired and not yet released or cancelled: zero when nothing leaks."""
    acquired: int
    submitted: int
    released: int
    cancelled: int
    faults: list[str]
    """What sinks did that they must not: empty when all is well."""

    def __init__(
        self, constant: bytes | None = None, call_soon: Callable[[Callable[[], None]], object] | None = None
    ) -> None: ...
    def flush(self) -> None:
        """Flush every sink that has asked for it."""

class ScriptedIntake(EchoIntake):
    """Hands every request to `script`, which answers now, keeps it to answer later, or never does."""

    requests: list[Pending]
    """Every request ever submitted, in order, also when there is no script."""

    def __init__(
        self,
        script: Callable[[Pending], object] | None = None,
        call_soon: Callable[[Callable[[], None]], object] | None = None,
    ) -> None: ...

class Pending:
    """One submitted request. The fields are copies and stay valid after the answer."""

    body: bytes
    model: bytes
    version: bytes
    stream_id: int
    header_length: int
    protocol: int
    """0 HTTP, 1 gRPC."""
    arrived: float
    deadline: float
    """Monotonic seconds, 0 for none."""
    is_answered: bool
    is_cancelled: bool

    def answer(self, body: bytes = b"", *, header_length: int = -1, served_version: bytes = b"") -> None:
        """Answer with code OK. ValueError when it is answered or cancelled already."""

    def fail(self, code: int, message: bytes, *, retry_after: float = 0.0, served_version: bytes = b"") -> None:
        """Answer with a gRPC status code. ValueError when it is answered or cancelled already."""

    def take(self) -> Exchange: ...
