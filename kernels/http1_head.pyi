"""Heads of HTTP/1 requests: a strict scanner for ordinary ones, llhttp for the rest, one interpretation for both."""

from typing import Literal

class OddHead:
    """What httptools reports one head to."""

    def on_url(self, url: bytes) -> None: ...
    def on_header(self, name: bytes, value: bytes) -> None: ...
    def on_headers_complete(self) -> None: ...

def read_head(
    data: bytes, reader: Literal["scan", "llhttp"], max_fields: int = 100
) -> Literal["more", "odd"] | tuple[int, str] | tuple[object, ...]:
    """Read one head by the reader named, for tests that hold the two against each other.

    Return (status, reason) when it is refused, else what it says: method, target, path, query, minor version, fields,
    content length, chunked, keep alive, expects 100-continue, content coding, answer coding, JSON length, timeout and
    the size of the head. The scanner also says "more" (it does not end here) and "odd" (llhttp must decide).
    """
