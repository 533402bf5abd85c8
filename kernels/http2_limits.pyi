"""The numbers that bound an HTTP/2 client. Knows no connection."""

class Http2Limits:
    """What bounds a peer, and the sizes of windows. Immutable; times are seconds, sizes bytes.

    Raises ValueError or OverflowError, naming the limit where a value is out of its range.
    """

    max_message_bytes: int
    """Of one message, compressed and inflated: more is RESOURCE_EXHAUSTED."""
    max_buffered_bytes: int
    """Of messages that are not complete, on one connection: more is RESOURCE_EXHAUSTED for the one that goes over."""
    max_inflate_ratio: int
    """How many times its compressed size a message over 1 MiB may have: more is RESOURCE_EXHAUSTED."""
    max_concurrent_streams: int
    """Told to the client, and refused beyond."""
    max_header_bytes: int
    """Names and values and 32 bytes a field, as in SETTINGS_MAX_HEADER_LIST_SIZE: more is HTTP 431."""
    max_continuations: int
    """CONTINUATION frames in one header block: more ends the connection."""
    max_settings: int
    """Entries in one SETTINGS frame: more ends the connection."""
    max_outbound_acks: int
    """Acknowledgements of PING and SETTINGS that wait for a client that does not read: more ends the connection."""
    connection_window: int
    stream_window: int
    max_resets_per_minute: float
    """Streams that the client resets when they are younger than 50 ms, or makes us reset: more ends the connection."""
    max_control_frames_per_minute: float
    """Frames that do no work (SETTINGS, PING, PRIORITY, WINDOW_UPDATE, empty DATA, ...); every request and every DATA
    frame sent makes up for ten. More ends the connection."""
    header_timeout: float
    """For the connection preface, and for each header block."""
    body_timeout: float
    """For the message of an inference, and a second more for every `min_body_rate` bytes that have come:
    DEADLINE_EXCEEDED."""
    min_body_rate: float
    write_timeout: float
    """Without progress on an answer (the stream is reset) or on the whole connection (it is closed)."""
    idle_timeout: float
    """Without a stream, until the connection is drained."""
    keepalive_time: float
    """Without a byte from the client, until we ask by PING."""
    keepalive_timeout: float
    """For its answer."""
    min_ping_interval: float
    """Between two pings of a client to which nothing is sent meanwhile; a shorter one is a strike."""
    max_ping_strikes: int
    """More end the connection with GOAWAY ENHANCE_YOUR_CALM `too_many_pings`."""
    max_unread_bytes: int
    """Of answers that wait for the client to read them, on one connection. Beyond, new calls are RESOURCE_EXHAUSTED,
    and `write_timeout` without progress closes the connection."""
    send_high_water: int
    """Bytes a call may have waiting before `Call.send` returns False."""
    compression_min_bytes: int
    """Smaller answers are never compressed."""

    def __init__(
        self,
        *,
        max_message_bytes: int = 67108864,
        max_buffered_bytes: int = 268435456,
        max_inflate_ratio: int = 100,
        max_concurrent_streams: int = 1024,
        max_header_bytes: int = 16384,
        max_continuations: int = 8,
        max_settings: int = 32,
        max_outbound_acks: int = 1000,
        connection_window: int = 8388608,
        stream_window: int = 1048576,
        max_resets_per_minute: float = 6000.0,
        max_control_frames_per_minute: float = 10000.0,
        header_timeout: float = 5.0,
        body_timeout: float = 30.0,
        min_body_rate: float = 16384.0,
        write_timeout: float = 60.0,
        idle_timeout: float = 600.0,
        keepalive_time: float = 7200.0,
        keepalive_timeout: float = 20.0,
        min_ping_interval: float = 5.0,
        max_ping_strikes: int = 2,
        max_unread_bytes: int = 268435456,
        send_high_water: int = 262144,
        compression_min_bytes: int = 1024,
    ) -> None: ...
