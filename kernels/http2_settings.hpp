// The numbers that bound an HTTP/2 client.
#pragma once

#include <cstddef>
#include <cstdint>

namespace sluice {

// Times in seconds, sizes in bytes. See Http2Limits in http2_limits.pyi.
struct Http2Settings {
    size_t max_message_bytes = 0;
    size_t max_buffered_bytes = 0;
    size_t max_inflate_ratio = 0;
    uint32_t max_concurrent_streams = 0;
    uint32_t max_header_bytes = 0;
    uint32_t max_continuations = 0;
    uint32_t max_settings = 0;
    uint32_t max_outbound_acks = 0;
    int32_t connection_window = 0;
    int32_t stream_window = 0;
    double max_resets_per_minute = 0;
    double max_control_frames_per_minute = 0;
    double header_timeout = 0;
    double body_timeout = 0;
    double min_body_rate = 0;
    double write_timeout = 0;
    double idle_timeout = 0;
    double keepalive_time = 0;
    double keepalive_timeout = 0;
    double min_ping_interval = 0;
    int max_ping_strikes = 0;
    size_t max_unread_bytes = 0;
    size_t send_high_water = 0;
    size_t compression_min_bytes = 0;
};

}  // namespace sluice
