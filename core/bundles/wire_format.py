"""Protobuf's wire format, which a device reads without the protobuf package.

A message is a sequence of fields: a number and a kind, then a value or a length and so many bytes.
Format: protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

from collections.abc import Iterator
from mmap import mmap
from typing import NamedTuple

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
_FIXED = {FIXED64: 8, FIXED32: 4}
_LONGEST_VARINT = 10


class Damaged(ValueError):
    """Bytes that are no message."""


class Field(NamedTuple):
    """Where a field lies in its message; a tuple, since a graph has thousands.

    Attributes:
        number: which one it is.
        kind: how it is written.
        start: its first byte.
        value: first byte of its value, behind number, kind and length.
        end: first byte behind it.
    """

    number: int
    kind: int
    start: int
    value: int
    end: int

    @property
    def size(self) -> int:
        """Bytes of its value."""
        return self.end - self.value


def fields(message: bytes | mmap, start: int, end: int) -> Iterator[Field]:
    """The fields between two positions.

    Raises:
        Damaged: that is no message.
    """
    position = start
    while position < end:
        tag, value = varint(message, position, end)
        kind = tag & 7
        if kind == VARINT:
            behind = varint(message, value, end)[1]
        elif kind == BYTES:
            length, value = varint(message, value, end)
            behind = value + length
        elif kind in _FIXED:
            behind = value + _FIXED[kind]
        else:
            raise Damaged("is damaged")
        if behind > end:
            raise Damaged("ends in the middle")
        yield Field(tag >> 3, kind, position, value, behind)
        position = behind


def varint(message: bytes | mmap, position: int, end: int) -> tuple[int, int]:
    """The number at `position`, and where it ends.

    Raises:
        Damaged: there is none.
    """
    if position < end and message[position] < 0x80:  # most of them, in a fraction of the time
        return message[position], position + 1
    value = shift = 0
    for place in range(position, min(end, position + _LONGEST_VARINT)):
        byte = message[place]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place + 1
        shift += 7
    raise Damaged("ends in the middle" if end < position + _LONGEST_VARINT else "is damaged")


def bytes_field(number: int, value: bytes) -> bytes:
    """A field of bytes, a text or a message."""
    return _varint_bytes(number << 3 | BYTES) + _varint_bytes(len(value)) + value


def varint_field(number: int, value: int) -> bytes:
    """A field of one number that is not negative."""
    return _varint_bytes(number << 3 | VARINT) + _varint_bytes(value)


def _varint_bytes(value: int) -> bytes:
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    found.append(value)
    return bytes(found)
