"""The opset of an ONNX file, read without the onnx package, which a device does not have.

A ModelProto is a sequence of protobuf fields; everything but field 8 (opset_import) is skipped by
its length, so that no weight is read. Wire format: protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

from asrcompress.errors import BadBundle
from asrcompress.files import reading

_OPSET_IMPORT = 8
_DOMAIN, _VERSION = 1, 2  # of OperatorSetIdProto
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MOST_BYTES = 4096  # of one opset_import: a domain and a number
_MOST_LENGTH = 1 << 48  # of any field; what is longer cannot be skipped


def read_opset(path: Path) -> int:
    """Version of ONNX's own operators that the graph at `path` imports.

    Raises:
        BadBundle: not an ONNX model, or it imports none.
    """
    with reading(path, BadBundle), open(path, "rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        while stream.tell() < size:
            field, kind, length = _next_field(stream, path)
            if kind != _BYTES:
                continue
            if field != _OPSET_IMPORT or length > _MOST_BYTES:
                stream.seek(length, os.SEEK_CUR)
                continue
            domain, version = _opset_import(stream, stream.tell() + length, path)
            if domain in (b"", b"ai.onnx"):
                return version
    raise BadBundle(f"{path}: imports no opset, expected an ONNX model")


def _opset_import(stream: BinaryIO, end: int, path: Path) -> tuple[bytes, int]:
    domain, version = b"", 0
    while stream.tell() < end:
        field, kind, value = _next_field(stream, path)
        if field == _DOMAIN and kind == _BYTES:
            domain = stream.read(value)
        elif kind == _BYTES:
            stream.seek(value, os.SEEK_CUR)
        elif field == _VERSION and kind == _VARINT:
            version = value
    return domain, version


def _next_field(stream: BinaryIO, path: Path) -> tuple[int, int, int]:
    """Number and kind of the next field, and its value, or its length where it is of bytes."""
    tag = _varint(stream, path)
    kind = tag & 7
    if kind in (_VARINT, _BYTES):
        value = _varint(stream, path)
        if kind == _BYTES and value > _MOST_LENGTH:
            raise BadBundle(f"{path}: is no ONNX model, or is damaged")
        return tag >> 3, kind, value
    if kind in (_FIXED64, _FIXED32):
        stream.seek(8 if kind == _FIXED64 else 4, os.SEEK_CUR)
        return tag >> 3, kind, 0
    raise BadBundle(f"{path}: is no ONNX model, or is damaged")


def _varint(stream: BinaryIO, path: Path) -> int:
    value = 0
    for shift in range(0, 70, 7):
        byte = stream.read(1)
        if not byte:
            break
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value
    raise BadBundle(f"{path}: is no ONNX model, or ends in the middle")
