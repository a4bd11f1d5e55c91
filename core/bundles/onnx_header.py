"""What an ONNX file says of itself, read without the onnx package, which a device does not have.

A ModelProto's graph is skipped by its length, so that no weight is read.
"""

from __future__ import annotations

import contextlib
import mmap
from collections.abc import Iterator
from pathlib import Path

from asrcompress.bundles.wire_format import BYTES, VARINT, Damaged, Field, fields, varint
from asrcompress.errors import BadBundle
from asrcompress.files import reading

_OPSET_IMPORT, _METADATA = 8, 14  # of ModelProto
_DOMAIN, _VERSION = 1, 2  # of OperatorSetIdProto
KEY, VALUE = 1, 2  # of StringStringEntryProto


@contextlib.contextmanager
def mapped(path: Path) -> Iterator[bytes | mmap.mmap]:
    """The bytes of an ONNX file, of which only those are read that are looked at.

    Raises:
        BadBundle: it cannot be read, or what is read in the block is no ONNX model.
    """
    with contextlib.ExitStack() as stack:
        with reading(path, BadBundle), open(path, "rb") as file:
            empty = not file.seek(0, 2)
            content = b"" if empty else mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        if isinstance(content, mmap.mmap):
            stack.enter_context(content)
        try:
            yield content
        except Damaged as error:
            raise BadBundle(f"{path}: is no ONNX model, or {error}") from error


def read_opset(path: Path) -> int:
    """Version of ONNX's own operators that the graph at `path` imports.

    Raises:
        BadBundle: not an ONNX model, or it imports none.
    """
    with mapped(path) as model:
        for field in fields(model, 0, len(model)):
            if field.number == _OPSET_IMPORT and field.kind == BYTES:
                domain, version = _opset_import(model, field.value, field.end)
                if domain in (b"", b"ai.onnx"):
                    return version
    raise BadBundle(f"{path}: imports no opset, expected an ONNX model")


def read_metadata(path: Path) -> dict[str, str]:
    """What the graph at `path` says of itself, by key.

    Raises:
        BadBundle: not an ONNX model.
    """
    with mapped(path) as model:
        return dict(
            _entry(model, field)
            for field in fields(model, 0, len(model))
            if field.number == _METADATA and field.kind == BYTES
        )


def _entry(model: bytes | mmap.mmap, entry: Field) -> tuple[str, str]:
    texts = {
        part.number: model[part.value : part.end].decode(errors="replace")
        for part in fields(model, entry.value, entry.end)
        if part.kind == BYTES
    }
    return texts.get(KEY, ""), texts.get(VALUE, "")


def _opset_import(model: bytes | mmap.mmap, start: int, end: int) -> tuple[bytes, int]:
    domain, version = b"", 0
    for field in fields(model, start, end):
        if field.number == _DOMAIN and field.kind == BYTES:
            domain = model[field.value : field.end]
        elif field.number == _VERSION and field.kind == VARINT:
            version = varint(model, field.value, field.end)[0]
    return domain, version
