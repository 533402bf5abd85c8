# Settings of an HTTP/2 connection, checked. See http2_limits.pyi.
from libc.stddef cimport size_t
from libc.stdint cimport int32_t, uint32_t


cdef class Http2Limits:
    def __init__(self, *, size_t max_message_bytes=64 << 20, size_t max_buffered_bytes=256 << 20,
                 size_t max_inflate_ratio=100, uint32_t max_concurrent_streams=1024, uint32_t max_header_bytes=16384,
                 uint32_t max_continuations=8, uint32_t max_settings=32, uint32_t max_outbound_acks=1000,
                 int32_t connection_window=8 << 20, int32_t stream_window=1 << 20,
                 double max_resets_per_minute=6000.0, double max_control_frames_per_minute=10000.0,
                 double header_timeout=5.0, double body_timeout=30.0, double min_body_rate=16384.0,
                 double write_timeout=60.0, double idle_timeout=600.0, double keepalive_time=7200.0,
                 double keepalive_timeout=20.0, double min_ping_interval=5.0, int max_ping_strikes=2,
                 size_t max_unread_bytes=256 << 20,
                 size_t send_high_water=256 * 1024, size_t compression_min_bytes=1024):
        if connection_window < 65535:
            raise ValueError("connection_window must be at least 65535")
        if stream_window < 16384:
            raise ValueError("stream_window must be at least 16384")
        if min_body_rate <= 0.0:
            raise ValueError("min_body_rate must be positive")
        if max_message_bytes > <size_t>0xffffffff:
            raise ValueError("max_message_bytes must be below 4 GiB")
        self.settings = Http2Settings(
            max_message_bytes, max_buffered_bytes, max_inflate_ratio, max_concurrent_streams, max_header_bytes,
            max_continuations, max_settings, max_outbound_acks, connection_window, stream_window,
            max_resets_per_minute, max_control_frames_per_minute, header_timeout, body_timeout, min_body_rate,
            write_timeout, idle_timeout, keepalive_time, keepalive_timeout, min_ping_interval, max_ping_strikes,
            max_unread_bytes, send_high_water, compression_min_bytes)

    def __getattr__(self, str name):
        cdef dict values = self.settings
        try:
            return values[name]
        except KeyError:
            raise AttributeError(name) from None
