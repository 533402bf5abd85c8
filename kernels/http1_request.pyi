"""What the Python side of HTTP/1 sees: the limits of a connection, and the requests that are not inference calls."""

from collections.abc import Sequence

class Http1Limits:
    """Every limit of a connection; shared by all of a listener.

    `max_header_bytes` bounds a whole head, request line included (431), `max_target_bytes` the request target (414),
    `max_headers` the number of fields, at most 256 (431). `max_body_bytes` bounds a body as received and again after
    inflating (413), `max_inflate_ratio` what inflating may gain beyond the first MiB (413), `max_chunks` the chunks of
    one body (413). Seconds: `header_timeout` from the first byte of a head to its last (408), `body_timeout` without
    progress of a body (408) or of an answer that the client does not read (closed), `idle_timeout` between requests
    (closed), `linger_timeout` from the last answer to the client's end of the connection, `drain_grace` from `drain`
    until idle connections are closed. At most `max_pipelined` requests are in flight, and requests are taken while
    their answers that are not written yet are at most `max_unread_bytes` together; reading pauses beyond. Answers
    between `compression_min_bytes` and `compression_max_bytes` are compressed for those who ask. `statuses` gives the
    HTTP status of each of the 17 gRPC codes.
    """

    header_timeout: float
    body_timeout: float
    idle_timeout: float
    linger_timeout: float
    drain_grace: float
    max_pipelined: int
    max_unread_bytes: int
    compression_min_bytes: int
    compression_max_bytes: int

    def __init__(
        self,
        *,
        max_header_bytes: int = 16384,
        max_headers: int = 100,
        max_target_bytes: int = 8192,
        max_body_bytes: int = 67108864,
        max_inflate_ratio: int = 100,
        max_chunks: int = 65536,
        header_timeout: float = 5.0,
        body_timeout: float = 30.0,
        idle_timeout: float = 75.0,
        linger_timeout: float = 2.0,
        drain_grace: float = 1.0,
        max_pipelined: int = 64,
        max_unread_bytes: int = 67108864,
        compression_min_bytes: int = 1024,
        compression_max_bytes: int = 8388608,
        statuses: Sequence[int] = ...,
    ) -> None:
        """Raise ValueError, naming the limit, when a value makes no sense."""

class HttpRequest:
    """One request that is not an inference call, complete, its body inflated.

    `path` is raw (not percent-decoded) and without the query; `headers` have lower-case names, in the order sent.
    """

    method: str
    path: str
    query: str
    headers: list[tuple[bytes, bytes]]
    body: bytes
    peer: object
    is_cancelled: bool
    """The caller has gone; an answer would be dropped."""

    def header(self, name: bytes) -> bytes | None:
        """The first value of the field with this lower-case name."""

    def respond(
        self,
        status: int,
        body: bytes = b"",
        content_type: str = "application/json",
        headers: Sequence[tuple[bytes, bytes]] = (),
    ) -> None:
        """Answer, once: later calls, and calls after the caller has gone, do nothing.

        The connection adds the length, compresses when asked to (not when `headers` has Content-Encoding), leaves the
        body out for HEAD, and keeps the order of pipelined requests. Content-Type is left out when there is no body.
        Raise ValueError, and count as no answer, for a status that is not final or a field that cannot be sent.
        """
