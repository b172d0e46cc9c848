"""Refuses bytes that are not a well-formed message before objects are made of them.

betterproto2 checks neither lengths nor wire types, so a peer could put a number where text belongs;
and it spends about 5 µs and 1 KiB on every field, so a peer could fill 4 MiB with empty ones.
"""

import betterproto2
from betterproto2 import Message

from kmm_common.wire.errors import MessageError

FIELDS = 40_000
"""Bound of the fields in one message, those of its parts included."""
UNKNOWN_FIELDS = 64
"""Bound of the fields in one message part that this version does not know."""

_VARINT, _FIXED_64, _DELIMITED, _FIXED_32 = 0, 1, 2, 5
_VARINT_BYTES = 10


def check(data: bytes, kind: type[Message]) -> None:
    """Raise MessageError unless the bytes are a message of the kind, within bounds."""
    _Scan(data).message(kind, 0, len(data))


class _Scan:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._fields = 0

    def message(self, kind: type[Message], at: int, end: int) -> None:
        meta = kind._betterproto  # type: ignore[arg-type]
        unknown = 0
        while at < end:
            self._count(kind)
            key, at = self._varint(at, end)
            start, at = self._value(key & 7, at, end)
            name = meta.field_name_by_number.get(key >> 3)
            if name is None:
                unknown += 1
                if unknown > UNKNOWN_FIELDS:
                    raise MessageError(f"{kind.__name__}: too many unknown fields")
                continue
            proto_type = meta.meta_by_field_name[name].proto_type
            if key & 7 != _wire_type(proto_type):
                raise MessageError(f"{kind.__name__}.{name} is not of type {proto_type}")
            if proto_type == betterproto2.TYPE_MESSAGE:
                self.message(meta.cls_by_field[name], start, at)

    def _count(self, kind: type[Message]) -> None:
        self._fields += 1
        if self._fields > FIELDS:
            raise MessageError(f"{kind.__name__}: more than {FIELDS} fields")

    def _varint(self, at: int, end: int) -> tuple[int, int]:
        result = 0
        for position in range(at, min(end, at + _VARINT_BYTES)):
            byte = self._data[position]
            result |= (byte & 0x7F) << 7 * (position - at)
            if byte < 0x80:
                return result, position + 1
        raise MessageError("message is cut off inside a number")

    def _value(self, wire_type: int, at: int, end: int) -> tuple[int, int]:
        """Return where a field's value starts and where the next field starts."""
        if wire_type == _VARINT:
            return at, self._varint(at, end)[1]
        if wire_type == _DELIMITED:
            size, at = self._varint(at, end)
        elif wire_type in (_FIXED_32, _FIXED_64):
            size = 4 if wire_type == _FIXED_32 else 8
        else:
            raise MessageError(f"message has a field of wire type {wire_type}")
        if size > end - at:
            raise MessageError("message is cut off inside a field")
        return at, at + size


def _wire_type(proto_type: str) -> int:
    if proto_type in betterproto2.WIRE_VARINT_TYPES:
        return _VARINT
    if proto_type in betterproto2.WIRE_FIXED_32_TYPES:
        return _FIXED_32
    if proto_type in betterproto2.WIRE_FIXED_64_TYPES:
        return _FIXED_64
    return _DELIMITED
