"""An ONNX file whose weights stay where they are until ONNX Runtime packs them.

Loaded as it is, a graph is in memory three times for a while: as a message, as tensors, and as what
the kernels read. ONNX has a form with weights outside of the graph, which ONNX Runtime maps one by
one and unmaps as soon as each is packed; "outside" may as well be the graph's own file, since ONNX
keeps a tensor's bytes in one piece there. So it is handed the graph without its weights, and told
where in the file each of them lies. For a Conformer of 36 MB that takes 20 MB off the peak and a
fifth off the time (docs/performance.md).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from mmap import mmap
from pathlib import Path

from asrcompress.bundles.onnx_header import KEY, VALUE, mapped
from asrcompress.bundles.wire_format import BYTES, Field, bytes_field, fields, varint_field

# A mapping costs more than a copy below this.
_WORTH_MAPPING = 8192
# Numbers of fields in onnx.proto.
_GRAPH = 7  # of ModelProto
_INITIALIZER = 5  # of GraphProto
_RAW_DATA, _EXTERNAL_DATA, _DATA_LOCATION = 9, 13, 14  # of TensorProto
_EXTERNAL = 1  # DataLocation


@dataclass(frozen=True, slots=True, kw_only=True)
class MappedGraph:
    """A graph to be loaded from memory, its weights from its file.

    Attributes:
        model: ModelProto; each large weight has a location, relative to `folder`.
        folder: where the file lies.
    """

    model: bytes
    folder: Path


def map_weights(path: Path) -> MappedGraph:
    """The graph in a file, without its large weights.

    Raises:
        BadBundle: not an ONNX model.
    """
    # Caches of downloads have links to files in another folder, which ONNX Runtime refuses to leave
    # a graph's folder for.
    path = path.resolve()
    pieces: list[bytes] = []
    with mapped(path) as model:
        for field in fields(model, 0, len(model)):
            if field.kind == BYTES and field.number == _GRAPH:
                pieces.append(bytes_field(_GRAPH, _graph(model, field, path.name)))
            else:
                pieces.append(model[field.start : field.end])
    return MappedGraph(model=b"".join(pieces), folder=path.parent)


def _graph(model: bytes | mmap, graph: Field, location: str) -> bytes:
    """GraphProto without large weights; those that lie in another file already stay there."""
    pieces: list[bytes] = []
    copied = graph.value
    for field in fields(model, graph.value, graph.end):
        if field.number != _INITIALIZER or field.kind != BYTES or field.size < _WORTH_MAPPING:
            continue
        parts = list(fields(model, field.value, field.end))
        if not any(_is_large(part) for part in parts):
            continue
        tensor = b"".join(_reference(model, parts, location))
        pieces += [model[copied : field.start], bytes_field(_INITIALIZER, tensor)]
        copied = field.end
    return b"".join([*pieces, model[copied : graph.end]])


def _is_large(part: Field) -> bool:
    return part.number == _RAW_DATA and part.kind == BYTES and part.size >= _WORTH_MAPPING


def _reference(model: bytes | mmap, tensor: list[Field], location: str) -> Iterator[bytes]:
    """TensorProto that says where its numbers lie."""
    for part in tensor:
        if not _is_large(part):
            yield model[part.start : part.end]
            continue
        for key, value in (
            ("location", location),
            ("offset", str(part.value)),
            ("length", str(part.size)),
        ):
            entry = bytes_field(KEY, key.encode()) + bytes_field(VALUE, value.encode())
            yield bytes_field(_EXTERNAL_DATA, entry)
        yield varint_field(_DATA_LOCATION, _EXTERNAL)
