# What bounds an HTTP/2 client. See http2_limits.pyi.
from libc.stddef cimport size_t
from libc.stdint cimport int32_t, uint32_t


cdef extern from "http2_settings.hpp" namespace "sluice":
    cdef struct Http2Settings:
        size_t max_message_bytes
        size_t max_buffered_bytes
        size_t max_inflate_ratio
        uint32_t max_concurrent_streams
        uint32_t max_header_bytes
        uint32_t max_continuations
        uint32_t max_settings
        uint32_t max_outbound_acks
        int32_t connection_window
        int32_t stream_window
        double max_resets_per_minute
        double max_control_frames_per_minute
        double header_timeout
        double body_timeout
        double min_body_rate
        double write_timeout
        double idle_timeout
        double keepalive_time
        double keepalive_timeout
        double min_ping_interval
        int max_ping_strikes
        size_t max_unread_bytes
        size_t send_high_water
        size_t compression_min_bytes


cdef class Http2Limits:
    cdef Http2Settings settings
