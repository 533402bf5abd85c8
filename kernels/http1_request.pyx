# What the Python side of HTTP/1 sees: limits in, requests out.
from libc.stdint cimport uint8_t

from kernels.infer cimport string_view

cdef extern from "http1_head.hpp" namespace "sluice::head_detail" nogil:
    const uint8_t TOKEN, VALUE
    cbool all_of "sluice::head_detail::all"(string_view text, uint8_t kind)

STATUSES = (200, 499, 500, 400, 504, 404, 400, 403, 429, 400, 409, 400, 501, 500, 503, 500, 401)
CONNECTION_FIELDS = frozenset((b"content-length", b"content-type", b"connection", b"transfer-encoding"))


cdef class Http1Limits:
    def __init__(self, *, size_t max_header_bytes=16384, size_t max_headers=100, size_t max_target_bytes=8192,
                 uint64_t max_body_bytes=64 << 20, uint64_t max_inflate_ratio=100, uint64_t max_chunks=65536,
                 double header_timeout=5.0, double body_timeout=30.0, double idle_timeout=75.0,
                 double linger_timeout=2.0, double drain_grace=1.0, size_t max_pipelined=64,
                 size_t max_unread_bytes=64 << 20, size_t compression_min_bytes=1024,
                 size_t compression_max_bytes=8 << 20, statuses=STATUSES):
        for name, value in (("max_inflate_ratio", max_inflate_ratio), ("max_pipelined", max_pipelined),
                            ("max_unread_bytes", max_unread_bytes),
                            ("max_header_bytes", max_header_bytes), ("max_target_bytes", max_target_bytes)):
            if value == 0:
                raise ValueError(f"{name} must be positive")
        if max_headers > 256:
            raise ValueError("max_headers must be at most 256")
        if len(statuses) != 17:
            raise ValueError("statuses must have 17 entries, one for each gRPC code")
        self.head.max_head = max_header_bytes
        self.head.max_target = max_target_bytes
        self.head.max_fields = max_headers
        self.head.max_body = max_body_bytes
        self.body.max_body = max_body_bytes
        self.body.max_ratio = max_inflate_ratio
        self.body.max_chunks = max_chunks
        self.body.max_trailer = max_header_bytes
        for code, status in enumerate(statuses):
            self.status_of[code] = status
        self.header_timeout = header_timeout
        self.body_timeout = body_timeout
        self.idle_timeout = idle_timeout
        self.linger_timeout = linger_timeout
        self.drain_grace = drain_grace
        self.max_pipelined = max_pipelined
        self.max_unread_bytes = max_unread_bytes
        self.compression_min_bytes = compression_min_bytes
        self.compression_max_bytes = compression_max_bytes


cdef class RequestOwner(ReplySink):
    cdef void answered(self, int64_t sequence) noexcept:
        pass


cdef class HttpRequest:
    def __init__(self):
        raise TypeError("requests come from a connection")

    def header(self, bytes name):
        cdef bytes key, value
        for key, value in self.headers:
            if key == name:
                return value
        return None

    def respond(self, int status, bytes body=b"", str content_type="application/json", headers=()):
        if not 200 <= status <= 599:
            raise ValueError(f"status must be a final one, not {status}")
        cdef bytes kind = content_type.encode("ascii"), lines = b"", name, value
        cdef bint is_encoded = False
        check_value(kind)
        for name, value in headers:
            if not name or not all_of(view_of(name), TOKEN):
                raise ValueError(f"not a header field name: {name!r}")
            check_value(value)
            key = name.lower()
            if key in CONNECTION_FIELDS:
                raise ValueError(f"the connection decides about {name!r}")
            is_encoded |= key == b"content-encoding"
            lines += name + b": " + value + b"\r\n"
        cdef RequestOwner owner = self.owner
        if owner is None:
            return
        self.owner = None
        self.status = status
        self.answer = body
        self.content_type = kind if body else b""
        self.extra = lines
        self.is_encoded = is_encoded
        owner.answered(self.sequence)

    cdef void cancel(self) noexcept:
        self.is_cancelled = self.owner is not None
        self.owner = None


cdef int check_value(bytes value) except -1:
    if not all_of(view_of(value), VALUE):
        raise ValueError(f"not a header field value: {value!r}")
    return 0


cdef inline string_view view_of(bytes text) noexcept:
    return string_view(<const char*>text, len(text))
