"""Protocol messages as JSON in the form that Triton's clients read: field names as in the `.proto` file, every plain
field printed even when it has its default, 64-bit numbers as numbers (standard proto3 JSON makes them strings), enums
by name, absent sub-messages left out."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, MutableSequence
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

Json = Any


def to_json(message: Message) -> bytes:
    return dump(to_value(message))


def dump(value: Json) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def to_value(message: Message) -> dict[str, Json]:
    """The message as plain dicts, lists and scalars."""
    return {
        field.name: _field_value(field, getattr(message, field.name))
        for field in message.DESCRIPTOR.fields
        if not field.has_presence or message.HasField(field.name)
    }


def _field_value(field: FieldDescriptor, value: Any) -> Json:
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        print_value = _printer(field.message_type.fields_by_name["value"])
        return {str(key): print_value(value[key]) for key in sorted(value)}
    print_element = _printer(field)
    is_repeated = isinstance(value, MutableSequence)  # the descriptor says so from protobuf 6.31 on
    return [print_element(element) for element in value] if is_repeated else print_element(value)


def _printer(field: FieldDescriptor) -> Callable[[Any], Json]:
    if field.message_type is not None:
        return to_value
    if (enum := field.enum_type) is not None:
        return lambda number: enum.values_by_number[number].name if number in enum.values_by_number else number
    if field.type == FieldDescriptor.TYPE_BYTES:
        return lambda raw: base64.b64encode(raw).decode()
    return lambda scalar: scalar
