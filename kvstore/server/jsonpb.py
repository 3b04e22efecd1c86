"""Messages as JSON by the rules of etcd's gateway, both ways.

Fields bear their proto names (requests may also use camelCase), 64-bit integers are strings, bytes are base64, enums
are names, fields with their default value are left out, and unknown fields of a request are ignored. Stricter than
protobuf's own converter, as etcd is: text that is not base64 is refused instead of being stored as something else.
"""

from __future__ import annotations

import base64
import binascii
from typing import Any, TypeVar

import msgspec
from google.protobuf.descriptor import EnumDescriptor, FieldDescriptor
from google.protobuf.message import Message

from kvstore.errors import InvalidArgument

MAX_DEPTH = 100
"""Protobuf's own limit on messages inside messages."""

M = TypeVar("M", bound=Message)

_WIDE = {FieldDescriptor.TYPE_INT64: (-(2**63), 2**63), FieldDescriptor.TYPE_UINT64: (0, 2**64)}
_INTEGERS = {
    **_WIDE,
    FieldDescriptor.TYPE_INT32: (-(2**31), 2**31),
    FieldDescriptor.TYPE_UINT32: (0, 2**32),
}


def encode(message: Message) -> bytes:
    """A message as one line of JSON."""
    return msgspec.json.encode(_to_json(message))


def decode(kind: type[M], data: bytes) -> M:
    """A message from JSON; nothing at all is an empty message. Raises InvalidArgument."""
    try:
        value = msgspec.json.decode(data) if data.strip() else {}
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidArgument(f"malformed JSON: {error}") from None
    message = kind()
    _fill(message, value, kind.DESCRIPTOR.name, 1)
    return message


def _to_json(message: Message) -> dict[str, Any]:
    written: dict[str, Any] = {}
    for field, value in message.ListFields():
        if _is_repeated(field):
            written[field.name] = [_plain(field, each) for each in value]
        else:
            written[field.name] = _plain(field, value)
    return written


def _plain(field: FieldDescriptor, value: Any) -> Any:
    if field.type == FieldDescriptor.TYPE_MESSAGE:
        return _to_json(value)
    if field.type in _WIDE:
        return str(value)
    if field.type == FieldDescriptor.TYPE_ENUM:
        known = _enum(field).values_by_number.get(value)
        return value if known is None else known.name
    return value  # msgspec writes bytes as base64


def _fill(message: Message, value: Any, path: str, depth: int) -> None:
    if not isinstance(value, dict):
        raise _wrong(path, "an object", value)
    if depth > MAX_DEPTH:
        raise InvalidArgument(f"more than {MAX_DEPTH} messages inside each other")
    fields = _fields(message)
    for name, each in value.items():
        field = fields.get(name)
        if field is None or each is None:
            continue
        here = f"{path}.{name}"
        if not _is_repeated(field):
            _set(message, field, each, here, depth)
        elif not isinstance(each, list):
            raise _wrong(here, "a list", each)
        elif field.type == FieldDescriptor.TYPE_MESSAGE:
            items = getattr(message, field.name)
            for item in each:
                _fill(items.add(), item, here, depth + 1)
        else:
            getattr(message, field.name).extend([_scalar(field, item, here) for item in each])


def _set(message: Message, field: FieldDescriptor, value: Any, path: str, depth: int) -> None:
    if field.type == FieldDescriptor.TYPE_MESSAGE:
        nested = getattr(message, field.name)
        nested.SetInParent()
        _fill(nested, value, path, depth + 1)
    else:
        setattr(message, field.name, _scalar(field, value, path))


def _scalar(field: FieldDescriptor, value: Any, path: str) -> Any:
    kind = field.type
    if kind in _INTEGERS:
        return _integer(value, path, *_INTEGERS[kind])
    if kind == FieldDescriptor.TYPE_BOOL:
        if not isinstance(value, bool):
            raise _wrong(path, "true or false", value)
        return value
    if kind == FieldDescriptor.TYPE_ENUM:
        if isinstance(value, str):
            names = _enum(field).values_by_name
            if value not in names:
                raise _wrong(path, f"one of {', '.join(names)}", value)
            return names[value].number
        return _integer(value, path, *_INTEGERS[FieldDescriptor.TYPE_INT32])
    if not isinstance(value, str):
        raise _wrong(path, "a string", value)
    if kind == FieldDescriptor.TYPE_STRING:
        return value
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        raise _wrong(path, "base64", value) from None


def _integer(value: Any, path: str, low: int, high: int) -> int:
    number = value
    if isinstance(value, str) and len(value) <= 20 and value.isascii():
        digits = value.removeprefix("-")
        number = int(value) if digits.isdigit() else value
    if not isinstance(number, int) or isinstance(number, bool) or not low <= number < high:
        raise _wrong(path, "an integer", value)
    return number


_FIELDS: dict[str, dict[str, FieldDescriptor]] = {}


def _fields(message: Message) -> dict[str, FieldDescriptor]:
    descriptor = message.DESCRIPTOR
    known = _FIELDS.get(descriptor.full_name)
    if known is None:
        fields: list[Any] = list(descriptor.fields)
        known = {field.camelcase_name: field for field in fields} | {field.name: field for field in fields}
        _FIELDS[descriptor.full_name] = known
    return known


def _enum(field: FieldDescriptor) -> EnumDescriptor:
    assert field.enum_type is not None
    return field.enum_type


def _is_repeated(field: FieldDescriptor) -> bool:
    # Newer protobuf has `is_repeated` and means to remove `label`.
    repeated: bool | None = getattr(field, "is_repeated", None)
    return getattr(field, "label", 0) == FieldDescriptor.LABEL_REPEATED if repeated is None else repeated


def _wrong(path: str, expected: str, value: Any) -> InvalidArgument:
    shown = msgspec.json.encode(value).decode()
    shown = shown if len(shown) <= 40 else shown[:40] + "..."
    return InvalidArgument(f"{path}: expected {expected}, got {shown}")
