# Reads the heads that scan_head finds odd, by llhttp.
import httptools

from libc.string cimport strlen


cdef class OddHead:
    def __cinit__(self):
        self.kept = []

    cdef int read(self, const uint8_t* data, size_t size, Head& head) except -1:
        cdef const char* fault = odd_head_fault(data, size)
        head.count = 0
        head.size = size
        if fault != NULL:
            head.status = 400
            head.reason = fault
            return 0
        parser = httptools.HttpRequestParser(self)
        try:
            parser.feed_data((<const char*>data)[:size])
        except httptools.HttpParserUpgrade:
            pass  # whatever it asks for is not what it gets: the head is complete, and read like any other
        except httptools.HttpParserError as error:
            return self.refuse(head, f"malformed request: {error}")
        if not self.is_complete or self.url is None:
            return self.refuse(head, "malformed request")
        method = <bytes>parser.get_method()
        major, _, minor = parser.get_http_version().partition(".")
        fields = self.kept
        self.kept = [fields, method, self.url]
        head.method = string_view(<const char*>method, len(method))
        head.target = string_view(<const char*>self.url, len(self.url))
        head.major = int(major)
        head.minor = int(minor)
        cdef bytes name, value
        for name, value in fields:
            if not head.add(string_view(<const char*>name, len(name)),
                            trimmed(string_view(<const char*>value, len(value)))):
                head.status = 431
                head.reason = "too many header fields"
                return 0
        return 0

    cdef int refuse(self, Head& head, str reason) except -1:
        cdef bytes text = reason.encode("utf-8", "replace")
        self.kept.append(text)
        head.status = 400
        head.reason = text
        return 0

    # What httptools calls.

    def on_url(self, bytes url):
        self.url = url if self.url is None else self.url + url

    def on_header(self, bytes name, bytes value):
        self.kept.append((name, value))

    def on_headers_complete(self):
        self.is_complete = True


cdef bytes to_bytes(string_view view):
    return view.data()[:view.size()] if view.size() else b""


def read_head(bytes data, str reader, size_t max_fields=100):
    cdef Head head
    cdef HeadLimits limits
    cdef OddHead odd = OddHead()
    cdef Scan scan
    cdef size_t i
    limits.max_fields = max_fields
    if reader == "scan":
        scan = scan_head(data, len(data), head, limits)
        if scan != Scan.DONE:
            return "more" if scan == Scan.MORE else "odd"
    elif reader == "llhttp":
        odd.read(data, len(data), head)
    else:
        raise ValueError("reader must be scan or llhttp")
    if head.status == 0:
        interpret_head(head, limits)
    if head.status:
        return head.status, head.reason[:strlen(head.reason)].decode()
    fields = [(head.fields[i].name[:head.fields[i].name_size], head.fields[i].value[:head.fields[i].value_size])
              for i in range(head.count)]
    return (to_bytes(head.method), to_bytes(head.target), to_bytes(head.path), to_bytes(head.query), head.minor, fields,
            head.content_length, head.chunked, head.keep_alive, head.expects_continue, <int>head.content_coding,
            <int>head.answer_coding, head.header_length, head.timeout, head.size)
