# The writing side of one connection. See outbox.pyx: it has nothing for Python.
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t

from kernels.infer cimport Buffer


cdef class Outbox:
    # What is to be written: the connection appends, `write` and `write_large` empty it.
    cdef Buffer output
    # Between pause_writing and resume_writing; set by the connection.
    cdef bint is_blocked
    cdef bint is_open            # else whatever is written is dropped
    cdef readonly bint is_tls
    cdef object transport
    # The transport's socket while the outbox is open; -1: write through the transport (TLS, or no socket).
    cdef int fd
    # The transport may still hold bytes of ours that the kernel did not take.
    cdef bint is_queued
    cdef size_t queued_bytes     # when `is_stuck` last saw them move
    cdef double moved_at

    cdef int open(self, object transport) except -1
    # Writes the output: to the kernel while it takes it, the rest to the transport.
    cdef void write(self) noexcept
    # The same for the output and a large body behind it, which is not copied: it lies in `source`, whose memory is
    # taken when the kernel leaves something over, or in `whole` when that is not None.
    cdef void write_large(self, const uint8_t* data, size_t size, Buffer* source, bytes whole) noexcept
    # True when the peer has taken nothing for more than `limit` seconds while something waits for it.
    cdef bint is_stuck(self, double now, double limit) noexcept
    cdef bint has_queue(self) noexcept
    # True when the peer has reset the connection; not noticed otherwise once reading has ended.
    cdef bint is_peer_gone(self) noexcept
    # Ends the connection at once. The transport calls connection_lost later.
    cdef void abort(self) noexcept
    # connection_lost: the socket's number may be somebody else's from now on.
    cdef void lose(self) noexcept

    cdef ssize_t send(self, const uint8_t* more, size_t size) noexcept
    cdef void hand_over(self, object data) noexcept
