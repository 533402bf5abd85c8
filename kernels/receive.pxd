# The memory that all connections of one loop read into. See receive.pyi.
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t

cdef class ReceiveBuffer:
    cdef uint8_t* data           # `size` bytes, and kPadding readable ones behind them
    cdef readonly size_t size
    cdef readonly object view    # a writable memoryview of all of it
    cdef readonly object small_view  # its first 64 KiB: what a protocol hands out that copies what it reads
