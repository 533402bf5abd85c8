# One buffer for all connections of one event loop.
from cpython.buffer cimport PyBuffer_FillInfo
from libc.stdlib cimport calloc, free

from kernels.infer cimport kPadding

cdef enum:
    DEFAULT_SIZE = 256 * 1024
    SMALL = 64 * 1024


cdef class _Memory:
    # Owns the bytes. The views hold it, so none of them can outlive its memory.
    cdef uint8_t* data
    cdef size_t size

    def __cinit__(self, size_t size):
        self.data = <uint8_t*>calloc(1, size + kPadding)
        if self.data == NULL:
            raise MemoryError()
        self.size = size

    def __dealloc__(self):
        free(self.data)

    def __getbuffer__(self, Py_buffer* buffer, int flags):
        PyBuffer_FillInfo(buffer, self, self.data, <Py_ssize_t>self.size, 0, flags)


cdef class ReceiveBuffer:
    def __cinit__(self, size_t size=DEFAULT_SIZE):
        if size == 0:
            raise ValueError("size must be positive")
        cdef _Memory memory = _Memory(size)
        self.data = memory.data
        self.size = size
        self.view = memoryview(memory)
        self.small_view = self.view[:SMALL]
