# Declarations of http1_body.hpp: framing and content coding.
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint64_t
from libcpp cimport bool as cbool

from kernels.http1_head cimport Coding
from kernels.infer cimport Buffer


cdef extern from "http1_body.hpp" namespace "sluice" nogil:
    cdef cppclass BodyLimits:
        uint64_t max_body
        uint64_t max_ratio
        uint64_t max_chunks
        size_t max_trailer

    cdef cppclass BodyReader:
        void start(Buffer* out, int64_t length, Coding coding, const BodyLimits* limits)
        void stop()
        cbool is_done()
        int status()
        const char* reason()
        uint64_t received()
        size_t feed(const uint8_t* data, size_t size)
        uint8_t* place(size_t& size)
        void placed(size_t size)

    cbool compress_answer(const uint8_t* data, size_t size, Coding coding, Buffer& out)
