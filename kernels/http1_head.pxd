# Declarations of http1_head.hpp, and the reader for odd heads. See http1_head.pyi.
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libcpp cimport bool as cbool

from kernels.infer cimport string_view


cdef extern from "http1_head.hpp" namespace "sluice" nogil:
    cdef enum class Coding(uint8_t):
        IDENTITY
        GZIP
        DEFLATE

    cdef cppclass HeadLimits:
        size_t max_head
        size_t max_target
        size_t max_fields
        uint64_t max_body

    cdef cppclass Field:
        const char* name
        const char* value
        uint32_t name_size
        uint32_t value_size

    cdef cppclass Head:
        string_view method
        string_view target
        int major
        int minor
        size_t size
        size_t count
        Field fields[256]
        string_view path
        string_view query
        int64_t content_length
        cbool chunked
        cbool keep_alive
        cbool expects_continue
        Coding content_coding
        Coding answer_coding
        int64_t header_length
        double timeout
        int status
        const char* reason
        cbool add(string_view name, string_view value)

    cdef enum class Scan:
        DONE
        MORE
        ODD

    cdef enum HeadEndState "sluice::HeadEnd::State":
        END_MORE "sluice::HeadEnd::MORE"
        END_FOUND "sluice::HeadEnd::FOUND"
        END_REFUSED "sluice::HeadEnd::REFUSED"

    cdef cppclass HeadEnd:
        HeadEndState state
        size_t size
        int status
        const char* reason

    Scan scan_head(const uint8_t* data, size_t size, Head& head, const HeadLimits& limits)
    HeadEnd find_head_end(const uint8_t* data, size_t size, size_t& scanned, const HeadLimits& limits)
    const char* odd_head_fault(const uint8_t* data, size_t size)
    void interpret_head(Head& head, const HeadLimits& limits)
    string_view trimmed "sluice::head_detail::trim"(string_view text)


cdef class OddHead:
    cdef list kept              # the bytes objects that a Head's views point into
    cdef bytes url
    cdef bint is_complete
    # Fills `head` from a complete head by llhttp, or sets its status and reason. The views live as long as this object.
    cdef int read(self, const uint8_t* data, size_t size, Head& head) except -1
    cdef int refuse(self, Head& head, str reason) except -1
