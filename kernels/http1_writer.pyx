# Answers into a connection's outbox: heads, errors, compression, and the way of large bodies. Knows no request order.
from libc.math cimport ceil

from kernels.exchange cimport OK
from kernels.http1_answer cimport append_answer, append_answer_head, append_continue, append_error_answer, has_body
from kernels.http1_body cimport compress_answer
from kernels.infer cimport string_view

cdef enum:
    LARGE = 64 * 1024  # bodies from here on go to the kernel from where they lie


cdef inline string_view view_of(bytes text) noexcept:
    return string_view(<const char*>text, len(text))


cdef inline string_view text_view(const string& text) noexcept:
    return string_view(text.data(), text.size())


cdef class Http1Writer(Outbox):
    cdef void write_exchange(self, Exchange exchange, Answer& answer, Coding coding) noexcept:
        answer.version = text_view(exchange.served_version)
        if exchange.retry_after > 0:
            answer.retry_after = <int64_t>max(1.0, ceil(min(exchange.retry_after, 1e9)))
        if exchange.code != OK:
            self.write_error(answer, self.limits.status_of[exchange.code if 0 < exchange.code < 17 else 2],
                             exchange.message)
            return
        answer.header_length = exchange.answer_header_length
        if exchange.answer_header_length >= 0:
            answer.content_type = string_view(b"application/octet-stream", 24)
        else:
            answer.content_type = string_view(b"application/json", 16)
        self.write_body(answer, coding, exchange.answer.data(), exchange.answer.size(), &exchange.answer, None)

    cdef void write_request(self, HttpRequest request, Answer& answer, Coding coding) noexcept:
        answer.status = request.status
        answer.extra = view_of(request.extra)
        if request.answer:
            answer.content_type = view_of(request.content_type)
        if request.is_encoded:
            coding = Coding.IDENTITY
        self.write_body(answer, coding, <const uint8_t*><const char*>request.answer, len(request.answer), NULL,
                        request.answer)

    cdef void write_body(self, Answer& answer, Coding coding, const uint8_t* data, size_t size, Buffer* source,
                         bytes whole) noexcept:
        # The body lies in `source`, whose memory may be taken, or in `whole`.
        cdef Buffer packed
        if (coding != Coding.IDENTITY and self.limits.compression_min_bytes <= size <= self.limits.compression_max_bytes
                and has_body(answer.status)):
            answer.varies = True
            if compress_answer(data, size, coding, packed):
                answer.coding = coding
                data, size, source, whole = packed.data(), packed.size(), &packed, None
        if size < LARGE or answer.head_only or not has_body(answer.status):
            if not append_answer(self.output, answer, data, size):
                self.abort()
            return
        if not append_answer_head(self.output, answer, size):
            self.abort()
            return
        self.write_large(data, size, source, whole)

    cdef void write_error(self, Answer& answer, int status, const string& message) noexcept:
        answer.status = status
        if not append_error_answer(self.output, answer, text_view(message)):
            self.abort()

    cdef void write_continue(self) noexcept:
        if not append_continue(self.output):
            self.abort()
