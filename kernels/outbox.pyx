# The writing side of one connection: one buffer, one system call per wake-up, the transport only for what is left over.
#
# A plain socket is written to directly, which spares a bytes object and several calls per answer. That is in order as
# long as the transport holds nothing of ours, and safe as long as the connection has not been lost: until then the
# transport keeps the socket open.
from cpython.buffer cimport PyBuffer_FillInfo
from libc.errno cimport EAGAIN, EINTR, errno
from libc.string cimport memset

cdef extern from "<sys/uio.h>" nogil:
    struct iovec "iovec":
        void* iov_base
        size_t iov_len

cdef extern from "<sys/socket.h>" nogil:
    struct msghdr "msghdr":
        iovec* msg_iov
        size_t msg_iovlen
    ssize_t c_send "send"(int fd, const void* data, size_t size, int flags)
    ssize_t sendmsg(int fd, const msghdr* message, int flags)
    int setsockopt(int fd, int level, int name, const void* value, unsigned int size)
    int MSG_NOSIGNAL, MSG_DONTWAIT

cdef extern from "<netinet/in.h>" nogil:
    int IPPROTO_TCP

cdef extern from "<netinet/tcp.h>" nogil:
    int TCP_NODELAY

cdef extern from "<poll.h>" nogil:
    struct pollfd "pollfd":
        int fd
        short events
        short revents
    int poll(pollfd* fds, unsigned long count, int timeout)
    int POLLERR, POLLHUP


cdef class Segment:
    # The memory of a large body, for the transport to write from.
    cdef Buffer content

    def __getbuffer__(self, Py_buffer* buffer, int flags):
        PyBuffer_FillInfo(buffer, self, self.content.data(), <Py_ssize_t>self.content.size(), 1, flags)


cdef class Outbox:
    def __cinit__(self):
        self.fd = -1

    cdef int open(self, object transport) except -1:
        cdef int on = 1
        self.transport = transport
        self.is_tls = transport.get_extra_info("sslcontext") is not None
        socket = transport.get_extra_info("socket")
        if socket is not None:
            self.fd = socket.fileno()
            setsockopt(self.fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on))  # fails on a Unix socket, which has no delay
            if self.is_tls:
                self.fd = -1
        self.is_open = True
        return 0

    cdef void write(self) noexcept:
        if self.output.size():
            self.send(NULL, 0)

    cdef void write_large(self, const uint8_t* data, size_t size, Buffer* source, bytes whole) noexcept:
        cdef Segment segment
        cdef ssize_t sent = self.send(data, size)
        if sent < 0 or <size_t>sent == size:
            return
        try:
            if whole is not None:
                self.hand_over(memoryview(whole)[sent:])
            else:
                segment = Segment.__new__(Segment)
                segment.content.swap(source[0])
                self.hand_over(memoryview(segment)[sent:])
        except MemoryError:
            self.abort()

    cdef ssize_t send(self, const uint8_t* more, size_t size) noexcept:
        # Empties the output. Returns how much of `more` has gone as well; -1 when nothing can be written any more.
        cdef ssize_t sent = 0
        cdef msghdr message
        cdef iovec[2] parts
        if not self.is_open:
            self.output.clear()
            return -1
        if self.fd >= 0 and not self.has_queue():
            if size == 0:
                sent = c_send(self.fd, self.output.data(), self.output.size(), MSG_NOSIGNAL | MSG_DONTWAIT)
            else:
                memset(&message, 0, sizeof(message))
                parts[0].iov_base = self.output.data()
                parts[0].iov_len = self.output.size()
                parts[1].iov_base = <void*>more
                parts[1].iov_len = size
                message.msg_iov = parts
                message.msg_iovlen = 2
                sent = sendmsg(self.fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT)
            if sent < 0:
                if errno != EAGAIN and errno != EINTR:
                    self.abort()
                    return -1
                sent = 0
            if <size_t>sent >= self.output.size():
                sent -= <ssize_t>self.output.size()
                self.output.clear()
                return sent
        if self.output.size():
            try:
                rest = (<const char*>self.output.data())[sent:self.output.size()]
            except MemoryError:
                self.abort()
                return -1
            self.output.clear()
            self.hand_over(rest)
        return 0 if self.is_open else -1

    cdef bint has_queue(self) noexcept:
        if self.is_queued and self.is_open:
            try:
                self.is_queued = self.transport.get_write_buffer_size() != 0
            except Exception:
                self.abort()
        return self.is_queued

    cdef void hand_over(self, object data) noexcept:
        self.is_queued = True
        try:
            self.transport.write(data)
        except Exception:
            self.abort()

    cdef bint is_stuck(self, double now, double limit) noexcept:
        cdef size_t waiting
        if not self.is_queued or not self.is_open:
            return False
        try:
            waiting = self.transport.get_write_buffer_size()
        except Exception:
            return True
        self.is_queued = waiting != 0
        if waiting == 0 or waiting != self.queued_bytes:
            self.queued_bytes = waiting
            self.moved_at = now
        return now - self.moved_at > limit

    cdef bint is_peer_gone(self) noexcept:
        cdef pollfd entry
        if self.fd < 0:
            return False
        entry.fd = self.fd
        entry.events = entry.revents = 0
        return poll(&entry, 1, 0) > 0 and (entry.revents & (POLLERR | POLLHUP)) != 0

    cdef void abort(self) noexcept:
        transport = self.transport
        self.lose()
        try:
            transport.abort()
        except Exception:
            pass  # it has ended already

    cdef void lose(self) noexcept:
        self.is_open = False
        self.fd = -1
        self.transport = None
        self.output.clear()
