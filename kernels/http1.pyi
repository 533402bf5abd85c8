"""One HTTP/1 connection: bytes in, exchanges and answers out.

An asyncio BufferedProtocol by duck type. POST requests that the intake recognises go through it as exchanges; all
others go to a handler as `HttpRequest`. Knows no meaning of a path, no model and no policy. Everything is bounded by
`Http1Limits`, and what cannot be understood beyond doubt is refused with `{"error": ...}` and the connection's end.
"""

from asyncio import BaseTransport
from collections.abc import Callable

from kernels.exchange import Intake
from kernels.http1_request import Http1Limits as Http1Limits
from kernels.http1_request import HttpRequest as HttpRequest
from kernels.receive import ReceiveBuffer

class Http1Protocol:
    """The protocol of one connection.

    `handler` gets each request that is not an inference call, in the order received, and answers it now or later; when
    it raises, the answer is 500 and the loop's exception handler is told. `on_close` is called once, when the
    connection is lost and everything in flight has been cancelled. `receive` is the buffer that all connections of the
    loop share; without it the connection has its own.
    """

    in_flight: int
    """Requests whose head has been taken and whose answer has not been written."""

    def __init__(
        self,
        intake: Intake,
        handler: Callable[[HttpRequest], None],
        limits: Http1Limits,
        on_close: Callable[[Http1Protocol], None],
        receive: ReceiveBuffer | None = None,
    ) -> None: ...
    def drain(self) -> None:
        """Take no more requests than those on their way: the last answer says `Connection: close` and ends it.

        An idle connection is closed when `drain_grace` has passed without a request. Idempotent.
        """

    def close_now(self) -> None:
        """End the connection at once; everything in flight is cancelled when the transport reports its end."""

    def tick(self, now: float) -> None:
        """Enforce the timeouts, at `now` in monotonic seconds. To be called about once a second."""

    def connection_made(self, transport: BaseTransport) -> None:
        """Must run inside the loop that the transport belongs to."""

    def get_buffer(self, hint: int) -> memoryview: ...
    def buffer_updated(self, nbytes: int) -> None: ...
    def data_received(self, data: bytes) -> None:
        """The same for loops that know buffered protocols only by their base class: one copy more."""

    def pause_writing(self) -> None: ...
    def resume_writing(self) -> None: ...
    def eof_received(self) -> bool: ...
    def connection_lost(self, exc: BaseException | None) -> None: ...
