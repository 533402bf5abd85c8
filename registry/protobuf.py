"""The wire form of protobuf messages, read without a schema and without copying. What cannot be a message says so;
there are no other limits here: whoever reads counts."""

from __future__ import annotations

from collections.abc import Iterator

MAX_TEXT = 64 << 10


class Malformed(ValueError):
    """These bytes are no message."""


class Message:
    """A small message whose fields are all wanted; of a field that occurs twice, the last counts.

    Raises:
        Malformed: these bytes are no message, or one with far too much in it.
    """

    def __init__(self, data: memoryview) -> None:
        if len(data) > MAX_TEXT:
            raise Malformed("a small message is not small")
        self._fields = dict(parts(data))

    def text(self, number: int) -> str:
        """A field of text; empty when it is not there."""
        value = self._fields.get(number, b"")
        if isinstance(value, int):
            raise Malformed("a field is of the wrong kind")
        return str(value, "utf-8")

    def number(self, number: int) -> int:
        """A field with a number; 0 when it is not there."""
        value = self._fields.get(number, 0)
        if not isinstance(value, int):
            raise Malformed("a field is of the wrong kind")
        return value


def parts(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """(field number, value) of each field in order: a number, or the bytes of anything with a length. Fields of fixed
    width, which no reader here wants, are passed over.

    Raises:
        Malformed: these bytes are no message.
    """
    at, end = 0, len(data)
    while at < end:
        tag, at = _varint(data, at, end)
        kind = tag & 7
        if not tag >> 3:
            raise Malformed("not a protobuf message")
        if kind == 2:
            length, at = _varint(data, at, end)
            if length > end - at:
                raise Malformed("cut short")
            yield tag >> 3, data[at : at + length]
            at += length
        elif kind == 0:
            value, at = _varint(data, at, end)
            yield tag >> 3, value
        elif kind in (1, 5):
            at += 8 if kind == 1 else 4
            if at > end:
                raise Malformed("cut short")
        else:
            raise Malformed("not a protobuf message")


def _varint(data: memoryview, at: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while at < end and shift < 70:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise Malformed("cut short" if shift < 70 else "not a protobuf message")
