"""The control protocol between the gateway, the zygote and the workers: JSON messages with a length in front, over Unix
stream sockets, file descriptors beside them. It knows the form of a message, not one meaning."""

from __future__ import annotations

import array
import json
import os
import socket
import struct
from collections.abc import Sequence
from typing import Any

Message = dict[str, Any]

MAX_MESSAGE_BYTES = 1024 * 1024
MAX_FDS = 8
_LENGTH = struct.Struct("<I")
_READ_BYTES = 64 * 1024


class ControlError(Exception):
    """The other side does not speak the protocol, or does not read."""


def encode(message: Message) -> bytes:
    body = json.dumps(message, separators=(",", ":")).encode()
    if len(body) > MAX_MESSAGE_BYTES:
        raise ControlError(f"a control message of {len(body)} bytes is larger than {MAX_MESSAGE_BYTES}")
    return _LENGTH.pack(len(body)) + body


class Decoder:
    """Bytes in, messages out. The peer is not trusted: anything but a JSON object of a sane length is a
    `ControlError`."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Message]:
        self._buffer += data
        messages = []
        while len(self._buffer) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer)
            if length > MAX_MESSAGE_BYTES:
                raise ControlError(f"a control message of {length} bytes is larger than {MAX_MESSAGE_BYTES}")
            end = _LENGTH.size + length
            if len(self._buffer) < end:
                break
            messages.append(_parse(bytes(self._buffer[_LENGTH.size : end])))
            del self._buffer[:end]
        return messages


def _parse(body: bytes) -> Message:
    try:
        message = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ControlError("a control message is not JSON") from error
    if not isinstance(message, dict):
        raise ControlError("a control message is not an object")
    return message


class Channel:
    """One end of a control socket. Owns the socket and every descriptor received and not yet taken."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self._decoder = Decoder()
        self._fds: list[int] = []

    def fileno(self) -> int:
        return self.socket.fileno()

    def send(self, message: Message, fds: Sequence[int] = ()) -> None:
        """Send all of it. On a non-blocking socket a peer that does not read is a `ControlError`: messages are far
        smaller than the kernel's buffer. A peer that is gone is an `OSError`."""
        data = memoryview(encode(message))
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        try:
            sent = self.socket.sendmsg([data], ancillary, socket.MSG_NOSIGNAL)
            while sent < len(data):
                sent += self.socket.send(data[sent:], socket.MSG_NOSIGNAL)
        except BlockingIOError as error:
            raise ControlError("the other side of a control socket does not read") from error

    def receive(self) -> list[Message] | None:
        """The messages that have arrived: an empty list when none is complete, None when the peer has closed."""
        ancillary_bytes = socket.CMSG_SPACE(MAX_FDS * array.array("i").itemsize)
        try:
            data, ancillary, _, _ = self.socket.recvmsg(_READ_BYTES, ancillary_bytes, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return []
        except ConnectionError:
            return None
        for level, kind, payload in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                received = array.array("i")
                received.frombytes(payload[: len(payload) - len(payload) % received.itemsize])
                self._fds.extend(received)
        return self._decoder.feed(data) if data else None

    def take_fds(self, count: int) -> list[int]:
        """The oldest `count` descriptors received; whoever takes them closes them."""
        if len(self._fds) < count:
            raise ControlError(f"{count} file descriptors were announced, {len(self._fds)} came")
        taken, self._fds = self._fds[:count], self._fds[count:]
        return taken

    def close(self) -> None:
        self.socket.close()
        while self._fds:
            os.close(self._fds.pop())
