# Answers of one connection as bytes. See http1_writer.pyx: it has nothing for Python.
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t
from libcpp.string cimport string

from kernels.exchange cimport Exchange
from kernels.http1_answer cimport Answer
from kernels.http1_head cimport Coding
from kernels.http1_request cimport Http1Limits, HttpRequest
from kernels.infer cimport Buffer
from kernels.outbox cimport Outbox


cdef class Http1Writer(Outbox):
    # All of them add to the output: `answer` says what the connection wants said, `coding` what the client likes best.
    # Large bodies are written at once, with what is before them. What cannot be written ends the connection.
    cdef Http1Limits limits
    # The exchange stays the caller's; its answer buffer may be taken.
    cdef void write_exchange(self, Exchange exchange, Answer& answer, Coding coding) noexcept
    cdef void write_request(self, HttpRequest request, Answer& answer, Coding coding) noexcept
    cdef void write_error(self, Answer& answer, int status, const string& message) noexcept
    cdef void write_continue(self) noexcept
    cdef void write_body(self, Answer& answer, Coding coding, const uint8_t* data, size_t size, Buffer* source,
                         bytes whole) noexcept
